"""What Orbax logs that would only confuse a user."""

import functools
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_warnings() -> Iterator[None]:
    """Keeps Orbax's log quiet in the block."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@functools.cache
def drop_late_answers() -> None:
    """Silences reports on arrays that fail after another one has.

    Orbax raises the first failure and closes its event loop. There are hundreds of
    arrays: each that ends later would print a traceback, each not yet begun a warning.
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    not_begun = "coroutine '_read_array_index_and_device_put' was never awaited"
    warnings.filterwarnings("ignore", not_begun, RuntimeWarning)
    before = sys.unraisablehook
    late = (
        "Event loop is closed",
        "Encountered error while reading array index",
        not_begun,  # where warnings are errors
    )

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if not str(unraisable.exc_value).startswith(late):
            before(unraisable)

    sys.unraisablehook = hook
