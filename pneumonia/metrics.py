"""The metrics of each task: one confusion matrix and one AUROC, and what follows from them. Undefined is never 0."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAUROC, MulticlassConfusionMatrix

from pneumonia.labels import Task
from pneumonia.scores import from_confusion


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
