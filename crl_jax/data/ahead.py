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
    """Yields what a function makes of each item, in the order of the items.

    What nobody takes any more is not begun: after an error, or if they stop taking.

    Args:
      function: called in several threads.
      items: taken one by one, as late as `window` allows.
      window: items that are under way or done and not yet taken, at most.
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
