"""What pulls and pushes share: many transfers at once, checksums, and the account of what was done."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Transfer:
    """What a pull or a push did: files in all, moved, left alone, removed; bytes moved; files without a checksum."""

    listed: int
    moved: int
    unchanged: int
    deleted: int
    bytes: int
    unverified: int = 0

    def __str__(self) -> str:
        text = f"{self.listed} files: {self.moved} moved ({self.bytes / 1e6:.1f} MB), {self.unchanged} unchanged"
        text += f", {self.deleted} removed" if self.deleted else ""
        return text + (f"; {self.unverified} without MD5, only their size was checked" if self.unverified else "")


def at_once(work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """Results as they come; the first failure lets what is under way end, starts nothing more, and is raised."""
    queue, running = deque(items), set[Future[R]]()
    with ThreadPoolExecutor(workers) as pool:
        try:
            while queue or running:
                while queue and len(running) < 2 * workers:
                    running.add(pool.submit(work, queue.popleft()))
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            for future in running:
                future.cancel()


def md5(path: Path) -> str:
    """The checksum that Azure keeps of a blob, in hexadecimal; against accidents, not against attackers."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
