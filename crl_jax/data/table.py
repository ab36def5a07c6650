"""A CSV's cells by column, and messages that name the rows with a wrong cell."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from crl_jax import config_tasks
from crl_jax.errors import UserError

Item = TypeVar("Item")

_NO_TASKS = ("file", "split")  # columns of every list

_FIRST_ROW = "The first row must be file,split,<task>,<task>,... with commas between."


def first_few(items: Sequence[Item], describe: Callable[[Item], str]) -> str:
    """Describes the first three items and says how many more there are."""
    more = f" and {len(items) - 3:,} more" if len(items) > 3 else ""
    return ", ".join(map(describe, items[:3])) + more


class Table:
    """The stripped cells of a CSV by column, and the line that each row starts on."""

    def __init__(self, path: Path, content: bytes):
        """Reads the bytes of a CSV; raises UserError if it is no manifest."""
        self.path = path
        rows, self.lines = _parse(path, content)
        if not rows:
            raise UserError(f"{path} is empty. {_FIRST_ROW}")
        header = [cell.strip() for cell in rows.pop(0)]
        _check_header(f"{path}, row {self.lines.pop(0)}", header)
        self.tasks = [name for name in header if name not in _NO_TASKS]
        self.check(
            f"every row needs {len(header)} cells, like the first",
            (i for i, row in enumerate(rows) if len(row) != len(header)),
            "put text with a comma in double quotes; an empty cell keeps its comma",
            lambda i: f"has {len(rows[i])}",
        )
        if not rows:
            raise UserError(f"{path} lists no pictures. Add a row for each picture.")
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
                # A tuple: the garbage collector would look at lists again and again.
                rows.append(tuple(row))
                lines.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}, row {line}: {error}. Look for a double quote that is not closed."
        ) from error
    return rows, lines


def _check_header(where: str, header: list[str]) -> None:
    for name in _NO_TASKS:
        if name not in header:
            only = ", ".join(map(repr, header))
            raise UserError(f"{where}: no column {name!r}, only {only}. {_FIRST_ROW}")
    for i, name in enumerate(header):
        if name in header[:i]:
            raise UserError(f"{where}: two columns are named {name!r}. Rename one.")
        if name not in _NO_TASKS:
            config_tasks.check_name(name, f"{where}, column {i + 1}")
    if len(header) == 2:
        raise UserError(f"{where}: there is no task. Add a column of class names.")
