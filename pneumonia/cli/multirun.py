"""Report every failed job of Hydra's multirun, under any launcher, and end its jobs when it ends.

Jobs may run in other processes or on other machines, so each records its process and its outcome in a file of the sweep
folder. A lock on that file distinguishes a running job from one whose process was killed.
"""

import os
import secrets
import shutil
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from rich.markup import escape

from pneumonia.cli.sweepers import check_direction, job_labels
from pneumonia.errors import ConfigError, PneumoniaError, RunError
from pneumonia.system.console import say
from pneumonia.system.files import is_locked, read_json, translated_os_errors, write_json
from pneumonia.system.signals import sigterm_as_interrupt
from pneumonia.training.loggers.wandb_account import without_run_id

POLL_S: Final = 0.5
GRACE_S: Final = 5.0  # for jobs that a failing launcher ends itself
END_S: Final = 30.0  # between SIGTERM and SIGKILL
BASIC: Final = "BasicSweeper"
OPEN: Final = "open"  # a file beside the records; no job starts without it, because the multirun has ended


@dataclass(frozen=True)
class JobRecord:
    """The record of a job: a JSON file.

    Attributes:
        label: The overrides in which the job differs from the others.
        state: ``running``, ``done``, ``failed`` or ``interrupted``; empty before the job starts.
        reason: Why it failed or was interrupted.
        details: The traceback of an unexpected error.
        pid: Of the process that runs it.
        host: Of that process.
        job_id: Of the scheduler, for a running job.
    """

    label: str = ""
    state: str = ""
    reason: str = ""
    details: str = ""
    pid: int = 0
    host: str = ""
    job_id: str = ""

    @classmethod
    def read(cls, folder: Path, number: int) -> "JobRecord":
        """Read the record of a job by its number."""
        return cls(**read_json(folder / f"{number}.json"))

    @property
    def is_beside(self) -> bool:
        """Whether the job runs in another process of this machine."""
        return self.state == "running" and self.host == socket.gethostname() and self.pid != os.getpid()


