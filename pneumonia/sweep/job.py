"""Does one job of a sweep in this process: its output goes to its log, its end to the ledger."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from pneumonia.data.run_data_cache import RunDataCache
from pneumonia.errors import TimeLimitReached
from pneumonia.runs.folder import RunFolder
from pneumonia.sweep.plan import Job
from pneumonia.sweep.state import ENDED, Ledger
from pneumonia.system.files import translated_os_errors
from pneumonia.training.train import rehearse, train

BUSY = 75  # exit code of a process whose job another one is doing (sysexits.h: try again later)


class OutOfTime(Exception):
    """A job has used the minutes that ``launcher.timeout_min`` gives it."""


class Pruned(Exception):
    """A search has given a trial up."""


def attempt(
    job: Job,
    ledger: Ledger,
    data_cache: RunDataCache,
    timeout_min: float | None = None,
    opened: Callable[[RunFolder], None] | None = None,
    callbacks: Sequence[Any] = (),
) -> bool:
    """Does a job, unless it is done; however it ends, the ledger knows.

    Args:
        job: What to train.
        ledger: Of its sweep.
        data_cache: What the jobs of this process share.
        timeout_min: After which the job is broken off; its finished epochs are kept.
        opened: Is told the run's folder before its training goes on.
        callbacks: Of Lightning's, for the training.

    Returns:
        False where another process is doing it.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM ended the job, and is meant for the whole sweep.
    """
    with ledger.claim(job.key) as mine:
        if not mine:
            return False
        if not job.config["force"] and ledger.standing(job).state in ENDED:
            return True

        def found(folder: RunFolder) -> None:
            ledger.opened(job, folder)
            if opened is not None:
                opened(folder)

        ledger.begin(job)
        ledger.started(job)
        with output_to(ledger.log(job.key)):
            try:
                with _limited(timeout_min):
                    train(job.config, label=job.label, data_cache=data_cache, opened=found, callbacks=callbacks)
            except KeyboardInterrupt:
                raise
            except Pruned:
                ledger.broke(job, "pruned", "worse than the median of the earlier trials at the same epoch")
            except TimeLimitReached as error:
                ledger.broke(job, "out of time", str(error))
            except OutOfTime:
                ledger.broke(
                    job, "out of time", f"launcher.timeout_min={timeout_min} was over; finished epochs are kept"
                )
            except Exception as error:
                ledger.raised(job, error)
    return True


def rehearsed(job: Job, data_cache: RunDataCache, log: Path) -> BaseException | None:
    """What a job would raise in its first two batches."""
    with output_to(log):
        try:
            rehearse(job.config, data_cache)
        except KeyboardInterrupt:
            raise
        except Exception as error:
            return error
    return None


def attempt_alone(job: Job, folder: str, timeout_min: float | None, threads: int, gpu: str | None) -> None:
    """Does a job as the whole life of a process, whose exit code says how it went: 0, or ``BUSY``."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    torch.set_num_threads(threads)
    try:
        done = attempt(job, Ledger(Path(folder)), RunDataCache(), timeout_min)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0 if done else BUSY)


def attempt_there(job: Job, folder: str, timeout_min: float | None, threads: int) -> bool:
    """Does a job as a task of a scheduler; False where another process is doing it."""
    torch.set_num_threads(threads)
    try:
        return attempt(job, Ledger(Path(folder)), RunDataCache(), timeout_min)
    except KeyboardInterrupt:  # the scheduler was asked to end it
        return True


def rehearse_there(job: Job, folder: str, timeout_min: float | None, threads: int) -> bool:
    """Rehearses a job as a task of a scheduler; what it raises goes to the ledger."""
    rehearse_alone([job], folder, threads, None)
    return True


def rehearse_alone(jobs: list[Job], folder: str, threads: int, gpu: str | None) -> None:
    """Rehearses jobs as the whole life of a process; what they raise goes to the ledger."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    torch.set_num_threads(threads)
    ledger, data_cache = Ledger(Path(folder)), RunDataCache()
    for job in jobs:
        error = rehearsed(job, data_cache, ledger.log(job.key))
        if error is not None:
            ledger.raised(job, error)


@contextlib.contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Sends what this process prints to the end of a file."""
    with translated_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", buffering=1) as log:
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                yield


@contextlib.contextmanager
def _limited(minutes: float | None) -> Iterator[None]:
    """Raises ``OutOfTime`` in the block when the minutes are over; it has to run in the main thread."""
    if minutes is None:
        yield
        return

    def ring(number: int, frame: FrameType | None) -> Any:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
