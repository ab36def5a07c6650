"""What libraries log that would only confuse a user."""

import functools
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_warnings() -> Iterator[None]:
    """Keeps Orbax and TFDS quiet in the block, but for errors."""

    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    # A level would have to be put back, and another thread may have set it meanwhile.
    logger = logging.getLogger("absl")
    logger.addFilter(is_error)
    try:
        yield
    finally:
        logger.removeFilter(is_error)


@functools.cache
def drop_late_answers() -> None:
    """Silences reports on arrays that fail after another one has.

    Orbax raises the first failure and closes its event loop. There are hundreds of
    arrays: each that ends later would print a traceback, each not yet begun a warning.
    All else of this kind is reported as before: a user's program may have loops, too.
    """
    reading = "_read_array_index_and_device_put"
    asyncio = logging.getLogger("asyncio")
    asyncio.addFilter(lambda record: reading not in record.getMessage())
    not_begun = f"coroutine '{reading}' was never awaited"
    warnings.filterwarnings("ignore", not_begun, RuntimeWarning)
    before = sys.unraisablehook
    late = (
        "Encountered error while reading array index",
        not_begun,  # where warnings are errors
    )

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        said = str(unraisable.exc_value)
        # An answer that comes from C++ belongs to no object.
        is_answer = said == "Event loop is closed" and unraisable.object is None
        if not (is_answer or said.startswith(late)):
            before(unraisable)

    sys.unraisablehook = hook
