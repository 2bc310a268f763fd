"""Join several runs into an ensemble: check that they fit together, average their predictions, describe them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pneumonia.errors import RunError
from pneumonia.metrics.predictions import PROBABILITY_PREFIX, predicted_classes
from pneumonia.runs.folder import RunFolder
from pneumonia.runs.load import FinishedRun
from pneumonia.system.files import digest, write_json
from pneumonia.system.records import parse_record
from pneumonia.tasks import Task


@dataclass(frozen=True)
class Member:
    """A run of an ensemble, as ``ensemble.json`` lists it: its folder, id, seed, fold and the class of its model."""

    run: str
    run_id: str
    seed: int
    fold: int
    model: str


@dataclass(frozen=True)
class Ensemble:
    """What is read of ``ensemble.json``."""

    members: list[Member]


def check_members(members: Sequence[FinishedRun]) -> None:
    """Refuse runs whose predictions cannot be averaged.

    Raises:
        RunError: Fewer than two different runs, or different tasks or images.
    """
    ids = list(dict.fromkeys(run.result.run_id for run in members))
    if len(ids) < 2:
        have = f"{ids[0]} is one" if ids else "there is none"
        raise RunError(f"An ensemble needs two different finished runs or more, and {have}. Use RUN RUN --ensemble.")
    first = members[0]
    for run in members[1:]:
        for what, one, other in (
            ("task", first.task.name, run.task.name),
            ("images and labels", first.result.data.manifest_sha256[:12], run.result.data.manifest_sha256[:12]),
        ):
            if one != other:
                raise RunError(
                    f"{first.folder.path} and {run.folder.path} differ in {what} ({one}, {other}), so their predictions cannot "
                    "be averaged. Leave one out."
                )


def check_images(members: Sequence[tuple[Path, pd.DataFrame]], subset: str) -> None:
    """Refuse predictions of other images than the first member's.

    Raises:
        RunError: With the two runs.
    """
    first, known = members[0]
    for path, table in members[1:]:
        if list(table["image_id"]) != list(known["image_id"]):
            raise RunError(
                f"{first} and {path} have different images in split={subset}, so their predictions cannot be averaged. Join "
                "runs of one split, or folds of one split=kfold with --split test."
            )


def mean_predictions(tables: Sequence[pd.DataFrame], task: Task) -> pd.DataFrame:
    """Average probabilities over the tables that hold an image; one row per image, in the order of first appearance."""
    columns = [f"{PROBABILITY_PREFIX}{name}" for name in task.classes]
    rows = pd.concat(tables, ignore_index=True).astype(dict.fromkeys(columns, np.float64))
    grouped = rows.groupby("image_id", sort=False)
    mean = pd.concat([grouped[["patient_id", "label"]].first(), grouped[columns].mean()], axis=1).reset_index()
    mean.insert(3, "predicted", predicted_classes(mean[columns].to_numpy(), task.classes))
    return mean.astype(dict.fromkeys(columns, np.float32))


def ensemble_folder(members: Sequence[RunFolder]) -> Path:
    """Return the folder of an ensemble's evaluation: ``<runs_dir>/ensembles/<hash of the members>``."""
    names = sorted(folder.path.name for folder in members)
    return members[0].path.parent.parent / "ensembles" / digest(names)[:12]


def write_ensemble(folder: RunFolder, runs: Sequence[FinishedRun]) -> None:
    """Write ``ensemble.json``, which describes the members and their data."""
    task, data = runs[0].task, runs[0].result.data
    members = [
        Member(str(run.folder.path), run.result.run_id, run.result.seed, run.config.split.fold, run.config.model._target_)
        for run in runs
    ]
    about = {"task": task.name, "classes": list(task.classes), "members": [asdict(one) for one in members]}
    write_json(folder.path / "ensemble.json", about | {"data": data.to_json()})


def read_members(path: Path) -> list[Member]:
    """Read the members from ``ensemble.json``; none if it is missing or damaged."""
    try:
        return parse_record(Ensemble, path.read_bytes()).members
    except (OSError, ValueError):
        return []
