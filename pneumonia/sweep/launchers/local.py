"""Where the jobs of a sweep run: one after the other here, or several at once, each in a process of its own."""

import gc
import multiprocessing
import os
import queue
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any, Final, Protocol

import joblib
import torch

from pneumonia.data.run_data_cache import RunDataCache
from pneumonia.errors import ConfigError
from pneumonia.sweep.job import BUSY, attempt, attempt_alone, rehearse_alone, rehearsed
from pneumonia.sweep.plan import Job
from pneumonia.sweep.state import Ledger

GRACE_S: Final = 60.0  # that a process may take to end by itself once its time is over
WAIT_S: Final = 0.5  # between looks at a job that another process is doing
CORES_PER_JOB: Final = 2


class Stop(Exception):
    """The sweep ends here, because a job has failed and ``fail_fast`` was asked for."""


class Engine(Protocol):
    """Tries and does jobs; the ledger is told how they end, and ``ended`` that they did."""

    def rehearse(self, jobs: Sequence[Job], ended: Callable[[Job], None]) -> None:
        """Two batches of each job."""

    def run(self, jobs: Sequence[Job], ended: Callable[[Job], None]) -> None:
        """Each job to its end, whatever becomes of the others."""


class Local:
    """One job after the other in this process, which pays for imports, decoded images and splits once."""

    def __init__(self, settings: dict[str, Any], ledger: Ledger, data_cache: RunDataCache) -> None:
        self.ledger = ledger
        self.timeout_min = settings["timeout_min"]
        self.data_cache = data_cache

    def rehearse(self, jobs: Sequence[Job], ended: Callable[[Job], None]) -> None:
        for job in jobs:
            error = rehearsed(job, self.data_cache, self.ledger.log(job.key))
            if error is not None:
                self.ledger.raised(job, error)
            ended(job)

    def run(self, jobs: Sequence[Job], ended: Callable[[Job], None]) -> None:
        gc.collect()
        gc.freeze()  # what is imported stays, and need not be looked at after every job
        try:
            self._run(list(jobs), ended)
        finally:
            gc.unfreeze()

    def _run(self, left: list[Job], ended: Callable[[Job], None]) -> None:
        while left:
            others = []
            for job in left:
                mine = attempt(job, self.ledger, self.data_cache, self.timeout_min)
                gc.collect()  # a trainer and its network hold each other, a few MiB a job
                if mine:
                    ended(job)
                else:
                    others.append(job)  # another process is doing it: last, and only if that one does not
            if others:
                time.sleep(WAIT_S)
            left = others


class Parallel:
    """Several jobs at once on this machine, each in a process of its own.

    The processes are forked from one that has imported everything, so that a job costs no import, and whatever kills one costs
    that job alone. joblib's own process pool would end them all.
    """

    def __init__(self, settings: dict[str, Any], ledger: Ledger) -> None:
        self.ledger = ledger
        self.timeout_min = settings["timeout_min"]
        self.gpus = _cards(settings["gpus"])
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.n_jobs = int(settings["n_jobs"] or len(self.gpus) or max(1, cores // CORES_PER_JOB))
        self.threads = max(1, cores // self.n_jobs)
        self.context: ForkServerContext = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["pneumonia.sweep.job"])
        self.processes: list[ForkServerProcess] = []
        self.ending = False

    def rehearse(self, jobs: Sequence[Job], ended: Callable[[Job], None]) -> None:
        for job in jobs:
            gpu = self.gpus[0] if self.gpus else None
            code = self._in_process(rehearse_alone, [job], str(self.ledger.folder), self.threads, gpu)
            self._note(job, code)
            ended(job)

    def run(self, jobs: Sequence[Job], ended: Callable[[Job], None]) -> None:
        slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(self.n_jobs):
            slots.put(slot)

        def one(job: Job) -> Job | None:
            slot = slots.get()
            gpu = self.gpus[slot % len(self.gpus)] if self.gpus else None
            try:
                folder = str(self.ledger.folder)
                code = self._in_process(attempt_alone, job, folder, self.timeout_min, self.threads, gpu)
            finally:
                slots.put(slot)
            if code == BUSY:
                return job
            self._note(job, code)
            ended(job)
            return None

        left = list(jobs)
        try:
            while left:
                # Threads of joblib start the processes and wait for them.
                pool = joblib.Parallel(n_jobs=self.n_jobs, backend="threading", batch_size=1, pre_dispatch="n_jobs")
                left = [job for job in pool(joblib.delayed(one)(job) for job in left) if job is not None]
                if left:
                    time.sleep(WAIT_S)
        finally:
            self._end_all()

    def _in_process(self, work: Callable[..., None], *arguments: Any) -> int:
        """The exit code of a process that does some work; negative: the signal that killed it."""
        process = self.context.Process(target=work, args=arguments, daemon=True)
        process.start()
        self.processes.append(process)
        process.join(None if self.timeout_min is None else 60 * self.timeout_min + GRACE_S)
        if process.is_alive():  # so stuck that its own alarm did not wake it
            process.kill()
            process.join()
        return int(process.exitcode or 0)

    def _end_all(self) -> None:
        """Lets the processes that still run keep their last epoch and end."""
        running = [process for process in self.processes if process.is_alive()]
        self.ending = bool(running)
        for process in running:
            process.terminate()
        for process in running:
            process.join(GRACE_S)

    def _note(self, job: Job, code: int) -> None:
        """Writes down an end that the process could not write down itself."""
        if self.ending:
            return
        if code < 0:
            number = -code
            hint = "; often this means that memory ran out" if number == signal.SIGKILL else ""
            reason = f"its process was killed by {signal.Signals(number).name}{hint}. Run the sweep again: it goes on"
            self.ledger.broke(job, "killed", reason)
        elif code and code not in {BUSY, 130} and self.ledger.standing(job).state in {"to do", "interrupted"}:
            self.ledger.broke(job, "failed", f"its process ended with exit code {code}; see {self.ledger.log(job.key)}")


def _cards(asked: list[int] | None) -> list[str]:
    """What CUDA calls the GPUs that were asked for, or all that this process may see.

    Raises:
        ConfigError: There is no GPU of such a number.
    """
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",")[:count] if visible else [str(number) for number in range(count)]
    numbers = range(count) if asked is None else asked
    wrong = [number for number in numbers if not isinstance(number, int) or not 0 <= number < count]
    if wrong:
        there = f"GPUs 0 to {count - 1}" if count else "no GPU"
        raise ConfigError(
            f"launcher.gpus={asked}: this machine has {there}, so not {wrong[0]}. Name others, or leave it out."
        )
    return [names[number] for number in numbers]


def engine_of(settings: dict[str, Any], ledger: Ledger, data_cache: RunDataCache) -> Engine:
    """The engine that ``launcher`` names.

    Args:
        settings: The ``launcher`` node.
        ledger: Of the sweep.
        data_cache: What this process has loaded already.

    Raises:
        ConfigError: What it needs is not there.
    """
    kind = settings["kind"]
    if kind == "slurm":
        from pneumonia.sweep.launchers.slurm import Slurm

        return Slurm(settings, ledger)
    if kind == "ray":
        from pneumonia.sweep.launchers.ray import Ray

        return Ray(settings, ledger)
    return Parallel(settings, ledger) if kind == "parallel" else Local(settings, ledger, data_cache)
