"""Accumulate the metrics of one epoch on the device, and bound the reported cross-entropy."""

import math
from typing import Any, Final

from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAUROC, MulticlassConfusionMatrix

from pneumonia.metrics.calibration import MIN_PROBABILITY
from pneumonia.metrics.classification import log_likelihood, metrics_from_confusion
from pneumonia.tasks import Task

MIN_LOG_PROBABILITY: Final = math.log(MIN_PROBABILITY)


def cross_entropy(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    """Compute the reported cross-entropy: no probability counts as less than ``MIN_PROBABILITY``.

    It equals the loss of the float32 probabilities in a table of predictions. Do not train on it: it has no gradient
    where it is bounded.

    Args:
        logits: ``(N, K)``.
        target: ``(N,)`` class indices, or ``(N, K)`` probabilities.
        options: ``weight``, ``reduction`` and ``label_smoothing`` of ``torch.nn.functional.cross_entropy``.
    """
    bounded = logits.float().log_softmax(dim=1).clamp_min(MIN_LOG_PROBABILITY)
    return nn.functional.cross_entropy(bounded, target, **options)


def build_epoch_metrics(task: Task, *, auroc: bool = True) -> MetricCollection:
    """Build the metrics of one epoch. Update them with probabilities ``(B, K)`` and labels ``(B,)``.

    Args:
        task: Gives the classes.
        auroc: Also compute the AUROC, which stores every prediction of the epoch.
    """
    classes = len(task.classes)
    metrics: dict[str, Metric | MetricCollection] = {"confusion": MulticlassConfusionMatrix(classes, validate_args=False)}
    if auroc:
        metrics["auroc"] = MulticlassAUROC(classes, average="macro", validate_args=False)
    return MetricCollection(metrics, compute_groups=False)


def compute_epoch_metrics(metrics: MetricCollection, task: Task) -> dict[str, float]:
    """Compute every metric of the task but the loss; NaN where undefined, such as the AUROC of a class without images."""
    confusion = metrics["confusion"].compute().cpu().numpy()
    values = {name: float(value) for name, value in metrics_from_confusion(confusion, task).items()}
    if "auroc" in metrics:
        complete = bool((confusion.sum(axis=1) > 0).all())
        values["auroc"] = float(metrics["auroc"].compute()) if complete else math.nan
    return values


def metrics_of_predictions(probability: Tensor, label: Tensor, task: Task) -> dict[str, float]:
    """Compute every metric of probabilities ``(N, K)`` and labels ``(N,)``, with the cross-entropy."""
    metrics = build_epoch_metrics(task)
    metrics.update(probability, label)
    loss = float(-log_likelihood(probability.numpy(), label.numpy()).mean())
    return {"loss": loss, **compute_epoch_metrics(metrics, task)}
