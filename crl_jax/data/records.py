"""Random access to TFRecord shards, which themselves can only be read in order.

The stream shuffles the numbers of examples, not buffers of pictures, so it needs the
n-th record of a split at once, wherever it lies.
"""

import contextlib
import errno
import functools
import os
import resource
import struct
import weakref
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import google_crc32c
import numpy as np

from crl_jax.data.quiet import tfds
from crl_jax.errors import UserError

_HEADER = 12  # length (8 bytes) and its checksum (4)
_FOOTER = 4  # checksum of the record

_THREADS = 32  # files whose headers are read at a time: the threads wait for the disk


class Records:
    """The records of a split by number, from 0 to `len(records) - 1`.

    Safe to use from several threads: each read gives its own position in the file.
    """

    def __init__(self, split: tfds.core.SplitInfo) -> None:
        instructions = split.file_instructions
        self._names = [i.filename for i in instructions]
        self.damage: UserError | None = None
        self._files: list[int] = []
        # At exit a thread may still be reading; the system then closes the files.
        weakref.finalize(self, _close, self._files).atexit = False
        _allow_many_files()
        self._files += map(_open, self._names)
        with ThreadPoolExecutor(_THREADS) as pool:
            whole = list(pool.map(_spans, self._names))
        spans = [
            of[i.skip : i.skip + i.take] if i.take >= 0 else of[i.skip :]
            for i, of in zip(instructions, whole, strict=True)
        ]
        self._spans = np.concatenate(spans)
        self._shards = np.repeat(np.arange(len(spans)), [len(s) for s in spans])

    def __len__(self) -> int:
        return len(self._spans)

    def read(self, numbers: Iterable[int]) -> list[bytes]:
        """Returns the serialised examples with these numbers.

        Raises:
          UserError: one of them is damaged. `damage` keeps the error, too, for callers
            within TensorFlow, which does not pass exceptions on.
        """
        try:
            return [self._read(int(number)) for number in numbers]
        except UserError as error:
            self.damage = error
            raise

    def _read(self, number: int) -> bytes:
        shard, (start, length) = self._shards[number], self._spans[number]
        try:
            content = os.pread(self._files[shard], length + _FOOTER, start)
        except OSError as error:
            raise _unreadable(self._names[shard], error) from error
        record, footer = content[:length], content[length:]
        if (
            len(footer) < _FOOTER
            or _masked_crc(record) != struct.unpack("<I", footer)[0]
        ):
            raise _damaged(
                self._names[shard], start - _HEADER, "is not as it was written"
            )
        return record


def _allow_many_files() -> None:
    """Raises the limit on open files, often 1,024, to the most the process may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS may refuse
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: OSError) -> UserError:
    mend = "Delete its folder to prepare the data again."
    if error.errno in (errno.EMFILE, errno.ENFILE):
        mend = "Raise the limit of open files (`ulimit -n`), and run again."
    return UserError(f"{path} cannot be read: {error.strerror}. {mend}")


def _damaged(path: str, position: int, how: str) -> UserError:
    return UserError(
        f"{path} is damaged: the record at byte {position:,} {how}. Delete its folder "
        "to prepare it again."
    )


def _masked_crc(content: bytes) -> int:
    """Returns the checksum of the TFRecord format: a CRC32C, rotated and shifted."""
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _close(files: Iterable[int]) -> None:
    for file in files:
        os.close(file)


@functools.cache
def _spans(path: str) -> np.ndarray:
    """Returns offset and length in bytes of each record of a TFRecord file, `[N, 2]`.

    Raises:
      UserError: the file cannot be read, ends within a record, or a length was changed.
    """
    spans, position = [], 0
    with open(_open(path), "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while position < size:
            header = os.pread(file.fileno(), _HEADER, position)
            if len(header) < _HEADER:
                raise _damaged(path, position, "reaches past the end")
            length, crc = struct.unpack("<QI", header)
            if _masked_crc(header[:8]) != crc:
                raise _damaged(path, position, "has a damaged length")
            start, end = position + _HEADER, position + _HEADER + length + _FOOTER
            if end > size:
                raise _damaged(path, position, "reaches past the end")
            spans.append((start, length))
            position = end
    return np.array(spans, np.int64).reshape(-1, 2)
