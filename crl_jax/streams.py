"""What becomes of an output that cannot be written any more."""

import os
import sys
from contextlib import suppress
from typing import IO


def discard(stream: IO[str]) -> None:
    """Has all that still waits in a stream, or is written to it, go nowhere.

    Python would otherwise fail once more when it ends, and change the exit status. A
    file that a user's program has put in the place of an output is left to it.
    """
    if stream not in (sys.__stdout__, sys.__stderr__):
        return
    with suppress(OSError):  # it may be no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
