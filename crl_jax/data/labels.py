"""Every label of a split, without decoding a picture."""

import hashlib
import itertools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from crl_jax.data.quiet import tf, tfds
from crl_jax.data.records import Records
from crl_jax.data.source import Source

_CHUNK = 256  # examples that a thread has in memory


@dataclass(frozen=True, eq=False)
class SplitLabels:
    """What the N examples of a split are, without their pixels.

    Attributes:
      labels: `{task: [N] int64}`, -1 where the label is missing.
      pictures: `[N]` uint64, a hash of the bytes of each picture. Among 400,000
        different ones, two agree with a probability of 4e-9.
      files: `[N]` name of each picture, or its number in the split if it has none.
    """

    labels: Mapping[str, np.ndarray]
    pictures: np.ndarray
    files: Sequence[str]


def read_labels(source: Source, split: str) -> SplitLabels:
    """Reads all examples of a split, on all cores.

    Args:
      source: the data.
      split: a TFDS split string.

    Raises:
      UserError: there is no such split, or it is empty or damaged.
    """
    records = Records(source.split(split))
    features = source.builder.info.features
    spec = {f: tf.io.FixedLenFeature((), tf.int64) for f in source.labels.values()}
    spec[source.image] = tf.io.FixedLenFeature((), tf.string)
    if isinstance(dict(features.items()).get("file"), tfds.features.Text):
        spec["file"] = tf.io.FixedLenFeature((), tf.string)

    def read(first: int) -> tuple[dict[str, np.ndarray], bytes, list[str]]:
        numbers = range(first, min(first + _CHUNK, len(records)))
        parsed = tf.io.parse_example(records.read(numbers), spec)
        columns = {name: column.numpy() for name, column in parsed.items()}
        hashes = b"".join(
            hashlib.blake2b(picture, digest_size=8).digest()
            for picture in columns.pop(source.image)
        )
        files = columns.pop("file", None)
        names = map(str, numbers) if files is None else map(bytes.decode, files)
        return columns, hashes, list(names)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        chunks = list(pool.map(read, range(0, len(records), _CHUNK)))
    columns, hashes, files = zip(*chunks, strict=True)
    return SplitLabels(
        labels={
            task: np.concatenate([part[feature] for part in columns])
            for task, feature in source.labels.items()
        },
        pictures=np.frombuffer(b"".join(hashes), np.uint64),
        files=list(itertools.chain(*files)),
    )
