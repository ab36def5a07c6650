"""Which folders and files of the VSO can be used, and which files are copies."""

import collections
import hashlib
import os
import posixpath
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from rich.progress import track

from crl_jax.data import pictures
from crl_jax.data.vso_names import PICTURE_SUFFIXES, Anp, fold, parse_anp
from crl_jax.terminal import console

_TAIL_BYTES = 4096


class Dropped(NamedTuple):
    """A file or a folder (its path ends with `/`) that is left out.

    Attributes:
      path: relative to the manifest's folder.
      reason: one of a few.
      detail: what more there is to say, or empty.
      anp: of a folder.
      files: number of files it stands for; 0 for a folder that nobody looked into.
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
    """

    anp: Anp
    file: str
    tail: bytes

    @property
    def lot(self) -> bytes:
        """32 bytes drawn by its ANP and file name, wherever the folders lie."""
        name = self.file.rpartition("/")[2]
        # macOS may store accents in another way.
        text = unicodedata.normalize("NFC", f"{self.anp.name}/{name}")
        return hashlib.sha256(text.encode()).digest()


def find_folders(
    images: Path, prefix: str, known: Mapping[str, Anp]
) -> tuple[dict[str, Anp], list[Dropped]]:
    """Looks at the entries of `images`.

    Args:
      images: the folder.
      prefix: its path relative to the manifest's folder.
      known: `{folded name: ANP}` where the name alone may not tell.

    Returns:
      `{path: ANP}` of the folders named after one, sorted; and all other entries.

    Raises:
      OSError: the folder cannot be read.
    """
    names = sorted(os.listdir(images))
    # The first of several spellings of an ANP counts.
    anps = {fold(n): anp for n in reversed(names) if (anp := parse_anp(n))}
    anps |= known
    folders, dropped = {}, []
    for name in names:
        path = posixpath.normpath(f"{prefix}/{name}")
        if not (images / name).is_dir():
            reason = "dot-file" if name.startswith(".") else "not in a folder"
            dropped.append(Dropped(path, reason))
        elif anp := anps.get(fold(name)):
            folders[path] = anp
        else:
            dropped.append(Dropped(f"{path}/", "folder of no ANP"))
    return folders, dropped


def read_folders(
    root: Path, folders: Mapping[str, Anp]
) -> tuple[list[Picture], list[Dropped]]:
    """Looks at all files of some folders, and reads the header of each picture.

    Args:
      root: folder that paths are relative to.
      folders: `{path: ANP}`.

    Raises:
      OSError: a folder cannot be read.
    """
    found: list[Picture] = []
    dropped: list[Dropped] = []

    def read(folder: tuple[str, Anp]) -> list[Picture | Dropped]:
        return list(_read_folder(root, *folder))

    # Pillow warns of some headers. The filters are set once for all threads.
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor() as pool:
        for files in track(
            pool.map(read, folders.items()),
            description="Reading folders",
            total=len(folders),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ):
            found += (file for file in files if isinstance(file, Picture))
            dropped += (file for file in files if isinstance(file, Dropped))
    return found, dropped


def _read_folder(root: Path, folder: str, anp: Anp) -> Iterator[Picture | Dropped]:
    with os.scandir(root / folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            file = f"{folder}/{entry.name}"
            if entry.name.startswith("."):
                yield Dropped(file, "dot-file")
            elif _suffix(entry.name) not in PICTURE_SUFFIXES or entry.is_dir():
                yield Dropped(file, "not a picture")
            elif problem := _problem_of_name(file):
                yield Dropped(file, "name cannot be listed", problem)
            elif not entry.is_file():
                yield Dropped(file, "unreadable", "is not a regular file")
            elif not (size := entry.stat().st_size):
                yield Dropped(file, "empty")
            else:
                try:
                    yield Picture(anp, file, _read_picture(entry.path, size))
                except Exception as error:  # broken headers raise almost anything
                    yield Dropped(file, "unreadable", _why(error))


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _problem_of_name(file: str) -> str:
    """Says why a manifest, which is UTF-8 and strips cells, cannot hold a path."""
    try:
        file.encode()
    except UnicodeEncodeError:
        return "is not Unicode"
    return "begins with a blank" if file != file.strip() else ""


def _read_picture(path: str, size: int) -> bytes:
    """Returns a hash of the size and the last bytes, once the header is right.

    Raises:
      Exception: of any kind, where Pillow finds no picture of a size we accept.
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
    """Groups the pictures whose content another one has too, byte for byte.

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
