"""Shards of a manifest: their content, what is refused, and what an accident leaves."""

import csv
import fcntl
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crl_jax.data import ahead, parts, pictures
from crl_jax.data.builder import find_shards, write_shards
from crl_jax.data.quiet import tf, tfds
from crl_jax.data.source import open_source
from crl_jax.errors import UserError

ROWS = [
    ("plain.jpg", "train", 'a "quoted", cat', "happy"),
    ("été 图.JPG", "train", "猫", "sad"),
    ("two\nlines.png", "val", "猫", ""),
    ("turned.jpg", "train", "", "sad"),
    ("one, two.gif", "val", 'a "quoted", cat', "happy"),
]


def prepare_manifest(path: Path, data_dir: str, resize: int = 0):
    return write_shards(find_shards(path, data_dir, resize))


def write_manifest(folder: Path, rows: list[tuple[str, ...]]) -> Path:
    path = folder / "my pictures.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("file", "split", "noun", "adjective"), *rows])
    return path


def write_pictures(folder: Path, rows: list[tuple[str, ...]]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {".jpg": "JPEG", ".png": "PNG", ".gif": "GIF"}
    for i, (file, *_) in enumerate(rows):
        kind = kinds[Path(file).suffix.lower()]
        options = {"exif": exif} if file == "turned.jpg" else {}
        picture = Image.new("RGB", (30, 20), (10 * i % 256, 100, 200))
        picture.save(folder / file, kind, **options)


def many(count: int) -> list[tuple[str, ...]]:
    splits = ["train", "train", "train", "val"]
    return [(f"{i}.png", splits[i % 4], f"n{i % 2}", f"a{i % 3}") for i in range(count)]


def examples(builder: tfds.core.DatasetBuilder, split: str) -> dict[str, dict]:
    """Returns the examples of a split by file, with their encoded pictures."""
    dataset = builder.as_dataset(
        split=split, decoders={"image": tfds.decode.SkipDecoding()}
    )
    return {e["file"].decode(): e for e in dataset.as_numpy_iterator()}


def whole_folders(data_dir: Path) -> list[Path]:
    return list(data_dir.glob("manifest/*/1.0.0"))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    write_pictures(tmp_path, ROWS)
    return write_manifest(tmp_path, ROWS)


def test_round_trip_keeps_bytes_names_and_missing_labels(small, tmp_path):
    data_dir = str(tmp_path / "shards")
    builders = [prepare_manifest(small, data_dir) for _ in range(2)]
    for builder in builders:  # as written, and as found again
        assert set(builder.info.splits) == {"train", "val"}
        found = examples(builder, "train") | examples(builder, "val")
        manifest = builder.builder_config.manifest
        assert set(found) == {row[0] for row in ROWS} == set(manifest.files)
        for file, split, *labels in ROWS:
            example = found[file]
            assert file in examples(builder, split)
            assert example["image"] == pictures.encode(tmp_path / file)
            for task, label in zip(("noun", "adjective"), labels, strict=True):
                number = int(example[task])
                names = builder.info.features[task].names
                assert tuple(names) == manifest.tasks[task]
                assert (names[number] if number >= 0 else "") == label
    assert found["plain.jpg"]["image"] == (tmp_path / "plain.jpg").read_bytes()
    decoded = {
        e["file"]: e["image"].shape
        for split in ("train", "val")
        for e in builder.as_dataset(split=split).as_numpy_iterator()
    }
    assert decoded[b"turned.jpg"] == (30, 20, 3)
    assert decoded[b"one, two.gif"] == (20, 30, 3)


def test_shards_are_written_once_and_anew_for_another_manifest(
    small, tmp_path, capsys, caplog
):
    data_dir = str(tmp_path / "shards")
    first = prepare_manifest(small, data_dir)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 2
    assert lines[0] == f"Writing the 5 pictures of {small} as shards ..."
    assert "train 3, val 2" in lines[1]
    assert first.data_dir in lines[1]
    assert not err
    assert not caplog.records

    assert prepare_manifest(small, data_dir).data_dir == first.data_dir
    assert capsys.readouterr() == ("", "")

    edited = write_manifest(tmp_path, [*ROWS[:3], ("turned.jpg", "train", "猫", "sad")])
    second = prepare_manifest(edited, data_dir)
    assert second.data_dir != first.data_dir
    assert examples(second, "train")["turned.jpg"]["noun"] >= 0


def test_the_same_pictures_give_the_same_shards(tmp_path):
    rows = many(60)
    write_pictures(tmp_path, rows)
    path = write_manifest(tmp_path, rows)
    shards = []
    for name in ("one", "two"):
        folder = Path(prepare_manifest(path, str(tmp_path / name)).data_dir)
        shards.append({p.name: p.read_bytes() for p in folder.glob("*.tfrecord*")})
    assert shards[0] == shards[1]
    assert len(shards[0]) == 2


def test_refused_pictures_are_left_out_and_listed(tmp_path, capsys):
    rows = many(60)
    write_pictures(tmp_path, rows)
    (tmp_path / "7.png").write_bytes(b"")
    (tmp_path / "20.png").write_text("<html>gone</html>")
    path = write_manifest(tmp_path, rows)
    builder = prepare_manifest(path, str(tmp_path / "shards"))
    listed = Path(builder.data_dir) / "refused.csv"
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (
        f"2 of 60 pictures were refused: see {listed}; once they are mended, delete "
        f"{listed.parent}"
    )
    with listed.open(encoding="utf-8", newline="") as file:
        refused = list(csv.DictReader(file))
    assert [row["file"] for row in refused] == ["7.png", "20.png"]
    assert refused[0]["reason"] == "is empty"
    found = examples(builder, "train") | examples(builder, "val")
    assert set(found) == {row[0] for row in rows} - {"7.png", "20.png"}


def test_no_list_when_nothing_is_refused(small, tmp_path):
    builder = prepare_manifest(small, str(tmp_path / "shards"))
    assert not (Path(builder.data_dir) / "refused.csv").exists()


def test_too_many_refused_pictures_are_an_error_that_names_some(tmp_path):
    rows = many(60)
    write_pictures(tmp_path, rows)
    for i in (0, 4, 8, 12):
        (tmp_path / f"{i}.png").write_bytes(b"")
    path = write_manifest(tmp_path, rows)
    with pytest.raises(UserError) as caught:
        prepare_manifest(path, str(tmp_path / "shards"))
    text = str(caught.value)
    assert str(path) in text
    assert "more than 5% of the pictures" in text
    assert "0.png is empty, 4.png is empty, 8.png is empty and 1 more" in text
    assert "Mend these files" in text
    assert whole_folders(tmp_path / "shards") == []
    listed = Path(text.rpartition(" Refused so far: 4, listed in ")[2].rstrip("."))
    reasons = "".join(f"{i}.png,is empty\n" for i in (0, 4, 8, 12))
    assert listed.read_text("utf-8") == f"file,reason\n{reasons}"


def test_more_pictures_may_be_refused_if_the_config_says_so(tmp_path, new_config):
    rows = many(60)
    write_pictures(tmp_path, rows)
    for i in (0, 4, 8, 12):
        (tmp_path / f"{i}.png").write_bytes(b"")
    config = new_config()
    config.data.manifest = str(write_manifest(tmp_path, rows))
    config.data.dir = str(tmp_path / "shards")
    config.data.max_undecodable = 0.06
    with pytest.raises(UserError, match="more than 6% of .* allow more with config"):
        open_source(config)
    config.data.max_undecodable = 0.07
    assert open_source(config).size("train") == 41
    [listed] = (tmp_path / "shards").rglob("refused*.csv")
    assert listed.parent.name == "1.0.0"


def test_an_ignored_column_is_in_no_shard(tmp_path, new_config):
    rows = many(8)
    write_pictures(tmp_path, rows)
    config = new_config()
    config.data.manifest = str(write_manifest(tmp_path, rows))
    config.data.dir = str(tmp_path / "shards")
    whole = open_source(config)
    config.data.ignore = "adjective"
    part = open_source(config)
    assert (list(whole.kinds), list(part.kinds)) == (["noun", "adjective"], ["noun"])
    assert whole.identity != part.identity
    for source, tasks in ((whole, {"noun", "adjective"}), (part, {"noun"})):
        assert source.builder.info.features.keys() == {"image", "file", *tasks}


def test_a_split_without_a_good_picture_is_an_error(tmp_path):
    rows = [(f, "train", n, a) for f, _, n, a in many(39)]
    rows.append(("39.png", "test", "n1", "a0"))
    write_pictures(tmp_path, rows)
    (tmp_path / "39.png").write_bytes(b"")
    path = write_manifest(tmp_path, rows)
    with pytest.raises(UserError, match=r"all pictures of test .* 39\.png is empty"):
        prepare_manifest(path, str(tmp_path / "shards"))


@pytest.mark.parametrize("accident", [RuntimeError, KeyboardInterrupt])
def test_after_an_interruption_the_next_call_writes_all(
    tmp_path, monkeypatch, accident
):
    rows = many(60)
    write_pictures(tmp_path, rows)
    path = write_manifest(tmp_path, rows)
    data_dir = tmp_path / "shards"
    encode = pictures.encode

    def fails_at_the_50th(picture: Path, resize: int) -> bytes:
        if picture.name == "50.png":
            raise accident("at the 50th picture")
        return encode(picture, resize)

    monkeypatch.setattr(pictures, "encode", fails_at_the_50th)
    with pytest.raises(accident, match="50th"):
        prepare_manifest(path, str(data_dir))
    assert whole_folders(data_dir) == []

    monkeypatch.setattr(pictures, "encode", encode)
    builder = prepare_manifest(path, str(data_dir))
    assert len(examples(builder, "train") | examples(builder, "val")) == 60
    assert [str(p) for p in whole_folders(data_dir)] == [builder.data_dir]


def test_what_a_killed_process_leaves_is_not_taken_for_finished(small, tmp_path):
    data_dir = tmp_path / "shards"
    finished = Path(prepare_manifest(small, str(data_dir)).data_dir)
    # TFDS writes into a folder of this kind of name until all is there.
    left = finished.rename(finished.with_name("incomplete.ABC123_1.0.0"))
    builder = prepare_manifest(small, str(data_dir))
    assert not left.exists()
    assert len(examples(builder, "train")) == 3
    assert Path(builder.data_dir) == finished


def test_what_another_process_is_writing_stays(small, tmp_path):
    data_dir = tmp_path / "shards"
    builder = prepare_manifest(small, str(data_dir))
    finished = Path(builder.data_dir)
    others = finished.rename(finished.with_name("incomplete.ABC123_1.0.0"))
    lock = builder._parts / "lock"
    lock.parent.mkdir()
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        prepare_manifest(small, str(data_dir))
    assert others.exists()


def test_a_damaged_folder_is_named(small, tmp_path):
    folder = Path(prepare_manifest(small, str(tmp_path / "shards")).data_dir)
    (folder / "dataset_info.json").unlink()
    with pytest.raises(UserError, match="1.0.0 is damaged. Delete this folder"):
        prepare_manifest(small, str(tmp_path / "shards"))


def test_another_process_may_be_faster(small, tmp_path, monkeypatch):
    data_dir = str(tmp_path / "shards")
    encode = pictures.encode

    def slow(picture: Path, resize: int) -> bytes:
        monkeypatch.setattr(pictures, "encode", encode)
        prepare_manifest(small, data_dir)
        return encode(picture, resize)

    monkeypatch.setattr(ahead, "THREADS", 1)
    monkeypatch.setattr(pictures, "encode", slow)
    builder = prepare_manifest(small, data_dir)
    assert len(examples(builder, "train")) == 3


def test_a_folder_that_cannot_be_written_is_named(small, tmp_path):
    with pytest.raises(UserError, match="cannot be written to .*config.data.dir"):
        prepare_manifest(small, str(small / "shards"))


def test_pictures_wait_in_memory_only_a_few_at_a_time(tmp_path, monkeypatch):
    rows = many(400)
    write_pictures(tmp_path, rows)
    begun = []

    def noted(picture: Path) -> bytes:
        begun.append(picture)
        return pictures.encode(picture)

    paths = [tmp_path / row[0] for row in rows]
    for taken, future in enumerate(ahead.in_order(noted, paths, 8), start=1):
        future.result()
        assert len(begun) <= taken + 8
    assert sorted(begun) == sorted(paths)


def test_an_interrupted_preparation_goes_on_where_it_was(tmp_path, monkeypatch):
    """With parts of ten pictures, 50 of 60 were kept; only ten are encoded again."""
    rows = many(60)
    write_pictures(tmp_path, rows)
    path = write_manifest(tmp_path, rows)
    undisturbed = prepare_manifest(path, str(tmp_path / "undisturbed"))
    monkeypatch.setattr(parts, "PART", 10)
    encode, begun = pictures.encode, []

    def fails_at_the_last(picture: Path, resize: int) -> bytes:
        begun.append(picture)
        if picture == last:
            raise KeyboardInterrupt
        return encode(picture, resize)

    split_of = dict(row[:2] for row in rows)
    last = tmp_path / [file for file in split_of if split_of[file] == "val"][-1]
    monkeypatch.setattr(pictures, "encode", fails_at_the_last)
    with pytest.raises(KeyboardInterrupt):
        prepare_manifest(path, str(tmp_path / "shards"))
    assert len(set(begun)) == 60

    begun.clear()
    last = None
    builder = prepare_manifest(path, str(tmp_path / "shards"))
    assert 0 < len(begun) <= 10
    for split in ("train", "val"):
        assert examples(builder, split) == examples(undisturbed, split)
    assert not list((tmp_path / "shards" / "manifest" / "parts").iterdir())


@pytest.mark.parametrize("left", [0, 400, 1500])
def test_a_damaged_part_is_written_again(small, tmp_path, monkeypatch, left):
    """Of a part of three pictures, only this many bytes are left."""
    undisturbed = prepare_manifest(small, str(tmp_path / "undisturbed"))
    builder = find_shards(small, str(tmp_path / "shards"))
    folder = tmp_path / "shards" / "manifest" / "parts" / builder.builder_config.name
    monkeypatch.setattr(builder, "_check_refused", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_shards(builder)
    (part,) = folder.glob("train-*.tfrecord")
    assert part.stat().st_size > 1500
    os.truncate(part, left)
    again = prepare_manifest(small, str(tmp_path / "shards"))
    for split in ("train", "val"):
        assert examples(again, split) == examples(undisturbed, split)


def _interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (40, 30)])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_large_pictures_are_scaled_down_once(tmp_path, size, suffix):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8))
    picture = coarse.resize(size, Image.Resampling.BICUBIC)
    path = tmp_path / f"a{suffix}"
    picture.save(path)
    encoded = pictures.encode(path, resize=64)
    with Image.open(io.BytesIO(encoded)) as result:
        if min(size) <= 64:
            assert result.size == size
            assert suffix == ".webp" or encoded == path.read_bytes()
        else:
            assert min(result.size) == 64
            assert abs(max(result.size) - 96) <= 1
        again = picture.resize(result.size, Image.Resampling.BOX)
        assert np.abs(np.asarray(result, int) - np.asarray(again, int)).mean() < 4


def test_another_size_gets_other_shards(small, tmp_path):
    whole = prepare_manifest(small, str(tmp_path / "shards"))
    scaled = prepare_manifest(small, str(tmp_path / "shards"), resize=4)
    assert whole.data_dir != scaled.data_dir
    for example in scaled.as_dataset(split="train").as_numpy_iterator():
        assert min(example["image"].shape[:2]) <= 4


def test_the_records_hold_the_bytes_of_real_photographs(tmp_path, shared_data):
    folder = shared_data / "grocery_store" / "images" / "val"
    names = sorted(os.listdir(folder))[:40]
    for name in names:
        os.symlink(folder / name, tmp_path / name)
    rows = [(name, "train", f"n{i % 2}", f"a{i % 3}") for i, name in enumerate(names)]
    builder = prepare_manifest(write_manifest(tmp_path, rows), str(tmp_path / "shards"))
    [shard] = builder.info.splits["train"].filepaths
    records = [
        tf.train.Example.FromString(record)
        for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator()
    ]
    assert len(records) == 40
    for record in records:
        features = record.features.feature
        name = features["file"].bytes_list.value[0].decode()
        [stored] = features["image"].bytes_list.value
        assert stored == (tmp_path / name).read_bytes()
