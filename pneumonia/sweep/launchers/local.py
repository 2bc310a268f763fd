"""``launcher=local``: one job after the other in this process."""

import gc
from collections.abc import Sequence
from typing import Any

from pneumonia.data.run_data_cache import RunDataCache
from pneumonia.sweep.launchers.base import Launcher, OnEnd
from pneumonia.sweep.plan import Job
from pneumonia.sweep.run_job import JobOutcome, run_job
from pneumonia.sweep.state import SweepState


class LocalLauncher(Launcher):
    """Run jobs one after the other in this process, so that imports, decoded images and splits are loaded once."""

    def __init__(self, settings: dict[str, Any], state: SweepState, cache: RunDataCache) -> None:
        super().__init__(settings, state)
        self.cache = cache

    def run_once(self, jobs: Sequence[Job], on_end: OnEnd, dry_run: bool) -> list[Job]:
        busy = []
        gc.collect()
        gc.freeze()  # imported modules stay: the collections after each job need not scan them
        try:
            for job in jobs:
                timeout_min = self.settings["timeout_min"]
                outcome = run_job(job, self.state, dry_run=dry_run, timeout_min=timeout_min, cache=self.cache)
                gc.collect()  # trainer and model refer to each other: a few MiB a job
                if outcome is JobOutcome.INTERRUPTED:
                    raise KeyboardInterrupt
                if outcome is JobOutcome.BUSY:
                    busy.append(job)
                else:
                    on_end(job)
        finally:
            gc.unfreeze()
        return busy
