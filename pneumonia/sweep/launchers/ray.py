"""``launcher=ray``: each job a Ray task, on this machine or on a running cluster."""

import logging
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from pneumonia.config.choices import RayConfig
from pneumonia.data.run_data_cache import RunDataCache
from pneumonia.errors import ConfigError
from pneumonia.sweep.launchers.base import Launcher
from pneumonia.sweep.plan import Job
from pneumonia.sweep.run_job import JobOptions, JobOutcome, run_job
from pneumonia.sweep.state import State, SweepState


class RayLauncher(Launcher):
    """Run jobs as Ray tasks without retries: a killed job is recorded as such, and the next call of the sweep resumes it."""

    def __init__(self, settings: RayConfig, state: SweepState, cache: RunDataCache) -> None:
        super().__init__(settings, state, cache)
        self.threads = settings.cpus_per_job or 1
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        self.ray = ray
        if not ray.is_initialized():
            start = partial(ray.init, log_to_driver=False, logging_level=logging.ERROR)
            cores = None if settings.n_jobs is None else settings.n_jobs * self.threads
            try:
                if settings.address is None:
                    start(num_cpus=cores, include_dashboard=False, _node_ip_address="127.0.0.1")
                else:
                    start(settings.address)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise ConfigError(f"launcher.address={settings.address}: no Ray cluster answers there ({error})") from error
        self.task: Any = ray.remote(num_cpus=self.threads, num_gpus=settings.gpus_per_job, max_retries=0)(run_job)

    def submit(self, jobs: Sequence[Job], options: JobOptions) -> list[Any]:
        return [self.task.remote(job, self.state, options) for job in jobs]

    def ended(self, handles: Sequence[Any]) -> dict[Any, JobOutcome | tuple[State, str]]:
        ready, _ = self.ray.wait(list(handles), num_returns=len(handles), timeout=0)
        found: dict[Any, JobOutcome | tuple[State, str]] = {}
        for handle in ready:
            try:
                found[handle] = self.ray.get(handle)
            except self.ray.exceptions.WorkerCrashedError:
                found[handle] = "killed", "its process was killed; often this means that memory ran out"
            except self.ray.exceptions.RayError as error:
                found[handle] = "killed", f"Ray ended its task: {str(error).strip().splitlines()[-1]}"
        return found

    def cancel(self, handles: Sequence[Any]) -> None:
        for handle in handles:
            self.ray.cancel(handle, force=False)
