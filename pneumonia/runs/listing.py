"""Find run folders, and read the files of the sweep around them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pneumonia.errors import RunError, some
from pneumonia.runs.folder import RunFolder
from pneumonia.system.records import parse_record

T = TypeVar("T")


def find_runs(places: Iterable[Path]) -> list[RunFolder]:
    """Return the run folders at or below some folders, each once.

    Raises:
        RunError: A folder is missing.
    """
    places = list(places)
    check_places(places)
    found: dict[Path, Path] = {}
    for place in places:
        for config in sorted(place.rglob("config.yaml")):
            if not {"wandb", "checkpoints"} & set(config.relative_to(place).parts):
                found.setdefault(config.parent.resolve(), config.parent)
    return [RunFolder(path) for path in found.values()]


def find_some_runs(places: Iterable[Path]) -> list[RunFolder]:
    """Return the run folders at or below some folders.

    Raises:
        RunError: A folder is missing, or there is no run.
    """
    places = list(places)
    folders = find_runs(places)
    if not folders:
        raise RunError(f"There is no run in {some(places)}: a run folder holds a config.yaml. `pneumonia train` makes one.")
    return folders


def check_places(places: Iterable[Path]) -> None:
    """Refuse folders of runs that do not exist.

    Raises:
        RunError: With the first of them.
    """
    for place in places:
        if not place.is_dir():
            what = f"{place} is a file" if place.exists() else f"There is no folder {place}"
            raise RunError(f"{what}. Name run folders, or folders of them such as runs/train.")


@dataclass(frozen=True)
class Failure:
    """Why a job of a sweep failed, as :mod:`pneumonia.sweep.state` records it."""

    state: str
    reason: str = ""


@dataclass(frozen=True)
class PlannedJob:
    """A job as ``sweep.json`` lists it: its key, and the overrides in which it differs from the others."""

    key: str
    differs: dict[str, str]

    @property
    def label(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.differs.items())


@dataclass(frozen=True)
class SweepPlan:
    """What is read of ``sweep.json``."""

    jobs: list[PlannedJob]
    question: str = ""


@dataclass(frozen=True)
class StartedJob:
    """What is read of ``jobs/<key>.json``; ``run`` is the name of the run folder, once known."""

    run: str | None = None


def read_sweep(folder: Path) -> SweepPlan | None:
    """Read the plan of a sweep from its folder; ``None`` where it is missing or damaged."""
    return _read(SweepPlan, folder / "sweep.json")


def read_job(folder: Path, job: PlannedJob) -> tuple[StartedJob | None, Failure | None]:
    """Read the start and the failure of a job from the folder of its sweep; ``None`` without one."""
    return _read(StartedJob, folder / "jobs" / f"{job.key}.json"), _read(Failure, folder / "jobs" / f"{job.key}.broken.json")


def sweep_jobs(folder: Path, plan: SweepPlan | None) -> Iterator[tuple[PlannedJob, StartedJob | None, Failure | None]]:
    """Yield the jobs of a sweep with their starts and failures; see :func:`read_job`."""
    for job in plan.jobs if plan else ():
        yield job, *read_job(folder, job)


def jobs_by_run(folder: Path) -> dict[str, tuple[PlannedJob, Failure | None]]:
    """Return the jobs of a sweep, and their failures, by the name of their run folder; empty where there is no sweep."""
    jobs = sweep_jobs(folder, read_sweep(folder))
    return {started.run: (job, failure) for job, started, failure in jobs if started and started.run}


def job_label(folder: RunFolder) -> str:
    """Return the overrides in which a run differs from the others of its sweep or multirun; empty outside of one."""
    job, _ = _job_of(folder)
    if job:
        return job.label
    try:
        return folder.label.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def job_failure(folder: RunFolder) -> str:
    """Return the state of a failed sweep job, as :mod:`pneumonia.sweep.state` records it; else an empty string."""
    _, failure = _job_of(folder)
    return failure.state if failure else ""


def _job_of(folder: RunFolder) -> tuple[PlannedJob | None, Failure | None]:
    """Return the job of a run in the sweep around it, and its failure."""
    sweep = folder.path.parent
    jobs = sweep_jobs(sweep, read_sweep(sweep))
    found = ((job, failure) for job, started, failure in jobs if started and started.run == folder.path.name)
    return next(found, (None, None))


def _read(kind: type[T], path: Path) -> T | None:
    try:
        return parse_record(kind, path.read_bytes())
    except (OSError, ValueError):
        return None
