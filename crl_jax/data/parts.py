"""Encoded pictures in parts, so that an interrupted preparation can be resumed.

TFDS begins a data set from the start if it was interrupted. What takes long is not the
writing but decoding and encoding the pictures, so encoded pictures are kept, part by
part, until the shards are complete.
"""

import functools
import itertools
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from crl_jax.data import ahead, pictures
from crl_jax.data.quiet import tf

PART = 1024  # pictures

_WINDOW = 4 * ahead.THREADS  # pictures in memory at a time
_GOOD, _REFUSED = b"+", b"-"  # first byte of a record


def spans(count: int) -> Iterator[tuple[str, slice]]:
    """Yields the name of each part of `count` pictures, and which of them it holds."""
    for number, start in enumerate(range(0, count, PART)):
        yield f"{number:06}", slice(start, start + PART)


def encoded(
    part: Path, paths: Sequence[Path], resize: int
) -> Iterator[bytes | pictures.BadPicture]:
    """Yields each picture's bytes, or why it is refused, in the order of `paths`.

    Args:
      part: file that keeps them; written if it is not there, or damaged.
      paths: of the pictures.
      resize: see `pictures.encode`.
    """
    done = 0
    if part.exists():
        try:
            for picture in _read(part):
                yield picture
                done += 1
        except tf.errors.DataLossError:
            pass
    if done < len(paths):
        _write(part, paths, resize)
        yield from itertools.islice(_read(part), done, None)


def _read(part: Path) -> Iterator[bytes | pictures.BadPicture]:
    for record in tf.data.TFRecordDataset(str(part)).as_numpy_iterator():
        content = record[1:]
        good = record[:1] == _GOOD
        yield content if good else pictures.BadPicture(content.decode("utf-8"))


def _write(part: Path, paths: Sequence[Path], resize: int) -> None:
    # Another process, or another machine, may be writing the same part.
    partial = part.with_suffix(f".{uuid.uuid4().hex}.partial")
    encode = functools.partial(pictures.encode, resize=resize)
    with tf.io.TFRecordWriter(str(partial)) as writer:
        for future in ahead.in_order(encode, paths, _WINDOW):
            try:
                writer.write(_GOOD + future.result())
            except pictures.BadPicture as error:
                writer.write(_REFUSED + str(error).encode("utf-8"))
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(part)
