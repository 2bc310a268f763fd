"""Limits of the files that are read as images, and the error that names the reason of a refusal."""

import errno
import os
import stat
import threading
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Final

MAX_PIXELS: Final = 89_000_000  # a 9,400 x 9,400 radiograph; larger images are attacks or accidents (PIL warns there)
MIN_SIDE: Final = 8  # pixels; the smallest sound X-ray of the public releases has 127
MAX_FILE_BYTES: Final = 256 * 2**20  # holds MAX_PIXELS of 16-bit grey or 8-bit colour without compression
MAX_SCANS: Final = 100  # of a progressive JPEG, which has about ten; each costs a pass over all pixels
MAX_SCANNED: Final = 20 * MAX_PIXELS  # pixels of all scans of one JPEG together


class UnreadableImageError(ValueError):
    """The reason why one image can not be used; callers collect all of them in a ``BrokenImagesError``."""


def open_regular_file(path: Path | str) -> BinaryIO:
    """Open a regular file for reading; refuse devices, pipes and other files that may block or never end.

    The type is checked before opening, since opening a device can have effects, and again on the open file, which may
    have been replaced in between.

    Raises:
        OSError: Missing, not permitted, or not a regular file.
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
        OSError: See :func:`open_regular_file`; or the file is larger, on disk or because it grows while it is read.
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
    except (OSError, ValueError) as error:  # a ValueError: a zero byte in the name
        raise UnreadableImageError(getattr(error, "strerror", None) or str(error)) from error


def _check_regular(state: os.stat_result) -> None:
    if not stat.S_ISREG(state.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")


def check_size(width: int, height: int) -> None:
    """Refuse a declared size in pixels before memory of that size is allocated.

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


def brief(error: Exception) -> str:
    """Return an error's message on one line, at most 200 characters."""
    return " ".join((str(error).strip() or type(error).__name__).split())[:200]


class _Quiet(AbstractContextManager[None]):
    """Python's warning filters belong to the process: the first thread that enters sets them, the last restores them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._saved.__exit__(None, None, None)


_QUIET: Final = _Quiet()


def quietly() -> AbstractContextManager[None]:
    """Silence the warnings of a decoder whose result is checked anyway; safe in several threads at once."""
    return _QUIET
