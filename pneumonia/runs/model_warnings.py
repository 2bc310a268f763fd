"""Warn of useless models, in training, evaluation, prediction and bundles alike."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from pneumonia.runs.result import RunResult

CONSTANT: Final = 0.99  # fraction of predictions from which a model counts as constant
FREQUENT: Final = 0.9  # prevalence of a class that may be predicted for nearly all images
PHANTOMS: Final = (
    "The model was trained on drawn phantoms: it knows nothing of X-rays, so its probabilities for a real one mean nothing. "
    "Train on real X-rays: data=folder data.root=DIR."
)


def constant_prediction(counts: ArrayLike, classes: Sequence[str], subset: str) -> str:
    """Return the warning about a model that predicts one class for (nearly) all images; empty for any other model.

    It predicts one class for all images, though they show several; or for at least 99%, though less than 90% show it.

    Args:
        counts: ``(K, K)`` images by true class (rows) and predicted class (columns).
        classes: ``(K,)`` names.
        subset: Name of the images, for the message.
    """
    confusion = np.asarray(counts, dtype=np.int64)
    total, true, predicted = int(confusion.sum()), confusion.sum(axis=1), confusion.sum(axis=0)
    if (true > 0).sum() < 2:
        return ""
    most = int(predicted.argmax())
    share, prevalence = predicted[most] / total, true[most] / total
    if share < 1 and (share < CONSTANT or prevalence >= FREQUENT):
        return ""
    return (
        f"The model predicts {classes[most]} for {share:.1%} of the {total} {subset} images, and {prevalence:.1%} of them show "
        "it: its predictions hardly depend on the image. Train longer, with another optimizer.lr, or with "
        "class_weights=balanced."
    )


def warnings_of(result: RunResult) -> list[str]:
    """Return the warnings about the model of a finished run."""
    constant = constant_prediction(result.confusion.counts, result.confusion.classes, "validation")
    return [text for text in (constant, PHANTOMS if result.data.phantoms else "") if text]
