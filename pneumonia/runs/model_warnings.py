"""Warnings about a model of which no prediction is of use; training, evaluation, prediction and bundles all give them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from pneumonia.data.sources.phantom_detection import is_phantom

NEARLY_ALL: Final = 0.99  # of the predictions
MOST: Final = 0.9  # of the images: a class so frequent may well be predicted for nearly all
PHANTOMS: Final = (
    "The model was trained on drawn phantoms: it knows nothing of X-rays, so its probabilities for a real one mean nothing. "
    "Train on real X-rays: data=folder data.root=DIR."
)


def constant_prediction(counts: ArrayLike, classes: Sequence[str], subset: str) -> str:
    """The warning for a model that predicts one class whatever it is shown; empty where it does not.

    That is a model that predicts one class for all images, though they show several; or for 99% of them or more, though
    less than 90% show it.

    Args:
        counts: ``(K, K)`` images by true class (rows) and predicted class (columns).
        classes: ``(K,)`` names.
        subset: Which images they are, for the text.
    """
    confusion = np.asarray(counts, dtype=np.int64)
    total, true, predicted = int(confusion.sum()), confusion.sum(axis=1), confusion.sum(axis=0)
    if (true > 0).sum() < 2:
        return ""
    most = int(predicted.argmax())
    share, prevalence = predicted[most] / total, true[most] / total
    if share < 1 and (share < NEARLY_ALL or prevalence >= MOST):
        return ""
    return (
        f"The model predicts {classes[most]} for {share:.1%} of the {total} {subset} images, and {prevalence:.1%} of them show "
        "it: its predictions hardly depend on the image. Train longer, with another optimizer.lr, or with "
        "class_weights=balanced."
    )


def warnings_of(result: Mapping[str, Any]) -> list[str]:
    """The warnings about a finished run.

    Args:
        result: What its ``result.json`` holds.
    """
    confusion = result["confusion"]
    constant = constant_prediction(confusion["counts"], confusion["classes"], "validation")
    return [text for text in (constant, PHANTOMS if trained_on_phantoms(result) else "") if text]


def trained_on_phantoms(result: Mapping[str, Any]) -> bool:
    """Whether a run has learnt from drawn phantoms, whichever way it read them."""
    known: bool | None = result.get("data", {}).get("phantoms")
    if known is not None:
        return known
    data = result["config"]["data"]  # of an earlier version, which did not look at the images
    return data["source"] == "phantom" or (
        data.get("root") is not None and is_phantom(Path(os.path.expanduser(data["root"])))
    )
