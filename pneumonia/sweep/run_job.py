"""Run one job of a sweep in this process: its output goes to its log, its failure to the state of the sweep."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import FrameType
from typing import Any

import torch

from pneumonia.data.run_data_cache import RunDataCache
from pneumonia.errors import TimeLimitReached
from pneumonia.runs.folder import RunFolder
from pneumonia.sweep.plan import Job
from pneumonia.sweep.state import FINISHED, SweepState
from pneumonia.system.files import translated_os_errors
from pneumonia.training.train import train, train_dry_run


class JobOutcome(IntEnum):
    """How :func:`run_job` ended; also the exit code of a process that runs one job."""

    ENDED = 0
    BUSY = 75  # another process runs the job (EX_TEMPFAIL of sysexits.h)
    INTERRUPTED = 130


class Pruned(Exception):
    """The search has pruned this trial."""


@dataclass(frozen=True)
class JobOptions:
    """How a launcher runs a job.

    Attributes:
        dry_run: Train and validate on two batches instead, and keep nothing.
        timeout_min: Limit in minutes; finished epochs are kept. The main thread of the process must run the job.
        threads: CPU threads for torch; ``None`` leaves them as they are.
        gpu: Value of ``CUDA_VISIBLE_DEVICES``; ``None`` leaves it as it is.
    """

    dry_run: bool = False
    timeout_min: float | None = None
    threads: int | None = None
    gpu: str | None = None


def run_job(
    job: Job,
    state: SweepState,
    options: JobOptions,
    cache: RunDataCache | None = None,
    on_run_folder: Callable[[RunFolder], None] | None = None,
    callbacks: Sequence[Any] = (),
) -> JobOutcome:
    """Train a job unless it is finished, and record a failure in the sweep's state. Every launcher calls this function.

    Args:
        job: The job.
        state: State of its sweep.
        options: Of its launcher.
        cache: Data that the jobs of this process share.
        on_run_folder: Called with the run's folder before training starts or resumes.
        callbacks: Lightning callbacks for the training.

    Returns:
        ``INTERRUPTED`` after Ctrl-C or SIGTERM, ``BUSY`` if another process runs the job, else ``ENDED``.
    """
    if options.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = options.gpu
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    cache = cache or RunDataCache()

    def record_run(folder: RunFolder) -> None:
        state.record_run(job, folder)
        if on_run_folder is not None:
            on_run_folder(folder)

    try:
        if options.dry_run:
            with _failures_recorded(job, state):
                train_dry_run(job.config, cache)
            return JobOutcome.ENDED
        with state.lock(job.key) as locked:
            if not locked:
                return JobOutcome.BUSY
            if job.config.force or state.status(job).state not in FINISHED:
                state.record_start(job)
                with _failures_recorded(job, state), _time_limit(options.timeout_min):
                    train(job.config, label=job.label, data_cache=cache, opened=record_run, callbacks=callbacks)
    except KeyboardInterrupt:
        return JobOutcome.INTERRUPTED
    return JobOutcome.ENDED


@contextlib.contextmanager
def _failures_recorded(job: Job, state: SweepState) -> Iterator[None]:
    """Append what the block prints to the job's log, and record an exception that ends it."""
    path = state.log(job.key)
    with translated_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", buffering=1) as log:
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                try:
                    yield
                except Pruned:
                    state.record_failure(job, "pruned", "worse than the median of the earlier trials at the same epoch")
                except TimeLimitReached as error:
                    state.record_failure(job, "out of time", str(error))
                except KeyboardInterrupt:  # Interrupted is an Exception too, and no failure
                    raise
                except Exception as error:
                    state.record_error(job, error)


@contextlib.contextmanager
def _time_limit(minutes: float | None) -> Iterator[None]:
    """Raise ``TimeLimitReached`` in the block after some minutes."""
    if minutes is None:
        yield
        return

    def on_alarm(number: int, frame: FrameType | None) -> Any:
        raise TimeLimitReached(f"exceeded launcher.timeout_min={minutes}; finished epochs are kept")

    previous = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
