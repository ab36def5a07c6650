"""From what img2dataset left of a URL list to a manifest."""

import io
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from made_vso import printed, rows
from PIL import Image
from pyarrow import parquet

from crl_jax.data import vso, vso_rules
from crl_jax.data.manifest import read_manifest
from crl_jax.data.vso_names import Anp
from crl_jax.data.vso_pictures import Picture
from crl_jax.errors import UserError


def encoded(seed: int, image_format: str = "JPEG") -> bytes:
    """Returns a small picture unlike that of any other seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    result = io.BytesIO()
    Image.fromarray(pixels).save(result, image_format)
    return result.getvalue()


PLACEHOLDER = encoded(10**6, "PNG")


class Download:
    """A folder as img2dataset 1.47 leaves it with `--output_format=files`."""

    def __init__(self, root: Path) -> None:
        self.images = root / "images"
        self.out = root / "vso.csv"
        self.images.mkdir()
        self._shards = 0

    def add(self, *urls: tuple[str, str, bytes | str]) -> Path:
        """Adds a shard of (caption, URL, picture or error message)."""
        name = f"{self._shards:05}"
        folder = self.images / name
        folder.mkdir()
        table = []
        for i, (caption, url, answer) in enumerate(urls):
            failed = isinstance(answer, str)
            row = {
                "caption": caption,
                "url": url,
                "key": f"{self._shards * 10_000 + i:09}",
                "status": "failed_to_download" if failed else "success",
                "error_message": answer if failed else None,
            }
            table.append(row)
            if not isinstance(answer, str):
                file = folder / f"{row['key']}.jpg"
                file.write_bytes(answer)
                file.with_suffix(".json").write_text(json.dumps(row, indent=4))
                file.with_suffix(".txt").write_text(caption)
        # It lists them as they come.
        parquet.write_table(
            pyarrow.Table.from_pylist(table[::-1]), self.images / f"{name}.parquet"
        )
        (self.images / f"{name}_stats.json").write_text('{"count": 1}')
        self._shards += 1
        return folder

    def make(self, **arguments) -> dict[str, dict[str, str]]:
        """Returns `{file: row}` of the manifest, which the reader accepts."""
        arguments = {"min_images": 2, "min_nouns": 1} | arguments
        read_manifest(vso.make_manifest(self.images, self.out, **arguments))
        return {row["file"]: row for row in rows(self.out)}

    @property
    def dropped(self) -> dict[str, str]:
        table = rows(self.out.with_suffix(".dropped.csv"))
        return {row["file"]: row["reason"] for row in table}


def listing(first: int, count: int = 3) -> list[tuple[str, str, bytes | str]]:
    """Returns `count` good URLs of each of four ANPs; URL i holds picture i."""
    anps = ("happy_cat", "happy_dog", "sad_cat", "sad_dog")
    numbers = range(first, first + 4 * count)
    return [(anps[i % 4], f"http://x/{i}.jpg", encoded(i)) for i in numbers]


@pytest.fixture
def download(tmp_path: Path) -> Download:
    """Two adjectives with two nouns each, three pictures an ANP, in two shards."""
    download = Download(tmp_path)
    first = listing(0)
    download.add(*first[:7])
    download.add(*first[7:])
    return download


def test_caption_is_the_anp(download: Download, capsys):
    table = download.make()
    assert len(table) == 12
    assert Counter(row["anp"] for row in table.values()) == {
        "happy_cat": 3,
        "happy_dog": 3,
        "sad_cat": 3,
        "sad_dog": 3,
    }
    assert table["images/00000/000000001.jpg"]["anp"] == "happy_dog"
    assert table["images/00001/000010000.jpg"]["anp"] == "sad_dog"  # URL 7
    assert download.dropped == {}  # nor does it list img2dataset's own files
    assert printed(capsys.readouterr().out)["kept"] == ["4", "2", "2", "12"]


def test_spellings_of_a_caption(download: Download):
    download.add(
        ("Happy Cat", "http://x/a", encoded(100)),
        ("sad night-sky", "http://x/b", encoded(101)),
        ("sad_night_sky", "http://x/c", encoded(102)),
        ("flower", "http://x/d", encoded(103)),
        ("", "http://x/e", encoded(104)),
    )
    table = download.make()
    counts = Counter(row["anp"] for row in table.values())
    assert (counts["happy_cat"], counts["sad_night-sky"]) == (4, 2)
    assert download.dropped == {
        "images/00002/000020003.jpg": "caption is no ANP: flower",
        "images/00002/000020004.jpg": "caption is no ANP",
    }


def test_what_failed_is_dropped_with_its_message(download: Download, capsys):
    folder = download.add(
        ("happy_cat", "http://x/a", "HTTP Error 404: Not Found"),
        ("happy_cat", "http://x/b", "a redirect error\nand more"),
        ("sad_cat", "http://x/c", b""),
        ("sad_cat", "http://x/d", b"<html>"),
        ("sad_cat", "http://x/e", encoded(1)),  # as URL 1, happy_dog, has it
    )
    side = {"caption": "sad_cat", "url": "http://x/f", "error_message": "timed out"}
    (folder / "000020009.json").write_text(json.dumps(side))
    download.make()
    reasons = download.dropped
    assert reasons.pop("images/00002/000020003.jpg").startswith("unreadable: no JPEG")
    copy = {"images/00000/000000001.jpg", "images/00002/000020004.jpg"} & set(reasons)
    assert reasons.pop(*copy).startswith("duplicate: of images/0000")
    assert reasons == {
        "images/00002/000020000": (
            "not downloaded: HTTP Error 404: Not Found, http://x/a"
        ),
        "images/00002/000020001": "not downloaded: a redirect error, http://x/b",
        "images/00002/000020002.jpg": "empty",
        "images/00002/000020009.json": "not downloaded: timed out, http://x/f",
    }
    counts = printed(capsys.readouterr().out)
    assert counts["- not downloaded"][-1] == "3"
    number = {name: int(cells[-1] or 0) for name, cells in counts.items()}
    assert number["found"] == 12 + 6
    assert number["found"] == number["kept"] + sum(
        files for name, files in number.items() if name.startswith("-")
    )


def test_what_came_another_time_has_not_failed(download: Download):
    download.add(
        ("happy_cat", "http://x/a", "timed out"),
        ("happy_cat", "http://x/b", "timed out"),
        ("happy_cat", "http://x/0.jpg", "timed out"),  # it is in the first shard
    )
    download.add(("Happy_Cat", "http://x/a", encoded(100)))
    assert len(download.make()) == 13
    assert list(download.dropped.values()) == ["not downloaded: timed out, http://x/b"]


def test_shard_that_is_not_finished(download: Download):
    folder = download.add(*listing(100, count=1))
    folder.with_suffix(".parquet").write_bytes(b"")
    (download.images / "00002_stats.json").unlink()
    (folder / "000020001.json").unlink()
    (folder / "000020002.json").write_text('{"caption": "sad_c')
    (download.images / "_tmp").mkdir()
    assert len(download.make()) == 12 + 2
    stopped = "without its .json: img2dataset was stopped: run it again"
    assert download.dropped == {
        "images/00002.parquet": "shard not finished: run img2dataset again",
        "images/00002/000020001.jpg": stopped,
        "images/00002/000020001.txt": "not a picture",
        "images/00002/000020002.jpg": "unreadable: its .json is not img2dataset's",
    }


def test_tables_that_are_not_img2datasets(download: Download):
    folder = download.add(*listing(100, count=1))
    strange = pyarrow.Table.from_pylist([{"key": "1", "url": "http://x/a"}])
    parquet.write_table(strange, folder.with_suffix(".parquet"))
    (folder / "000020002.json").write_text("[" * 100_000)
    download.make()
    assert download.dropped == {
        "images/00002.parquet": "unreadable: it is not img2dataset's",
        "images/00002/000020002.jpg": "unreadable: its .json is not img2dataset's",
    }


def test_parquet_may_be_missing(download: Download):
    for path in [*download.images.glob("*.parquet"), *download.images.glob("*.json")]:
        path.unlink()
    assert len(download.make()) == 12


def test_other_files_are_dropped(download: Download):
    (download.images / "00000" / ".DS_Store").write_bytes(b"x")
    (download.images / "00000" / "notes.txt").write_bytes(b"x")
    (download.images / "readme.txt").write_bytes(b"x")
    (download.images / "happy_bird").mkdir()
    download.out = download.images / "vso.csv"
    for _ in range(2):  # the second time beside what the first wrote
        table = download.make()
        assert "00000/000000000.jpg" in table
        assert download.dropped == {
            "00000/.DS_Store": "dot-file",
            "00000/notes.txt": "not a picture",
            "readme.txt": "not in a folder",
            "happy_bird/": "not a folder of img2dataset",
        }


def test_rules_and_placeholder(download: Download, capsys):
    anps = ("happy_cat", "sad_cat", "odd_cat")
    download.add(*((anp, f"http://x/{anp}", PLACEHOLDER) for anp in anps))
    download.add(
        ("odd_cat", "http://x/a", encoded(100)),
        ("happy_sky", "http://x/b", encoded(101)),
        ("sad_sky", "http://x/c", encoded(102)),
        ("sad_sky", "http://x/d", encoded(103)),
    )
    path = download.out.with_name("nouns.txt")
    path.write_text("bird\ndog")
    table = download.make(nouns_to_exclude=path)
    anps = Counter(row["anp"] for row in table.values())
    assert anps == {"happy_cat": 3, "sad_cat": 3, "sad_sky": 2}
    reasons = download.dropped
    copies = [file for file, reason in reasons.items() if "one of 3 copies" in reason]
    assert copies == [f"images/00002/00002000{i}.jpg" for i in range(3)]
    assert {file: reasons[file] for file in reasons.keys() - set(copies)} == {
        "images/* (happy_dog)": "noun excluded",
        "images/* (sad_dog)": "noun excluded",
        "images/* (odd_cat)": "ANP with fewer than 2 images: 1",
        "images/* (happy_sky)": "ANP with fewer than 2 images: 1",
    }
    counts = printed(capsys.readouterr().out)
    assert counts["- placeholder"][-1] == "3"
    assert counts["- ANP with fewer than 2 images"] == ["2", "", "", "2"]


def test_release_is_no_download(download: Download):
    """Folders of ANPs beside a numbered one without img2dataset's files."""
    shutil.rmtree(download.images)
    for i in range(8):
        anp = ("happy_cat", "happy_dog", "sad_cat", "sad_dog")[i % 4]
        (download.images / anp).mkdir(parents=True, exist_ok=True)
        (download.images / anp / f"{i}.jpg").write_bytes(encoded(i))
    (download.images / "2013").mkdir()
    (download.images / "2013" / "a.jpg").write_bytes(encoded(9))
    assert len(download.make()) == 8
    assert download.dropped == {"images/2013/": "folder of no ANP"}


