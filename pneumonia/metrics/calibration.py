"""How far stated probabilities can be believed, and the one number that mends them."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

BINS: Final = 15
LEAST_PROBABILITY: Final = float(
    np.finfo(np.float32).tiny
)  # a loss takes none for less: below, float32 has no full precision
TEMPERATURES: Final = (0.02, 50.0)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Temperature:
    """What the logits are divided by.

    Attributes:
        value: Above 1 for a model that was too sure; ``None`` where none could be fitted.
        reason: Why none could be.
    """

    value: float | None
    reason: str = ""


def fit_temperature(probability: Floats, label: NDArray[np.int64]) -> Temperature:
    """The temperature of the lowest cross-entropy.

    Args:
        probability: ``(N, K)`` of images that the model was not trained on.
        label: ``(N,)`` class numbers.

    Source: Guo et al. (2017), On calibration of modern neural networks.
    """
    from scipy.optimize import (
        minimize_scalar,
    )  # a third of a second, which whoever only applies a temperature need not wait

    if not len(label):
        return Temperature(None, "there is no image to fit it on")
    if (probability.argmax(axis=1) == label).all():
        return Temperature(None, "every image to fit it on is told right, so that no doubt is too little")
    if (probability.max(axis=1) > 1 - 1e-12).all():
        return Temperature(None, "the model says 0 or 1 alone, which no temperature can mend")
    rows = np.arange(len(label))
    logits = np.log(np.maximum(probability, LEAST_PROBABILITY))

    def cross_entropy(log_temperature: float) -> float:
        answers = _log_softmax(logits / np.exp(log_temperature))[rows, label]
        return float(-np.maximum(answers, np.log(LEAST_PROBABILITY)).mean())

    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(cross_entropy, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    if min(found.x - low, high - found.x) < 1e-3:
        return Temperature(
            None, f"it would lie outside {TEMPERATURES[0]} to {TEMPERATURES[1]}: the scores tell too little"
        )
    return Temperature(float(np.exp(found.x)))


def scaled(probability: Floats, temperature: Temperature) -> Floats:
    """Probabilities ``(N, K)`` after the temperature; unchanged where there is none."""
    if temperature.value is None:
        return probability
    return np.exp(_log_softmax(np.log(np.maximum(probability, LEAST_PROBABILITY)) / temperature.value))


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def calibration(probability: Floats, label: NDArray[np.int64]) -> dict[str, Any]:
    """How far stated probabilities can be believed.

    Args:
        probability: ``(N, K)``.
        label: ``(N,)`` class numbers.

    Returns:
        ``ece``: expected calibration error over ``bins`` bins of equal width of the highest probability (Guo et al., 2017);
        ``brier``: mean over images of the squared distance between probabilities and the true class, from 0 to 2 (Brier, 1950);
        ``reliability``: for each bin that has images its ``low`` and ``high`` edge, ``n``, mean ``confidence`` and ``accuracy``.
    """
    confidence, correct = probability.max(axis=1), probability.argmax(axis=1) == label
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    stated = np.bincount(bins, weights=confidence, minlength=BINS)
    right = np.bincount(bins, weights=correct, minlength=BINS)
    truth = np.eye(probability.shape[1])[label]
    return {
        "ece": float(np.abs(stated - right).sum() / len(label)),
        "bins": BINS,
        "brier": float(((probability - truth) ** 2).sum(axis=1).mean()),
        "reliability": [
            {
                "low": k / BINS,
                "high": (k + 1) / BINS,
                "n": int(counts[k]),
                "confidence": float(stated[k] / counts[k]),
                "accuracy": float(right[k] / counts[k]),
            }
            for k in np.flatnonzero(counts)
        ],
    }
