"""Copy the files of a folder that other processes keep writing to, in an order in which sending them may be interrupted.

A file that refers to others (a last checkpoint to the best one, a result to all) is copied before them and sent after them, so
that the files sent so far always fit together.
"""

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pneumonia.storage.push import files_of

DATABASE: Final = ".db"
OF_A_DATABASE: Final = ("-journal", "-wal", "-shm")  # what SQLite keeps beside an open database
REPLACED: Final = (".ckpt", ".parquet", ".png")  # replaced, never written in place, so that a hard link is a copy
ATTEMPTS: Final = 10
Stamp = tuple[int, int]  # modification time in ns, size


@dataclass(frozen=True)
class Captured:
    """A copy of a file, with the stamp that tells whether the file has changed since."""

    copy: Path
    stamp: Stamp


def capture(
    folder: Path, units: Iterable[Path], last: Sequence[str], scratch: Path, known: Mapping[str, Stamp]
) -> list[dict[str, Captured]]:
    """Copy or link the new and changed files of a folder.

    Args:
        folder: The folder.
        units: Folders in it (or itself) whose files refer to each other.
        last: Names of files in a unit to be sent after all others, in this order.
        scratch: Folder for the copies, on the same disk.
        known: Stamps of files that need no copy while they are unchanged.

    Returns:
        Copies by file name relative to ``folder``, in groups to be sent one after the other.
    """
    groups: list[dict[str, Captured]] = [{} for _ in range(len(last) + 1)]

    def take(path: Path) -> None:
        name, copy = path.relative_to(folder).as_posix(), scratch / f"{sum(map(len, groups))}"
        with contextlib.suppress(FileNotFoundError):  # not written yet, or removed meanwhile
            stat = path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size)
            if known.get(name) != stamp:
                _copy(path, copy)
                groups[group_of(name, last)][name] = Captured(copy, stamp)

    # Looked up by name: a listing may miss a file that is being replaced.
    for unit, name in [(unit, name) for name in reversed(last) for unit in units]:
        take(unit / name)
    for name, path in files_of(folder)[0].items():
        if group_of(name, last) == 0 and not name.endswith(OF_A_DATABASE):
            take(path)
    return groups


def group_of(name: str, last: Sequence[str]) -> int:
    """Return the group in which a file is sent, counted from 0."""
    return next((number for number, end in enumerate(last, start=1) if f"/{name}".endswith(f"/{end}")), 0)


def in_order(names: Iterable[str], last: Sequence[str]) -> list[str]:
    """Sort names in the order of sending."""
    return sorted(names, key=lambda name: (group_of(name, last), name))


def _copy(path: Path, copy: Path) -> None:
    if path.suffix == DATABASE:
        with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        return
    if path.suffix in REPLACED:
        for _ in range(ATTEMPTS):
            try:
                return os.link(path, copy)
            except FileNotFoundError:  # removed, or replaced just now
                continue
            except OSError:  # a file system without links
                break
    shutil.copyfile(path, copy)
