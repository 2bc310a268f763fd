"""Run a sweep: plan, dry run, jobs, table. Finished jobs are skipped; see :mod:`pneumonia.sweep.resume`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pneumonia.config.convert import identity
from pneumonia.errors import Interrupted, PneumoniaError, RunError
from pneumonia.runs.backup import backed_up
from pneumonia.sweep.launchers.checks import check_launcher
from pneumonia.sweep.plan import Job, Plan
from pneumonia.sweep.progress_table import ProgressTable
from pneumonia.sweep.resume import check_same_sweep, record_plan, unfinished_jobs
from pneumonia.sweep.state import FAILED, FINISHED, SweepState
from pneumonia.system.console import announce_loading, say
from pneumonia.system.files import digest
from pneumonia.system.signals import sigterm_as_interrupt
from pneumonia.training.loggers.wandb_account import without_run_id

if TYPE_CHECKING:
    from pneumonia.data.run_data_cache import RunDataCache
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
        record_plan(plan, state)
        table = ProgressTable(plan.jobs, state, state.jobs())
        table.print_plan(plan)
        if jobs := unfinished_jobs(plan, state):
            _run_jobs(jobs, plan, state, table)
        return 1 if any(status.state not in FINISHED for _, status in table.print_summary()) else 0


def print_status(folder: Path) -> None:
    """Print the progress of a sweep, while it runs or afterwards.

    Raises:
        RunError: The folder holds no sweep.
    """
    state = SweepState(folder)
    ProgressTable(state.jobs(), state).print_status()


def _run_jobs(jobs: list[Job], plan: Plan, state: SweepState, table: ProgressTable) -> None:
    announce_loading()
    from pneumonia.data.run_data_cache import RunDataCache  # imports torch
    from pneumonia.sweep.launchers.base import StopSweep, make_launcher

    cache, settings = RunDataCache(), plan.common.launcher
    launcher = make_launcher(settings, state, cache)
    _check_jobs(jobs)
    if settings.kind in {"local", "parallel"}:  # the others run elsewhere
        _load_images(jobs, cache)
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
    by_configuration = _grouped(jobs, _configuration)
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


def _check_jobs(jobs: list[Job]) -> None:
    """Check the settings that need the model family.

    Raises:
        PneumoniaError: The error of the first job, if no job is valid.
    """
    from pneumonia.training.prepare import checked_classifier

    _raise_if_all_fail(_grouped(jobs, _configuration), lambda job: checked_classifier(job.config))


def _load_images(jobs: list[Job], cache: "RunDataCache") -> None:
    """Decode the images of all jobs once, with progress on the terminal.

    Raises:
        PneumoniaError: The error of the first job, if no job's images can be read.
    """

    def load(job: Job) -> None:
        config = job.config
        cache.images(config.data, config.image_size, Path(config.cache_dir), config.task.build(), every_class=True)

    def what(job: Job) -> str:
        return digest([asdict(job.config.data), job.config.image_size, job.config.task.build().to_plain()])

    _raise_if_all_fail(_grouped(jobs, what), load)


def _raise_if_all_fail(groups: dict[str, list[Job]], check: Callable[[Job], object]) -> None:
    """Check the first job of each group; jobs that fail while others don't report their error when they run."""
    errors: list[PneumoniaError] = []
    for group in groups.values():
        try:
            check(group[0])
        except PneumoniaError as error:
            errors.append(error)
    if errors and len(errors) == len(groups):
        raise errors[0]


def _grouped(jobs: list[Job], key: Callable[[Job], str]) -> dict[str, list[Job]]:
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(key(job), []).append(job)
    return groups


def _configuration(job: Job) -> str:
    """Return a hash that is equal for jobs that differ only in seeds and fold."""
    config = replace(job.config, seed=0, split=replace(job.config.split, seed=0, fold=0))
    return digest([identity(config), asdict(config.data)])


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
