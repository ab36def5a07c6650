"""What img2dataset makes of a URL list: numbered shards, not one folder per ANP.

`00000/000000007.jpg` has its caption (the ANP) and its URL in `000000007.json` beside
it. A URL that failed has no file: `00000.parquet`, which lists all URLs of the shard,
says why.
"""

import json
import os
import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from crl_jax.data.pictures import SUFFIXES
from crl_jax.data.vso_names import Anp, fold, spelled
from crl_jax.data.vso_pictures import Dropped, in_threads, suffix
from crl_jax.errors import UserError

_OWN = (".parquet", "_stats.json")  # beside the folder of each shard


class _Row(NamedTuple):
    """A URL of the list, and the file or the reason why there is none."""

    file: str
    caption: str
    url: str
    failure: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return fold(self.caption), self.url


def is_download(images: Path) -> bool:
    """Whether a folder is what img2dataset wrote with `--output_format=files`.

    Raises:
      OSError: the folder cannot be read.
    """
    names = set(os.listdir(images))
    return any(
        any(f"{shard}{end}" in names for end in _OWN)
        or any(name.endswith(".json") for name in os.listdir(images / shard))
        for shard in _shards(images)
    )


def find_pictures(
    images: Path, prefix: str, known: Mapping[str, Anp]
) -> tuple[dict[str, Anp], dict[str, list[tuple[str, str]]], list[Dropped]]:
    """Finds the pictures of each ANP.

    Args:
      images: folder that img2dataset wrote.
      prefix: its path relative to the manifest's folder.
      known: `{folded name: ANP}`, since a caption by itself may not tell the ANP.

    Returns:
      `{place: ANP}`, sorted, where a place is named `images/* (happy_cat)`; `{place:
      [(path, URL)]}`; and what cannot be used. A URL that failed once and came another
      time does not count as failed.

    Raises:
      OSError: a folder or a file cannot be read.
      UserError: no picture has an ANP as its caption.
    """
    rows: list[_Row] = []
    dropped = list(_others(images, prefix))

    def read(shard: str) -> list[_Row | Dropped]:
        folder = posixpath.normpath(f"{prefix}/{shard}")
        return [*_read_folder(images / shard, folder), *_failures(images, folder)]

    for found in in_threads(read, _shards(images), "Reading captions"):
        rows += (each for each in found if isinstance(each, _Row))
        dropped += (each for each in found if isinstance(each, Dropped))

    anps = spelled({row.caption for row in rows}, known)
    came = {row.key for row in rows if not row.failure}
    files: dict[Anp, list[tuple[str, str]]] = {}
    for row in rows:
        if row.failure:
            if row.key not in came:
                detail = f"{row.failure}, {row.url}"
                dropped.append(Dropped(row.file, "not downloaded", detail))
        elif anp := anps.get(fold(row.caption)):
            files.setdefault(anp, []).append((row.file, row.url))
        else:
            dropped.append(Dropped(row.file, "caption is no ANP", row.caption))
    if not files:
        raise UserError(
            f"--images={images}: img2dataset left no picture whose caption is an "
            "adjective-noun pair. Look in its *_stats.json for what went wrong, and "
            "give it the ANPs' column: --caption_col=anp"
        )
    star = posixpath.normpath(f"{prefix}/*")
    places = {f"{star} ({anp.name})": anp for anp in sorted(files)}
    listed = {place: sorted(files[anp]) for place, anp in places.items()}
    return places, listed, sorted(dropped, key=lambda each: each.reason)


def _shards(images: Path) -> list[str]:
    names = sorted(os.listdir(images))
    return [name for name in names if name.isdecimal() and (images / name).is_dir()]


def _others(images: Path, prefix: str) -> Iterator[Dropped]:
    """Yields the entries of `images` that img2dataset did not write."""
    shards = _shards(images)
    own = {"_tmp", *shards, *(f"{shard}{end}" for shard in shards for end in _OWN)}
    for name in sorted(set(os.listdir(images)) - own):
        path = posixpath.normpath(f"{prefix}/{name}")
        if (images / name).is_dir():
            yield Dropped(f"{path}/", "not a folder of img2dataset")
        else:
            reason = "dot-file" if name.startswith(".") else "not in a folder"
            yield Dropped(path, reason)


def _read_folder(shard: Path, folder: str) -> Iterator[_Row | Dropped]:
    """Yields the pictures of a shard, and every other file."""
    names = sorted(os.listdir(shard))
    pictures = {
        os.path.splitext(name)[0]: f"{folder}/{name}"
        for name in names
        if suffix(name) in SUFFIXES and not name.startswith(".")
    }
    sides = {os.path.splitext(name)[0] for name in names if suffix(name) == ".json"}
    for name in names:
        stem, file = os.path.splitext(name)[0], f"{folder}/{name}"
        if name.startswith("."):
            yield Dropped(file, "dot-file")
        elif suffix(name) == ".json":
            yield _read_side(shard / name, file, pictures.get(stem, ""))
        elif suffix(name) in SUFFIXES:
            if stem not in sides:  # it is written after the picture
                detail = "img2dataset was stopped: run it again"
                yield Dropped(file, "without its .json", detail)
        elif suffix(name) != ".txt" or stem not in sides:
            yield Dropped(file, "not a picture")


def _read_side(path: Path, side: str, picture: str) -> _Row | Dropped:
    try:
        row = json.loads(path.read_bytes())
        url = row["url"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return Dropped(picture or side, "unreadable", "its .json is not img2dataset's")
    if "caption" not in row:
        raise UserError(
            f"--images: {path} has no caption. Run img2dataset again, with "
            "--caption_col=anp and --incremental_mode=overwrite"
        )
    failure = "" if picture else _line(row.get("error_message")) or "no picture"
    return _Row(picture or side, _text(row["caption"]), _text(url), failure)


def _failures(images: Path, folder: str) -> Iterator[_Row | Dropped]:
    """Yields the URLs of a shard that were not downloaded."""
    # Comes with TFDS. Those who have folders need not wait for its import.
    from pyarrow import ArrowException, parquet

    path = images / f"{posixpath.basename(folder)}.parquet"
    if not path.exists():
        return
    columns = ["key", "caption", "url", "status", "error_message"]
    try:
        with parquet.ParquetFile(path) as file:
            table = file.read(columns=columns)
    except (ArrowException, OSError):  # the file is complete only once its shard is
        detail = "run img2dataset again"
        yield Dropped(f"{folder}.parquet", "shard not finished", detail, files=0)
        return
    if not {"key", "url", "status", "error_message"} <= set(table.column_names):
        detail = "it is not img2dataset's"
        yield Dropped(f"{folder}.parquet", "unreadable", detail, files=0)
        return
    for row in table.to_pylist():
        if row["status"] != "success":
            failure = _line(row["error_message"]) or "no message"
            caption, url = _text(row.get("caption")), _text(row["url"])
            yield _Row(f"{folder}/{row['key']}", caption, url, failure)


def _text(cell: object) -> str:
    return "" if cell is None else str(cell)


def _line(message: str | None) -> str:
    return (message or "").partition("\n")[0].strip()
