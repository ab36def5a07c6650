"""The list of a user's pictures: a CSV `file,split,<task>,<task>,...`.

One row per picture. `file` is relative to the CSV's folder, `split` is train, val or
test, and each further column is a task unless it is ignored. An empty cell is a missing
label, and the task's kind says what the other cells hold. Whatever is wrong is reported
here, once, before any picture is opened.
"""

import collections
import dataclasses
import difflib
import hashlib
import os
import posixpath
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from crl_jax import config_tasks
from crl_jax.config import default_task
from crl_jax.data import columns
from crl_jax.data.table import Table
from crl_jax.errors import UserError
from crl_jax.kinds import Categorical, Kind, Kinds, class_names

SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Manifest:
    """A checked list of N pictures with their splits and labels.

    Attributes:
      path: the CSV.
      root: its folder, which `files` are relative to.
      fingerprint: hexadecimal digits that differ for another CSV, and for pictures of
        other sizes in bytes; if there are a thousand or more, only some are looked at.
      kinds: of each task, in the order of the columns; class names are sorted, and the
        position of a name is its label. Or the kinds of a trained network.
      for_training: whether these kinds are the manifest's own, and not those of a
        trained network.
      files: [N] paths with `/`, no two the same.
      splits: [N] values of `SPLITS`.
      labels: of N pictures, for each task as its kind has them.
    """

    path: Path
    root: Path
    fingerprint: str
    kinds: dict[str, Kind]
    for_training: bool
    files: list[str] = dataclasses.field(repr=False)
    splits: list[str] = dataclasses.field(repr=False)
    labels: dict[str, np.ndarray] = dataclasses.field(repr=False)

    @property
    def tasks(self) -> dict[str, tuple[str, ...]]:
        """`{task: class names}`, which are empty for a regression."""
        return class_names(self.kinds)

    @property
    def counts(self) -> dict[str, int]:
        """Number of pictures in each split that has any."""
        counts = collections.Counter(self.splits)
        return {split: counts[split] for split in SPLITS if split in counts}

    def labelled(self, split: str, task: str) -> int:
        """Returns how many pictures of a split have a label of a task."""
        in_split = np.array(self.splits) == split
        labelled = self.kinds[task].is_labelled(self.labels[task])
        return int(np.sum(in_split & labelled))

    def example(self, row: int) -> dict[str, Any]:
        """Returns `{file, <task>: label, ...}` of a row, as shards keep it."""
        labels = {t: columns.stored(of[row]) for t, of in self.labels.items()}
        return {"file": self.files[row], **labels}


