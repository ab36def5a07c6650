"""What the cells of a manifest's column mean, for each kind of task."""

import collections
import difflib
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from crl_jax.data.table import Table
from crl_jax.errors import UserError
from crl_jax.kinds import Categorical, Kind, Multilabel, Regression
from crl_jax.kinds.multilabel import NONE, SEPARATOR

Column = tuple[Kind, np.ndarray]  # the kind, and the labels of N pictures


def read_column(
    table: Table, task: str, settings: ConfigDict, kind: Kind | None = None
) -> Column:
    """Returns the kind of a task, and the labels of its column.

    Args:
      table: of the manifest.
      task: name of the column.
      settings: `config.tasks.<task>`.
      kind: of the task in a trained network, whose labels the column must keep to;
        None: the column itself says which labels there are.

    Raises:
      UserError: a cell that is no label of this kind, or too few labels.
    """
    table.check(
        f"column {task!r}: a class name must be one line",
        (i for i, c in enumerate(table.columns[task]) if "\n" in c or "\r" in c),
        "remove the line break, or close the double quote before it"
        + ("" if kind else f"; if the column is no task, set {table.ignoring(task)}"),
        lambda i: f"has {table.columns[task][i][:40]!r}",
    )
    return _READERS[kind.name if kind else settings.kind](table, task, settings, kind)


def _categorical(
    table: Table, task: str, settings: ConfigDict, kind: Kind | None
) -> Column:
    """Cells are class names; labels are int32 `[N]`, -1 where one is missing."""
    cells = table.columns[task]
    parts = [[cell] if cell else [] for cell in cells]
    kind = kind or Categorical(_names(table, task, parts))
    if len(kind.names) < 2:
        raise UserError(
            f"{table.path}: column {task!r} has only the class {kind.names[0]!r}, and "
            f"a task needs two classes. {_fill(table, task)}"
        )
    _check_known(table, task, parts, kind)
    numbers = {name: i for i, name in enumerate(kind.names)} | {"": -1}
    return kind, np.fromiter(map(numbers.__getitem__, cells), np.int32, len(cells))


def _multilabel(
    table: Table, task: str, settings: ConfigDict, kind: Kind | None
) -> Column:
    """Cells are class names with `;` between them, or `-`; labels are int8 `[N, K]`."""
    cells = table.columns[task]
    parts = [
        [] if cell in ("", NONE) else [part.strip() for part in cell.split(SEPARATOR)]
        for cell in cells
    ]
    table.check(
        f"column {task!r}: class names have {SEPARATOR!r} between them, and {NONE!r} "
        "on its own means none of them",
        (i for i, of in enumerate(parts) if any(part in ("", NONE) for part in of)),
        f"remove what does not belong, such as a {SEPARATOR!r} at the end",
        lambda i: f"has {cells[i]!r}",
    )
    if kind is None and not any(len(of) > 1 for of in parts):
        table.check(
            f"column {task!r}: class names have {SEPARATOR!r} between them",
            (i for i, cell in enumerate(cells) if "|" in cell or "," in cell),
            f"write {SEPARATOR!r} instead",
            lambda i: f"has {cells[i]!r}",
        )
    kind = kind or Multilabel(_names(table, task, parts))
    _check_known(table, task, parts, kind)
    numbers = {name: i for i, name in enumerate(kind.names)}
    labels = np.zeros((len(cells), len(numbers)), np.int8)
    labels[[i for i, cell in enumerate(cells) if not cell]] = -1
    for i, of in enumerate(parts):
        labels[i, [numbers[part] for part in of]] = 1
    return kind, labels


def _no_classes(table: Table, task: str, labels: Sequence[str]) -> str:
    """Returns which setting a column needs if its labels hardly are classes, or ""."""
    numbers = [n for n in map(_number, labels) if math.isfinite(n)]
    are_numbers = len(numbers) > 0.9 * len(labels)
    counts = collections.Counter(labels).values()
    once = 2 * sum(count == 1 for count in counts) > len(counts)  # most of them
    kind, hints = f"--config.tasks.{task}.kind", []
    if are_numbers and (once or any(n % 1 for n in numbers)):
        hints.append(f"if these are numbers to predict, set {kind}=regression")
    if any(SEPARATOR in label for label in labels):
        hints.append(f"if these are several labels per picture, set {kind}=multilabel")
    if once:
        hints.append(f"if the column is no task, set {table.ignoring(task)}")
    return "".join(f"; {hint}" for hint in hints)


