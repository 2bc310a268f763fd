"""Test two models on the same images or folds without resampling, and correct p-values for multiple comparisons."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import norm, rankdata

from pneumonia.metrics.bootstrap import LEVEL, NAN, Difference, t_interval, t_test
from pneumonia.system.arrays import Bools, Floats, Ints, Objects


def mcnemar(first: Bools, second: Bools) -> float:
    """Return the exact two-sided p-value that two models, correct or not on images ``(N,)``, are correct equally often.

    The test assumes independent images, which several of one patient are not;
    :func:`pneumonia.metrics.bootstrap.paired_difference` does not.

    Source: McNemar (1947), Note on the sampling error of the difference between correlated proportions.
    """
    from statsmodels.stats.contingency_tables import mcnemar as exact

    only, other = int((first & ~second).sum()), int((second & ~first).sum())
    table = [[int((first & second).sum()), only], [other, int((~first & ~second).sum())]]
    return min(1.0, float(exact(table, exact=True).pvalue)) if only + other else 1.0


def delong(first: Floats, second: Floats, positive: Bools, patient: Objects | None = None) -> Difference:
    """Test the difference of two correlated areas under the ROC curve.

    Args:
        first: ``(N,)`` scores of a model.
        second: ``(N,)`` scores of another.
        positive: ``(N,)``.
        patient: ``(N,)``, to allow for correlated images of one patient (Obuchowski); ``None`` for independent images (DeLong).

    Returns:
        NaN throughout with fewer than two patients on a side.

    Source: DeLong, DeLong and Clarke-Pearson (1988); Sun and Xu (2014) for the computation by ranks; Obuchowski (1997),
    Nonparametric analysis of clustered ROC curve data.
    """
    cluster = np.arange(len(positive)) if patient is None else pd.factorize(pd.Series(patient))[0]
    if min(len(np.unique(cluster[positive])), len(np.unique(cluster[~positive]))) < 2:
        return Difference(NAN)
    areas, covariance = _areas(np.stack([first, second]), positive, cluster)
    value = float(areas[0] - areas[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if variance <= 1e-16:  # equal rankings: the rest is rounding
        return Difference(value, value, value, 1.0 if abs(value) < 1e-12 else 0.0)
    error = float(np.sqrt(variance))
    half = float(norm.ppf((1 + LEVEL) / 2)) * error
    return Difference(value, value - half, value + half, float(2 * norm.sf(abs(value) / error)))


def _areas(scores: Floats, positive: Bools, cluster: Ints) -> tuple[Floats, Floats]:
    """Return areas ``(M,)`` of M scores ``(M, N)``, and their covariance ``(M, M)``."""
    up, down = int(positive.sum()), int((~positive).sum())
    ranks = rankdata(scores, axis=1)
    # Proportion of negatives below each positive, and of positives above each negative.
    above = (ranks[:, positive] - rankdata(scores[:, positive], axis=1)) / down
    below = 1 - (ranks[:, ~positive] - rankdata(scores[:, ~positive], axis=1)) / up
    areas: Floats = above.mean(axis=1)
    count = int(cluster.max()) + 1
    sums = [
        np.stack([np.bincount(cluster[side], one - area, count) for one, area in zip(terms, areas, strict=True)])
        for side, terms in ((positive, above), (~positive, below))
    ]
    sides = [len(np.unique(cluster[side])) for side in (positive, ~positive)]
    own = [sides[k] / (sides[k] - 1) * sums[k] @ sums[k].T / n**2 for k, n in ((0, up), (1, down))]
    both = count / (count - 1) * (sums[0] @ sums[1].T + sums[1] @ sums[0].T) / (up * down) if sum(sides) > count else 0
    return areas, own[0] + own[1] + both


def holm(p: Sequence[float]) -> list[float]:
    """Correct p-values for multiple comparisons (family-wise error rate); NaN stays.

    Source: Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    from statsmodels.stats.multitest import multipletests

    values = np.array(p, dtype=float)
    known = np.isfinite(values)
    if known.any():
        values[known] = multipletests(values[known], method="holm")[1]
    return [float(value) for value in values]


def estimate_over_folds(values: Sequence[float], train: float, test: float, metric: str) -> tuple[float, float, float]:
    """Return the mean of a metric over the ``k`` folds of a cross-validation with its 95% bounds.

    See :func:`difference_over_folds` for the arguments and the source.
    """
    found = np.asarray(values, dtype=float)
    value, count = float(found.mean()), len(found)
    if count < 2 or not np.isfinite(value):
        return value, NAN, NAN
    variance = float((1 / count + test / train) * found.var(ddof=1))
    return value, *t_interval(value, [(variance, count - 1)], metric)


def difference_over_folds(differences: Sequence[float], train: float, test: float, metric: str = "") -> Difference:
    """Test the mean difference over the folds of a cross-validation (corrected resampled t-test).

    The training subsets of the folds overlap, so the differences are not independent: their variance counts
    ``1/k + test/train`` times instead of ``1/k`` times.

    Args:
        differences: ``(k,)``, first minus second on each fold.
        train: Images (or patients) that a fold trains on.
        test: Images (or patients) that a fold validates on.
        metric: Key of the metric; ``loss`` has no limits.

    Returns:
        NaN bounds with fewer than two folds.

    Source: Nadeau and Bengio (2003), Inference for the generalization error.
    """
    values = np.asarray(differences, dtype=float)
    value, count = float(values.mean()), len(values)
    if count < 2:
        return Difference(value)
    return t_test(value, float(np.sqrt((1 / count + test / train) * values.var(ddof=1))), count - 1, metric)
