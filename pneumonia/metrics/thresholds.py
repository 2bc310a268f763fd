"""What a score is worth at a threshold, and what is gained where the unsure are left to a person."""

from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pneumonia.metrics.bootstrap import bounds, draws
from pneumonia.metrics.classification import nullable
from pneumonia.tasks import NORMAL, UNKNOWN_KIND, Task

SENSITIVITY: Final = 0.95
COVERAGES: Final = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def positives(probability: Floats, label: NDArray[np.int64], task: Task) -> dict[str, tuple[Floats, Bools]]:
    """The yes-or-no questions that a task answers, each with its scores ``(N,)`` and its truth ``(N,)``.

    ``PNEUMONIA`` is everything but normal; then each kind of it against all the rest.
    """
    normal = task.classes.index(NORMAL)
    asked = {UNKNOWN_KIND: (1 - probability[:, normal], label != normal)}
    kinds = {name: task.classes.index(name) for name in task.questions if name != UNKNOWN_KIND}
    return asked | {name: (probability[:, number], label == number) for name, number in kinds.items()}


def threshold_for(score: Floats, positive: Bools, sensitivity: float = SENSITIVITY) -> float | None:
    """The highest threshold at which at least this share of the positives scores as high; ``None`` without positives."""
    ranked = np.sort(score[positive])[::-1]
    return float(ranked[int(np.ceil(sensitivity * len(ranked) - 1e-9)) - 1]) if len(ranked) else None


def at_threshold(
    score: Floats, positive: Bools, threshold: float, patient: NDArray[np.object_], seed: int = 0
) -> dict[str, dict[str, float | None]]:
    """What a threshold gives, with 95% bounds by patient; scores at or above it are flagged.

    Args:
        score: ``(N,)``.
        positive: ``(N,)``.
        threshold: From :func:`threshold_for`, on other images.
        patient: ``(N,)``.
        seed: Of the resampling.

    Returns:
        ``sensitivity``, ``specificity``, ``ppv`` and ``npv`` (how often a flag, and none, is right; both at this share of
        positives), ``flagged``; each with ``value``, ``low`` and ``high``, ``None`` where undefined.
    """
    flag = score >= threshold
    shares = {
        "sensitivity": (flag, positive),
        "specificity": (~flag, ~positive),
        "ppv": (positive, flag),
        "npv": (~positive, ~flag),
        "flagged": (flag, np.ones(len(flag), dtype=bool)),
    }
    codes, names = pd.factorize(pd.Series(patient))
    found = {}
    for name, (counted, among) in shares.items():
        hits, sizes = (np.bincount(codes, of, len(names)) for of in (counted & among, among))
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn = [(times @ hits) / (times @ sizes) for times in draws(len(names), len(flag), seed)]
            value = float(hits.sum() / sizes.sum()) if sizes.sum() else float("nan")
        low, high = bounds(value, np.concatenate(drawn), len(names), name, among, patient)
        found[name] = nullable({"value": value, "low": low, "high": high})
    return found


def risk_by_coverage(probability: Floats, label: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """How often the surest answers are wrong, for each share of answers that is given: ``(N,)`` coverage and ``(N,)`` risk.

    Answers of one confidence are given together, so that the curve does not depend on the order of the images.

    Source: El-Yaniv and Wiener (2010), On the foundations of noise-free selective classification.
    """
    confidence, wrong = probability.max(axis=1), probability.argmax(axis=1) != label
    order = np.argsort(-confidence, kind="stable")
    last = np.append(np.flatnonzero(np.diff(confidence[order])), len(label) - 1)
    risk = np.cumsum(wrong[order])[last] / (last + 1)
    sizes = np.diff(last, prepend=-1)
    return np.arange(1, len(label) + 1) / len(label), np.repeat(risk, sizes)


def abstention(
    probability: Floats, label: NDArray[np.int64], patient: NDArray[np.object_], seed: int = 0
) -> dict[str, Any]:
    """What is gained by leaving the unsure images to a person.

    Returns:
        ``aurc``: area under the curve of :func:`risk_by_coverage`, the mean risk over all coverages (Geifman, Uziel and El-Yaniv,
        2019); ``points``: for some ``coverage`` the ``confidence`` from which an answer is given, and the ``risk`` among the
        answered images with 95% bounds by patient.
    """
    confidence, wrong = probability.max(axis=1), probability.argmax(axis=1) != label
    _, risk = risk_by_coverage(probability, label)
    codes, names = pd.factorize(pd.Series(patient))
    points = []
    for coverage in COVERAGES:
        least = float(np.sort(confidence)[::-1][max(int(np.ceil(coverage * len(label) - 1e-9)), 1) - 1])
        given = confidence >= least
        hits, sizes = (np.bincount(codes, of, len(names)) for of in (wrong & given, given))
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn = [(times @ hits) / (times @ sizes) for times in draws(len(names), len(label), seed)]
        value = float(hits.sum() / sizes.sum())
        low, high = bounds(value, np.concatenate(drawn), len(names), "risk", given, patient)
        shown = nullable({"value": value, "low": low, "high": high})
        points.append({"coverage": float(given.mean()), "asked": coverage, "confidence": least, "risk": shown})
    return {"aurc": float(risk.mean()), "points": points}
