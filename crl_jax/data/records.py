"""Random access to TFRecord shards, which themselves can only be read in order.

The stream shuffles numbers of examples, not buffers of pictures; so it needs the n-th
record of a split at once, wherever it lies.
"""

import functools
import os
import struct
import weakref
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from crl_jax.data.quiet import tfds
from crl_jax.errors import UserError

_HEADER = 12  # length (8 bytes) and its checksum (4)
_FOOTER = 4  # checksum of the record

_THREADS = 32  # files whose headers are looked for at a time: they wait for the disk


class Records:
    """The records of a split by number, from 0 to `len(records) - 1`.

    Safe to use from several threads: a read names its own position in the file.
    """

    def __init__(self, split: tfds.core.SplitInfo) -> None:
        instructions = split.file_instructions
        self._files = [_open(i.filename) for i in instructions]
        # At the exit a thread may still be reading; the system closes them then.
        weakref.finalize(self, _close, self._files).atexit = False
        with ThreadPoolExecutor(_THREADS) as pool:
            whole = list(pool.map(_spans, [i.filename for i in instructions]))
        spans = [
            of[i.skip : i.skip + i.take] if i.take >= 0 else of[i.skip :]
            for i, of in zip(instructions, whole, strict=True)
        ]
        self._spans = np.concatenate(spans)
        self._shards = np.repeat(np.arange(len(spans)), [len(s) for s in spans])

    def __len__(self) -> int:
        return len(self._spans)

    def read(self, numbers: Iterable[int]) -> list[bytes]:
        """Returns the serialised examples with these numbers."""
        return [
            os.pread(self._files[self._shards[n]], self._spans[n, 1], self._spans[n, 0])
            for n in numbers
        ]


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}. Delete its folder to prepare "
            "the data again."
        ) from error


def _close(files: Iterable[int]) -> None:
    for file in files:
        os.close(file)


@functools.cache
def _spans(path: str) -> np.ndarray:
    """Returns offset and length in bytes of each record of a TFRecord file, `[N, 2]`.

    Raises:
      UserError: the file ends within a record.
    """
    spans, position = [], 0
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while position < size:
            header = os.pread(file.fileno(), _HEADER, position)
            whole = len(header) == _HEADER
            length = struct.unpack("<Q", header[:8])[0] if whole else size
            start, position = position + _HEADER, position + _HEADER + length + _FOOTER
            if position > size:
                raise UserError(
                    f"{path} is damaged: the record at byte {start - _HEADER:,} "
                    "reaches past the end. Delete its folder to prepare it again."
                )
            spans.append((start, length))
    return np.array(spans, np.int64).reshape(-1, 2)
