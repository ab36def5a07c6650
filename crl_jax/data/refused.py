"""Pictures that cannot be used: their list, and when there are too many to go on.

They come as `{row of the manifest: reason}`.
"""

import contextlib
import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np

from crl_jax.data.manifest import Manifest
from crl_jax.data.table import first_few
from crl_jax.errors import UserError


def write(path: Path, manifest: Manifest, refused: Mapping[int, str]) -> None:
    """Writes a CSV `file,reason`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "reason"))
        writer.writerows((manifest.files[row], refused[row]) for row in sorted(refused))


def write_so_far(path: Path, manifest: Manifest, refused: Mapping[int, str]) -> str:
    """Writes the CSV of a preparation that fails; returns where it is, for an error."""
    with contextlib.suppress(OSError):  # the error itself matters more
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, manifest, refused)
        return f" Refused so far: {len(refused):,}, listed in {path}."
    return ""


def check(manifest: Manifest, refused: Mapping[int, str], max_share: float) -> None:
    """Raises UserError if what is left is not enough to train and test with."""
    check_share(manifest, refused, max_share)
    for split in sorted(set(manifest.splits)):
        check_split(manifest, refused, split)
    if manifest.for_training:
        check_classes(manifest, refused)


def check_share(
    manifest: Manifest, refused: Mapping[int, str], max_share: float
) -> None:
    """Raises UserError if more than this share of the manifest is refused."""
    if len(refused) > max_share * len(manifest.files):
        which = f"more than {100 * max_share:g}% of the pictures"
        mend = "or delete their rows"
        if manifest.for_training:
            mend = "delete their rows, or allow more with config.data.max_undecodable"
        _fail(manifest, refused, refused, which, mend)


def check_split(manifest: Manifest, refused: Mapping[int, str], split: str) -> None:
    """Raises UserError if all pictures of a split are refused."""
    rows = [row for row, of in enumerate(manifest.splits) if of == split]
    if all(row in refused for row in rows):
        _fail(manifest, refused, rows, f"all pictures of {split}")


def check_classes(manifest: Manifest, refused: Mapping[int, str]) -> None:
    """Raises UserError if a class left in val or test has no picture left in train.

    `read_manifest` checked the classes before any picture was opened.
    """
    good = np.ones(len(manifest.files), bool)
    good[list(refused)] = False
    train = np.array(manifest.splits) == "train"
    for task, kind in manifest.kinds.items():
        labels = manifest.labels[task]
        kept = kind.class_counts(labels[good & train]) > 0
        lost = (kind.class_counts(labels[good & ~train]) > 0) & ~kept
        for label in np.flatnonzero(lost).tolist():
            rows = np.flatnonzero(train & kind.is_of(labels, label)).tolist()
            name = kind.names[label]
            which = f"all pictures of class {name!r} (column {task!r}) in train"
            mend = "move another picture of the class to train, or empty its cells"
            _fail(manifest, refused, rows, which, mend)


def _fail(
    manifest: Manifest,
    refused: Mapping[int, str],
    rows: Iterable[int],
    which: str,
    mend: str = "or delete their rows",
) -> NoReturn:
    found = first_few(list(rows), lambda row: f"{manifest.files[row]} {refused[row]}")
    raise UserError(
        f"{manifest.path}: {which} cannot be used: {found}. Mend these files, {mend}."
    )
