"""The interface of launchers, and the choice of one by ``launcher.kind``."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final

from pneumonia.data.run_data_cache import RunDataCache
from pneumonia.sweep.plan import Job
from pneumonia.sweep.state import SweepState

POLL_S: Final = 0.5  # between two looks at a job that another process runs
OnEnd = Callable[[Job], None]


class StopSweep(Exception):
    """A job has failed and ``fail_fast=true``."""


class Launcher(ABC):
    """Run jobs. Their results and failures are in the sweep's state.

    Args:
        settings: The ``launcher`` node of the config.
        state: State of the sweep; on a file system that every machine of the launcher sees.
    """

    def __init__(self, settings: dict[str, Any], state: SweepState) -> None:
        self.settings = settings
        self.state = state

    def run(self, jobs: Sequence[Job], on_end: OnEnd, *, dry_run: bool = False) -> None:
        """Run each job to its end, or two batches of each; a failure of one leaves the others alone.

        Args:
            jobs: The jobs, in order.
            on_end: Called with each job that has ended.
            dry_run: Train and validate on two batches only.
        """
        left = list(jobs)
        while left:
            left = self.run_once(left, on_end, dry_run)
            if left:
                time.sleep(POLL_S)

    @abstractmethod
    def run_once(self, jobs: Sequence[Job], on_end: OnEnd, dry_run: bool) -> list[Job]:
        """Run the jobs; return those that another process runs, to be looked at again."""


def make_launcher(settings: dict[str, Any], state: SweepState, cache: RunDataCache) -> Launcher:
    """Build the launcher of ``launcher.kind``.

    Args:
        settings: The ``launcher`` node of the config.
        state: State of the sweep.
        cache: Data that this process has loaded already.

    Raises:
        ConfigError: Something that it needs is missing.
    """
    if settings["kind"] == "slurm":
        from pneumonia.sweep.launchers.slurm import SlurmLauncher

        return SlurmLauncher(settings, state)
    if settings["kind"] == "ray":
        from pneumonia.sweep.launchers.ray import RayLauncher

        return RayLauncher(settings, state)
    if settings["kind"] == "parallel":
        from pneumonia.sweep.launchers.parallel import ParallelLauncher

        return ParallelLauncher(settings, state)
    from pneumonia.sweep.launchers.local import LocalLauncher

    return LocalLauncher(settings, state, cache)
