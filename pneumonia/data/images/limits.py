"""What a file must be to be read as an image: its kind and size on disk, the limits, and the error that says why not."""

import errno
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

MAX_PIXELS: Final = (
    89_000_000  # a 9,400 x 9,400 radiograph; what is larger is an attack or an accident (PIL warns there)
)
MIN_SIDE: Final = 8  # pixels; the smallest sound X-ray of the public releases has 127
MAX_FILE_BYTES: Final = 256 * 2**20  # holds MAX_PIXELS of 16-bit grey or 8-bit colour without compression
MAX_SCANS: Final = 100  # of a progressive JPEG, which has about ten; each costs a pass over all pixels
MAX_SCANNED: Final = 20 * MAX_PIXELS  # pixels of all scans of one JPEG together


class UnreadableImageError(ValueError):
    """Why one image can not be used; collected by callers into a ``BrokenImagesError`` that lists all."""


def open_regular_file(path: Path | str) -> BinaryIO:
    """Open a regular file for reading, or refuse what might block or never end.

    The type is checked before opening, since opening a device can have effects, and again on the open file, which may
    have been replaced in between.

    Raises:
        OSError: Missing, not permitted, or a device, a pipe, a socket or a folder.
    """
    _check_regular(os.stat(path))
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    try:
        _check_regular(os.fstat(file.fileno()))
    except OSError:
        file.close()
        raise
    return file


def read_regular_file(path: Path | str, limit: int) -> bytes:
    """Read a regular file of at most ``limit`` bytes.

    Raises:
        OSError: See :func:`open_regular_file`; or the file is larger, by its size on disk or because it grows meanwhile.
    """
    with open_regular_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        raw = file.read(limit + 1) if size <= limit else b""
    if max(size, len(raw)) > limit:
        raise OSError(errno.EFBIG, f"{max(size, len(raw)):,} bytes are more than the {limit:,} that are read")
    return raw


def read_image_file(path: Path | str) -> bytes:
    """Read the bytes of an image file of at most ``MAX_FILE_BYTES``.

    Raises:
        UnreadableImageError: See :func:`read_regular_file`.
    """
    try:
        return read_regular_file(path, MAX_FILE_BYTES)
    except OSError as error:
        raise UnreadableImageError(error.strerror or str(error)) from error
    except ValueError as error:  # a zero byte in the name
        raise UnreadableImageError(str(error)) from error


def _check_regular(state: os.stat_result) -> None:
    if not stat.S_ISREG(state.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")


def check_size(width: int, height: int) -> None:
    """Refuses a declared size before anything of that size is made.

    Args:
        width: Pixels.
        height: Pixels.

    Raises:
        UnreadableImageError: Too small or too large.
    """
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(f"{width}x{height} is more than {MAX_PIXELS:,} pixels")
    if min(width, height) < MIN_SIDE:
        raise UnreadableImageError(f"{width}x{height} pixels is too small to be an X-ray")


def check_scans(scans: int, width: int, height: int) -> None:
    """Refuse a progressive JPEG that costs far more time than its size suggests.

    Raises:
        UnreadableImageError: More than ``MAX_SCANS`` scans, or too many for its pixels.
    """
    most = max(1, min(MAX_SCANS, MAX_SCANNED // max(1, width * height)))
    if scans > most:
        raise UnreadableImageError(f"the JPEG has more than {most} scans")


class _Quiet:
    """Python's warning filters belong to the whole process: the first thread that enters sets them, the last restores."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved: warnings.catch_warnings[None] | None = None

    def enter(self) -> None:
        with self._lock:
            self._inside += 1
            if self._saved is None:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.simplefilter("ignore")

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._saved is not None:
                self._saved.__exit__(None, None, None)
                self._saved = None


_QUIET: Final = _Quiet()


@contextmanager
def quietly() -> Iterator[None]:
    """Silence the warnings of a decoder whose outcome is checked anyway; safe in several threads at once."""
    _QUIET.enter()
    try:
        yield
    finally:
        _QUIET.leave()