# Splits


def test_split_is_the_same_on_every_machine():
    """A change here would move pictures between train and test."""
    urls = [f"http://farm1.staticflickr.com/{i}.jpg" for i in range(20, 28)]

    def splits(file: str, anp: Anp) -> list[str]:
        return [vso_rules.split(Picture(anp, file, b"", "", url)) for url in urls]

    expected = ["train", "test", *(["train"] * 6)]
    assert splits("images/00000/000000001.jpg", Anp("sad", "night_sky")) == expected
    assert splits("images/00007/000070002.jpg", Anp("sad", "night-sky")) == expected


def test_split_of_a_url_does_not_change_when_the_list_does(tmp_path: Path):
    found = []
    for name, first in (("a", listing(0, 20)), ("b", listing(0, 40)[::-1])):
        (tmp_path / name).mkdir()
        download = Download(tmp_path / name)
        download.add(*first)
        splits = {}
        for file, row in download.make().items():
            side = (tmp_path / name / file).with_suffix(".json")
            splits[json.loads(side.read_text())["url"]] = row["split"]
        found.append(splits)
    assert (len(found[0]), len(found[1])) == (80, 160)
    assert {url: found[1][url] for url in found[0]} == found[0]
    assert Counter(found[1].values())["test"] == pytest.approx(32, abs=12)


# Mistakes


def message(download: Download) -> str:
    with pytest.raises(UserError) as caught:
        download.make()
    return str(caught.value)


def test_captions_were_not_asked_for(download: Download):
    path = download.images / "00001" / "000010002.json"
    path.write_text(json.dumps({"url": "http://x/9.jpg"}))
    text = message(download)
    assert f"{path} has no caption" in text
    assert "--caption_col=anp" in text


def test_nothing_was_downloaded(tmp_path: Path):
    download = Download(tmp_path)
    download.add(("happy_cat", "http://x/a", "timed out"))
    assert "img2dataset left no picture whose caption" in message(download)
