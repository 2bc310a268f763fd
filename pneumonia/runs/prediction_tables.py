"""Tables of predictions as files: read, and refused where no figure could be trusted; without torch."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pneumonia.errors import RunError, some
from pneumonia.metrics.predictions import PROBABILITY_PREFIX
from pneumonia.tasks import Task

SLACK = 1e-3  # of a sum of float32 probabilities


def read_predictions(path: Path, task: Task, remedy: str) -> pd.DataFrame:
    """A table of predictions as it was written.

    Args:
        path: A Parquet file, one row an image: ``image_id``, ``patient_id``, ``label``, ``prob_<class>``.
        task: Gives the classes.
        remedy: What to do where it is no good, as a sentence.

    Raises:
        RunError: It can't be read, lacks columns, or holds labels, patients or probabilities that can't be.
    """
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        what = f"can't be read ({type(error).__name__})" if path.exists() else "is gone"
        raise RunError(f"{path} {what}. {remedy}") from error
    wrong = _wrong(table, task)
    if wrong:
        raise RunError(f"{path} {wrong}. {remedy}")
    return table


def _wrong(table: pd.DataFrame, task: Task) -> str:
    """What is wrong with a table, or nothing."""
    columns = [f"{PROBABILITY_PREFIX}{name}" for name in task.classes]
    missing = [name for name in ("image_id", "patient_id", "label", *columns) if name not in table]
    if missing:
        return f"lacks the columns {some(missing)}"
    for name in ("image_id", "patient_id", "label"):
        if table[name].isna().any():
            return f"has rows without {name}, {int(table[name].isna().sum())} of {len(table)}"
    strange = sorted({str(label) for label in table["label"]} - set(task.classes))
    if strange:
        return f"holds labels that are no class of task={task.name}: {some(strange)}"
    text = [name for name in columns if not pd.api.types.is_numeric_dtype(table[name])]
    if text:
        return f"holds no numbers in {some(text)}"
    return _impossible(table, columns)


def _impossible(table: pd.DataFrame, columns: list[str]) -> str:
    told: Any = table[columns].to_numpy(dtype=np.float64)
    undefined = ~np.isfinite(told).all(axis=1)
    outside = ((told < -SLACK) | (told > 1 + SLACK)).any(axis=1)
    sums = np.abs(told.sum(axis=1) - 1) > SLACK
    for rows, what in (
        (undefined, "undefined probabilities"),
        (outside, "probabilities outside 0 to 1"),
        (sums, "probabilities that do not sum to one"),
    ):
        if rows.any():
            return f"holds {what}, for example of image {table['image_id'][rows].iloc[0]}"
    return ""
