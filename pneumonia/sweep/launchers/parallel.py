"""``launcher=parallel``: several jobs at once on this machine, each in a process of its own."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerProcess
from typing import Final

import torch

from pneumonia.config.choices import ParallelConfig
from pneumonia.data.run_data_cache import RunDataCache
from pneumonia.errors import ConfigError
from pneumonia.sweep.launchers.base import Launcher
from pneumonia.sweep.plan import Job
from pneumonia.sweep.run_job import JobOptions, JobOutcome, run_job
from pneumonia.sweep.state import State, SweepState
from pneumonia.system.parallel import available_cores

GRACE_S: Final = 60.0  # for a process to end by itself
CORES_PER_JOB: Final = 2


@dataclass(eq=False)
class _Task:
    """A job and its process, once a slot is free."""

    job: Job
    process: ForkServerProcess | None = None
    deadline: float = float("inf")


class ParallelLauncher(Launcher):
    """Run several jobs at once, each in a process of its own.

    The processes are forked from one that has imported everything, so that a job pays for no import. A process that is killed
    affects its job alone; joblib's process pool would end all of them.
    """

    poll_s = 0.05

    def __init__(self, settings: ParallelConfig, state: SweepState, cache: RunDataCache) -> None:
        super().__init__(settings, state, cache)
        self.gpus = _visible_gpus(settings.gpus)
        cores = available_cores()
        self.n_jobs = int(settings.n_jobs or len(self.gpus) or max(1, cores // CORES_PER_JOB))
        self.threads = max(1, cores // self.n_jobs)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["pneumonia.sweep.run_job"])

    def submit(self, jobs: Sequence[Job], options: JobOptions) -> list[_Task]:
        self.options = options
        self.slots: list[_Task | None] = [None] * (1 if options.dry_run else self.n_jobs)
        return [_Task(job) for job in jobs]

    def ended(self, handles: Sequence[_Task]) -> dict[_Task, JobOutcome | tuple[State, str]]:
        waiting = [task for task in handles if task.process is None]
        found: dict[_Task, JobOutcome | tuple[State, str]] = {}
        for slot, task in enumerate(self.slots):
            if task is not None and task.process is not None:
                if time.monotonic() > task.deadline:  # the alarm of its time limit did not interrupt it
                    task.process.kill()
                    task.process.join()
                if task.process.exitcode is None:
                    continue
                found[task] = self._outcome(task.job, task.process.exitcode)
            self.slots[slot] = self._start(waiting.pop(0), slot) if waiting else None
        return found

    def cancel(self, handles: Sequence[_Task]) -> None:
        running = [task.process for task in handles if task.process is not None]
        for process in running:
            process.terminate()
        for process in running:
            process.join(GRACE_S)

    def _start(self, task: _Task, slot: int) -> _Task:
        options = replace(self.options, gpu=self.gpus[slot % len(self.gpus)] if self.gpus else None)
        task.process = self.context.Process(target=_exit_with_outcome, args=(task.job, self.state, options), daemon=True)
        task.process.start()
        if (minutes := options.timeout_min) is not None:
            task.deadline = time.monotonic() + 60 * minutes + GRACE_S
        return task

    def _outcome(self, job: Job, code: int) -> JobOutcome | tuple[State, str]:
        """Interpret an exit code; a negative one is the signal that killed the process."""
        if code < 0:
            hint = "; often this means that memory ran out" if -code == signal.SIGKILL else ""
            return "killed", f"its process was killed by {signal.Signals(-code).name}{hint}"
        if code in set(JobOutcome):
            return JobOutcome(code)
        return "failed", f"its process ended with exit code {code}; see {self.state.log(job.key)}"


def _exit_with_outcome(job: Job, state: SweepState, options: JobOptions) -> None:
    sys.exit(run_job(job, state, options))


def _visible_gpus(asked: list[int] | None) -> list[str]:
    """Return the ``CUDA_VISIBLE_DEVICES`` names of the requested GPUs; of all GPUs for ``None``."""
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",")[:count] if visible else [str(number) for number in range(count)]
    numbers = range(count) if asked is None else asked
    wrong = [number for number in numbers if not isinstance(number, int) or not 0 <= number < count]
    if wrong:
        available = f"GPUs 0 to {count - 1}" if count else "no GPU"
        raise ConfigError(
            f"launcher.gpus={asked}: this machine has {available}, so not {wrong[0]}. Name others, or leave it out."
        )
    return [names[number] for number in numbers]
