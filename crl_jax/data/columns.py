"""What the cells of a manifest's column mean, for each kind of task."""

import math
from collections.abc import Callable, Mapping

import numpy as np
from ml_collections import ConfigDict

from crl_jax.data.table import Table
from crl_jax.errors import UserError
from crl_jax.kinds import Categorical, Kind, Multilabel, Regression
from crl_jax.kinds.multilabel import NONE, SEPARATOR

Column = tuple[Kind, np.ndarray]  # with the labels of N pictures


def read_column(table: Table, task: str, settings: ConfigDict) -> Column:
    """Returns the kind of a task, and the labels of its column.

    Args:
      table: of the manifest.
      task: name of the column.
      settings: `config.tasks.<task>`.

    Raises:
      UserError: a cell that is no label of this kind, or too few labels.
    """
    table.check(
        f"column {task!r}: a class name must be one line",
        (i for i, c in enumerate(table.columns[task]) if "\n" in c or "\r" in c),
        "remove the line break, or close the double quote before it",
        lambda i: f"has {table.columns[task][i][:40]!r}",
    )
    return _READERS[settings.kind](table, task, settings)


def _categorical(table: Table, task: str, settings: ConfigDict) -> Column:
    """Cells are class names; labels are int32 `[N]`, -1 where one is missing."""
    cells, splits = table.columns[task], table.columns["split"]
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
    return Categorical(names), labels


def _multilabel(table: Table, task: str, settings: ConfigDict) -> Column:
    """Cells are class names with `;` between them, or `-`; labels are int8 `[N, K]`."""
    cells, splits = table.columns[task], table.columns["split"]
    parts = [
        [] if cell in ("", NONE) else [part.strip() for part in cell.split(SEPARATOR)]
        for cell in cells
    ]
    table.check(
        f"column {task!r}: class names have {SEPARATOR!r} between them, and {NONE!r} "
        "stands alone for none of them",
        (i for i, of in enumerate(parts) if any(part in ("", NONE) for part in of)),
        f"remove what is too much, such as a {SEPARATOR!r} at the end",
        lambda i: f"has {cells[i]!r}",
    )
    if not any(len(of) > 1 for of in parts):
        table.check(
            f"column {task!r}: class names have {SEPARATOR!r} between them",
            (i for i, cell in enumerate(cells) if "|" in cell or "," in cell),
            f"write {SEPARATOR!r} instead",
            lambda i: f"has {cells[i]!r}",
        )
    names = tuple(sorted({part for of in parts for part in of}))
    if not names:
        raise UserError(
            f"{table.path}: column {task!r} has no label at all. Fill the column or "
            "delete it."
        )
    numbers = {name: i for i, name in enumerate(names)}
    labels = np.zeros((len(cells), len(names)), np.int8)
    labels[[i for i, cell in enumerate(cells) if not cell]] = -1
    for i, of in enumerate(parts):
        labels[i, [numbers[part] for part in of]] = 1
    trained = np.any(labels[np.array(splits) == "train"] == 1, axis=0)
    untrained = {
        name for name, is_trained in zip(names, trained, strict=True) if not is_trained
    }
    table.check(
        f"column {task!r}: every class needs a picture in train",
        (i for i, of in enumerate(parts) if untrained.intersection(of)),
        "move one of the class's pictures to train, or take the class out",
        lambda i: f"({splits[i]}) has {cells[i]!r}",
    )
    return Multilabel(names), labels


def _regression(table: Table, task: str, settings: ConfigDict) -> Column:
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
    trained = labels[(np.array(splits) == "train") & ~np.isnan(labels)]
    if not len(trained):
        raise UserError(
            f"{table.path}: column {task!r} has no number in train. Fill the column or "
            "delete it."
        )
    return Regression.of_numbers(settings, trained), labels.astype(np.float32)


def _number(cell: str) -> float:
    """Returns a cell's number; NaN or infinity if it has none that float32 can hold."""
    try:
        number = float(cell)
    except ValueError:
        return math.nan
    # Python reads 1_000, which other programs do not.
    return number if "_" not in cell and abs(number) < _LARGEST else math.nan


_LARGEST = float(np.finfo(np.float32).max)

_READERS: Mapping[str, Callable[[Table, str, ConfigDict], Column]] = {
    Categorical.name: _categorical,
    Multilabel.name: _multilabel,
    Regression.name: _regression,
}


def stored(label: np.ndarray) -> int | float | list[int]:
    """Returns a label as shards keep it, in plain Python.

    A class is its number, several are the list of theirs (`[-1]`: missing), and a
    number is itself.
    """
    if not label.ndim:
        return label.item()
    return [-1] if label[0] < 0 else np.flatnonzero(label).tolist()