class Multirun:
    """The jobs of one call of ``pneumonia train -m``.

    Attributes:
        token: Name of the folder of their records inside ``hydra.sweep.dir``.
        failed: Number of failed jobs.
    """

    def __init__(self) -> None:
        self.token = f".multirun-{secrets.token_hex(4)}"
        self.failed = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Wrap every launcher that Hydra makes in the block, so that it reports to this object."""
        original = Plugins.instantiate_launcher
        environment = ExitStack()

        def instantiate(
            plugins: Plugins, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
        ) -> Launcher:
            check_direction(config)
            environment.enter_context(without_run_id("a multirun"))
            inner = original(plugins, hydra_context, task_function, config)
            return _Watched(self, inner, hydra_context, config)

        Plugins.instantiate_launcher = instantiate  # type: ignore[method-assign, assignment]
        try:
            with environment:
                yield
        finally:
            Plugins.instantiate_launcher = original  # type: ignore[method-assign]


class _Watched(Launcher):
    """A launcher that reports failed jobs. It wraps the user's launcher, which may be pickled and sent to its jobs."""

    def __init__(self, multirun: Multirun, inner: Launcher, context: HydraContext, config: DictConfig) -> None:
        self.multirun = multirun
        self.inner = inner
        self.context = context
        self.config = config

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Do nothing: the inner launcher is set up already."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and print the failures.

        Returns:
            The returns of all jobs; without failed ones for Hydra's own sweeper, which stops at the first of them.

        Raises:
            ConfigError: There is no job.
            RunError: The launcher failed, and the sweeper needs all returns.
            KeyboardInterrupt: Ctrl-C or SIGTERM; the jobs on this machine have ended.
        """
        if not job_overrides:
            raise ConfigError(f"{self._empty()} has no value, so there is no job to run. Give at least one value.")
        records = Path(str(self.config.hydra.sweep.dir)) / self.multirun.token
        jobs = dict(enumerate(job_labels(self.config, job_overrides), initial_job_idx))
        basic = str(self.config.hydra.sweeper.get("_target_", "")).endswith(BASIC)
        returns: Sequence[JobReturn] = []
        lost: Exception | None = None
        with translated_os_errors(records):
            records.mkdir(parents=True, exist_ok=True)
            for number, label in jobs.items():
                write_json(records / f"{number}.json", asdict(JobRecord(label)))
            (records / OPEN).touch()
        try:
            with sigterm_as_interrupt():
                try:
                    returns = self.inner.launch(job_overrides, initial_job_idx=initial_job_idx)
                except PneumoniaError:
                    raise
                except Exception as error:  # launchers raise errors of their own for a killed process
                    lost = error
                    _wait_for_running(records, jobs)
        except KeyboardInterrupt as stop:
            ended = _end_running(records, jobs)
            raise KeyboardInterrupt(" ".join([str(stop) or "Interrupted.", *ended])) from stop
        finally:
            failures = _failures(records, jobs, lost)
            shutil.rmtree(records, ignore_errors=True)
        _show(failures, jobs)
        self.multirun.failed += len(failures)
        if lost is not None and not (basic and failures):
            raise RunError(f"The launcher failed: {_one_line(lost)}.") from lost
        return [one for one in returns if one.status == JobStatus.COMPLETED] if basic else returns

    def _empty(self) -> str:
        """Return the override without a value."""
        parser = OverridesParser.create(config_loader=self.context.config_loader)
        overrides = [str(one) for one in self.config.hydra.overrides.task]
        overrides += [f"{key}={value}" for key, value in (self.config.hydra.sweeper.get("params") or {}).items()]
        for override in parser.parse_overrides(overrides):
            if override.is_discrete_sweep() and not list(override.sweep_string_iterator()):
                return str(override.input_line)
        return "The sweep"


def run_recorded(work: Callable[[str], float | None], token: str) -> float | None:
    """Run a job of the multirun with this token, record its outcome, and return its value.

    Args:
        work: Runs the job, whose label it takes.
        token: Of the multirun.

    Raises:
        RunError: The job failed; a plain error, because it may be pickled.
        KeyboardInterrupt: Ctrl-C or SIGTERM, which ends the whole multirun.
    """
    config: Any = HydraConfig.get()
    number = int(config.job.num)
    path = Path(str(config.sweep.dir)) / token / f"{number}.json"
    is_open = path.with_name(OPEN)
    if not is_open.exists():
        raise KeyboardInterrupt("The multirun of this job has ended.")
    # Under submitit a preempted SLURM job ignores SIGTERM until it is requeued.
    preempted = os.environ.get("SUBMITIT_EXECUTOR") == "slurm"

    label = JobRecord.read(path.parent, number).label

    def write(state: str, reason: str = "", **values: Any) -> None:
        if is_open.exists():
            write_json(path, asdict(JobRecord(label, state, reason, **values)))

    with FileLock(path.with_suffix(".lock")), nullcontext() if preempted else sigterm_as_interrupt(replace=True):
        try:
            job_id = str(OmegaConf.select(config, "job.id"))
            write("running", pid=os.getpid(), host=socket.gethostname(), job_id=job_id)
            if not is_open.exists():
                raise KeyboardInterrupt("The multirun of this job has ended.")
            value = work(label)
        except KeyboardInterrupt as stop:
            write("interrupted", str(stop) or "interrupted")
            # Interrupted is a subclass of Exception too, so Hydra would take it for a failed job.
            raise KeyboardInterrupt(str(stop)) from stop
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            details = "" if isinstance(error, PneumoniaError) else traceback.format_exc()
            write("failed", reason, details=details)
            named = f" ({escape(label)})" if label else ""
            say(f"[bold red]Job {number}{named} failed.[/] {escape(reason)}")
            raise RunError(reason) from None
        write("done")
    return value


def _failures(records: Path, jobs: dict[int, str], lost: Exception | None) -> dict[int, tuple[str, str]]:
    """Return the reason and the traceback of each failed job, by number."""
    failures: dict[int, tuple[str, str]] = {}
    for number in jobs:
        record = JobRecord.read(records, number)
        if record.state == "done":
            continue
        if record.state in {"failed", "interrupted"}:
            failures[number] = record.reason, record.details
        elif record.state == "running":
            why = f" The launcher reports: {_one_line(lost)}." if lost is not None else ""
            failures[number] = (
                f"its process was killed, often because memory ran out.{why} The same command resumes it",
                "",
            )
        elif lost is not None:
            failures[number] = f"it did not start, because the launcher failed: {_one_line(lost)}", ""
        else:
            failures[number] = "it ended without recording its outcome", ""
    return failures


def _show(failures: dict[int, tuple[str, str]], jobs: dict[int, str]) -> None:
    if not failures:
        return
    say(f"[bold red]{len(failures)} of {len(jobs)} job{'s' if len(jobs) > 1 else ''} failed:[/]")
    for number, (reason, details) in failures.items():
        say(f"  {number}: {escape(jobs[number] or 'nothing is swept')}\n    {escape(reason)}")
        for line in details.splitlines():
            say(f"    {escape(line)}")


def _end_running(records: Path, jobs: dict[int, str]) -> list[str]:
    """End the jobs that still run here; say how many, and how to end those on other machines."""
    (records / OPEN).unlink(missing_ok=True)  # first: a job checks it after recording that it runs
    signalled: set[int] = set()
    since = time.monotonic()
    here = [number for number in jobs if JobRecord.read(records, number).is_beside]
    while running := [number for number in here if is_locked(records / f"{number}.lock")]:
        overdue = time.monotonic() - since > END_S
        for number in running:
            if overdue or number not in signalled:
                with suppress(ProcessLookupError):  # it has ended meanwhile
                    os.kill(JobRecord.read(records, number).pid, signal.SIGKILL if overdue else signal.SIGTERM)
                signalled.add(number)
        time.sleep(POLL_S)
    sentences = []
    if signalled:
        count = f"{len(signalled)} running job{'s were' if len(signalled) > 1 else ' was'}"
        sentences.append(f"{count} ended; the same command resumes them.")
    for number in jobs:
        record = JobRecord.read(records, number)
        if record.state == "running" and number not in here:
            place = f"{record.host} (process {record.pid}, job id {record.job_id})"
            sentences.append(f"Job {number} still runs on {place}: end it there or with your scheduler, for example scancel.")
    return sentences


def _wait_for_running(records: Path, jobs: dict[int, str]) -> None:
    """Wait for jobs whose launcher has failed; most launchers end their jobs within seconds."""
    announced, since = False, time.monotonic()
    while running := [number for number in jobs if is_locked(records / f"{number}.lock")]:
        if not announced and time.monotonic() - since > GRACE_S:
            say(f"The launcher failed; waiting for {len(running)} running jobs. Ctrl-C ends them.")
            announced = True
        time.sleep(POLL_S)


def _one_line(error: Exception | None) -> str:
    """Return the type and the first line of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}".rstrip(".") if lines else type(error).__name__
