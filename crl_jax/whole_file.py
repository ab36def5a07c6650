"""A file that is there whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from crl_jax.errors import UserError


class WholeFile:
    """A text file that takes its name when it is whole; use it in a `with` statement.

    An earlier file of its name stays if the block raises something. If the file cannot
    be written, a `UserError` is raised, at once if that can be seen.
    """

    def __init__(self, path: str | os.PathLike[str], flag: str) -> None:
        """Opens it.

        Args:
          path: of the file.
          flag: the flag that the user named it with, such as `--out`.
        """
        self._path, self._flag = Path(path), flag
        self._partial = self._path.with_name(f"{self._path.name}.partial")
        with self._writing():
            if self._path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
            self._file = self._partial.open("w", newline="", encoding="utf-8")

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
        try:
            # After another error nobody needs to hear of this one.
            with self._writing() if kind is None else suppress(OSError):
                self._file.close()
                if kind is None:
                    self._partial.replace(self._path)
        finally:
            self._partial.unlink(missing_ok=True)
