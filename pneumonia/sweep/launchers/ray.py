"""``launcher=ray``: each job a task of Ray, on this machine or on a running cluster."""

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

from pneumonia.errors import ConfigError
from pneumonia.sweep.launchers.remote import Remote
from pneumonia.sweep.state import Ledger


class Ray(Remote):
    """Tasks without retries: a job that was killed is said to be, and the next call of the sweep goes on with it."""

    def __init__(self, settings: dict[str, Any], ledger: Ledger) -> None:
        super().__init__(settings, ledger)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else it reports to its makers
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        self.ray = ray
        words: dict[str, Any] = {"address": settings["address"]}
        if settings["address"] is None:
            words = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
            if settings["n_jobs"] is not None:
                words["num_cpus"] = settings["n_jobs"] * (settings["cpus_per_job"] or 1)
        if not ray.is_initialized():
            try:
                ray.init(log_to_driver=False, logging_level=logging.ERROR, **words)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise ConfigError(f"launcher.address={settings['address']}: no Ray answers there ({error})") from error

    def submit(self, work: Callable[..., bool], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        task = self.ray.remote(
            num_cpus=self.settings["cpus_per_job"] or 1, num_gpus=self.settings["gpus_per_job"], max_retries=0
        )(work)
        return [task.remote(*call) for call in calls]

    def finished(self, handles: Sequence[Any]) -> dict[Any, bool | str]:
        ready, _ = self.ray.wait(list(handles), num_returns=len(handles), timeout=0)
        found: dict[Any, bool | str] = {}
        for handle in ready:
            try:
                found[handle] = bool(self.ray.get(handle))
            except self.ray.exceptions.WorkerCrashedError:
                found[handle] = "its process was killed; often this means that memory ran out"
            except self.ray.exceptions.RayError as error:
                found[handle] = f"Ray ended its task: {str(error).strip().splitlines()[-1]}"
        return found

    def cancel(self, handles: Sequence[Any]) -> None:
        for handle in handles:
            self.ray.cancel(handle, force=False)
