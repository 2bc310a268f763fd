"""Measure the calibration of probabilities, and fit the temperature that calibrates them."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from pneumonia.system.arrays import Floats, Ints

BINS: Final = 15
MIN_PROBABILITY: Final = float(np.finfo(np.float32).tiny)  # smaller float32 values lose precision, so losses stop here
TEMPERATURE_RANGE: Final = (0.02, 50.0)


@dataclass(frozen=True)
class Temperature:
    """A divisor of the logits.

    Attributes:
        value: Above 1 for a model that was overconfident; ``None`` if none could be fitted.
        reason: Why none could be fitted.
    """

    value: float | None
    reason: str = ""


def fit_temperature(probability: Floats, label: Ints) -> Temperature:
    """Fit the temperature of the lowest cross-entropy.

    Args:
        probability: ``(N, K)`` of images that the model was not trained on.
        label: ``(N,)`` class indices.

    Source: Guo et al. (2017), On calibration of modern neural networks.
    """
    from scipy.optimize import minimize_scalar  # a third of a second, not needed to apply a temperature

    if not len(label):
        return Temperature(None, "there is no image to fit it on")
    if (probability.argmax(axis=1) == label).all():
        return Temperature(
            None, "every image to fit it on is predicted correctly, so that no finite temperature is best"
        )
    if (probability.max(axis=1) > 1 - 1e-12).all():
        return Temperature(None, "all probabilities are 0 or 1, which no temperature changes")
    rows = np.arange(len(label))
    logits = np.log(np.maximum(probability, MIN_PROBABILITY))

    def cross_entropy(log_temperature: float) -> float:
        log_probability = _log_softmax(logits / np.exp(log_temperature))[rows, label]
        return float(-np.maximum(log_probability, np.log(MIN_PROBABILITY)).mean())

    low, high = np.log(TEMPERATURE_RANGE)
    found = minimize_scalar(cross_entropy, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    if min(found.x - low, high - found.x) < 1e-3:
        limits = f"{TEMPERATURE_RANGE[0]} to {TEMPERATURE_RANGE[1]}"
        return Temperature(None, f"it would lie outside {limits}: the probabilities carry too little information")
    return Temperature(float(np.exp(found.x)))


def apply_temperature(probability: Floats, temperature: Temperature) -> Floats:
    """Return calibrated probabilities ``(N, K)``; unchanged without a temperature."""
    if temperature.value is None:
        return probability
    return np.exp(_log_softmax(np.log(np.maximum(probability, MIN_PROBABILITY)) / temperature.value))


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def calibration_metrics(probability: Floats, label: Ints) -> dict[str, Any]:
    """Measure how well probabilities match observed frequencies.

    Args:
        probability: ``(N, K)``.
        label: ``(N,)`` class indices.

    Returns:
        ``ece``: expected calibration error over ``bins`` bins of equal width of the highest probability (Guo et al., 2017);
        ``brier``: mean squared distance between probabilities and the true class, from 0 to 2 (Brier, 1950);
        ``reliability``: for each bin with images its ``low`` and ``high`` edge, ``n``, mean ``confidence`` and ``accuracy``.
    """
    confidence, correct = probability.max(axis=1), probability.argmax(axis=1) == label
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    stated = np.bincount(bins, weights=confidence, minlength=BINS)
    observed = np.bincount(bins, weights=correct, minlength=BINS)
    truth = np.eye(probability.shape[1])[label]
    return {
        "ece": float(np.abs(stated - observed).sum() / len(label)),
        "bins": BINS,
        "brier": float(((probability - truth) ** 2).sum(axis=1).mean()),
        "reliability": [
            {
                "low": k / BINS,
                "high": (k + 1) / BINS,
                "n": int(counts[k]),
                "confidence": float(stated[k] / counts[k]),
                "accuracy": float(observed[k] / counts[k]),
            }
            for k in np.flatnonzero(counts)
        ],
    }