def _fill(table: Table, task: str) -> str:
    return f"Fill the column, delete it, or set {table.ignoring(task)}."


def _names(table: Table, task: str, parts: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Returns the class names of a column, sorted.

    Args:
      table: of the manifest.
      task: name of the column.
      parts: the class names of each row.

    Raises:
      UserError: there is no name, or one that no picture in train has.
    """
    first: dict[str, int] = {}
    trained: set[str] = set()
    for i, (names, split) in enumerate(zip(parts, table.columns["split"], strict=True)):
        for name in names:
            first.setdefault(name, i)
        if split == "train":
            trained.update(names)
    if not first:
        raise UserError(
            f"{table.path}: column {task!r} has no label at all. {_fill(table, task)}"
        )
    unseen = sorted({i for name, i in first.items() if name not in trained})
    mend = (
        "move one of the class's pictures to train, or take the class out of the cells"
    )
    if unseen:
        mend += _no_classes(table, task, [name for names in parts for name in names])
    table.check(
        f"column {task!r}: every class needs a picture in train",
        unseen,
        mend,
        lambda i: f"({table.columns['split'][i]}) has {table.columns[task][i]!r}",
    )
    return tuple(sorted(first))


def _check_known(
    table: Table, task: str, parts: Sequence[Sequence[str]], kind: Kind
) -> None:
    """Raises UserError if a row has a class that the kind does not have."""
    known = set(kind.names)

    def describe(i: int) -> str:
        other = next(name for name in parts[i] if name not in known)
        lower = {name.lower(): name for name in kind.names}
        close = difflib.get_close_matches(other.lower(), lower, 1)
        hint = f" (did you mean {lower[close[0]]!r}?)" if close else ""
        return f"has {other!r}{hint}"

    table.check(
        f"column {task!r} may hold only the {len(known):,} classes that were trained",
        (i for i, names in enumerate(parts) if not known.issuperset(names)),
        "write one of these, or take it out",
        describe,
    )


def _regression(
    table: Table, task: str, settings: ConfigDict, kind: Kind | None
) -> Column:
    """Cells are numbers; labels are float32 `[N]`, NaN where one is missing."""
    cells, splits = table.columns[task], table.columns["split"]
    numbers = [_number(cell) for cell in cells]
    table.check(
        f"column {task!r} must hold finite numbers, such as 0.5 or -3",
        (i for i, n in enumerate(numbers) if cells[i] and not math.isfinite(n)),
        "write a number with a decimal point, or empty the cell",
        lambda i: f"has {cells[i]!r}",
    )
    labels = np.array(numbers, np.float64)
    if kind is None:
        trained = labels[(np.array(splits) == "train") & ~np.isnan(labels)]
        if not len(trained):
            raise UserError(
                f"{table.path}: column {task!r} has no number in train. "
                f"{_fill(table, task)}"
            )
        kind = Regression.of_numbers(settings, trained)
    return kind, labels.astype(np.float32)


def _number(cell: str) -> float:
    """Returns a cell's number; NaN or infinity if it has none that float32 can hold."""
    try:
        number = float(cell)
    except ValueError:
        return math.nan
    # Python reads 1_000 as a number; other programs do not.
    return number if "_" not in cell and abs(number) < _LARGEST else math.nan


_LARGEST = float(np.finfo(np.float32).max)

_READERS: Mapping[str, Callable[[Table, str, ConfigDict, Kind | None], Column]] = {
    Categorical.name: _categorical,
    Multilabel.name: _multilabel,
    Regression.name: _regression,
}


def stored(label: np.ndarray) -> int | float | list[int]:
    """Returns a label as shards keep it, in plain Python.

    A class becomes its number, several classes become a list of their numbers (`[-1]`:
    missing), and a number stays as it is.
    """
    if not label.ndim:
        return label.item()
    return [-1] if label[0] < 0 else np.flatnonzero(label).tolist()
