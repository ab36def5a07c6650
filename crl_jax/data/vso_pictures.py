"""Which folders and files of the VSO can be used, and which files are copies."""

import collections
import hashlib
import os
import posixpath
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from PIL import Image

from crl_jax.data import pictures
from crl_jax.data.vso_names import Anp, fold, spelled
from crl_jax.terminal import progress_bar

Item = TypeVar("Item")
Result = TypeVar("Result")

_TAIL_BYTES = 4096


class Dropped(NamedTuple):
    """A file or a place that is left out.

    A place is a folder (its path ends with `/`), or what `vso_urls` calls one.

    Attributes:
      path: relative to the manifest's folder.
      reason: one of a few phrases.
      detail: what more there is to say, or empty.
      anp: of a folder.
      files: number of files it stands for; 0 for a folder that was not looked into.
    """

    path: str
    reason: str
    detail: str = ""
    anp: Anp | None = None
    files: int = 1


class Picture(NamedTuple):
    """A file that can be used.

    Attributes:
      anp: what it shows.
      file: its path, with `/`, relative to the manifest's folder.
      tail: a hash of its size and its last bytes.
      folder: the place it was found in.
      url: where it was downloaded from, or empty.
    """

    anp: Anp
    file: str
    tail: bytes
    folder: str = ""
    url: str = ""

    @property
    def lot(self) -> bytes:
        """32 bytes drawn from its ANP and its URL, or its file name if it has no URL.

        A running number, such as img2dataset gives, is no name: it becomes another
        picture's when the list changes.
        """
        name = self.url or self.file.rpartition("/")[2]
        text = f"{fold(self.anp.name)}/{name}"
        # macOS may store accents in another way.
        return hashlib.sha256(unicodedata.normalize("NFC", text).encode()).digest()


def find_folders(
    images: Path, prefix: str, known: Mapping[str, Anp]
) -> tuple[dict[str, Anp], list[Dropped]]:
    """Looks at the entries of `images`.

    Args:
      images: the folder.
      prefix: its path relative to the manifest's folder.
      known: `{folded name: ANP}`, since a name by itself may not tell the ANP.

    Returns:
      `{path: ANP}` of the folders named after one, sorted, the paths with a `/` at
      the end; and all other entries.

    Raises:
      OSError: the folder cannot be read.
    """
    names = sorted(os.listdir(images))
    anps = spelled(names, known)
    folders, dropped = {}, []
    for name in names:
        path = posixpath.normpath(f"{prefix}/{name}")
        if not (images / name).is_dir():
            reason = "dot-file" if name.startswith(".") else "not in a folder"
            dropped.append(Dropped(path, reason))
        elif anp := anps.get(fold(name)):
            folders[f"{path}/"] = anp
        else:
            dropped.append(Dropped(f"{path}/", "folder of no ANP"))
    return folders, dropped


def read_folders(
    root: Path,
    folders: Mapping[str, Anp],
    listed: Mapping[str, Sequence[tuple[str, str]]],
) -> tuple[list[Picture], list[Dropped]]:
    """Looks at all files of some places, and reads the header of each picture.

    Args:
      root: folder that paths are relative to.
      folders: `{place: ANP}`.
      listed: `{place: [(path, URL)]}` of the places that are not folders.

    Raises:
      OSError: a folder cannot be read.
    """
    found: list[Picture] = []
    dropped: list[Dropped] = []

    def read(folder: str) -> list[Picture | Dropped]:
        return [
            _read_file(root, file, folders[folder], folder, url)
            for file, url in listed.get(folder) or _files(root, folder)
        ]

    # Pillow warns of some headers. The filters are set once for all threads.
    with warnings.catch_warnings(action="ignore"):
        for files in in_threads(read, folders, "Reading pictures"):
            found += (file for file in files if isinstance(file, Picture))
            dropped += (file for file in files if isinstance(file, Dropped))
    return found, dropped


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], what: str
) -> Iterator[Result]:
    """Yields `function` of each item, in order, and shows the progress."""
    items = list(items)
    with ThreadPoolExecutor() as pool, progress_bar(what, len(items)) as advance:
        for result in pool.map(function, items):
            yield result
            advance(1)


def _files(root: Path, folder: str) -> Iterator[tuple[str, str]]:
    for name in sorted(os.listdir(root / folder)):
        yield f"{folder}{name}", ""


def _read_file(
    root: Path, file: str, anp: Anp, folder: str, url: str
) -> Picture | Dropped:
    path = os.path.join(root, file)
    if os.path.basename(file).startswith("."):
        return Dropped(file, "dot-file")
    if suffix(file) not in pictures.SUFFIXES or os.path.isdir(path):
        return Dropped(file, "not a picture")
    if problem := _problem_of_name(file):
        return Dropped(file, "name cannot be listed", problem)
    if not os.path.isfile(path):
        return Dropped(file, "unreadable", "is not a regular file")
    if not (size := os.path.getsize(path)):
        return Dropped(file, "empty")
    try:
        return Picture(anp, file, _read_picture(path, size), folder, url)
    except Exception as error:  # broken headers raise almost anything
        return Dropped(file, "unreadable", _why(error))


def suffix(name: str) -> str:
    """Returns the end of a file name, in lower case: `.jpg`."""
    return os.path.splitext(name)[1].lower()


def _problem_of_name(file: str) -> str:
    """Says why a manifest, which is UTF-8 and strips cells, cannot hold a path."""
    try:
        file.encode()
    except UnicodeEncodeError:
        return "is not Unicode"
    return "begins with a blank" if file != file.strip() else ""


def _read_picture(path: str, size: int) -> bytes:
    """Returns a hash of the size and the last bytes, once the header is checked.

    Raises:
      Exception: of any kind, if Pillow finds no picture of a size we accept.
    """
    with open(path, "rb") as file:
        with Image.open(file, formats=pictures.FORMATS) as image:
            if not 0 < image.width * image.height <= pictures.MAX_PIXELS:
                raise ValueError(f"{image.width:,} x {image.height:,} pixels")
        file.seek(max(0, size - _TAIL_BYTES))
        # Half a million of these stay in memory: 16 bytes each are enough.
        return hashlib.blake2b(b"%d/" % size + file.read(), digest_size=16).digest()


def _why(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return f"no {', '.join(pictures.FORMATS)} header"
    text = error.strerror if isinstance(error, OSError) else str(error)
    return (text or type(error).__name__).partition("\n")[0]


def copies(root: Path, found: Iterable[Picture]) -> list[list[Picture]]:
    """Groups the pictures that share their content with another, byte for byte.

    Only files whose size and last bytes agree are read whole.

    Raises:
      OSError: a file cannot be read.
    """
    found = list(found)
    often = collections.Counter(picture.tail for picture in found)
    same_tail = [picture for picture in found if often[picture.tail] > 1]

    def content(picture: Picture) -> bytes:
        with open(root / picture.file, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    groups = collections.defaultdict(list)
    with ThreadPoolExecutor() as pool:
        contents = pool.map(content, same_tail)
        for picture, digest in zip(same_tail, contents, strict=True):
            groups[digest].append(picture)
    return [group for group in groups.values() if len(group) > 1]
