"""The interface and the loop of all launchers, and the choice of one by ``launcher.kind``."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, ClassVar

from pneumonia.config.nodes import LauncherConfig
from pneumonia.data.run_data_cache import RunDataCache
from pneumonia.sweep.plan import Job
from pneumonia.sweep.run_job import JobOptions, JobOutcome
from pneumonia.sweep.state import PENDING, State, SweepState


class StopSweep(Exception):
    """A job has failed and ``fail_fast=true``."""


class Launcher(ABC):
    """Run jobs as tasks. A task records a failure in the sweep's state itself, or is found lost and recorded here.

    Args:
        settings: The ``launcher`` node of the config.
        state: State of the sweep; on a file system that every machine of the launcher sees.
        cache: Data that this process has loaded.
    """

    poll_s: ClassVar[float] = 1.0
    threads: int | None = None  # of torch; None leaves its default

    def __init__(self, settings: LauncherConfig, state: SweepState, cache: RunDataCache) -> None:
        self.timeout_min = settings.timeout_min
        self.state = state
        self.cache = cache

    @abstractmethod
    def submit(self, jobs: Sequence[Job], options: JobOptions) -> list[Any]:
        """Submit ``run_job(job, state, options)`` for each job; return a handle for each."""

    @abstractmethod
    def ended(self, handles: Sequence[Any]) -> dict[Any, JobOutcome | tuple[State, str]]:
        """Return what each ended task has returned; for a lost one the failure (``killed`` or ``failed``) and its reason."""

    @abstractmethod
    def cancel(self, handles: Sequence[Any]) -> None:
        """Cancel tasks; each keeps its last finished epoch."""

    def run(self, jobs: Sequence[Job], on_end: Callable[[Job], None], *, dry_run: bool = False) -> None:
        """Run each job to its end, or two batches of each; a failure of one leaves the others alone.

        ``on_end`` is called with each job that has ended.
        """
        options = JobOptions(dry_run, self.timeout_min, self.threads)
        while jobs:
            pending = dict(zip(self.submit(jobs, options), jobs, strict=True))
            jobs = []
            try:
                while pending:
                    for handle, outcome in self.ended(list(pending)).items():
                        job = pending.pop(handle)
                        if outcome is JobOutcome.BUSY:  # look again: the other process may be killed
                            jobs.append(job)
                            continue
                        if isinstance(outcome, tuple) and self.state.status(job).state in PENDING:
                            failure, reason = outcome
                            hint = ". Run the sweep again to resume it" if failure == "killed" else ""
                            self.state.record_failure(job, failure, reason + hint)
                        on_end(job)
                    if pending or jobs:
                        time.sleep(self.poll_s)
            except BaseException:
                self.cancel(list(pending))
                raise


def make_launcher(settings: LauncherConfig, state: SweepState, cache: RunDataCache) -> Launcher:
    """Build the launcher of ``settings.kind``, from the module of that name.

    Raises:
        ConfigError: Something that it needs is missing.
    """
    kind = settings.kind
    launcher: type[Launcher] = getattr(import_module(f"{__package__}.{kind}"), f"{kind.title()}Launcher")
    return launcher(settings, state, cache)
