"""What a folder of runs holds at one moment, in an order in which it can be sent and cut anywhere.

A file that speaks of others (``last.ckpt`` of the best epoch, ``result.json`` of all) is read before them and sent after them, so
that whatever has arrived is something to go on from.
"""

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pneumonia.runs.folder import RunFolder, read_metrics
from pneumonia.storage.push import files_of

DATABASE: Final = ".db"
OF_A_DATABASE: Final = ("-journal", "-wal", "-shm")  # what SQLite keeps beside one while it is open
LATER: Final = ("checkpoints/best.ckpt", "checkpoints/last.ckpt", "result.json")  # each speaks of those before it
REPLACED: Final = (
    ".ckpt",
    ".parquet",
    ".png",
)  # never written to once they have their name, so a link holds what they are
TRIES: Final = 10
Stamp = tuple[int, int]  # a file's time in ns and its size


@dataclass(frozen=True)
class Captured:
    """A file as it was at one moment.

    Attributes:
        copy: Where it is held.
        stamp: Of the file itself, to tell whether it has changed since.
    """

    copy: Path
    stamp: Stamp


def capture(folder: Path, scratch: Path, known: Mapping[str, Stamp]) -> list[dict[str, Captured]]:
    """Copies or links what is new in a folder that others go on writing to.

    Args:
        folder: Of a sweep or a run.
        scratch: Where the copies go, on the same disk.
        known: What need not be taken again while it is unchanged.

    Returns:
        Files by their names in the folder, in groups to be sent one after the other.
    """
    waves: list[dict[str, Captured]] = [{} for _ in range(len(LATER) + 1)]

    def take(name: str, path: Path) -> None:
        copy = scratch / f"{sum(map(len, waves))}"
        with contextlib.suppress(FileNotFoundError):  # not there yet, or gone since
            stat = path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size)
            if known.get(name) != stamp:
                _copy(path, copy)
                waves[wave_of(name)][name] = Captured(copy, stamp)

    # Looked up by name: a listing may lack a file that is replaced at that very moment.
    runs = [path.parent for path in (folder / "config.yaml", *folder.glob("*/config.yaml"))]
    for last in reversed(LATER):
        for run in runs:
            take((run / last).relative_to(folder).as_posix(), run / last)
    for name, path in files_of(folder)[0].items():
        if wave_of(name) == 0 and not name.endswith(OF_A_DATABASE):
            take(name, path)
    return waves


def wave_of(name: str) -> int:
    """When a file is sent: 0 first."""
    return next((number for number, last in enumerate(LATER, start=1) if f"/{name}".endswith(f"/{last}")), 0)


def in_order(names: Iterable[str]) -> list[str]:
    """Names in the order of sending."""
    return sorted(names, key=lambda name: (wave_of(name), name))


def epochs_of(folder: RunFolder) -> int:
    """Epochs after which a run can go on."""
    return len(read_metrics(folder)) if folder.last.is_file() else 0


def trials_of(database: Path) -> int:
    """Finished trials of a search; -1 where the file is none."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as study:
            found = study.execute("SELECT count(*) FROM trials WHERE state NOT IN ('RUNNING', 'WAITING')").fetchone()
    except sqlite3.Error:
        return -1
    return int(found[0])


def _copy(path: Path, copy: Path) -> None:
    if path.suffix == DATABASE:
        with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        return
    if path.suffix in REPLACED:
        for _ in range(TRIES):
            try:
                return os.link(path, copy)
            except FileNotFoundError:  # gone, or replaced between the look and the link
                continue
            except OSError:  # a file system without links
                break
    shutil.copyfile(path, copy)
