"""Work on many things in threads, a few ahead of whoever takes the results."""

import collections
import itertools
import os
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

THREADS = os.cpu_count() or 1

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], window: int
) -> Generator[Future[Result], None, None]:
    """Yields the future result of each item, in the order of the items.

    No more items are begun after an error, or once the caller stops taking results.

    Args:
      function: called in several threads.
      items: taken one by one, as late as `window` allows.
      window: most items that may be under way, or done and not yet taken.
    """
    begun: collections.deque[Future[Result]] = collections.deque()
    remaining = iter(items)
    pool = ThreadPoolExecutor(THREADS)
    try:
        for item in itertools.islice(remaining, window):
            begun.append(pool.submit(function, item))
        while begun:
            yield begun.popleft()
            for item in itertools.islice(remaining, 1):
                begun.append(pool.submit(function, item))
    finally:
        pool.shutdown(cancel_futures=True)
