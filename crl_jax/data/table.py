"""A CSV's cells by column, and messages that name the rows with a wrong cell."""

import contextlib
import csv
import io
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from crl_jax.data import header
from crl_jax.errors import UserError

Item = TypeVar("Item")

_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}


def first_few(items: Sequence[Item], describe: Callable[[Item], str]) -> str:
    """Describes the first three items and says how many more there are."""
    more = f" and {len(items) - 3:,} more" if len(items) > 3 else ""
    return ", ".join(map(describe, items[:3])) + more


class Table:
    """The stripped cells of a CSV by column, and the line that each row starts on."""

    def __init__(
        self,
        path: Path,
        content: bytes,
        ignore: Sequence[str] = (),
        trained: Collection[str] | None = None,
    ):
        """Reads the columns that count.

        Args:
          path: of the CSV, for messages.
          content: its bytes.
          ignore: see `header.kept_columns`.
          trained: see `header.kept_columns`.

        Raises:
          UserError: it is no manifest.
        """
        self.path, self._ignore = path, ignore
        text = _decoded(path, content)
        delimiter = _delimiter(text)
        rows, self.lines = _parse(path, text, delimiter)
        if not rows:
            raise UserError(f"{path} is empty. {header.FIRST_ROW}")
        first = [cell.strip() for cell in rows.pop(0)]
        names = {
            i: name
            for i, name in enumerate(first)
            # Spreadsheets may write columns after the last, with nothing in them.
            if name or any(cell.strip() for row in rows for cell in row[i : i + 1])
        }
        where = f"{path}, row {self.lines.pop(0)}"
        kept = header.kept_columns(where, names, ignore, trained)
        self.tasks = [name for name in kept if name not in header.NO_TASKS]
        self.check(
            f"every row needs {len(first)} cells, like the first",
            (i for i, row in enumerate(rows) if len(row) != len(first)),
            f"put text with a {_DELIMITERS[delimiter]} in double quotes; an empty cell "
            f"keeps its {_DELIMITERS[delimiter]}",
            lambda i: f"has {len(rows[i])}",
        )
        if not rows:
            raise UserError(f"{path} lists no pictures. Add a row for each picture.")
        self.columns = {
            name: [row[i].strip() for row in rows] for name, i in kept.items()
        }

    def ignoring(self, name: str) -> str:
        """Returns how to say that a column is no task."""
        return header.ignore_flag(self._ignore, name)

    def check(
        self, rule: str, bad: Iterable[int], mend: str, describe: Callable[[int], str]
    ) -> None:
        """Raises a UserError that describes the `bad` rows, if there are any."""
        if found := list(bad):
            few = first_few(found, lambda i: f"row {self.lines[i]} {describe(i)}")
            raise UserError(f"{self.path}: {rule}, but {few}: {mend}.")


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, row {line}: not UTF-8 text. Save the file as 'CSV UTF-8'."
        ) from error


def _parse(
    path: Path, text: str, delimiter: str
) -> tuple[list[tuple[str, ...]], list[int]]:
    """Returns the rows that are not blank, and the line that each starts on."""
    reader = _reader(text, delimiter)
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


def _reader(text: str, delimiter: str) -> Any:
    lines = io.StringIO(text, newline="")
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True)


def _delimiter(text: str) -> str:
    """Returns what stands between columns: in some countries Excel writes `;`."""
    for delimiter in _DELIMITERS:
        with contextlib.suppress(csv.Error):  # which is reported when all is read
            first: list[str] = next(filter(any, _reader(text, delimiter)), [])
            if {cell.strip().lower() for cell in first} & set(header.NO_TASKS):
                return delimiter
    return ","
