"""Predict images with a classifier, as tables that every later stage reads."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pneumonia.data.datamodule import XRayDataModule
from pneumonia.data.images.decode import decode
from pneumonia.data.images.limits import read_image_file
from pneumonia.metrics.epoch_metrics import metrics_of_predictions
from pneumonia.metrics.predictions import PROBABILITY_PREFIX, prediction_arrays
from pneumonia.models.base import Classifier
from pneumonia.system.console import track
from pneumonia.tasks import Task


def predict_subset(classifier: Classifier, data: XRayDataModule, subset: str, epoch: int = 0) -> pd.DataFrame:
    """Predict one subset; ``epoch`` matters only where folds rotate.

    Returns:
        One row per image: ``image_id``, ``patient_id``, ``label`` and ``predicted`` (class names of the task), and
        ``prob_<class>`` for each class (float32, summing to one).

    Raises:
        SplitError: The subset holds no image.
    """
    loader = data.loader(subset, epoch=epoch)
    batches = track(loader, len(loader), f"Predicting {subset} in batches")
    probability = np.concatenate([predict_pixels(classifier, batch["image"]) for batch in batches])
    rows = data.positions(subset, epoch)
    classes = np.array(data.task.classes)
    manifest = data.images.manifest.iloc[rows]
    table = {
        "image_id": manifest["image_id"].to_numpy(),
        "patient_id": manifest["patient_id"].to_numpy(),
        "label": classes[data.labels[rows]],
        "predicted": classes[probability.argmax(axis=1)],
    }
    columns = {f"{PROBABILITY_PREFIX}{name}": probability[:, number] for number, name in enumerate(classes)}
    return pd.DataFrame({**table, **columns})


def predict_pixels(classifier: Classifier, pixels: torch.Tensor) -> NDArray[np.float32]:
    """Return probabilities ``(B, K)`` of grey images ``(B, 1, H, W)`` uint8."""
    with torch.inference_mode():
        logits = classifier(pixels.to(classifier.device))
        return np.asarray(logits.float().softmax(dim=1).cpu().numpy(), dtype=np.float32)


def predict_file(classifier: Classifier, path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Decode one image file as in training and predict it.

    Returns:
        Grey levels ``(H, W)`` and probabilities ``(K,)``.

    Raises:
        UnreadableImageError: The file cannot be decoded.
    """
    options = classifier.options
    pixels = decode(read_image_file(path), options.image_size, options.resize)
    return pixels, predict_pixels(classifier, torch.from_numpy(pixels)[None, None])[0].astype(np.float64)


def table_metrics(table: pd.DataFrame, task: Task) -> dict[str, float]:
    """Return the loss and all metrics of a table of predictions; NaN where undefined."""
    probability, label = prediction_arrays(table, task.classes)
    return metrics_of_predictions(torch.from_numpy(probability), torch.from_numpy(label), task)
