"""Writes files so that a reader never sees half of one, and says what to do when a disk refuses."""

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pneumonia.errors import StorageError
from pneumonia.system.console import say


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well, and vanishes otherwise.

    Raises:
        StorageError: The disk is full, or the folder can not be written.
    """
    with scratch(path) as part:
        yield part
        publish(part, path)


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that is gone when the block ends, unless :func:`publish` moved it.

    Raises:
        StorageError: The disk is full, or the folder can not be written.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            yield part
        finally:
            part.unlink(missing_ok=True)


def publish(part: Path, path: Path) -> None:
    """Puts a whole file in its place at once."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the operating system's refusal to write ``path`` into a ``StorageError`` with a remedy."""
    remedies = {
        errno.ENOSPC: "the disk is full. Free some space",
        errno.EDQUOT: "your quota is used up. Free some space",
        errno.EROFS: "the file system is read-only",
        errno.EACCES: "you may not write there",
        errno.EPERM: "you may not write there",
        errno.ENOTDIR: "a file stands where a folder is needed; move it away",
        errno.EEXIST: "a file stands where a folder is needed; move it away",
        errno.EISDIR: "a folder stands where a file is needed; move it away",
    }
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOENT and _lies_above(error.filename, path):  # /proc, a drive that is gone
            remedies[errno.ENOENT] = "no file or folder can be made there. Check the path"
        if isinstance(error, StorageError) or error.errno not in remedies:
            raise
        raise StorageError(
            f"Can't write {path}: {remedies[error.errno]}, or choose another place (--out DIR, cache_dir=DIR or runs_dir=DIR). "
            "Nothing half-written was left behind."
        ) from error


def _lies_above(name: str | None, path: Path) -> bool:
    """Whether a name is the path, one of its folders, or beside it."""
    return name is not None and Path(name).parent in (path.parent, *path.parents)


@contextmanager
def one_at_a_time(path: Path, what: str) -> Iterator[None]:
    """Holds a lock file that the kernel frees even when its holder is killed; says so when it has to wait."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"Another process is {what}; waiting for it.")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether a process that lives holds this lock file; makes no file."""
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes JSON atomically; what is not a number was made ``None`` before, since JSON has no NaN."""
    with replacing(path) as part:
        part.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """A note of ours; empty where it is missing or damaged, for notes on which nothing depends."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def digest(value: Any) -> str:
    """SHA-256 of a plain value's canonical JSON, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
