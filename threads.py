"""Work in threads of this process: NumPy, SciPy and Pillow let go of Python's lock while they compute."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def cores() -> int:
    """On how many cores this process may run: XLA's threads on a CPU, and with them the order of its sums."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """As map(function, items), with a call per core at a time; `items` are drawn by the caller's thread.

    At most four items per core are drawn whose results nobody has taken, so that a slow caller fills no memory. What a
    call raises is raised here, in its turn.
    """
    left = iter(items)
    with ThreadPoolExecutor(cores()) as pool:
        waiting = deque(pool.submit(function, item) for item in itertools.islice(left, 4 * cores()))
        try:
            while waiting:
                found = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in itertools.islice(left, 1))
                yield found
        finally:
            for each in waiting:
                each.cancel()