def read_manifest(
    path: str | os.PathLike[str],
    tasks: Mapping[str, ConfigDict] | None = None,
    trained: Kinds | None = None,
    ignore: str = "",
) -> Manifest:
    """Reads and checks a manifest; looks for its pictures but does not open them.

    Args:
      path: of the CSV.
      tasks: `config.tasks`, which says their kinds; they are categorical by default.
      trained: the kinds of a network that is evaluated on the manifest. Tasks and
        labels are then the network's, in its order; a task without a column has no
        labels, and other columns do not count.
      ignore: `config.data.ignore`, the names of columns that are no tasks.

    Raises:
      UserError: anything wrong with the CSV, or a picture that is not there.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:  # such as: not there, a folder, not allowed
        raise UserError(f"{path}: {error.strerror}. Give a CSV file.") from error
    ignored = config_tasks.listed(ignore)
    table = Table(path, content, ignored, trained)
    splits = _splits(table)
    for_training = trained is None
    if for_training and "train" not in splits:
        raise UserError(
            f"{path}: column 'split' never says train. Write it in the rows to train "
            "on."
        )
    files = _files(table)
    kinds, labels = _labels(table, tasks or {}, trained)
    declared = _declared(kinds, for_training, ignored)
    fingerprint = _fingerprint(content, path.parent, files, declared)
    return Manifest(
        path, path.parent, fingerprint, kinds, for_training, files, splits, labels
    )


def _labels(
    table: Table, tasks: Mapping[str, ConfigDict], trained: Kinds | None
) -> tuple[dict[str, Kind], dict[str, np.ndarray]]:
    """Returns the kinds of the tasks, and their labels as the kinds have them."""
    if trained and not trained.keys() & set(table.tasks):
        raise UserError(
            f"{table.path}: no column is one of the tasks that were trained: "
            f"{', '.join(trained)}. Use these names in its first row."
        )
    kinds, labels = {}, {}
    for task in trained or table.tasks:
        kind, settings = (trained or {}).get(task), tasks.get(task) or default_task()
        if kind and task not in table.tasks:
            kinds[task], labels[task] = kind, kind.unlabelled(len(table.lines))
        else:
            kinds[task], labels[task] = columns.read_column(table, task, settings, kind)
    return kinds, labels


def _splits(table: Table) -> list[str]:
    splits = table.columns["split"]

    def describe(i: int) -> str:
        close = difflib.get_close_matches(splits[i].lower(), SPLITS, 1, cutoff=0.4)
        return f"has {splits[i]!r}" + (f" (did you mean {close[0]}?)" if close else "")

    table.check(
        f"column 'split' may hold only {', '.join(SPLITS)}",
        (i for i, split in enumerate(splits) if split not in SPLITS),
        "write one of these",
        describe,
    )
    return splits


def _files(table: Table) -> list[str]:
    """Returns column `file`, each path in its plainest form, once all are found."""
    cells, splits = table.columns["file"], table.columns["split"]
    table.check(
        "column 'file' must name a picture",
        (i for i, cell in enumerate(cells) if not cell),
        "fill the cell or delete the row",
        lambda i: "has none",
    )
    root = table.path.parent
    files = [posixpath.normpath(cell) for cell in cells]
    outside = re.compile(r"/|\.\.(/|$)|[A-Za-z]:[\\/]|\\\\").match
    table.check(
        f"column 'file' must stay inside the folder {root}",
        (i for i, file in enumerate(files) if outside(file)),
        "write paths relative to that folder, or move the CSV above the pictures",
        lambda i: f"has {cells[i]!r}",
    )
    first: dict[str, int] = {}
    table.check(
        "column 'file' may name a picture only once",
        (i for i, file in enumerate(files) if first.setdefault(file, i) != i),
        "keep one row of each",
        lambda i: (
            f"({splits[i]}) repeats {files[i]!r} of row "
            f"{table.lines[first[files[i]]]} ({splits[first[files[i]]]})"
        ),
    )
    parts = [file.rpartition("/") for file in files]
    there = {folder: _listing(root / folder) for folder in {part[0] for part in parts}}
    table.check(
        f"column 'file' must name pictures in the folder {root}",
        (i for i, (folder, _, name) in enumerate(parts) if name not in there[folder]),
        "mend the path (and its capitals), add the file, or delete the row",
        lambda i: f"has {files[i]!r}{_path_hint(root, files[i])}",
    )
    return files


def _path_hint(root: Path, file: str) -> str:
    """Returns why a path may not be found, where that cannot be seen in it."""
    if "\\" in file:
        return r" (write / instead of \)"
    others = (unicodedata.normalize(form, file) for form in ("NFC", "NFD"))
    if any(other != file and os.path.isfile(root / other) for other in others):
        return (
            " (the file's name differs only in how its accents are encoded, NFC or "
            "NFD: `convmv` can rename it)"
        )
    return ""


def _listing(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):  # ValueError: a path with a null character
        return set()


def _declared(kinds: Kinds, for_training: bool, ignored: Sequence[str]) -> bytes:
    """Returns what, besides the CSV, decides the labels of its pictures."""
    if not for_training:
        named = [(task, kind.name, kind.names) for task, kind in kinds.items()]
        return repr(named).encode()
    # Columns of class names, which most are, add nothing.
    others = [(t, k.name) for t, k in kinds.items() if not isinstance(k, Categorical)]
    declared = repr(others).encode() if others else b""
    return declared + (repr(ignored).encode() if ignored else b"")


def _fingerprint(content: bytes, root: Path, files: list[str], declared: bytes) -> str:
    """Returns 12 hexadecimal digits for the CSV, its kinds and the pictures it lists.

    The sizes of about a thousand pictures tell apart two sets that are listed in the
    same words, such as the same photographs at another resolution.
    """
    some = files[:: 1 + len(files) // 1000]
    sizes = np.array([os.path.getsize(root / file) for file in some], np.int64)
    return hashlib.sha256(content + sizes.tobytes() + declared).hexdigest()[:12]
