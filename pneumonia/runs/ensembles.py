"""Several runs as one: whether they have a common answer, what it is, and how it is written down; without torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pneumonia.errors import RunError
from pneumonia.metrics.predictions import PROBABILITY_PREFIX, predicted_classes
from pneumonia.runs.folder import RunFolder
from pneumonia.system.files import digest
from pneumonia.tasks import Task

Member = tuple[RunFolder, dict[str, Any]]  # a run and its result


def check_members(members: Sequence[Member]) -> None:
    """Refuses runs whose answers have no mean.

    Raises:
        RunError: Fewer than two different runs, or unlike tasks or images.
    """
    ids = list(dict.fromkeys(result["run_id"] for _, result in members))
    if len(ids) < 2:
        have = f"{ids[0]} is one" if ids else "there is none"
        raise RunError(f"An ensemble needs two different finished runs or more, and {have}. Say ensemble=DIR,DIR.")
    first, known = members[0]
    for folder, result in members[1:]:
        for what, one, other in (
            ("task", known["task"], result["task"]),
            ("images and labels", known["data"]["manifest_sha256"][:12], result["data"]["manifest_sha256"][:12]),
        ):
            if one != other:
                raise RunError(
                    f"{first.path} and {folder.path} differ in {what} ({one}, {other}), so their answers have no mean. "
                    "Leave one out."
                )


def check_images(members: Sequence[tuple[Path, pd.DataFrame]], subset: str) -> None:
    """Refuses predictions of other images than the first member's.

    Raises:
        RunError: With the two runs.
    """
    first, known = members[0]
    for path, table in members[1:]:
        if list(table["image_id"]) != list(known["image_id"]):
            raise RunError(
                f"{first} and {path} have other images in their subset '{subset}', so their answers have no mean. Join runs "
                "of one split, or folds of one split=kfold on split=test."
            )


def mean_of(tables: Sequence[pd.DataFrame], task: Task) -> pd.DataFrame:
    """One row an image: the mean probabilities over the tables that hold it, in the order of their first appearance."""
    columns = [f"{PROBABILITY_PREFIX}{name}" for name in task.classes]
    rows = pd.concat(tables, ignore_index=True).astype(dict.fromkeys(columns, np.float64))
    grouped = rows.groupby("image_id", sort=False)
    mean = pd.concat([grouped[["patient_id", "label"]].first(), grouped[columns].mean()], axis=1).reset_index()
    mean.insert(3, "predicted", predicted_classes(mean[columns].to_numpy(), task.classes))
    return mean.astype(dict.fromkeys(columns, np.float32))


def ensemble_folder(members: Sequence[RunFolder]) -> Path:
    """Where the evaluation of several runs together lies: beside their sweeps, under a hash of their names."""
    names = sorted(folder.path.name for folder in members)
    return members[0].path.parent.parent / "ensembles" / digest(names)[:12]


def described(members: Sequence[Member]) -> dict[str, Any]:
    """What an ensemble is, for whoever finds its folder: ``ensemble.json``."""
    first = members[0][1]
    about = [
        {"run": str(folder.path), "run_id": result["run_id"], "seed": result["seed"]}
        | {"fold": result["config"]["split"]["fold"], "model": result["model"]["_target_"]}
        for folder, result in members
    ]
    return {"task": first["task"], "classes": first["classes"], "members": about, "data": first["data"]}
