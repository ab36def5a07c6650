"""The list of a user's pictures: a CSV `file,split,<task>,<task>,...`.

One row a picture. `file` is relative to the CSV's folder, `split` is train, val or
test, and each further column is a task whose cells are class names; an empty cell is
a missing label. Whatever is wrong is said here, once, before any picture is opened.
"""

import collections
import csv
import dataclasses
import difflib
import hashlib
import io
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from crl_jax.errors import UserError

Item = TypeVar("Item")

SPLITS = ("train", "val", "test")
_RESERVED = ("image", "joint")  # a feature of the shards; all tasks right at once

_FIRST_ROW = "The first row must be file,split,<task>,<task>,... with commas between."


@dataclasses.dataclass(frozen=True, eq=False)
class Manifest:
    """A checked list of N pictures with their splits and labels.

    Attributes:
      path: the CSV.
      root: its folder, which `files` are relative to.
      fingerprint: hexadecimal digits that differ for another CSV or other pictures.
      tasks: name of each task, in the order of the columns, and its K class names,
        sorted; the position of a name is its label.
      files: [N] paths with `/`, no two the same.
      splits: [N] values of `SPLITS`.
      labels: for each task int32 [N], 0 to K - 1, or -1 where the label is missing.
    """

    path: Path
    root: Path
    fingerprint: str
    tasks: dict[str, tuple[str, ...]]
    files: list[str] = dataclasses.field(repr=False)
    splits: list[str] = dataclasses.field(repr=False)
    labels: dict[str, np.ndarray] = dataclasses.field(repr=False)

    @property
    def counts(self) -> dict[str, int]:
        """Number of pictures in each split that has some."""
        counts = collections.Counter(self.splits)
        return {split: counts[split] for split in SPLITS if split in counts}

    def labelled(self, split: str, task: str) -> int:
        """Returns how many pictures of a split have a label of a task."""
        in_split = np.array(self.splits) == split
        return int(np.sum(in_split & (self.labels[task] >= 0)))

    def example(self, row: int) -> dict[str, Any]:
        """Returns `{file, <task>: label, ...}` of a row."""
        labels = {task: int(labels[row]) for task, labels in self.labels.items()}
        return {"file": self.files[row], **labels}


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Reads and checks a manifest; looks for its pictures but does not open them.

    Raises:
      UserError: anything wrong with the CSV, or a picture that is not there.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:  # such as: not there, a folder, not allowed
        raise UserError(f"{path}: {error.strerror}. Give a CSV file.") from error
    table = _Table(path, content)
    splits = _splits(table)
    files = _files(table)
    tasks, labels = {}, {}
    for task in table.tasks:
        tasks[task], labels[task] = _classes(table, task)
    fingerprint = _fingerprint(content, path.parent, files)
    return Manifest(path, path.parent, fingerprint, tasks, files, splits, labels)


def first_few(items: Sequence[Item], describe: Callable[[Item], str]) -> str:
    """Describes the first three items and says how many more there are."""
    more = f" and {len(items) - 3:,} more" if len(items) > 3 else ""
    return ", ".join(map(describe, items[:3])) + more


class _Table:
    """The stripped cells of a CSV by column, and the line that each row starts on."""

    def __init__(self, path: Path, content: bytes):
        self.path = path
        rows, self.lines = _parse(path, content)
        if not rows:
            raise UserError(f"{path} is empty. {_FIRST_ROW}")
        header = [cell.strip() for cell in rows.pop(0)]
        _check_header(f"{path}, row {self.lines.pop(0)}", header)
        self.tasks = [name for name in header if name not in ("file", "split")]
        self.check(
            f"every row needs {len(header)} cells, like the first",
            (i for i, row in enumerate(rows) if len(row) != len(header)),
            "put text with a comma in double quotes; an empty cell keeps its comma",
            lambda i: f"has {len(rows[i])}",
        )
        if not rows:
            raise UserError(f"{path} lists no picture. Add a row for each.")
        self.columns = {
            name: [cell.strip() for cell in cells]
            for name, cells in zip(header, zip(*rows, strict=True), strict=True)
        }

    def check(
        self, rule: str, bad: Iterable[int], mend: str, describe: Callable[[int], str]
    ) -> None:
        """Raises a UserError that describes the `bad` rows, if there are any."""
        if found := list(bad):
            few = first_few(found, lambda i: f"row {self.lines[i]} {describe(i)}")
            raise UserError(f"{self.path}: {rule}, but {few}: {mend}.")


