"""W&B charts of a finished run: curves, confusion matrix, and images with predictions."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pneumonia.metrics.predictions import PROBABILITY_PREFIX

Pixels = NDArray[np.uint8]  # (N, H, W), in the order of the predictions


def curves(predictions: Path, classes: list[str], pixels: Pixels | None = None, samples: int = 0) -> dict[str, object]:
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
    if pixels is not None and samples:
        drawn["val/samples"] = [
            wandb.Image(pixels[row], caption=_caption(table.iloc[row], probability[row], classes))
            for row in worst_first(probability, truth)[:samples]
        ]
    return drawn


def worst_first(probability: NDArray[np.float64], truth: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return rows by the probability of their true class, the most confident errors first."""
    return np.argsort(probability[np.arange(len(truth)), truth], kind="stable")


def _caption(row: pd.Series, probability: NDArray[np.float64], classes: list[str]) -> str:
    best = int(probability.argmax())
    return f"{row['label']}, predicted {classes[best]} ({probability[best]:.2f}): {row['image_id']}"
