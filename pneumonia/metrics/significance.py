"""Tests of two models on the same images or folds that need no resampling, and the correction for asking often."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm, rankdata, t

from pneumonia.metrics.bootstrap import LEVEL, Difference, Floats, laid_off


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Exact two-sided p that two models are right equally often, from the images that only one of them tells right.

    Images are taken for independent, which several of one patient are not;
    :func:`pneumonia.metrics.bootstrap.compare` does without that.

    Args:
        first: ``(N,)`` whether a model is right.
        second: ``(N,)`` whether the other is.

    Source: McNemar (1947), Note on the sampling error of the difference between correlated proportions.
    """
    from statsmodels.stats.contingency_tables import mcnemar as exact

    only, other = int((first & ~second).sum()), int((second & ~first).sum())
    table = [[int((first & second).sum()), only], [other, int((~first & ~second).sum())]]
    return min(1.0, float(exact(table, exact=True).pvalue)) if only + other else 1.0


def delong(
    first: Floats, second: Floats, positive: NDArray[np.bool_], patient: NDArray[np.object_] | None = None
) -> Difference:
    """The difference of two correlated areas under the ROC curve.

    Args:
        first: ``(N,)`` scores of a model.
        second: ``(N,)`` scores of another.
        positive: ``(N,)``.
        patient: ``(N,)``; images of one patient then count together (Obuchowski). Without it images are independent (DeLong).

    Returns:
        NaN throughout where fewer than two patients are on a side.

    Source: DeLong, DeLong and Clarke-Pearson (1988); Sun and Xu (2014) for the computation by ranks; Obuchowski (1997),
    Nonparametric analysis of clustered ROC curve data.
    """
    cluster = np.arange(len(positive)) if patient is None else pd.factorize(pd.Series(patient))[0]
    if min(len(np.unique(cluster[positive])), len(np.unique(cluster[~positive]))) < 2:
        return Difference(float("nan"), float("nan"), float("nan"), float("nan"))
    areas, covariance = _areas(np.stack([first, second]), positive, cluster)
    value = float(areas[0] - areas[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if variance <= 1e-16:  # equal rankings: what is left is rounding
        return Difference(value, value, value, 1.0 if abs(value) < 1e-12 else 0.0)
    error = float(np.sqrt(variance))
    half = float(norm.ppf((1 + LEVEL) / 2)) * error
    return Difference(value, value - half, value + half, float(2 * norm.sf(abs(value) / error)))


def _areas(scores: Floats, positive: NDArray[np.bool_], cluster: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Areas ``(M,)`` of M scores ``(M, N)``, and their covariance ``(M, M)``."""
    up, down = int(positive.sum()), int((~positive).sum())
    ranks = rankdata(scores, axis=1)
    above = (
        ranks[:, positive] - rankdata(scores[:, positive], axis=1)
    ) / down  # share of negatives below each positive
    below = 1 - (ranks[:, ~positive] - rankdata(scores[:, ~positive], axis=1)) / up
    areas: Floats = above.mean(axis=1)
    count = int(cluster.max()) + 1
    sums = [
        np.stack([np.bincount(cluster[side], one - area, count) for one, area in zip(parts, areas, strict=True)])
        for side, parts in ((positive, above), (~positive, below))
    ]
    sides = [len(np.unique(cluster[side])) for side in (positive, ~positive)]
    own = [sides[k] / (sides[k] - 1) * sums[k] @ sums[k].T / n**2 for k, n in ((0, up), (1, down))]
    shared = len(np.unique(cluster[positive])) + len(np.unique(cluster[~positive])) > count
    both = count / (count - 1) * (sums[0] @ sums[1].T + sums[1] @ sums[0].T) / (up * down) if shared else 0
    return areas, own[0] + own[1] + both


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected so that among all of them a false claim is made in one study of twenty at most; NaN stays.

    Source: Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    from statsmodels.stats.multitest import multipletests

    values = np.array(p, dtype=float)
    known = np.isfinite(values)
    if known.any():
        values[known] = multipletests(values[known], method="holm")[1]
    return [float(value) for value in values]


def folds_estimate(values: Sequence[float], train: float, test: float, metric: str) -> tuple[float, float, float]:
    """The mean of a metric over the folds of a cross-validation with its 95% bounds, on the scale of log odds.

    Args:
        values: ``(k,)``, of each fold.
        train: As of :func:`folds_difference`, which names the source.
        test: As there.
        metric: Its name; see :func:`pneumonia.metrics.bootstrap.bounds`.
    """
    found = np.asarray(values, dtype=float)
    value, count = float(found.mean()), len(found)
    if count < 2 or not np.isfinite(value):
        return value, float("nan"), float("nan")
    variance = float((1 / count + test / train) * found.var(ddof=1))
    return value, *laid_off(value, [(variance, count - 1)], metric)


def folds_difference(gaps: Sequence[float], train: float, test: float) -> Difference:
    """The mean difference over the folds of a cross-validation.

    The folds' training splits overlap, so that the differences are not independent: their variance is taken
    ``1/k + test/train`` times instead of ``1/k`` times.

    Args:
        gaps: ``(k,)``, first less second on each fold.
        train: Images (or patients) that a fold trains on.
        test: Images (or patients) that a fold validates on.

    Returns:
        NaN bounds where there are fewer than two folds.

    Source: Nadeau and Bengio (2003), Inference for the generalization error.
    """
    values = np.asarray(gaps, dtype=float)
    value, count = float(values.mean()), len(values)
    if count < 2:
        return Difference(value, float("nan"), float("nan"), float("nan"))
    error = float(np.sqrt((1 / count + test / train) * values.var(ddof=1)))
    if error == 0:
        return Difference(value, value, value, 1.0 if value == 0 else 0.0)
    half = float(t.ppf((1 + LEVEL) / 2, count - 1)) * error
    return Difference(value, value - half, value + half, float(2 * t.sf(abs(value) / error, count - 1)))
