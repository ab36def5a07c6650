"""Pictures and records that turn out bad while a run reads them."""

import csv
import io
import itertools
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from crl_jax import config_check, evaluation
from crl_jax.data import pictures, records, source, stream
from crl_jax.errors import UserError
from crl_jax.train import train


def prepare(config, folder, monkeypatch, broken):
    """Writes shards in which some pictures are the bytes that `broken` gives."""
    config = config.copy_and_resolve_references().unlock()
    config.data.dir = str(folder)
    encode = pictures.encode

    def breaking(path, resize=0):
        good = encode(path, resize)
        return broken.get(Path(path).name, lambda data: data)(good)

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "encode", breaking)
        config = config_check.check(config)
        return source.open_source(config), config.unlock()


def take(data, config, steps, first=0):
    return list(itertools.islice(stream.train_batches(data, config, first), steps))


def empty(_):
    return b""


def cut(data):
    return data[: len(data) // 2]


@pytest.fixture
def broken(small_config, tmp_path, monkeypatch):
    """Three of 14 training pictures and one of 7 test pictures cannot be decoded."""
    small_config.data.max_undecodable = 0.5
    bad = {"03.png": empty, "05.png": cut, "11.png": cut, "20.png": empty}
    return *prepare(small_config, tmp_path / "broken", monkeypatch, bad), bad


def test_they_are_left_out_and_the_others_are_as_ever(broken, small_config, capsys):
    data, config, bad = broken
    config_check.check(small_config)
    whole = take(source.open_source(config_check.check(small_config)), small_config, 9)
    capsys.readouterr()
    left = take(data, config, 9)
    count = 0
    for a, b in zip(whole, left, strict=True):
        for i, file in enumerate(a["file"].tolist()):
            if file.decode() in bad:
                count += 1
                assert b["file"][i] == b""
                assert {int(labels[i]) for labels in b["labels"].values()} == {-1}
                assert b["image"][i].min(axis=(0, 1)).tolist() == [124, 116, 104]
                assert b["image"][i].max(axis=(0, 1)).tolist() == [124, 116, 104]
            else:
                assert b["file"][i] == file
                np.testing.assert_array_equal(b["image"][i], a["image"][i])
                for task, labels in a["labels"].items():
                    assert b["labels"][task][i] == labels[i]
    assert count == 3 * 72 // 14 or count == 3 * 72 // 14 + 1
    # Told of at the first and the second, and never again.
    said = capsys.readouterr().out.splitlines()
    assert len([line for line in said if line.startswith("Left out of train")]) == 2


def test_a_resumed_stream_reads_the_same_bits(broken):
    data, config, _ = broken
    whole = take(data, config, 7)
    jax.tree.map(np.testing.assert_array_equal, whole[4:], take(data, config, 3, 4))


def test_each_evaluation_leaves_them_out(broken):
    """The first finds them; the others ask for them anew."""
    data, config, bad = broken
    batches = stream.eval_batches(data, config, "train+test")
    first, *others = [list(batches) for _ in range(3)]
    files = [file.decode() for batch in first for file in batch["file"]]
    good = {f"{i:02}.png" for i in (*range(14), *range(19, 26))} - set(bad)
    assert sorted(file for file in files if file) == sorted(good)
    for other in others:
        jax.tree.map(np.testing.assert_array_equal, first, other)


def test_a_photograph_of_which_a_part_is_there(small_config, tmp_path, monkeypatch):
    """Some crops of it can be decoded, whatever was tried before."""
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    jpeg = io.BytesIO()
    Image.fromarray(noise).save(jpeg, "JPEG")
    most = jpeg.getvalue()[: len(jpeg.getvalue()) * 9 // 10]
    bad = {f"{i:02}.png": lambda _: most for i in (2, 3, 7)}
    small_config.data.max_undecodable = 0.5
    data, config = prepare(small_config, tmp_path / "shards", monkeypatch, bad)
    whole = take(data, config, 14)
    for first in (1, 5, 11):
        jax.tree.map(
            np.testing.assert_array_equal,
            whole[first:],
            take(data, config, 14 - first, first),
        )
    drawn = 3 * 14 * 8 // 14
    files = [file.decode() for batch in whole for file in batch["file"]]
    assert 0 < files.count("") < drawn
    assert set(bad) & set(files)


def test_too_many_stop_the_run_and_are_named(broken, tmp_path):
    _, config, bad = broken
    config.data.max_undecodable = 0.1
    with pytest.raises(
        UserError,
        match=r"2 of the 14 pictures of train cannot be decoded, more than "
        r"config.data.max_undecodable=0.1: \d\d.png, \d\d.png. Mend",
    ) as stop:
        train(config, tmp_path / "run")
    assert set(re.findall(r"\d\d\.png", str(stop.value))) <= set(bad)


def test_each_of_two_processes_tells_of_its_share(broken, monkeypatch, capsys):
    """One of seven test pictures is broken, of which they read four and three."""
    data, config, _ = broken
    monkeypatch.setattr(jax, "process_count", lambda: 2)

    def read(index):
        monkeypatch.setattr(jax, "process_index", lambda: index)
        return list(stream.eval_batches(data, config, "test"))

    assert [len(read(0)), len(read(1))] == [1, 1]
    out, error = capsys.readouterr()
    (told,) = re.findall(r"Left out of test in process (.), since.*: 20.png", error)
    assert "Left out" not in out
    config.data.max_undecodable = 0.2
    read(1 - int(told))
    of = rf"1 of the {4 - int(told)} pictures of test in process {told} cannot"
    with pytest.raises(UserError, match=of):
        read(int(told))


def test_a_run_goes_through_and_predicts_the_others(broken, tmp_path):
    _, config, _ = broken
    result = train(config, tmp_path / "run")
    assert result["hue"]["count"] == 6
    predictions = tmp_path / "predictions.csv"
    evaluation.evaluate(tmp_path / "run", "test", predictions)
    with predictions.open(newline="") as file:
        names = {row["file"] for row in csv.DictReader(file)}
    assert names == {f"{i}.png" for i in range(19, 26)} - {"20.png"}


@pytest.fixture
def shard(small_config, tmp_path, monkeypatch):
    """The one shard of the training split, its data, and its config."""
    data, config = prepare(small_config, tmp_path / "shards", monkeypatch, {})
    (path,) = Path(data.builder.data_dir).glob("*train*")
    return path, data, config


def test_any_changed_byte_of_a_record_is_found(shard):
    path, data, _ = shard
    whole = path.read_bytes()
    starts = (records._spans(str(path))[:, 0] - 12).tolist()
    rng = np.random.default_rng(0)
    for position in rng.permutation(len(whole))[:300].tolist() + [0, 9, len(whole) - 1]:
        changed = bytearray(whole)
        changed[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        records._spans.cache_clear()
        start = max(s for s in starts if s <= position)
        with pytest.raises(
            UserError, match=rf"{path.name}.* is damaged: .* at byte {start:,} "
        ):
            records.Records(data.split("train")).read(range(14))
    path.write_bytes(whole)
    records._spans.cache_clear()


def test_a_run_names_a_damaged_record(shard, tmp_path):
    path, _, config = shard
    start, length = records._spans(str(path))[5].tolist()
    changed = bytearray(path.read_bytes())
    changed[start + length // 2] ^= 4
    path.write_bytes(changed)
    with pytest.raises(
        UserError,
        match=rf"{path.name}.* the record at byte {start - 12:,} is not as it was",
    ):
        train(config, tmp_path / "run")


def test_a_shard_that_is_cut_while_it_is_read(shard):
    path, data, config = shard
    batches = stream.train_batches(data, config, 0)
    next(batches)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=rf"{path.name}.* is not as it was written"):
        list(itertools.islice(batches, 20))
