"""Run a sweep: plan, dry run, jobs, table. Finished jobs are skipped; see :mod:`pneumonia.sweep.resume`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pneumonia.errors import Interrupted, RunError
from pneumonia.runs.backup import backed_up
from pneumonia.sweep.launchers.checks import check_launcher
from pneumonia.sweep.plan import Job, Plan, grouped, job_key
from pneumonia.sweep.progress_table import ProgressTable
from pneumonia.sweep.resume import check_same_sweep, record_plan, unfinished_jobs
from pneumonia.sweep.state import FAILED, FINISHED, SweepState
from pneumonia.system.console import announce_loading, say
from pneumonia.system.signals import sigterm_as_interrupt
from pneumonia.training.loggers.wandb_account import without_run_id

if TYPE_CHECKING:
    from pneumonia.sweep.launchers.base import Launcher


def run_sweep(plan: Plan) -> int:
    """Run the unfinished jobs of a sweep.

    Returns:
        The exit code: 0 if every job is finished, 1 otherwise.

    Raises:
        RunError: The folder holds another sweep.
        Interrupted: Ctrl-C or SIGTERM.
    """
    check_launcher(plan.common.launcher)
    state = SweepState(plan.folder)
    check_same_sweep(plan, state)

    def check_backup(fetched: Path, place: str) -> None:
        check_same_sweep(plan, SweepState(fetched), f"The backup {place}")

    one_run_id_refused = without_run_id("a sweep") if len(plan.jobs) > 1 else nullcontext()
    backup = backed_up(state.folder, plan.common.backup, plan.common.name, check_backup)
    with interruptible(state.folder), backup, one_run_id_refused:
        ProgressTable(plan.jobs, state, results=False).print_plan(plan)
        jobs = unfinished_jobs(plan, state)
        launcher = _checked_launcher(jobs, plan, state) if jobs else None
        record_plan(plan, state)  # a refused sweep leaves no file
        table = ProgressTable(plan.jobs, state, state.jobs())
        if launcher is not None:
            _run_jobs(jobs, plan, state, table, launcher)
        return 1 if any(status.state not in FINISHED for _, status in table.print_summary()) else 0


def print_status(folder: Path) -> None:
    """Print the progress of a sweep, while it runs or afterwards.

    Raises:
        RunError: The folder holds no sweep.
    """
    state = SweepState(folder)
    ProgressTable(state.jobs(), state).print_status()


def _checked_launcher(jobs: list[Job], plan: Plan, state: SweepState) -> "Launcher":
    """Check all that needs torch or the images, and return the launcher of the jobs.

    Raises:
        PneumoniaError: The error of the first job, if no job is valid.
    """
    announce_loading()
    from pneumonia.data.run_data_cache import RunDataCache  # imports torch
    from pneumonia.sweep.check_jobs import check_jobs, load_images
    from pneumonia.sweep.launchers.base import make_launcher

    cache, settings = RunDataCache(), plan.common.launcher
    launcher = make_launcher(settings, state, cache)
    check_jobs(grouped(jobs, _configuration))
    if settings.kind in {"local", "parallel"}:  # the others run elsewhere
        load_images(jobs, cache)
    return launcher


def _run_jobs(jobs: list[Job], plan: Plan, state: SweepState, table: ProgressTable, launcher: "Launcher") -> None:
    from pneumonia.sweep.launchers.base import StopSweep  # imports torch

    for job in jobs:
        state.clear_failure(job)

    def on_end(job: Job) -> None:
        if table.print_end(job).state in FAILED and plan.common.fail_fast:
            raise StopSweep

    with table.live():
        try:
            if plan.common.dry_run:
                jobs = _dry_run(jobs, launcher, state, on_end)
            launcher.run(jobs, on_end)
        except StopSweep:
            say("Stopped at the first failure, because fail_fast=true.")


def _dry_run(jobs: list[Job], launcher: "Launcher", state: SweepState, on_end: Callable[[Job], object]) -> list[Job]:
    """Try two batches of each distinct configuration that has no finished epoch; return the jobs of those that work."""
    by_configuration = grouped(jobs, _configuration)
    failed: set[str] = set()

    def check(job: Job) -> None:
        status = state.status(job)
        if status.state not in FAILED:
            return
        for other in by_configuration[_configuration(job)]:
            failed.add(other.key)
            if other is not job:
                state.record_failure(other, "failed", f"as {job.label}: {status.reason}")
        on_end(job)

    new = [group[0] for group in by_configuration.values() if not state.status(group[0]).epochs]
    if new:
        say(f"Trying two batches of {len(new)} configuration{'s' if len(new) > 1 else ''}")
        launcher.run(new, check, dry_run=True)
    return [job for job in jobs if job.key not in failed]


def _configuration(job: Job) -> str:
    """Return a hash that is equal for jobs that differ only in seeds and fold."""
    return job_key(replace(job.config, seed=0, split=replace(job.config.split, seed=0, fold=0)))


@contextmanager
def interruptible(folder: Path) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into an ``Interrupted`` that counts the finished jobs."""
    try:
        with sigterm_as_interrupt():
            yield
    except KeyboardInterrupt as error:
        raise Interrupted(f"Interrupted. {_progress(folder)} Run the same command again to resume.") from error


def _progress(folder: Path) -> str:
    state = SweepState(folder)
    try:
        jobs = state.jobs()
    except RunError:
        return f"No job has started in {folder}."
    done = sum(state.status(job).state in FINISHED for job in jobs)
    return f"{done} of {len(jobs)} job{'s' if len(jobs) > 1 else ''} finished, kept in {folder}."
