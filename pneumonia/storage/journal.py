"""Journal of a mirror: the fetched files and their blobs, correct after a kill at any moment."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import IO

from pneumonia.system.files import replacing

NAME = ".mirror.jsonl"


@dataclass(frozen=True)
class Entry:
    """A fetched file: its blob, and its size and modification time when written."""

    name: str
    etag: str
    size: int
    mtime_ns: int

    def matches(self, path: Path) -> bool:
        """Return whether size and modification time of the file are unchanged."""
        try:
            stat = os.lstat(path)
        except OSError:
            return False
        return (stat.st_size, stat.st_mtime_ns) == (self.size, self.mtime_ns)


def read_journal(folder: Path) -> tuple[str, dict[str, Entry]]:
    """Return the place that a folder mirrors (empty for none) and the last entry of each name.

    An incomplete line is ignored.
    """
    place, entries = "", dict[str, Entry]()
    try:
        lines = (folder / NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return place, entries
    for line in lines:
        try:
            value = json.loads(line)
            if "place" in value:
                place = str(value["place"])
                continue
            entry = Entry(**value)
        except (ValueError, TypeError):
            continue
        entries[entry.name] = entry
    return place, entries


class Journal:
    """Appends entries from many threads, each before its file gets its name."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._lock = Lock()

    def add(self, entry: Entry) -> None:
        """Append one line and flush it."""
        with self._lock:
            self._file.write(json.dumps(asdict(entry)) + "\n")
            self._file.flush()


@contextmanager
def writing_journal(folder: Path, place: str, entries: dict[str, Entry]) -> Iterator[Journal]:
    """Rewrite the journal with the current entries and yield it for appending."""
    lines = [{"place": place}, *(asdict(entry) for entry in entries.values())]
    with replacing(folder / NAME) as part:
        part.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with (folder / NAME).open("a", encoding="utf-8") as file:
        yield Journal(file)
