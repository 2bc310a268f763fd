"""Intervals that respect patients: several images of one child are one observation, not several."""

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from pneumonia.labels import Task
from pneumonia.metrics import from_confusion

RESAMPLES: Final = 2000
CALIBRATION_BINS: Final = 15
Floats = NDArray[np.float64]


def bootstrap_intervals(
    probability: Floats, label: NDArray[np.int64], patient: NDArray[np.object_], task: Task, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95% percentile intervals by resampling patients with replacement (the cluster bootstrap).

    Args:
        probability: ``(N, K)``.
        label: ``(N,)`` class numbers.
        patient: ``(N,)`` patient of each image.
        task: Decides which metrics there are.
        seed: Of the resampling.

    Returns:
        Lower and upper bound for each metric; NaN where it is undefined in more than one resample in twenty.

    Source: Field and Welsh (2007), Bootstrapping clustered data; Efron (1979).
    """
    codes, patients = pd.factorize(pd.Series(patient))
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(patients), np.full(len(patients), 1 / len(patients)), size=RESAMPLES)
    weight = drawn[:, codes].astype(np.float64)
    intervals = {}
    for name, values in weighted_metrics(probability, label, weight, task).items():
        known = values[np.isfinite(values)]
        if len(known) < 0.95 * len(values):
            intervals[name] = (float("nan"), float("nan"))
        else:
            low, high = np.quantile(known, [0.025, 0.975])
            intervals[name] = (float(low), float(high))
    return intervals


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
    loss = -np.log(np.maximum(probability[np.arange(images), label], np.finfo(np.float32).tiny))
    cell = np.zeros((images, classes * classes))
    cell[np.arange(images), label * classes + probability.argmax(axis=1)] = 1
    confusion = (weight @ cell).reshape(-1, classes, classes)
    values = {"loss": weight @ loss / weight.sum(axis=1), **from_confusion(confusion, task)}
    areas = [_auroc(probability[:, k], label == k, weight) for k in range(classes)]
    values["auroc"] = np.mean(areas, axis=0)
    return values


def calibration(probability: Floats, label: NDArray[np.int64]) -> dict[str, float]:
    """How far stated probabilities can be believed.

    Returns:
        ``ece``: expected calibration error over ``bins`` equal-width bins of the highest probability (Guo et al., 2017);
        ``brier``: mean over images of the squared distance between probabilities and the true class (Brier, 1950).
    """
    confidence, correct = probability.max(axis=1), probability.argmax(axis=1) == label
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=confidence - correct, minlength=CALIBRATION_BINS)
    truth = np.eye(probability.shape[1])[label]
    return {
        "ece": float(np.abs(gaps).sum() / len(label)),
        "bins": CALIBRATION_BINS,
        "brier": float(((probability - truth) ** 2).sum(axis=1).mean()),
    }


def _auroc(score: Floats, positive: NDArray[np.bool_], weight: Floats) -> Floats:
    """Area under the ROC curve, one class against the rest, for each weighting: ``(R,)``; ties count half."""
    group = (rankdata(score, method="dense") - 1).astype(np.int64)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    up = np.add.reduceat((weight * positive)[:, order], starts, axis=1)
    down = np.add.reduceat((weight * ~positive)[:, order], starts, axis=1)
    below = np.cumsum(down, axis=1) - down
    with np.errstate(invalid="ignore", divide="ignore"):
        area: Floats = (up * (below + down / 2)).sum(axis=1) / (up.sum(axis=1) * down.sum(axis=1))
    return area
