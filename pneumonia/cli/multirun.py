"""Hydra's multirun, whatever launcher runs its jobs: every failure is shown, and no job is lost without a word.

A job may run in another process or on another machine, so each notes its process and its outcome in a file of the sweep's
folder. The lock on that file tells a job that runs from one whose process was killed. Whatever ends the multirun ends its jobs.
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
from pathlib import Path
from typing import Any, Final

from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from rich.markup import escape

from pneumonia.errors import ConfigError, PneumoniaError, RunError
from pneumonia.system.console import say
from pneumonia.system.files import is_locked, read_json, translated_os_errors, write_json
from pneumonia.system.signals import sigterm_as_interrupt
from pneumonia.training.loggers.wandb_account import without_run_id

LOOK_S: Final = 0.5
GRACE_S: Final = 5.0  # after a launcher has given up, for the jobs that it takes with it
END_S: Final = 30.0  # between SIGTERM and SIGKILL
BASIC: Final = "BasicSweeper"
OPEN: Final = "open"  # a file beside the notes; without it the multirun has ended, and no further job begins


class Multirun:
    """The jobs of one call of ``pneumonia train -m``, seen from the process that was called.

    Attributes:
        token: Names the folder of their notes inside ``hydra.sweep.dir``.
        failed: How many jobs did not end well.
    """

    def __init__(self) -> None:
        self.token = f".multirun-{secrets.token_hex(4)}"
        self.failed = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Let every launcher that Hydra makes in the block report to this object."""
        plain = Plugins.instantiate_launcher
        environment = ExitStack()

        def instantiate(
            plugins: Plugins, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
        ) -> Launcher:
            environment.enter_context(without_run_id("a multirun"))
            inner = plain(plugins, hydra_context, task_function, config)
            return _Watched(self, inner, hydra_context, config)

        Plugins.instantiate_launcher = instantiate  # type: ignore[method-assign, assignment]
        try:
            with environment:
                yield
        finally:
            Plugins.instantiate_launcher = plain  # type: ignore[method-assign]


