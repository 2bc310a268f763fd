"""The metrics of each task: one confusion matrix and one AUROC, and what follows from them. Undefined is never 0."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAUROC, MulticlassConfusionMatrix

from pneumonia.labels import Task


def collection(task: Task, *, ranking: bool = True) -> MetricCollection:
    """What is accumulated over an epoch, on the device; update it with probabilities ``(B, K)`` and labels ``(B,)``.

    Args:
        task: Gives the classes.
        ranking: Also the AUROC, which keeps every prediction of the epoch.
    """
    classes = len(task.classes)
    parts: dict[str, Metric | MetricCollection] = {"confusion": MulticlassConfusionMatrix(classes, validate_args=False)}
    if ranking:
        parts["auroc"] = MulticlassAUROC(classes, average="macro", validate_args=False)
    return MetricCollection(parts, compute_groups=False)


def summary(metrics: MetricCollection, task: Task) -> dict[str, float]:
    """Every metric of the task; NaN where it is undefined, for example the AUROC of a class without images."""
    confusion = metrics["confusion"].compute().cpu().numpy()
    values = {name: float(value) for name, value in from_confusion(confusion, task).items()}
    if "auroc" in metrics:
        complete = bool((confusion.sum(axis=1) > 0).all())
        values["auroc"] = float(metrics["auroc"].compute()) if complete else math.nan
    return values


def summary_of(probability: Tensor, label: Tensor, task: Task) -> dict[str, float]:
    """:func:`summary` of predictions at hand: ``(N, K)`` probabilities and ``(N,)`` labels; with the cross-entropy."""
    metrics = collection(task)
    metrics.update(probability, label)
    likelihood = probability[torch.arange(len(label)), label].double()
    loss = float(-likelihood.clamp_min(torch.finfo(torch.float32).tiny).log().mean())
    return {"loss": loss, **summary(metrics, task)}


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
