"""Figures of predictions in plain numpy, and the table that holds predictions. Undefined is never 0."""

import math
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from pneumonia.metrics.calibration import LEAST_PROBABILITY
from pneumonia.tasks import Task

PREFIX: Final = "prob_"  # of the columns with probabilities, before the class
Floats = NDArray[np.float64]


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


def log_likelihood(probability: NDArray[np.floating], label: NDArray[np.int64]) -> Floats:
    """The logarithm of each image's probability of its true class, ``(N,)``; cross-entropy is minus its mean.

    Args:
        probability: ``(N, K)``; what is below :data:`LEAST_PROBABILITY` counts as that, as in every loss that is reported.
        label: ``(N,)`` class numbers.
    """
    likelihood: Floats = probability[np.arange(len(label)), label].astype(np.float64)
    return np.log(np.maximum(likelihood, LEAST_PROBABILITY))


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


def weighted_metrics(probability: Floats, label: NDArray[np.int64], weight: Floats, task: Task) -> dict[str, Floats]:
    """Every metric for each of R weightings of the images.

    Args:
        probability: ``(N, K)``.
        label: ``(N,)`` class numbers.
        weight: ``(R, N)``, for example how often each image was drawn.
        task: Decides which metrics there are.

    Returns:
        ``(R,)`` values of each metric; NaN where undefined.
    """
    images, classes = probability.shape
    loss = -log_likelihood(probability, label)
    cell = np.zeros((images, classes * classes))
    cell[np.arange(images), label * classes + probability.argmax(axis=1)] = 1
    confusion = (weight @ cell).reshape(-1, classes, classes)
    values = {"loss": weight @ loss / weight.sum(axis=1), **from_confusion(confusion, task)}
    wanted = range(1, 2) if classes == 2 else range(classes)  # of two classes, the one's area is the other's
    values["auroc"] = np.mean([weighted_auroc(probability[:, k], label == k, weight) for k in wanted], axis=0)
    return values


def weighted_auroc(score: Floats, positive: NDArray[np.bool_], weight: Floats) -> Floats:
    """Area under the ROC curve for each weighting ``(R, N)``: ``(R,)``; ties count half, NaN where a side is empty.

    Source: Hanley and McNeil (1982), The meaning and use of the area under a ROC curve.
    """
    group = (rankdata(score, method="dense") - 1).astype(np.int64)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    up = np.add.reduceat((weight * positive)[:, order], starts, axis=1)
    down = np.add.reduceat((weight * ~positive)[:, order], starts, axis=1)
    below = np.cumsum(down, axis=1) - down
    with np.errstate(invalid="ignore", divide="ignore"):
        area: Floats = (up * (below + down / 2)).sum(axis=1) / (up.sum(axis=1) * down.sum(axis=1))
    return area
