"""Threads for decoding, hashing and transfers, which release the GIL."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")


CHUNK: Final = 4  # items a task; one by one, the overhead equals the decoding of a small image


def in_threads(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Map in order with one thread per core. Ctrl-C ends it at once."""

    def several(start: int) -> list[R]:
        return [work(item) for item in items[start : start + CHUNK]]

    pool = ThreadPoolExecutor(max_workers=available_cores())
    try:
        for results in pool.map(several, range(0, len(items), CHUNK)):
            yield from results
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def available_cores() -> int:
    """Return the number of cores that this process may use; in a container fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
