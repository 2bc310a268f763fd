"""A sweep from its plan to its table: what is missing is tried, then done; what is done stays."""

import copy
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from pneumonia.config import identity
from pneumonia.console import announce_loading, say
from pneumonia.errors import PneumoniaError
from pneumonia.storage.local import digest
from pneumonia.sweep.board import Board
from pneumonia.sweep.ledger import BROKEN, Ledger
from pneumonia.sweep.plan import Job, Plan


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
    ledger = Ledger(plan.folder)
    ledger.adopt(plan)
    board = Board(plan.jobs, ledger)
    board.show_plan(plan)
    force = plan.common["force"]
    todo = [job for job in plan.jobs if force or ledger.standing(job).state != "done"]
    if todo:
        announce_loading()
        with interruptible(ledger.folder), board.live():
            _work(todo, plan.common, ledger, board)
    return 1 if any(standing.state != "done" for _, standing in board.summary()) else 0


def show_status(folder: Path) -> None:
    """How far a sweep is, from any terminal, while it runs or afterwards.

    Raises:
        RunError: There is no sweep in the folder.
    """
    ledger = Ledger(folder)
    Board(ledger.jobs(), ledger).status()


def _work(todo: list[Job], settings: dict[str, Any], ledger: Ledger, board: Board) -> None:
    from pneumonia.sweep.engines import Stop, engine_of  # heavy: only where there is work

    alike: dict[str, list[Job]] = {}
    for job in todo:
        alike.setdefault(_configuration(job), []).append(job)
    _refuse_if_none_can_run([jobs[0] for jobs in alike.values()])
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

    engine = engine_of(settings["launcher"], ledger)
    try:
        fresh = [jobs[0] for jobs in alike.values() if not ledger.standing(jobs[0]).epochs]
        if settings["rehearse"] and fresh:
            say(f"Trying two batches of {len(fresh)} configuration{'s' if len(fresh) > 1 else ''}")
            engine.rehearse(fresh, tried)
        engine.run([job for job in todo if job.key not in refused], ended)
    except Stop:
        say("Stopped at the first failure, as fail_fast=true says.")


def _refuse_if_none_can_run(jobs: list[Job]) -> None:
    """Ends the sweep before any job, where a setting is refused by all of them; if by some, their rehearsal will tell.

    Raises:
        PneumoniaError: What the first job says.
    """
    from pneumonia.train import check_settings

    first: PneumoniaError | None = None
    for job in jobs:
        try:
            check_settings(job.config)
        except PneumoniaError as error:
            first = first or error
        else:
            return
    if first is not None:
        raise first


def _configuration(job: Job) -> str:
    """Equal for jobs that differ in chance alone."""
    kept = copy.deepcopy(identity(job.config))
    del kept["seed"], kept["split"]["seed"], kept["split"]["fold"]
    return digest([kept, job.config["data"]])


@contextmanager
def interruptible(folder: Path) -> Iterator[None]:
    """Turns Ctrl-C and SIGTERM into one sentence."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(f"Stopped; what is done is kept in {folder}. Run the same command again to go on.") from error
    finally:
        signal.signal(signal.SIGTERM, before)
