"""Measure the calibration of probabilities, and fit the temperature that calibrates them."""

from dataclasses import dataclass
from typing import Final

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


@dataclass(frozen=True)
class ReliabilityBin:
    """The ``n`` images of which the highest probability lies from ``low`` to ``high``: its mean, and their accuracy."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class CalibrationMetrics:
    """How well probabilities match observed frequencies.

    Attributes:
        ece: Expected calibration error over ``bins`` bins of equal width of the highest probability (Guo et al., 2017).
        bins: Number of bins.
        brier: Mean squared distance between probabilities and the true class, from 0 to 2 (Brier, 1950).
        reliability: The bins with images.
    """

    ece: float
    bins: int
    brier: float
    reliability: list[ReliabilityBin]


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
        return Temperature(None, "every image to fit it on is predicted correctly, so that no finite temperature is best")
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


def calibration_metrics(probability: Floats, label: Ints) -> CalibrationMetrics:
    """Measure the calibration of probabilities ``(N, K)`` of images with class indices ``label`` ``(N,)``."""
    confidence, correct = probability.max(axis=1), probability.argmax(axis=1) == label
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    stated = np.bincount(bins, weights=confidence, minlength=BINS)
    observed = np.bincount(bins, weights=correct, minlength=BINS)
    truth = np.eye(probability.shape[1])[label]
    reliability = [
        ReliabilityBin(k / BINS, (k + 1) / BINS, int(counts[k]), float(stated[k] / counts[k]), float(observed[k] / counts[k]))
        for k in map(int, np.flatnonzero(counts))
    ]
    ece = float(np.abs(stated - observed).sum() / len(label))
    return CalibrationMetrics(ece, BINS, float(((probability - truth) ** 2).sum(axis=1).mean()), reliability)
