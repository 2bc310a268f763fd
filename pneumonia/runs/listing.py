"""Find run folders, and the sweep job of each."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pneumonia.errors import RunError
from pneumonia.runs.folder import RunFolder
from pneumonia.system.files import read_json


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


def check_places(places: Iterable[Path]) -> None:
    """Refuse folders of runs that do not exist.

    Raises:
        RunError: With the first of them.
    """
    for place in places:
        if not place.is_dir():
            what = f"{place} is a file" if place.exists() else f"There is no folder {place}"
            raise RunError(f"{what}. Name run folders, or folders of them such as runs/train.")


def job_label(folder: RunFolder) -> str:
    """Return the overrides in which a run differs from the other jobs of its sweep; empty outside of a sweep."""
    return " ".join(f"{key}={value}" for key, value in _job(folder).get("differs", {}).items())


def job_failure(folder: RunFolder) -> str:
    """Return the state of a failed sweep job, as :mod:`pneumonia.sweep.state` records it; else an empty string."""
    job = _job(folder)
    return str(read_json(folder.path.parent / "jobs" / f"{job['key']}.broken.json").get("state", "")) if job else ""


def _job(folder: RunFolder) -> dict[str, Any]:
    """Return the entry of a run in the ``sweep.json`` beside it; empty outside of a sweep."""
    jobs: list[dict[str, Any]] = read_json(folder.path.parent / "sweep.json").get("jobs", [])
    notes = folder.path.parent / "jobs"
    return next((job for job in jobs if read_json(notes / f"{job['key']}.json").get("run") == folder.path.name), {})
