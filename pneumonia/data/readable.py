"""What an image file must be to be read at all: the limits, and the error that says why one is not."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

MAX_PIXELS: Final = (
    89_000_000  # a 9,400 x 9,400 radiograph; what is larger is an attack or an accident (PIL warns there)
)
MIN_SIDE: Final = 8  # pixels; the smallest sound X-ray of the public releases has 127
_ONE_AT_A_TIME: Final = threading.RLock()


class UnreadableImageError(ValueError):
    """Why one image can not be used; collected by callers into a ``BrokenImagesError`` that lists all."""


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


@contextmanager
def quietly() -> Iterator[None]:
    """Silences the warnings of a decoder whose outcome is checked anyway.

    The lock is there because Python's warning filters belong to the whole process: two threads that set and restore
    them at once would leave them wrong.
    """
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
