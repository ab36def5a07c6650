"""Labels of a list that its author may not have meant as they are read."""

import itertools
import unicodedata
from collections.abc import Iterator, Mapping

import numpy as np

from crl_jax.data.table import first_few
from crl_jax.kinds import Kind, Kinds, Regression

# What R, pandas, Excel and databases write where a value is missing.
_MISSING = {"NA", "<NA>", "#N/A", "N/A", "nan", "NaN", "NAN", "null", "NULL", "None"}


def about_labels(kinds: Kinds, labels: Mapping[str, np.ndarray]) -> list[str]:
    """Returns a line for each doubt about labels, with what to do.

    Args:
      kinds: of the tasks.
      labels: of all pictures, for each task as its kind has them.
    """
    found: list[str] = []
    for task, kind in kinds.items():
        found += _missing(task, kind, labels[task])
        found += _alike(task, kind)
        if isinstance(kind, Regression):
            found += _close(task, kind)
    return found


def _missing(task: str, kind: Kind, labels: np.ndarray) -> Iterator[str]:
    counts = kind.class_counts(labels)
    for name, count in zip(kind.names, counts, strict=True):
        if name in _MISSING:
            yield (
                f"{task}: {name!r} is read as a class, with {count:,} "
                f"picture{'' if count == 1 else 's'}. If it stands for a missing "
                "label, leave these cells empty."
            )


def _alike(task: str, kind: Kind) -> Iterator[str]:
    by_letters = sorted(kind.names, key=_letters)
    groups = [list(of) for _, of in itertools.groupby(by_letters, _letters)]
    alike = [of for of in groups if len(of) > 1]
    if alike:
        described = first_few(alike, lambda names: " = ".join(map(repr, names)))
        yield (
            f"{task}: classes whose names differ only in capitals, spaces or the "
            f"encoding of accents: {described}. If they are the same, write them alike."
        )


def _close(task: str, kind: Regression) -> Iterator[str]:
    # Labels are float32; their mean is subtracted on the device.
    if kind.std < 100 * np.spacing(np.float32(abs(kind.mean))):
        yield (
            f"{task}: the seven digits that are kept of a number hardly tell these "
            f"apart: their mean is {kind.mean:.10g}, and their standard deviation "
            f"{kind.std:.3g}. Subtract a constant from all."
        )


def _letters(name: str) -> str:
    """Returns a name without what people write in several ways."""
    return unicodedata.normalize("NFC", "".join(name.split()).casefold())
