"""Atomic writes, file locks, JSON and digests."""

import errno
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pneumonia.errors import StorageError
from pneumonia.system.console import say


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` when the block succeeds and is removed otherwise.

    Raises:
        StorageError: The disk is full, or the folder is not writable.
    """
    with scratch(path) as part:
        yield part
        publish(part, path)


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, removed at the end unless :func:`publish` moved it.

    Raises:
        StorageError: The disk is full, or the folder is not writable.
    """
    with translated_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            yield part
        finally:
            part.unlink(missing_ok=True)


def publish(part: Path, path: Path) -> None:
    """Move a complete file to its place atomically."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)


@contextmanager
def translated_os_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of writing ``path`` into a ``StorageError`` with a remedy."""
    remedies = {
        errno.ENOSPC: "the disk is full. Free some space",
        errno.EDQUOT: "your quota is used up. Free some space",
        errno.EROFS: "the file system is read-only",
        errno.EACCES: "permission is denied",
        errno.EPERM: "permission is denied",
        errno.ENOTDIR: "a file is where a folder is needed. Move it away",
        errno.EEXIST: "a file is where a folder is needed. Move it away",
        errno.EISDIR: "a folder is where a file is needed. Move it away",
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


def check_writable(folder: Path) -> None:
    """Create a folder and a temporary file in it, before hours are spent on what is to be written there.

    Raises:
        StorageError: The folder cannot be written.
    """
    with translated_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            tempfile.TemporaryFile(dir=folder).close()  # nameless, since jobs that start together all check
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise OSError(error.errno, error.strerror, str(folder)) from error


def _lies_above(name: str | None, path: Path) -> bool:
    """Return whether a name is the path, one of its folders, or beside it."""
    return name is not None and Path(name).parent in (path.parent, *path.parents)


@contextmanager
def one_at_a_time(path: Path, what: str) -> Iterator[None]:
    """Hold a file lock, which the kernel frees when its holder is killed; print a message before waiting."""
    with translated_os_errors(path):
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
    """Return whether a living process holds this lock; creates no file."""
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write JSON atomically; NaN is an error, since JSON has none."""
    with replacing(path) as part:
        part.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file on which nothing depends; ``{}`` where it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def digest(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of a plain value, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
