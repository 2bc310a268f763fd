"""Jobs as tasks of a scheduler that may lose some: a failure that a task could not record is recorded here."""

import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Final

from pneumonia.sweep.launchers.base import Launcher, OnEnd
from pneumonia.sweep.plan import Job
from pneumonia.sweep.run_job import JobOutcome
from pneumonia.sweep.state import PENDING, SweepState

POLL_S: Final = 1.0


class RemoteLauncher(Launcher):
    """Base of the SLURM and Ray launchers."""

    @abstractmethod
    def submit(self, jobs: Sequence[Job], state: SweepState, **options: Any) -> list[Any]:
        """Submit ``run_job(job, state, **options)`` for each job; return a handle for each."""

    @abstractmethod
    def ended(self, handles: Sequence[Any]) -> dict[Any, JobOutcome | str]:
        """Return, for each handle that has ended, what its call returned, or why it returned nothing."""

    @abstractmethod
    def cancel(self, handles: Sequence[Any]) -> None:
        """Cancel tasks; each keeps its last finished epoch."""

    def run_once(self, jobs: Sequence[Job], on_end: OnEnd, dry_run: bool) -> list[Job]:
        state = SweepState(self.state.folder.resolve())
        threads, timeout_min = int(self.settings["cpus_per_job"] or 1), self.settings["timeout_min"]
        handles = self.submit(jobs, state, dry_run=dry_run, timeout_min=timeout_min, threads=threads)
        pending = dict(zip(handles, jobs, strict=True))
        busy: list[Job] = []
        try:
            while pending:
                for handle, outcome in self.ended(list(pending)).items():
                    job = pending.pop(handle)
                    if outcome is JobOutcome.BUSY:
                        busy.append(job)
                        continue
                    if isinstance(outcome, str) and self.state.status(job).state in PENDING:
                        self.state.record_failure(job, "killed", f"{outcome}. Run the sweep again to resume it")
                    on_end(job)
                if pending:
                    time.sleep(POLL_S)
        except BaseException:
            self.cancel(list(pending))
            raise
        return busy
