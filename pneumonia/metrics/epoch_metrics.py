"""The metrics of each task: one confusion matrix and one AUROC, and what follows from them. Undefined is never 0."""

import math
from typing import Any, Final

from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAUROC, MulticlassConfusionMatrix

from pneumonia.metrics.calibration import LEAST_PROBABILITY
from pneumonia.metrics.classification import from_confusion, log_likelihood
from pneumonia.tasks import Task

LEAST_LOG_PROBABILITY: Final = math.log(LEAST_PROBABILITY)


def cross_entropy(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    """Torch's ``cross_entropy`` as it is reported: no probability counts as less than ``LEAST_PROBABILITY``.

    A table of predictions holds float32 probabilities, so that this is the loss which everybody finds in it. It is not for
    training: where it is bounded it has no gradient.

    Args:
        logits: ``(N, K)``.
        target: ``(N,)`` class numbers, or ``(N, K)`` probabilities.
        options: ``weight``, ``reduction`` and ``label_smoothing`` of torch's.
    """
    bounded = logits.float().log_softmax(dim=1).clamp_min(LEAST_LOG_PROBABILITY)
    return nn.functional.cross_entropy(bounded, target, **options)


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
    return {"loss": float(-log_likelihood(probability.numpy(), label.numpy()).mean()), **summary(metrics, task)}