def _parse(path: Path, content: bytes) -> tuple[list[tuple[str, ...]], list[int]]:
    """Returns the rows that are not blank, and the line that each starts on."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, row {line}: not UTF-8 text. Save the file as 'CSV UTF-8'."
        ) from error
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    rows, lines, line = [], [], 1
    try:
        for row in reader:
            if any(row):
                # The garbage collector would look at lists again and again.
                rows.append(tuple(row))
                lines.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}, row {line}: {error}. Look for a double quote that is not closed."
        ) from error
    return rows, lines


def _check_header(where: str, header: list[str]) -> None:
    for name in ("file", "split"):
        if name not in header:
            only = ", ".join(map(repr, header))
            raise UserError(f"{where}: no column {name!r}, only {only}. {_FIRST_ROW}")
    for i, name in enumerate(header):
        if name in header[:i]:
            raise UserError(f"{where}: two columns are named {name!r}. Rename one.")
        # An example calls the picture itself `image`.
        if name in _RESERVED or not (name.isidentifier() and name.isascii()):
            raise UserError(
                f"{where}: column {i + 1} is named {name!r}. Name tasks with letters, "
                "digits and underscores, a letter first, and none of them 'image' or "
                "'joint'."
            )
    if len(header) == 2:
        raise UserError(f"{where}: there is no task. Add a column of class names.")


def _splits(table: _Table) -> list[str]:
    splits = table.columns["split"]

    def describe(i: int) -> str:
        close = difflib.get_close_matches(splits[i].lower(), SPLITS, 1, cutoff=0.4)
        return f"has {splits[i]!r}" + (f" (for {close[0]}?)" if close else "")

    table.check(
        f"column 'split' may hold {', '.join(SPLITS)}",
        (i for i, split in enumerate(splits) if split not in SPLITS),
        "write one of these",
        describe,
    )
    if "train" not in splits:
        raise UserError(f"{table.path}: column 'split' never says train. Mend it.")
    return splits


def _files(table: _Table) -> list[str]:
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
        "column 'file' may name a picture once",
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
        "mend the path (/, capitals), bring the file, or delete the row",
        lambda i: f"has {files[i]!r}",
    )
    return files


def _listing(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):  # ValueError: a path with a null character
        return set()


def _fingerprint(content: bytes, root: Path, files: list[str]) -> str:
    """Returns 12 hexadecimal digits for the CSV and the pictures it lists.

    The sizes of about a thousand pictures tell apart two sets, such as the same
    photographs at another resolution, that are listed in the same words.
    """
    some = files[:: 1 + len(files) // 1000]
    sizes = np.array([os.path.getsize(root / file) for file in some], np.int64)
    return hashlib.sha256(content + sizes.tobytes()).hexdigest()[:12]


def _classes(table: _Table, task: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the K sorted class names of a task, and its labels, int32 [N]."""
    cells, splits = table.columns[task], table.columns["split"]
    # The shards keep class names one a line.
    table.check(
        f"column {task!r}: a class name must be one line",
        (i for i, cell in enumerate(cells) if "\n" in cell or "\r" in cell),
        "remove the line break, or close the double quote before it",
        lambda i: f"has {cells[i][:40]!r}",
    )
    names = tuple(sorted(set(cells) - {""}))
    if len(names) < 2:
        found = f"only the class {names[0]!r}" if names else "no label at all"
        raise UserError(
            f"{table.path}: column {task!r} has {found}, and a task needs two classes. "
            "Fill the column or delete it."
        )
    numbers = {name: i for i, name in enumerate(names)} | {"": -1}
    labels = np.fromiter(map(numbers.__getitem__, cells), np.int32, len(cells))
    classes, first = np.unique(labels, return_index=True)
    trained = np.unique(labels[np.array(splits) == "train"])
    table.check(
        f"column {task!r}: every class needs a picture in train",
        np.sort(first[(classes >= 0) & ~np.isin(classes, trained)]).tolist(),
        "move one of the class's pictures to train, or empty the class's cells",
        lambda i: f"({splits[i]}) has {cells[i]!r}",
    )
    return names, labels
