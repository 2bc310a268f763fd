"""Join several runs into an ensemble: check that they fit together, average their predictions, describe them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pneumonia.errors import RunError
from pneumonia.metrics.predictions import PROBABILITY_PREFIX, predicted_classes
from pneumonia.runs.folder import RunFolder
from pneumonia.runs.load import FinishedRun
from pneumonia.system.files import digest
from pneumonia.tasks import Task


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


def describe_ensemble(members: Sequence[FinishedRun]) -> dict[str, Any]:
    """Return the content of ``ensemble.json``."""
    first = members[0]
    rows = [
        {
            "run": str(run.folder.path),
            "run_id": run.result.run_id,
            "seed": run.result.seed,
            "fold": run.config.split.fold,
            "model": run.config.model._target_,
        }
        for run in members
    ]
    return {
        "task": first.task.name,
        "classes": list(first.task.classes),
        "members": rows,
        "data": first.result.data.to_json(),
    }
