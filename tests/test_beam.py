"""Shards written ahead of the training, by this machine or by Apache Beam.

Beam needs other versions than requirements.txt pins: its tests run in an environment of
their own, made with `pip install .[beam] pytest`.
"""

import csv
import importlib.util
import sys
from pathlib import Path

import pytest
from PIL import Image

from crl_jax.data import builder as builder_lib
from crl_jax.data import parts, pictures, prepare
from crl_jax.data.quiet import tfds
from crl_jax.errors import UserError

CONFIG = Path(__file__).parents[1] / "configs" / "manifest.py"

# DirectRunner would first look for a helper program on the network, and then use this
# one, which runs in this process.
ON_BEAM = "--beam=--runner=FnApiRunner"

HAS_BEAM = importlib.util.find_spec("apache_beam") is not None
needs_beam = pytest.mark.skipif(
    not HAS_BEAM,
    reason="no Apache Beam: pip install .[beam] pytest, in an environment of its own",
)
# Beam's own imports warn.
pytestmark = pytest.mark.filterwarnings("ignore")


def write(folder: Path, *bad: int) -> Path:
    """Writes 60 pictures, some of them bad, and their manifest.

    Picture 0 alone shows adjective a0 in train, 59 in val; 30 alone is in test.
    """
    rows = [("file", "split", "noun", "adjective")]
    for i in range(60):
        Image.new("RGB", (30, 20), (4 * i, 100, 200)).save(folder / f"{i}.png")
        split = "test" if i == 30 else "val" if i % 4 == 3 else "train"
        adjective = "a0" if i in (0, 59) else f"a{1 + i % 2}"
        rows.append((f"{i}.png", split, f"n{i % 2}", adjective))
    for i in bad:
        (folder / f"{i}.png").write_bytes(b"")
    path = folder / "labels.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the verb on `labels.csv`, with shards in the named folder."""

    def run(data_dir: str, *more: str) -> None:
        arguments = [
            f"--config={CONFIG}",
            f"--config.data.manifest={tmp_path / 'labels.csv'}",
            f"--config.data.dir={tmp_path / data_dir}",
        ]
        monkeypatch.setattr(sys, "argv", ["prepare", *arguments, *more])
        prepare.main()

    return run


def found(tmp_path: Path, data_dir: str) -> tfds.core.DatasetBuilder:
    """Returns what a training finds."""
    path = tmp_path / "labels.csv"
    return builder_lib.find_shards(path, str(tmp_path / data_dir))


def examples(builder: tfds.core.DatasetBuilder) -> list[dict]:
    """Returns all examples in the order of the shards."""
    decoders = {"image": tfds.decode.SkipDecoding()}
    return [
        example
        for split in ("train", "val", "test")
        for example in builder.as_dataset(
            split=split, decoders=decoders, shuffle_files=False
        ).as_numpy_iterator()
    ]


def test_training_finds_what_was_prepared(tmp_path, run, capsys):
    write(tmp_path, 7)
    run("shards")
    lines = capsys.readouterr().out.splitlines()
    folder = found(tmp_path, "shards").data_dir
    assert lines[-1] == f"Training finds its data in {folder}"
    assert not capsys.readouterr().out
    assert len(examples(found(tmp_path, "shards"))) == 59


def test_a_split_that_the_config_names_must_be_there(tmp_path, run):
    write(tmp_path)
    with pytest.raises(UserError, match="no split 'testing'"):
        run("shards", "--config.data.test_split=testing")


def test_a_folder_that_cannot_be_written_is_named(tmp_path, run):
    write(tmp_path)
    digits = ("manifest=", "tfds=digits", "tasks.digit=noun")
    for more in ((), [f"--config.data.{field}" for field in digits]):
        with pytest.raises(UserError, match=r"labels.csv/.*config\.data\.dir"):
            run("labels.csv", *more)


def test_beam_needs_a_manifest(tmp_path, run):
    write(tmp_path)
    more = ("--config.data.manifest=", "--config.data.tfds=digits")
    with pytest.raises(UserError, match="--beam reads .* config.data.manifest: set"):
        run("shards", ON_BEAM, *more, "--config.data.tasks.digit=noun")


@pytest.mark.skipif(HAS_BEAM, reason="Apache Beam is installed")
def test_without_beam_the_message_says_how_to_install_it(tmp_path, run):
    write(tmp_path)
    with pytest.raises(UserError, match=r'pip install "\.\[beam\]"'):
        run("shards", ON_BEAM)


@needs_beam
def test_beam_writes_the_same_examples(tmp_path, run, capsys):
    write(tmp_path, 7, 20)
    run("plain")
    run("beam", ON_BEAM)
    assert "2 of 60 pictures were refused" in capsys.readouterr().out
    plain, beam = found(tmp_path, "plain"), found(tmp_path, "beam")
    assert not capsys.readouterr().out  # both were there
    assert examples(beam) == examples(plain)
    assert beam.info.splits["train"].num_examples == 43
    assert Path(beam.data_dir).name == Path(plain.data_dir).name
    names = {p.name for p in Path(plain.data_dir).iterdir()}
    assert {p.name for p in Path(beam.data_dir).iterdir()} == names
    lists = [Path(b.data_dir, "refused.csv").read_text() for b in (plain, beam)]
    assert lists[0] == lists[1] == "file,reason\n7.png,is empty\n20.png,is empty\n"
    assert not list((tmp_path / "beam" / "manifest" / "parts").iterdir())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ((0, 1, 4, 5), "more than 5% of the pictures .* 0.png is empty, 1.png"),
        ((30,), "all pictures of test .* 30.png is empty"),
        ((0,), r"class 'a0' \(column 'adjective'\) in train .* 0.png is empty"),
    ],
)
@pytest.mark.parametrize("where", [(), pytest.param((ON_BEAM,), marks=needs_beam)])
def test_what_cannot_be_trained_with_is_refused(tmp_path, run, where, bad, message):
    write(tmp_path, *bad)
    with pytest.raises(UserError, match=message):
        run("shards", *where)
    assert not list(tmp_path.glob("shards/manifest/*/1.0.0"))
    assert not list(tmp_path.glob("shards/manifest/parts/*"))


@needs_beam
def test_beam_goes_on_where_it_was_stopped(tmp_path, run, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr(parts, "PART", 10)
    encode, begun = pictures.encode, []

    def fails_after_40(picture: Path, resize: int) -> bytes:
        begun.append(picture)
        if len(begun) > 40:
            raise RuntimeError("the cluster is gone")
        return encode(picture, resize)

    def counted(picture: Path, resize: int) -> bytes:
        begun.append(picture)
        return encode(picture, resize)

    monkeypatch.setattr(pictures, "encode", fails_after_40)
    with pytest.raises(UserError, match="Apache Beam: .*the cluster is gone"):
        run("beam", ON_BEAM)
    begun.clear()
    monkeypatch.setattr(pictures, "encode", counted)
    run("beam", ON_BEAM)
    assert 20 <= len(begun) <= 40
    assert len(examples(found(tmp_path, "beam"))) == 60


@needs_beam
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--streaming", "names no runner"),
        ('--runner="', "No closing quotation"),
        ("--runner=Flnk", "Apache Beam: .*Flnk"),
    ],
)
def test_a_wrong_runner_is_a_message(tmp_path, run, arguments, message):
    write(tmp_path)
    with pytest.raises(UserError, match=message):
        run("shards", f"--beam={arguments}")
