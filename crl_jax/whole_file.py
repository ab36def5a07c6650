"""A file that is there whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from crl_jax.errors import UserError


@contextmanager
def replacing(path: Path, errors: str = "strict") -> Iterator[TextIO]:
    """Gives a text file that is named `path` once the block has ended.

    An earlier file of this name stays if the block raises something. Line ends stay as
    they are written.

    Args:
      path: of the file.
      errors: what becomes of letters that UTF-8 does not have, as in `open`.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("w", newline="", encoding="utf-8", errors=errors) as file:
            yield file
            # A disk that fails now must not leave an empty file under the right name.
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink()


_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}


class WholeFile:
    """A text file that a user named; use it in a `with` statement.

    It is written as by `replacing`. If it cannot be written, a `UserError` is raised,
    at once if that can be seen.
    """

    def __init__(self, path: str | os.PathLike[str], flag: str) -> None:
        """Opens it.

        Args:
          path: of the file.
          flag: the flag that the user named it with, such as `--out`.
        """
        self._path, self._flag = Path(path), flag
        self._opened = ExitStack()
        with self._writing():
            self._file = self._opened.enter_context(_open(self._path))

    def write(self, text: str) -> None:
        """Writes a text, whose line ends stay as they are."""
        with self._writing():
            self._file.write(text)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self._flag}={self._path} cannot be written: {error.strerror}."
            ) from error

    def __enter__(self) -> "WholeFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After another error nobody needs to hear of this one.
        with self._writing() if kind is None else suppress(OSError):
            self._opened.__exit__(kind, error, trace)


def _open(path: Path) -> AbstractContextManager[TextIO]:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if str(path) in _STREAMS:  # maybe redirected to a file, which has more in it
        stream = os.dup(_STREAMS[str(path)])
        return open(stream, "w", newline="", encoding="utf-8")
    if path.exists() and not path.is_file():  # a device or a pipe
        return path.open("w", newline="", encoding="utf-8")
    # A link stays one.
    return replacing(Path(os.path.realpath(path)))
