"""Define and compute the classification metrics.

To add a metric, add it to one of the tables below; a metric of probabilities also needs :func:`weighted_metrics` and
:mod:`pneumonia.metrics.epoch_metrics`. Training, evaluation, intervals, tests and reports read the tables. Undefined values
are NaN, never 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from pneumonia.metrics.calibration import MIN_PROBABILITY
from pneumonia.system.arrays import Bools, Floats, Ints
from pneumonia.tasks import Task

Images = Literal["all", "label", "predicted"]


class ClassRates:
    """Rates of each class, of shape ``(..., K)``.

    Args:
        confusion: ``(..., K, K)`` counts, true class by predicted class.
    """

    def __init__(self, confusion: NDArray[np.generic]) -> None:
        counts = confusion.astype(np.float64)
        self.correct = np.diagonal(counts, axis1=-2, axis2=-1)
        self.actual, self.predicted = counts.sum(axis=-1), counts.sum(axis=-2)
        self.recall = self.correct / self.actual
        self.precision = self.correct / self.predicted
        self.f1 = np.where(self.actual > 0, 2 * self.correct / (self.actual + self.predicted), np.nan)


@dataclass(frozen=True)
class Metric:
    """A metric, and what intervals, tests and reports need to know about it.

    Attributes:
        label: Name in tables and plots.
        compute: Its values ``(...)`` from rates ``(..., K)``; ``None`` for a metric of probabilities, which
            :func:`weighted_metrics` computes.
        images: Images of which a proportion is taken, for its interval at 0 and 1: all, those of a class, or those predicted
            as a class. ``None`` for a metric that is no proportion.
        lower_is_better: Whether smaller values are better.
    """

    label: str
    compute: Callable[[ClassRates], Floats] | None = None
    images: tuple[Images, int] | None = None
    lower_is_better: bool = False


ALL_TASKS: Final = {
    "loss": Metric("cross-entropy", lower_is_better=True),
    "accuracy": Metric("accuracy", lambda of: of.correct.sum(axis=-1) / of.actual.sum(axis=-1), ("all", 0)),
    "f1_macro": Metric("macro F1", lambda of: of.f1.mean(axis=-1)),
    "recall_macro": Metric("macro recall", lambda of: of.recall.mean(axis=-1)),
}


def _binary(positive: int) -> dict[str, Metric]:
    """Return the metrics of two classes, of which one is positive."""
    negative = 1 - positive
    return {
        "f1": Metric("F1", lambda of: of.f1[..., positive]),
        "sensitivity": Metric("sensitivity", lambda of: of.recall[..., positive], ("label", positive)),
        "specificity": Metric("specificity", lambda of: of.recall[..., negative], ("label", negative)),
        "fpr": Metric("FPR", lambda of: 1 - of.recall[..., negative], ("label", negative), lower_is_better=True),
        "fnr": Metric("FNR", lambda of: 1 - of.recall[..., positive], ("label", positive), lower_is_better=True),
    }


BINARY: Final = (_binary(0), _binary(1))  # by the index of the positive class
BY_CLASS: Final[dict[str, Images]] = {"recall": "label", "precision": "predicted"}  # tasks of three classes and more
RANKING: Final = {"auroc": Metric("AUROC")}
AT_THRESHOLD: Final = {"ppv": Metric("PPV"), "npv": Metric("NPV")}  # see pneumonia.metrics.thresholds
NAMED: Final = ALL_TASKS | BINARY[1] | RANKING | AT_THRESHOLD


def metrics_of(task: Task) -> dict[str, Metric]:
    """Return every metric of a task by its key, in the order of result files."""
    if len(task.classes) == 2:
        return ALL_TASKS | BINARY[task.classes.index(task.positive[0])] | RANKING
    by_class: dict[str, Metric] = {}
    for rate, images in BY_CLASS.items():
        for k, name in enumerate(task.classes):
            by_class[class_metric(rate, name)] = Metric(f"{rate} of {name}", partial(_class_rate, rate, k), (images, k))
    return ALL_TASKS | by_class | RANKING


def _class_rate(name: str, k: int, rates: ClassRates) -> Floats:
    values: Floats = getattr(rates, name)[..., k]
    return values


def class_metric(name: str, label: str) -> str:
    """Return the key of a metric of one class, for example ``recall_virus``."""
    return f"{name}_{label.lower()}"


def lower_is_better(metric: str) -> bool:
    """Return whether smaller values of a metric are better."""
    return metric in NAMED and NAMED[metric].lower_is_better


def metric_label(metric: str) -> str:
    """Return the name of a metric in tables and plots: ``macro F1``, ``recall of VIRUS``."""
    if metric in NAMED:
        return NAMED[metric].label
    name, separator, label = metric.partition("_")
    return f"{name} of {label.upper()}" if separator else metric


def metrics_from_confusion(confusion: NDArray[np.generic], task: Task) -> dict[str, Floats]:
    """Compute the metrics that follow from confusion matrices.

    Args:
        confusion: ``(..., K, K)`` counts, true class by predicted class.
        task: Selects the metrics; see :func:`metrics_of`.

    Returns:
        Values ``(...)`` of each metric. NaN where undefined: the precision of a class that is never predicted; a mean over
        classes of which one has no image.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = ClassRates(confusion)
        return {name: of.compute(rates) for name, of in metrics_of(task).items() if of.compute}


