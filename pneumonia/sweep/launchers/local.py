"""``launcher=local``: one job after the other in this process."""

import gc
from collections.abc import Callable, Sequence

from pneumonia.sweep.launchers.base import Launcher
from pneumonia.sweep.plan import Job
from pneumonia.sweep.run_job import JobOptions, JobOutcome, run_job
from pneumonia.sweep.state import State


class LocalLauncher(Launcher):
    """Run jobs one after the other in this process, so that imports, decoded images and splits are loaded once."""

    poll_s = 0.0

    def run(self, jobs: Sequence[Job], on_end: Callable[[Job], None], *, dry_run: bool = False) -> None:
        gc.collect()
        gc.freeze()  # imported modules stay: the collection after each job need not scan them
        try:
            super().run(jobs, on_end, dry_run=dry_run)
        finally:
            gc.unfreeze()

    def submit(self, jobs: Sequence[Job], options: JobOptions) -> list[int]:
        self.jobs, self.options = jobs, options
        return list(range(len(jobs)))

    def ended(self, handles: Sequence[int]) -> dict[int, JobOutcome | tuple[State, str]]:
        outcome = run_job(self.jobs[handles[0]], self.state, self.options, self.cache)
        gc.collect()  # trainer and model refer to each other: a few MiB a job
        if outcome is JobOutcome.INTERRUPTED:
            raise KeyboardInterrupt
        return {handles[0]: outcome}

    def cancel(self, handles: Sequence[int]) -> None:
        """Do nothing: no other job has started."""
