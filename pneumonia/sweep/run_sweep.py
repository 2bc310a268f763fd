"""A sweep from its plan to its table: what is missing is tried, then done; what is done stays."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pneumonia.config.schema import identity
from pneumonia.errors import PneumoniaError, RunError
from pneumonia.runs.scheduled_backup import backed_up
from pneumonia.sweep.launchers.checks import check_launcher
from pneumonia.sweep.plan import Job, Plan
from pneumonia.sweep.progress_table import Board
from pneumonia.sweep.state import BROKEN, ENDED, Ledger
from pneumonia.system.console import announce_loading, say
from pneumonia.system.files import digest
from pneumonia.system.signals import sigterm_as_interrupt
from pneumonia.training.loggers.wandb_account import without_run_id

if TYPE_CHECKING:
    from pneumonia.data.run_data_cache import RunDataCache
    from pneumonia.sweep.launchers.local import Engine


class Interrupted(PneumoniaError, KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended the sweep; it can go on."""


def conduct(plan: Plan) -> int:
    """Does what is missing of a sweep.

    Returns:
        The exit code: 0 where every job is done, 1 where one is not.

    Raises:
        RunError: The folder holds another sweep.
        Interrupted: Ctrl-C or SIGTERM.
    """
    check_launcher(plan.common["launcher"])
    ledger = Ledger(plan.folder)
    ledger.check(plan)

    def belongs(fetched: Path, place: str) -> None:
        Ledger(fetched).check(plan, f"The backup {place}")

    own_ids = without_run_id("a sweep") if len(plan.jobs) > 1 else nullcontext()
    backup = backed_up(ledger.folder, plan.common["backup"], plan.common["name"], belongs)
    with interruptible(ledger.folder), backup, own_ids:
        return _conduct(plan, ledger)


def _conduct(plan: Plan, ledger: Ledger) -> int:
    ledger.adopt(plan)
    board = Board(plan.jobs, ledger, ledger.jobs())
    board.show_plan(plan)
    force = plan.common["force"]
    todo = [job for job in plan.jobs if force or ledger.standing(job).state not in ENDED]
    if todo:
        announce_loading()
        from pneumonia.data.run_data_cache import RunDataCache  # heavy: only where there is work
        from pneumonia.sweep.launchers.local import engine_of

        data_cache = RunDataCache()
        engine = engine_of(plan.common["launcher"], ledger, data_cache)
        prepare_run(todo, plan.common["launcher"]["kind"], data_cache)
        with board.live():
            _work(todo, plan.common, ledger, board, engine)
    return 1 if any(standing.state not in ENDED for _, standing in board.summary()) else 0


def show_status(folder: Path) -> None:
    """How far a sweep is, from any terminal, while it runs or afterwards.

    Raises:
        RunError: There is no sweep in the folder.
    """
    ledger = Ledger(folder)
    Board(ledger.jobs(), ledger).status()


def prepare_run(todo: list[Job], launcher: str, data_cache: "RunDataCache") -> None:
    """Refuses what no job can take, then reads the images of all jobs once, where a person sees how far it is.

    Raises:
        PneumoniaError: What the first job says, where none could run.
    """
    from pneumonia.training.prepare import check_settings, data_config

    _refuse_if_none(list(_by(_configuration, todo)), lambda job: check_settings(job.config))
    if launcher in {"local", "parallel"}:  # else the jobs run elsewhere
        sources = _by(lambda job: digest([job.config["data"], job.config["image_size"]]), todo)

        def read(job: Job) -> None:
            data_cache.images(data_config(job.config), job.config["image_size"], Path(job.config["cache_dir"]))

        _refuse_if_none(list(sources), read)


def _by(key: Callable[[Job], str], jobs: list[Job]) -> Iterator[Job]:
    """The first job of each kind."""
    first: dict[str, Job] = {}
    for job in jobs:
        first.setdefault(key(job), job)
    yield from first.values()


def _refuse_if_none(jobs: list[Job], attempt: Callable[[Job], None]) -> None:
    """Tries each job; what fails for some alone is told of them later, what fails for all ends the sweep now."""
    errors: list[PneumoniaError] = []
    for job in jobs:
        try:
            attempt(job)
        except PneumoniaError as error:
            errors.append(error)
    if errors and len(errors) == len(jobs):
        raise errors[0]


def _work(todo: list[Job], settings: dict[str, Any], ledger: Ledger, board: Board, engine: "Engine") -> None:
    from pneumonia.sweep.launchers.local import Stop

    alike: dict[str, list[Job]] = {}
    for job in todo:
        alike.setdefault(_configuration(job), []).append(job)
    for job in todo:
        ledger.begin(job)
    refused: set[str] = set()

    def ended(job: Job) -> None:
        if board.ended(job).state in BROKEN and settings["fail_fast"]:
            raise Stop

    def tried(job: Job) -> None:
        standing = ledger.standing(job)
        if standing.state in BROKEN:
            for other in alike[_configuration(job)]:
                refused.add(other.key)
                if other is not job:
                    ledger.broke(other, "failed", f"as {job.label}: {standing.reason}")
            ended(job)

    try:
        fresh = [jobs[0] for jobs in alike.values() if not ledger.standing(jobs[0]).epochs]
        if settings["rehearse"] and fresh:
            say(f"Trying two batches of {len(fresh)} configuration{'s' if len(fresh) > 1 else ''}")
            engine.rehearse(fresh, tried)
        engine.run([job for job in todo if job.key not in refused], ended)
    except Stop:
        say("Stopped at the first failure, as fail_fast=true says.")


def _configuration(job: Job) -> str:
    """Equal for jobs that differ in chance alone."""
    kept = copy.deepcopy(identity(job.config))
    del kept["seed"], kept["split"]["seed"], kept["split"]["fold"]
    return digest([kept, job.config["data"]])


@contextmanager
def interruptible(folder: Path) -> Iterator[None]:
    """Turns Ctrl-C and SIGTERM into one sentence."""
    try:
        with sigterm_as_interrupt():
            yield
    except KeyboardInterrupt as error:
        raise Interrupted(f"Stopped. {_counted(folder)} Run the same command again to go on.") from error


def _counted(folder: Path) -> str:
    """How much is done, as a sentence."""
    ledger = Ledger(folder)
    try:
        jobs = ledger.jobs()
    except RunError:
        return f"No job has begun in {folder}."
    done = sum(ledger.standing(job).state in ENDED for job in jobs)
    return f"{done} of {len(jobs)} job{'s' if len(jobs) > 1 else ''} done, kept in {folder}."
