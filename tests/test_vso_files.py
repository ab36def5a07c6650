"""The files that become of the release's folders, and how mistakes are answered."""

import os
import sys
from pathlib import Path

import pytest
from made_vso import Release, anps, jpeg, printed

from crl_jax import cli
from crl_jax.data import vso
from crl_jax.data.manifest import read_manifest


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """Two adjectives with two nouns each, three pictures an ANP."""
    return Release.of_four_anps(tmp_path)


def test_manifest(release: Release):
    table = release.make()
    assert list(table[0]) == ["file", "split", "noun", "adjective", "anp"]
    assert [row["file"] for row in table] == sorted(row["file"] for row in table)
    assert len(table) == 12
    for row in table:
        assert row["anp"] == f"{row['adjective']}_{row['noun']}"
        assert (release.root / row["file"]).parent.name == row["anp"]


def test_same_bytes_every_time(release: Release, monkeypatch: pytest.MonkeyPatch):
    release.out = release.images / "vso.csv"  # beside the folders it reads
    release.add("happy_cat", 0, a_jpg=jpeg(1), b_jpg=jpeg(2), c_jpg=b"")
    outputs = []
    for _ in range(2):
        vso.make_manifest(release.images, release.out, min_images=1, min_nouns=1)
        files = sorted(release.images.glob("*.*"))
        outputs.append({file.name: file.read_bytes() for file in files})
    assert outputs[0] == outputs[1]
    assert list(outputs[0]) == ["vso.csv", "vso.dropped.csv"]


def test_odd_names_survive(release: Release):
    names = ['a, "b".jpg', "雪 é.jpg", "e\u0301.jpg", " x.jpg", "-a.jpg", "a\nb.jpg"]
    for i, name in enumerate(names):
        (release.images / "sad_dog" / name).write_bytes(jpeg(700 + i))
    release.add("schöne_blume")
    files = {row["file"] for row in release.make()}
    assert {f"images/sad_dog/{name}" for name in names} <= files
    assert "schöne_blume" in anps(release.make())


@pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode there")
def test_a_name_that_is_not_unicode_is_dropped(release: Release):
    path = os.fsencode(release.images / "sad_dog") + b"/\xff.jpg"
    Path(os.fsdecode(path)).write_bytes(jpeg(1))
    assert len(release.make()) == 12
    reason = release.dropped["images/sad_dog/\\udcff.jpg"]
    assert reason == "name cannot be listed: is not Unicode"


def test_manifest_lies_beside_the_images_by_default(release: Release):
    assert vso.make_manifest(release.images, min_images=2, min_nouns=1) == (
        release.root / "images.csv"
    )
    assert len(read_manifest(release.root / "images.csv").files) == 12


def test_images_may_be_a_link(release: Release, tmp_path: Path):
    elsewhere = tmp_path / "work"
    elsewhere.mkdir()
    (elsewhere / "link").symlink_to(release.images)
    out = vso.make_manifest(
        elsewhere / "link", elsewhere / "vso.csv", min_images=2, min_nouns=1
    )
    assert read_manifest(out).files[0].startswith("link/happy_cat/")


def test_out_and_images_may_be_reached_over_different_links(
    release: Release, tmp_path: Path
):
    (tmp_path / "alias").symlink_to(tmp_path)
    release.images = tmp_path / "alias" / "images"
    release.out = tmp_path / "vso.csv"
    assert release.make()[0]["file"].startswith("alias/images/happy_cat/")
    release.images, release.out = tmp_path / "images", tmp_path / "alias" / "vso.csv"
    assert release.make()[0]["file"].startswith("images/happy_cat/")


# Mistakes


def test_mistakes_in_images(release: Release, tmp_path: Path):
    release.images = tmp_path / "nowhere"
    assert "nowhere: there is no such folder" in release.refusal()
    release.images.mkdir()
    (release.images / "images").mkdir()
    assert "no folder named <adjective>_<noun>" in release.refusal()


def test_mistakes_in_out(release: Release, tmp_path: Path):
    (tmp_path / "other").mkdir()
    release.out = tmp_path / "other" / "vso.csv"
    assert f"Write --out={release.images}.csv" in release.refusal()
    release.out = tmp_path
    assert "Add the name of the file" in release.refusal()


def test_folder_that_cannot_be_written(release: Release):
    (release.root / "vso.csv.partial").mkdir()
    assert "vso.csv.partial" in release.refusal()
    assert not release.out.exists()


def test_mistakes_in_numbers(release: Release):
    assert "--min_images=0: give" in release.refusal(min_images=0)
    assert "--min_nouns=-1: give" in release.refusal(min_nouns=-1)


def test_too_little_is_left(release: Release, capsys):
    text = release.refusal(min_images=500)
    assert "0 ANPs of 0 adjectives and 0 nouns" in text
    assert "--min_images" in text
    counts = printed(capsys.readouterr().out)
    assert counts["- ANP with fewer than 500 images"] == ["4", "", "", "12"]
    assert len(release.dropped) == 4
    text = release.refusal(anps=release.listing("sad_dog", "sad_cat"))
    assert "2 ANPs of 1 adjectives and 2 nouns" in text


@pytest.mark.parametrize("line", ["cat", "beautiful_flower,1", "images/x.jpg", "9/11"])
def test_mistakes_in_the_list(release: Release, line: str):
    listed = release.listing("# ANPs", "sad_dog", line)
    text = release.refusal(anps=listed)
    assert text.startswith(f"--anps={listed}, line 3: {line!r} is not an adjective")
    assert "Write one per line" in text


def test_mistakes_in_any_list(release: Release):
    assert "lists nothing" in release.refusal(anps=release.listing("# none"))
    assert "--anps=" in release.refusal(anps=release.root)
    missing = release.root / "missing.txt"
    assert "No such file" in release.refusal(nouns_to_exclude=missing)
    missing.write_bytes("sad_dog".encode("utf-16"))
    assert "not UTF-8" in release.refusal(sentiment=missing)
    text = release.refusal(nouns_to_exclude=release.listing("cat", "dog,1"))
    assert "line 2: 'dog,1' is not a noun" in text


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["prose"], "is not in the format of 3244ANPs.txt"),
        (["sad_dog [sentiment: 1.00]"], "line 1: 'sad_dog [sentiment: 1.00]' is not"),
        (
            ["1. sad [sentiment: 1]", "sad_dog"],
            "line 2: 'sad_dog' is not in the format",
        ),
        (["1. sad [sentiment: 1]", "odd_dog [sentiment: 1]"], "line 2"),
        (["1. sad [sentiment: 1]", "sad_dog [sentiment: 3]"], "line 2: 3 is not betw"),
    ],
)
def test_mistakes_in_the_sentiments(release: Release, lines: list[str], expected: str):
    text = release.refusal(sentiment=release.listing(*lines))
    assert text.startswith("--sentiment=")
    assert expected in text


def test_command_line(release: Release, monkeypatch: pytest.MonkeyPatch, capsys):
    flags = [f"--images={release.images}", "--min_images=2", "--min_nouns=1"]
    monkeypatch.setattr(sys, "argv", ["vso", *flags])
    cli.run(vso.main)
    assert "Wrote" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["vso", *flags, "--out=/vso_is_not_here/x.csv"])
    with pytest.raises(SystemExit) as caught:
        cli.run(vso.main)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error: --out=/vso_is_not_here/x.csv")
