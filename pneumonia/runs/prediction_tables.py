"""Read tables of predictions and refuse damaged ones; imports no torch."""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pneumonia.errors import RunError, some
from pneumonia.metrics.predictions import PROBABILITY_PREFIX
from pneumonia.tasks import Task

TOLERANCE: Final = 1e-3  # of a sum of float32 probabilities


def read_predictions(path: Path, task: Task, remedy: str) -> pd.DataFrame:
    """Read a table of predictions.

    Args:
        path: A Parquet file, one row per image: ``image_id``, ``patient_id``, ``label``, ``prob_<class>``.
        task: Gives the classes.
        remedy: What to do if it is unusable, as a sentence.

    Raises:
        RunError: It can't be read, lacks columns, or holds impossible labels, patients or probabilities.
    """
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        what = f"can't be read ({type(error).__name__})" if path.exists() else "is gone"
        raise RunError(f"{path} {what}. {remedy}") from error
    if wrong := _problem(table, task):
        raise RunError(f"{path} {wrong}. {remedy}")
    return table


def _problem(table: pd.DataFrame, task: Task) -> str:
    """Return what is wrong with a table; empty if nothing is."""
    columns = [f"{PROBABILITY_PREFIX}{name}" for name in task.classes]
    missing = [name for name in ("image_id", "patient_id", "label", *columns) if name not in table]
    if missing:
        return f"lacks the columns {some(missing)}"
    for name in ("image_id", "patient_id", "label"):
        if table[name].isna().any():
            return f"has rows without {name}, {int(table[name].isna().sum())} of {len(table)}"
    unknown = sorted({str(label) for label in table["label"]} - set(task.classes))
    if unknown:
        return f"holds labels that are no class of task={task.name}: {some(unknown)}"
    text = [name for name in columns if not pd.api.types.is_numeric_dtype(table[name])]
    if text:
        return f"holds no numbers in {some(text)}"
    probability: NDArray[np.float64] = table[columns].to_numpy(dtype=np.float64)
    undefined = ~np.isfinite(probability).all(axis=1)
    outside = ((probability < -TOLERANCE) | (probability > 1 + TOLERANCE)).any(axis=1)
    sums = np.abs(probability.sum(axis=1) - 1) > TOLERANCE
    for rows, what in (
        (undefined, "undefined probabilities"),
        (outside, "probabilities outside 0 to 1"),
        (sums, "probabilities that do not sum to one"),
    ):
        if rows.any():
            return f"holds {what}, for example of image {table['image_id'].to_numpy()[rows][0]}"
    return ""