def confusion_matrix(predicted: Ints, label: Ints, classes: int) -> Ints:
    """Count images by true class (rows) and predicted class (columns), ``(K, K)``, of class indices ``(N,)``."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (label, predicted), 1)
    return counts


def log_likelihood(probability: NDArray[np.floating], label: Ints) -> Floats:
    """Return the log probability of each image's true class, ``(N,)``; cross-entropy is minus its mean.

    Args:
        probability: ``(N, K)``; values below :data:`MIN_PROBABILITY` count as that, as in every reported loss.
        label: ``(N,)`` class indices.
    """
    likelihood: Floats = probability[np.arange(len(label)), label].astype(np.float64)
    return np.log(np.maximum(likelihood, MIN_PROBABILITY))


def defined(value: float) -> float | None:
    """Return a value, or ``None`` if it is undefined, for JSON."""
    return float(value) if math.isfinite(value) else None


def nan_to_none(values: dict[str, float]) -> dict[str, float | None]:
    """Replace undefined values by ``None``, for JSON."""
    return {name: defined(value) for name, value in values.items()}


def weighted_metrics(probability: Floats, label: Ints, weight: Floats, task: Task) -> dict[str, Floats]:
    """Compute every metric for each of R weightings of the images.

    Args:
        probability: ``(N, K)``.
        label: ``(N,)`` class indices.
        weight: ``(R, N)``, for example how often each image is drawn in a bootstrap resample.
        task: Selects the metrics.

    Returns:
        ``(R,)`` values of each metric; NaN where undefined.
    """
    images, classes = probability.shape
    cell = np.zeros((images, classes * classes))
    cell[np.arange(images), label * classes + probability.argmax(axis=1)] = 1
    confusion = (weight @ cell).reshape(-1, classes, classes)
    loss = weight @ -log_likelihood(probability, label) / weight.sum(axis=1)
    positives = range(1, 2) if classes == 2 else range(classes)  # of two classes, both have the same area
    auroc = np.mean([weighted_auroc(probability[:, k], label == k, weight) for k in positives], axis=0)
    return {"loss": loss, **metrics_from_confusion(confusion, task), "auroc": auroc}


def weighted_auroc(score: Floats, positive: Bools, weight: Floats) -> Floats:
    """Compute the area under the ROC curve for each weighting ``(R, N)``: ``(R,)``.

    Ties count half; NaN where there is no positive or no negative image.

    Source: Hanley and McNeil (1982), The meaning and use of the area under a ROC curve.
    """
    from scipy.stats import rankdata  # half a second, not needed for names

    group = (rankdata(score, method="dense") - 1).astype(np.int64)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    up = np.add.reduceat((weight * positive)[:, order], starts, axis=1)
    down = np.add.reduceat((weight * ~positive)[:, order], starts, axis=1)
    below = np.cumsum(down, axis=1) - down
    with np.errstate(invalid="ignore", divide="ignore"):
        area: Floats = (up * (below + down / 2)).sum(axis=1) / (up.sum(axis=1) * down.sum(axis=1))
    return area
