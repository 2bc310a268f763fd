"""Choose thresholds of scores, and measure selective prediction (abstention on uncertain images)."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from pneumonia.metrics.bootstrap import Estimate, interval, resample_counts
from pneumonia.metrics.classification import defined
from pneumonia.system.arrays import Bools, Floats, Ints, Objects
from pneumonia.tasks import Task

TARGET_SENSITIVITY: Final = 0.95
COVERAGES: Final = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)


@dataclass(frozen=True)
class RiskAtCoverage:
    """The error rate of the most confident predictions.

    Attributes:
        coverage: Fraction of the images whose predictions are kept.
        asked: The least fraction that was asked for.
        confidence: The least confidence of a kept prediction.
        risk: Error rate of the kept predictions, with its 95% interval by patient.
    """

    coverage: float
    asked: float
    confidence: float
    risk: Estimate


@dataclass(frozen=True)
class SelectivePrediction:
    """The risk that remains if uncertain images are left to a person.

    ``aurc`` is the area under :func:`risk_coverage_curve`, the mean risk over all coverages (Geifman, Uziel and El-Yaniv, 2019).
    """

    aurc: float
    points: list[RiskAtCoverage]


def one_vs_rest(probability: Floats, label: Ints, task: Task) -> dict[str, tuple[Floats, Bools]]:
    """Return the binary questions of a task, each with its scores ``(N,)`` and its truth ``(N,)``.

    First the positive classes together, for example pneumonia of any kind; then each of them against the rest.
    """
    negative = [task.classes.index(name) for name in task.negative]
    first, *others = task.questions
    together = {first: (1 - probability[:, negative].sum(axis=1), ~np.isin(label, negative))}
    kinds = {name: task.classes.index(name) for name in others}
    return together | {name: (probability[:, number], label == number) for name, number in kinds.items()}


def threshold_for(score: Floats, positive: Bools, sensitivity: float = TARGET_SENSITIVITY) -> float | None:
    """Return the highest threshold of at least this sensitivity; ``None`` without positives."""
    ranked = np.sort(score[positive])[::-1]
    return float(ranked[int(np.ceil(sensitivity * len(ranked) - 1e-9)) - 1]) if len(ranked) else None


def metrics_at_threshold(
    score: Floats, positive: Bools, threshold: float, patient: Objects, seed: int = 0
) -> dict[str, Estimate]:
    """Compute the metrics of a threshold with 95% intervals by patient; scores at or above it are flagged.

    Args:
        score: ``(N,)``.
        positive: ``(N,)``.
        threshold: From :func:`threshold_for`, on other images.
        patient: ``(N,)``.
        seed: Seed of the resampling.

    Returns:
        ``sensitivity``, ``specificity``, ``ppv`` and ``npv`` (both at this prevalence), and ``flagged``, the proportion of
        flagged images.
    """
    flag = score >= threshold
    proportions = {
        "sensitivity": (flag, positive),
        "specificity": (~flag, ~positive),
        "ppv": (positive, flag),
        "npv": (~positive, ~flag),
        "flagged": (flag, np.ones(len(flag), dtype=bool)),
    }
    return {name: _proportion(counted, among, patient, seed) for name, (counted, among) in proportions.items()}


def _proportion(counted: Bools, among: Bools, patient: Objects, seed: int) -> Estimate:
    """Return the proportion of images ``(N,)`` among others, with its interval by patient."""
    codes, names = pd.factorize(pd.Series(patient))
    hits, sizes = (np.bincount(codes, of, len(names)) for of in (counted & among, among))
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = [(times @ hits) / (times @ sizes) for times in resample_counts(len(names), len(among), seed)]
    value = float(hits.sum() / sizes.sum()) if sizes.sum() else float("nan")
    low, high = interval(value, np.concatenate(drawn), len(names), images=among, patient=patient)
    return Estimate(defined(value), defined(low), defined(high))


def risk_coverage_curve(probability: Floats, label: Ints) -> tuple[Floats, Floats]:
    """Compute the error rate of the most confident predictions: coverage ``(N,)`` and risk ``(N,)``.

    Predictions of equal confidence are kept together, so that the curve does not depend on the order of the images.

    Source: El-Yaniv and Wiener (2010), On the foundations of noise-free selective classification.
    """
    confidence, wrong = probability.max(axis=1), probability.argmax(axis=1) != label
    order = np.argsort(-confidence, kind="stable")
    last = np.append(np.flatnonzero(np.diff(confidence[order])), len(label) - 1)
    risk = np.cumsum(wrong[order])[last] / (last + 1)
    sizes = np.diff(last, prepend=-1)
    return np.arange(1, len(label) + 1) / len(label), np.repeat(risk, sizes)


def selective_prediction(probability: Floats, label: Ints, patient: Objects, seed: int = 0) -> SelectivePrediction:
    """Measure selective prediction at :data:`COVERAGES`."""
    confidence, wrong = probability.max(axis=1), probability.argmax(axis=1) != label
    _, risk = risk_coverage_curve(probability, label)
    points = []
    for coverage in COVERAGES:
        least = float(np.sort(confidence)[::-1][max(int(np.ceil(coverage * len(label) - 1e-9)), 1) - 1])
        kept = confidence >= least
        points.append(RiskAtCoverage(float(kept.mean()), coverage, least, _proportion(wrong, kept, patient, seed)))
    return SelectivePrediction(float(risk.mean()), points)