class _Watched(Launcher):
    """A launcher that shows which of its jobs failed.

    It wraps the user's launcher, which is pickled and sent to its jobs, instead of changing it.
    """

    def __init__(self, multirun: Multirun, inner: Launcher, context: HydraContext, config: DictConfig) -> None:
        self.multirun = multirun
        self.inner = inner
        self.context = context
        self.config = config

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Nothing: the inner launcher was set up when it was made."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and show the failures.

        Returns:
            Those of all jobs; for Hydra's own sweeper, which ends at the first failed one, those of the others.

        Raises:
            ConfigError: There is no job.
            RunError: The launcher lost jobs, and the sweeper needs them.
            KeyboardInterrupt: Ctrl-C or SIGTERM; no job of this machine runs any more.
        """
        if not job_overrides:
            raise ConfigError(f"{self._empty()} has no value, so there is no job to run. Name at least one value.")
        notes = Path(str(self.config.hydra.sweep.dir)) / self.multirun.token
        jobs = {
            number: " ".join(filter_overrides(overrides))
            for number, overrides in enumerate(job_overrides, initial_job_idx)
        }
        basic = str(self.config.hydra.sweeper.get("_target_", "")).endswith(BASIC)
        returns: Sequence[JobReturn] = []
        lost: Exception | None = None
        with translated_os_errors(notes):
            notes.mkdir(parents=True, exist_ok=True)
            (notes / OPEN).touch()
        try:
            with sigterm_as_interrupt():
                try:
                    returns = self.inner.launch(job_overrides, initial_job_idx=initial_job_idx)
                except PneumoniaError:
                    raise
                except Exception as error:  # any launcher's own error for a killed process
                    lost = error
                    _wait_for_running(notes, jobs)
        except KeyboardInterrupt as stop:
            ended = _end_running(notes, jobs)
            raise KeyboardInterrupt(" ".join([str(stop) or "Stopped.", *ended])) from stop
        finally:
            failures = _failures(notes, jobs, lost)
            shutil.rmtree(notes, ignore_errors=True)
        _show(failures, jobs)
        self.multirun.failed += len(failures)
        if lost is not None and not (basic and failures):
            raise RunError(f"The launcher gave up: {_one_line(lost)}.") from lost
        return [one for one in returns if one.status == JobStatus.COMPLETED] if basic else returns

    def _empty(self) -> str:
        """The override without a value."""
        parser = OverridesParser.create(config_loader=self.context.config_loader)
        overrides = [str(one) for one in self.config.hydra.overrides.task]
        overrides += [f"{key}={value}" for key, value in (self.config.hydra.sweeper.get("params") or {}).items()]
        for override in parser.parse_overrides(overrides):
            if override.is_discrete_sweep() and not list(override.sweep_string_iterator()):
                return str(override.input_line)
        return "The sweep"


def noted(work: Callable[[], float | None], token: str) -> float | None:
    """Do a job of a multirun and note how it ended.

    Args:
        work: The job.
        token: See :class:`Multirun`.

    Returns:
        What the job returned.

    Raises:
        RunError: The job failed; plain, so that it survives the way back from another process.
        KeyboardInterrupt: Ctrl-C or SIGTERM, which ends the whole multirun, or has ended it already.
    """
    config: Any = HydraConfig.get()
    number = int(config.job.num)
    path = Path(str(config.sweep.dir)) / token / f"{number}.json"
    is_open = path.with_name(OPEN)
    if not is_open.exists():
        raise KeyboardInterrupt("The multirun of this job has ended.")
    about: dict[str, str | int] = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "job_id": str(OmegaConf.select(config, "job.id")),
    }
    # submitit ignores SIGTERM, so that a preempted job of SLURM lives until it is queued again; no one else preempts.
    preempted = os.environ.get("SUBMITIT_EXECUTOR") == "slurm"

    def note(state: str, **more: str | int) -> None:
        if is_open.exists():
            write_json(path, {"state": state, **more})

    with FileLock(path.with_suffix(".lock")), nullcontext() if preempted else sigterm_as_interrupt(replace=True):
        try:
            note("running", **about)
            if not is_open.exists():
                raise KeyboardInterrupt("The multirun of this job has ended.")
            value = work()
        except KeyboardInterrupt as stop:
            note("interrupted", reason=str(stop) or "interrupted")
            raise KeyboardInterrupt(
                str(stop)
            ) from stop  # nothing else: Hydra takes what is an Exception for a failed job
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            details = "" if isinstance(error, PneumoniaError) else traceback.format_exc()
            note("failed", reason=reason, details=details)
            say(f"[bold red]Job {number} failed.[/] {escape(reason)}")
            raise RunError(reason) from None
        note("done")
    return value


def _failures(notes: Path, jobs: dict[int, str], lost: Exception | None) -> dict[int, tuple[str, str]]:
    """Reason and traceback of each job that did not end well, by number."""
    failures: dict[int, tuple[str, str]] = {}
    for number in jobs:
        note = read_json(notes / f"{number}.json")
        state = note.get("state")
        if state == "done":
            continue
        if state in {"failed", "interrupted"}:
            failures[number] = str(note["reason"]), str(note.get("details", ""))
        elif state == "running":
            why = f" The launcher says: {_one_line(lost)}." if lost is not None else ""
            failures[number] = (
                f"its process was killed; often this means that memory ran out.{why} The same command resumes it",
                "",
            )
        elif lost is not None:
            failures[number] = f"it did not start, because the launcher gave up: {_one_line(lost)}", ""
        else:
            failures[number] = "it ended without a note of its outcome", ""
    return failures


def _show(failures: dict[int, tuple[str, str]], jobs: dict[int, str]) -> None:
    if not failures:
        return
    say(f"[bold red]{len(failures)} of {len(jobs)} job{'s' if len(jobs) > 1 else ''} failed:[/]")
    for number, (reason, details) in failures.items():
        say(f"  {number}: {escape(jobs[number] or 'no overrides')}\n    {escape(reason)}")
        for line in details.splitlines():
            say(f"    {escape(line)}")


def _end_running(notes: Path, jobs: dict[int, str]) -> list[str]:
    """End the jobs that run on in other processes.

    Returns:
        How many were ended, and how to end those of other machines, as sentences.
    """
    (notes / OPEN).unlink(missing_ok=True)  # first: a job looks for it once its note says that it runs
    signalled: set[int] = set()
    since = time.monotonic()
    here = [number for number in jobs if _is_here(read_json(notes / f"{number}.json"))]
    while running := [number for number in here if is_locked(notes / f"{number}.lock")]:
        late = time.monotonic() - since > END_S
        for number in running:
            if late or number not in signalled:
                with suppress(ProcessLookupError):  # it has ended since
                    os.kill(int(read_json(notes / f"{number}.json")["pid"]), signal.SIGKILL if late else signal.SIGTERM)
                signalled.add(number)
        time.sleep(LOOK_S)
    sentences = []
    if signalled:
        count = f"{len(signalled)} running job{'s were' if len(signalled) > 1 else ' was'}"
        sentences.append(f"{count} ended; the same command resumes what was not finished.")
    for number in jobs:
        note = read_json(notes / f"{number}.json")
        if note.get("state") == "running" and number not in here:
            sentences.append(
                f"Job {number} still runs on {note['host']} as process {note['pid']}, job id {note['job_id']}: end it there, "
                "or with the command of your scheduler, such as scancel."
            )
    return sentences


def _is_here(note: dict[str, Any]) -> bool:
    """Whether a job runs in another process of this machine."""
    return (
        note.get("state") == "running" and note.get("host") == socket.gethostname() and note.get("pid") != os.getpid()
    )


def _wait_for_running(notes: Path, jobs: dict[int, str]) -> None:
    """Wait for jobs that their launcher no longer watches; those that it ends itself are gone in seconds."""
    said, since = False, time.monotonic()
    while running := [number for number in jobs if is_locked(notes / f"{number}.lock")]:
        if not said and time.monotonic() - since > GRACE_S:
            say(f"A job was lost; waiting for {len(running)} that still run. Ctrl-C ends them.")
            said = True
        time.sleep(LOOK_S)


def _one_line(error: Exception | None) -> str:
    """The last line of an error that says something, without its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}".rstrip(".") if lines else type(error).__name__
