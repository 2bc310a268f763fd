"""Treat SIGTERM as an interruption: spot machines, SLURM and service managers send it before they stop a machine."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def sigterm_as_interrupt(replace: bool = False) -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` on SIGTERM until the end of the block, unless a handler is installed that is not replaced."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    inside = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    if not inside or before is None or not (replace or before is signal.SIG_DFL):
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
