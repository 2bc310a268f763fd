"""Charts of predictions for trackers: curves, confusion matrix, calibration, and images with predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pneumonia.metrics.calibration import ReliabilityBin
from pneumonia.metrics.predictions import PROBABILITY_PREFIX, predicted_classes, prediction_arrays

Pixels = NDArray[np.uint8]  # (N, H, W), in the order of the predictions
Reliability = Mapping[str, Sequence[ReliabilityBin]]  # by name: uncalibrated, calibrated


@dataclass(frozen=True)
class Predictions:
    """A table of predictions with its classes, and what an evaluation knows of their calibration."""

    table: pd.DataFrame
    classes: tuple[str, ...]
    reliability: Reliability = field(default_factory=dict)

    @property
    def shown(self) -> pd.DataFrame:
        """The table for a tracker: image, label, predicted class and probabilities."""
        probability, _ = prediction_arrays(self.table, self.classes)
        columns = [f"{PROBABILITY_PREFIX}{name}" for name in self.classes]
        predicted = predicted_classes(probability, self.classes)
        return self.table[["image_id", "label", *columns]].assign(predicted=predicted).reset_index(drop=True)


@dataclass(frozen=True)
class EvaluationCharts:
    """An evaluation, as trackers show it.

    Attributes:
        name: ``<data>-<split>``, as its file.
        file: The JSON file.
        sha256: Of the file.
        values: Metrics with the bounds of their intervals (``auroc``, ``auroc_low``, ``auroc_high``), and calibration.
        predictions: One row an image.
    """

    name: str
    file: Path
    sha256: str
    values: dict[str, float]
    predictions: Predictions

    @property
    def prefix(self) -> str:
        """Of all names in a tracker."""
        return f"evaluation/{self.name}"


def wandb_charts(prefix: str, found: Predictions, pixels: Pixels | None = None, samples: int = 0) -> dict[str, object]:
    """Build W&B charts: confusion matrix, ROC, precision-recall curve, reliability diagram, and sample images."""
    import wandb

    classes = list(found.classes)
    probability, truth = prediction_arrays(found.table, found.classes)
    said = probability.argmax(axis=1)
    drawn: dict[str, object] = {
        f"{prefix}/confusion": wandb.plot.confusion_matrix(y_true=truth.tolist(), preds=said.tolist(), class_names=classes)
    }
    if len(np.unique(truth)) > 1:
        drawn[f"{prefix}/roc"] = wandb.plot.roc_curve(truth.tolist(), probability.tolist(), labels=classes)
        scores: Any = probability.tolist()  # the stub says numbers; rows of them are meant
        drawn[f"{prefix}/precision_recall"] = wandb.plot.pr_curve(truth.tolist(), scores, labels=classes)
    if found.reliability:
        drawn[f"{prefix}/calibration"] = wandb.plot.line_series(
            xs=[[one.confidence for one in bins] for bins in found.reliability.values()],
            ys=[[one.accuracy for one in bins] for bins in found.reliability.values()],
            keys=list(found.reliability),
            title="Calibration",
            xname="confidence",
        )
    if pixels is not None and samples:
        drawn[f"{prefix}/samples"] = [
            wandb.Image(pixels[row], caption=_caption(found.table.iloc[row], probability[row], classes))
            for row in worst_first(probability, truth)[:samples]
        ]
    return drawn


def figures(found: Predictions) -> dict[str, Figure]:
    """Draw confusion matrix, ROC, precision-recall curves and reliability diagram."""
    from sklearn.metrics import ConfusionMatrixDisplay, PrecisionRecallDisplay, RocCurveDisplay

    probability, truth = prediction_arrays(found.table, found.classes)
    drawn = {"confusion": Figure(figsize=(5, 4))}
    numbers = list(range(len(found.classes)))
    matrix = {"labels": numbers, "display_labels": found.classes, "ax": drawn["confusion"].add_subplot(), "cmap": "Blues"}
    ConfusionMatrixDisplay.from_predictions(truth, probability.argmax(axis=1), **matrix)
    for name, display in (("roc", RocCurveDisplay), ("precision_recall", PrecisionRecallDisplay)):
        known = [number for number in numbers if 0 < (truth == number).sum() < len(truth)]
        if known:
            drawn[name] = Figure(figsize=(5, 4))
            axis = drawn[name].add_subplot()
            for number in known:
                display.from_predictions(truth == number, probability[:, number], name=found.classes[number], ax=axis)
    if found.reliability:
        drawn["calibration"] = Figure(figsize=(5, 4))
        axis = drawn["calibration"].add_subplot()
        axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        for name, bins in found.reliability.items():
            axis.plot([one.confidence for one in bins], [one.accuracy for one in bins], marker="o", label=name)
        axis.set(xlabel="confidence", ylabel="proportion correct")
        axis.legend()
    return drawn


def worst_first(probability: NDArray[np.floating], truth: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return rows by the probability of their true class, the most confident errors first."""
    return np.argsort(probability[np.arange(len(truth)), truth], kind="stable")


def _caption(row: pd.Series, probability: NDArray[np.floating], classes: list[str]) -> str:
    best = int(probability.argmax())
    return f"{row['label']}, predicted {classes[best]} ({probability[best]:.2f}): {row['image_id']}"
