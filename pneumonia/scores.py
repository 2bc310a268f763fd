"""Figures of predictions in plain numpy, and the table that holds predictions. Undefined is never 0."""

import math
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pneumonia.labels import Task

PREFIX: Final = "prob_"  # of the columns with probabilities, before the class


def from_confusion(confusion: NDArray[np.generic], task: Task) -> dict[str, NDArray[np.float64]]:
    """Metrics that follow from confusion matrices.

    Args:
        confusion: ``(..., K, K)`` counts, true class by predicted class.
        task: ``pneumonia`` is binary, with pneumonia being positive; the others give figures by class.

    Returns:
        ``accuracy``, ``f1_macro``, ``recall_macro``; for the binary task ``f1``, ``sensitivity`` = TP / (TP + FN),
        ``specificity`` = TN / (TN + FP), ``fpr`` = FP / (FP + TN) and ``fnr`` = FN / (FN + TP); for others
        ``recall_<class>`` and ``precision_<class>``. Each ``(...)``. NaN where undefined: the precision of a class that is
        never predicted; a mean over classes of which one has no image.
    """
    counts = confusion.astype(np.float64)
    hit = np.diagonal(counts, axis1=-2, axis2=-1)
    actual, predicted = counts.sum(axis=-1), counts.sum(axis=-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hit / actual
        precision = hit / predicted
        f1 = np.where(actual > 0, 2 * hit / (actual + predicted), np.nan)
        values = {
            "accuracy": hit.sum(axis=-1) / actual.sum(axis=-1),
            "f1_macro": f1.mean(axis=-1),
            "recall_macro": recall.mean(axis=-1),
        }
    if task.name == "pneumonia":
        specificity, sensitivity = recall[..., 0], recall[..., 1]
        values |= {"f1": f1[..., 1], "sensitivity": sensitivity, "specificity": specificity}
        return values | {"fpr": 1 - specificity, "fnr": 1 - sensitivity}
    for name, values_by_class in (("recall", recall), ("precision", precision)):
        values |= {by_class(name, label): values_by_class[..., k] for k, label in enumerate(task.classes)}
    return values


def by_class(name: str, label: str) -> str:
    """The key of a figure for one class: ``recall_virus``."""
    return f"{name}_{label.lower()}"


def confusion_counts(predicted: NDArray[np.int64], label: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Images by true class (rows) and predicted class (columns), ``(K, K)``, of class numbers ``(N,)``."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (label, predicted), 1)
    return counts


def nullable(values: dict[str, float]) -> dict[str, float | None]:
    """The same with ``None`` for what is undefined, for JSON."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def arrays(table: pd.DataFrame, classes: tuple[str, ...]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """``(N, K)`` probabilities and ``(N,)`` class numbers of a table of predictions."""
    probability = np.array(table[[f"{PREFIX}{name}" for name in classes]], dtype=np.float32)
    number = {name: index for index, name in enumerate(classes)}
    return probability, np.array(table["label"].map(number), dtype=np.int64)


def by_probability(probability: NDArray[np.floating], classes: tuple[str, ...]) -> NDArray[np.str_]:
    """The name of the likeliest class of each row ``(N, K)``; the first of equals."""
    named: NDArray[np.str_] = np.array(classes)[probability.argmax(axis=1)]
    return named
