"""``launcher=parallel``: several jobs at once on this machine, each in a process of its own."""

import multiprocessing
import os
import queue
import signal
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from typing import Any, Final

import joblib
import torch

from pneumonia.errors import ConfigError
from pneumonia.sweep.launchers.base import Launcher, OnEnd
from pneumonia.sweep.plan import Job
from pneumonia.sweep.run_job import JobOutcome, run_job
from pneumonia.sweep.state import PENDING, SweepState

GRACE_S: Final = 60.0  # for a process to end by itself after its time limit
CORES_PER_JOB: Final = 2


class ParallelLauncher(Launcher):
    """Run several jobs at once, each in a process of its own.

    The processes are forked from one that has imported everything, so that a job pays for no import. A process that is killed
    affects its job alone; joblib's process pool would end all of them.
    """

    def __init__(self, settings: dict[str, Any], state: SweepState) -> None:
        super().__init__(settings, state)
        self.gpus = _visible_gpus(settings["gpus"])
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.n_jobs = int(settings["n_jobs"] or len(self.gpus) or max(1, cores // CORES_PER_JOB))
        self.threads = max(1, cores // self.n_jobs)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["pneumonia.sweep.run_job"])
        self.processes: list[ForkServerProcess] = []
        self.stopping = False

    def run_once(self, jobs: Sequence[Job], on_end: OnEnd, dry_run: bool) -> list[Job]:
        n_jobs = 1 if dry_run else self.n_jobs
        slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(n_jobs):
            slots.put(slot)

        def run(job: Job) -> Job | None:
            slot = slots.get()
            try:
                code = self._run_process(job, self.gpus[slot % len(self.gpus)] if self.gpus else None, dry_run)
            finally:
                slots.put(slot)
            if code == JobOutcome.BUSY:
                return job
            self._record_exit(job, code)
            on_end(job)
            return None

        try:
            # joblib's threads start the processes and wait for them.
            pool = joblib.Parallel(n_jobs=n_jobs, backend="threading", batch_size=1, pre_dispatch="n_jobs")
            return [job for job in pool(joblib.delayed(run)(job) for job in jobs) if job is not None]
        finally:
            self._stop_all()

    def _run_process(self, job: Job, gpu: str | None, dry_run: bool) -> int:
        """Run a job in a process; return its exit code, negative for the signal that killed it."""
        minutes = self.settings["timeout_min"]
        options = {"dry_run": dry_run, "timeout_min": minutes, "threads": self.threads, "gpu": gpu}
        process = self.context.Process(
            target=_exit_with_outcome, args=(job, SweepState(self.state.folder)), kwargs=options, daemon=True
        )
        process.start()
        self.processes.append(process)
        process.join(None if minutes is None else 60 * minutes + GRACE_S)
        if process.is_alive():  # the alarm of its time limit did not interrupt it
            process.kill()
            process.join()
        return int(process.exitcode or 0)

    def _stop_all(self) -> None:
        """Terminate the running processes; each keeps its last finished epoch."""
        running = [process for process in self.processes if process.is_alive()]
        self.stopping = bool(running)
        for process in running:
            process.terminate()
        for process in running:
            process.join(GRACE_S)

    def _record_exit(self, job: Job, code: int) -> None:
        """Record a failure that the process could not record itself."""
        if self.stopping:
            return
        if code < 0:
            hint = "; often this means that memory ran out" if -code == signal.SIGKILL else ""
            name = signal.Signals(-code).name
            reason = f"its process was killed by {name}{hint}. Run the sweep again to resume it"
            self.state.record_failure(job, "killed", reason)
        elif code and code != JobOutcome.INTERRUPTED and self.state.status(job).state in PENDING:
            reason = f"its process ended with exit code {code}; see {self.state.log(job.key)}"
            self.state.record_failure(job, "failed", reason)


def _exit_with_outcome(job: Job, state: SweepState, **options: Any) -> None:
    sys.exit(run_job(job, state, **options))


def _visible_gpus(asked: list[int] | None) -> list[str]:
    """Return the ``CUDA_VISIBLE_DEVICES`` names of the requested GPUs; of all GPUs for ``None``.

    Raises:
        ConfigError: This machine has no GPU of a requested number.
    """
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
