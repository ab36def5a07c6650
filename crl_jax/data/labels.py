"""Every label of a split, read without decoding a picture."""

import contextlib
import hashlib
import os
import urllib.parse
import uuid
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crl_jax.data import splits
from crl_jax.data.features import FEATURES
from crl_jax.data.quiet import tf
from crl_jax.data.records import Records
from crl_jax.data.source import Source
from crl_jax.kinds import categorical_classes

Columns = dict[str, np.ndarray]  # {feature: [N]}

_CHUNK = 256  # examples that a thread has in memory


@dataclass(frozen=True, eq=False)
class SplitLabels:
    """What the N examples of a split are, without their pixels.

    Attributes:
      labels: of N pictures, for each task as its kind has them.
      pictures: `[N]` uint64, a hash of the bytes of each picture. Among 400,000
        different ones, two agree with a probability of 4e-9.
      files: `[N]` name of each picture, or its number in the split if it has none.
    """

    labels: Mapping[str, np.ndarray]
    pictures: np.ndarray
    files: Sequence[str]


def read_labels(source: Source, split: str) -> dict[str, np.ndarray]:
    """Returns the labels of a split's N examples, for each task as its kind has them.

    Finding them means reading all shards once; then they are kept beside the shards.

    Args:
      source: prepared data.
      split: a TFDS split string.

    Raises:
      UserError: there is no such split, or it is empty or damaged.
    """
    spec, size = _label_spec(source), source.size(split)
    name = urllib.parse.quote(split, safe="")
    kept = Path(source.builder.data_dir) / f"labels-{name}.npz"
    columns = _read_kept(kept, spec, size)
    if columns is None:
        columns = _columns(source, split, spec)
        with contextlib.suppress(OSError):  # the next run then reads the shards again
            _keep(kept, columns)
    return _labels(source, columns)


def _read_kept(path: Path, names: Iterable[str], size: int) -> Columns | None:
    """Returns kept columns with these names and size; None if there are none."""
    try:
        with path.open("rb") as file, np.load(file) as kept:
            columns = {name: kept[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    whole = all(column.shape[:1] == (size,) for column in columns.values())
    return columns if whole else None


def _keep(path: Path, columns: Columns) -> None:
    # Another process may be writing the same file.
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **columns)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_split(source: Source, split: str) -> SplitLabels:
    """Returns the labels of a split, what its pictures are called, and their hashes.

    Args and what is raised: as for `read_labels`.
    """
    spec = _label_spec(source)
    spec[source.image] = tf.io.FixedLenFeature((), tf.string)
    if source.file:
        spec[source.file] = tf.io.FixedLenFeature((), tf.string)

    def hash_pictures(columns: Columns) -> Columns:
        hashes = [
            hashlib.blake2b(picture, digest_size=8).digest()
            for picture in columns[source.image]
        ]
        columns[source.image] = np.frombuffer(b"".join(hashes), np.uint64)
        return columns

    columns = _columns(source, split, spec, hash_pictures)
    pictures = columns[source.image]
    if source.file:
        files = list(map(bytes.decode, columns[source.file]))
    else:
        files = list(map(str, range(len(pictures))))
    return SplitLabels(_labels(source, columns), pictures, files)


def combinations(source: Source, split: str) -> np.ndarray:
    """Returns the label combinations among the examples that have all labels.

    A combination has one label for each of the T categorical tasks. For a manifest they
    are read from the list itself, and a part of a split, such as `train[:90%]`, then
    counts as the whole split.

    Args:
      source: prepared data.
      split: a TFDS split string.

    Returns:
      `[N, T]` int64, no two rows the same, in ascending order.
    """
    if source.manifest is None:
        labels = read_labels(source, split)
    else:
        names = [name for name, _ in splits.parts_of(split, source.splits)]
        rows = np.isin(source.manifest.splits, names)
        labels = {task: of[rows] for task, of in source.manifest.labels.items()}
    tasks = categorical_classes(source.kinds)
    if not tasks:
        return np.empty((0, 0), np.int64)
    table = np.stack([labels[task] for task in tasks], axis=1)
    return np.unique(table[np.all(table >= 0, axis=1)], axis=0).astype(np.int64)


def _label_spec(source: Source) -> dict[str, Any]:
    return {
        feature: FEATURES[source.kinds[task].name].parsing
        for task, feature in source.labels.items()
    }


def _labels(source: Source, columns: Columns) -> dict[str, np.ndarray]:
    return {task: columns[feature] for task, feature in source.labels.items()}


def _columns(
    source: Source,
    split: str,
    spec: Mapping[str, Any],
    shrink: Callable[[Columns], Columns] = lambda columns: columns,
) -> Columns:
    """Reads some features of all examples of a split, on all cores.

    Args:
      source: prepared data.
      split: a TFDS split string.
      spec: the features.
      shrink: applied to a few examples at a time, so that not all are in memory.
    """
    records = Records(source.split(split))
    # Several tasks may have the same feature.
    kinds = {feature: source.kinds[task] for task, feature in source.labels.items()}

    def read(first: int) -> Columns:
        numbers = range(first, min(first + _CHUNK, len(records)))
        parsed = tf.io.parse_example(records.read(numbers), spec)
        for feature, kind in kinds.items():
            parsed[feature] = FEATURES[kind.name].to_label(kind, parsed[feature])
        return shrink({name: column.numpy() for name, column in parsed.items()})

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        chunks = list(pool.map(read, range(0, len(records), _CHUNK)))
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in spec}
