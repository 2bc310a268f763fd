"""Work on many files at once; decoding, hashing and transfers release Python's lock."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")


CHUNK: Final = 4  # items a thread takes at once: handing them over one by one costs as much as a small image


def in_threads(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Maps with a thread a core, in order. Ctrl-C ends it at once."""

    def several(start: int) -> list[R]:
        return [work(item) for item in items[start : start + CHUNK]]

    pool = ThreadPoolExecutor(max_workers=available_cores())
    try:
        for results in pool.map(several, range(0, len(items), CHUNK)):
            yield from results
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def available_cores() -> int:
    """Cores that this process may use, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
