"""W&B charts of a finished run: curves, confusion matrix, and images with predictions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pneumonia.metrics.predictions import PROBABILITY_PREFIX


@dataclass(frozen=True)
class Samples:
    """Validation images to show.

    Attributes:
        pixels: ``(N, H, W)`` uint8, in the order of the predictions.
        count: How many to show at most.
    """

    pixels: NDArray[np.uint8]
    count: int


def curves(predictions: Path, classes: list[str], samples: Samples | None = None) -> dict[str, object]:
    """Build W&B charts of predictions: confusion matrix, ROC, precision-recall curve, and sample images."""
    import wandb

    table = pd.read_parquet(predictions)
    probability = table[[f"{PROBABILITY_PREFIX}{name}" for name in classes]].to_numpy(dtype=np.float64)
    number = {name: index for index, name in enumerate(classes)}
    truth = np.array(table["label"].map(number), dtype=np.int64)
    said = probability.argmax(axis=1)
    drawn: dict[str, object] = {
        "val/confusion": wandb.plot.confusion_matrix(y_true=truth.tolist(), preds=said.tolist(), class_names=classes)
    }
    if len(np.unique(truth)) > 1:
        drawn["val/roc"] = wandb.plot.roc_curve(truth.tolist(), probability.tolist(), labels=classes)
        scores: Any = probability.tolist()  # the stub says numbers; rows of them are meant
        drawn["val/precision_recall"] = wandb.plot.pr_curve(truth.tolist(), scores, labels=classes)
    if samples is not None and samples.count:
        drawn["val/samples"] = [
            wandb.Image(samples.pixels[row], caption=_caption(table.iloc[row], probability[row], classes))
            for row in worst_first(probability, truth)[: samples.count]
        ]
    return drawn


def worst_first(probability: NDArray[np.float64], truth: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return rows by the probability of their true class, the most confident errors first."""
    return np.argsort(probability[np.arange(len(truth)), truth], kind="stable")


def weight_picture(path: Path) -> Any:
    """Return a picture of weights for W&B."""
    import wandb

    return wandb.Image(str(path))


def _caption(row: pd.Series, probability: NDArray[np.float64], classes: list[str]) -> str:
    best = int(probability.argmax())
    return f"{row['label']}, predicted {classes[best]} ({probability[best]:.2f}): {row['image_id']}"
