"""Intervals that respect patients, and tests that say which differences are real."""

from pneumonia.statistics.paired import delong, folds_difference, folds_estimate, holm, mcnemar
from pneumonia.statistics.resampling import (
    Difference,
    Sampled,
    bootstrap,
    bootstrap_intervals,
    compare,
    differing_patients,
    estimate,
    paired_bootstrap,
    sampled,
    share_bounds,
)

__all__ = [
    "Difference",
    "Sampled",
    "bootstrap",
    "bootstrap_intervals",
    "compare",
    "delong",
    "differing_patients",
    "estimate",
    "folds_difference",
    "folds_estimate",
    "holm",
    "mcnemar",
    "paired_bootstrap",
    "sampled",
    "share_bounds",
]
