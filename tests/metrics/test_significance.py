"""McNemar, DeLong, Holm, Nadeau and Bengio against closed forms, by hand, and against resampling."""

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp
from sklearn.metrics import roc_auc_score

from pneumonia.metrics.significance import delong, difference_over_folds, estimate_over_folds, holm, mcnemar


def test_mcnemar_is_the_binomial_test_of_discordant_images():
    first = np.array([True] * 30 + [True] * 12 + [False] * 4 + [False] * 9)
    second = np.array([True] * 30 + [False] * 12 + [True] * 4 + [False] * 9)
    assert mcnemar(first, second) == pytest.approx(binomtest(12, 16, 0.5).pvalue)
    assert mcnemar(first, first) == 1


def _scores(images: int = 120, seed: int = 0):
    rng = np.random.default_rng(seed)
    positive = rng.random(images) < 0.4
    common = rng.normal(0, 1, images)
    return positive * 1.2 + common, np.round(positive * 1.0 + 0.5 * common + rng.normal(0, 1, images), 1), positive


def _by_definition(first, second, positive):
    """DeLong's variance from its definition: every positive against every negative."""
    parts = []
    for score in (first, second):
        kernel = (score[positive][:, None] > score[~positive]) + 0.5 * (score[positive][:, None] == score[~positive])
        parts.append((kernel.mean(axis=1), kernel.mean(axis=0)))
    ups, downs = (np.stack([part[side] for part in parts]) for side in (0, 1))
    covariance = np.cov(ups) / positive.sum() + np.cov(downs) / (~positive).sum()
    return covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]


def test_delong_equals_its_definition():
    first, second, positive = _scores()
    found = delong(first, second, positive)
    assert found.value == pytest.approx(roc_auc_score(positive, first) - roc_auc_score(positive, second))
    half = 1.959964 * np.sqrt(_by_definition(first, second, positive))
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=1e-6)


def test_delong_with_one_image_per_patient():
    first, second, positive = _scores()
    alone = delong(first, second, positive, np.arange(len(positive)).astype(object))
    assert alone == delong(first, second, positive)


def test_repeated_images_add_no_information_to_delong():
    first, second, positive = _scores()
    patient = np.arange(len(positive)).astype(object)
    four = [np.repeat(one, 4) for one in (first, second, positive, patient)]
    once, often = delong(first, second, positive, patient), delong(*four)
    assert often.p == pytest.approx(once.p, rel=0.02)
    assert delong(*four[:3]).p < once.p, "as independent images they would"


def test_clustered_delong_agrees_with_the_bootstrap():
    rng = np.random.default_rng(4)
    patient = np.repeat(np.arange(150), 3)
    positive = rng.random(450) < 0.5
    mood = rng.normal(0, 1, 150)[patient]
    first, second = positive + mood + rng.normal(0, 1, 450), 0.8 * positive + mood + rng.normal(0, 1, 450)
    found = delong(first, second, positive, patient.astype(object))
    gaps = []
    for _ in range(1500):
        rows = (rng.integers(0, 150, 150)[:, None] * 3 + np.arange(3)).ravel()
        gaps.append(roc_auc_score(positive[rows], first[rows]) - roc_auc_score(positive[rows], second[rows]))
    assert (found.high - found.low) / 2 / 1.96 == pytest.approx(np.std(gaps), rel=0.08)


def test_delong_without_difference_or_negatives():
    first, _, positive = _scores()
    assert delong(first, 2 * first + 1, positive).p == 1
    assert np.isnan(delong(first, first, np.zeros(len(first), dtype=bool)).p)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.9, 0.02]) == pytest.approx([0.9, 0.04])
    found = holm([0.01, float("nan"), 0.04])
    assert found[0] == pytest.approx(0.02)
    assert np.isnan(found[1])
    assert holm([]) == []


def test_folds_test_is_the_corrected_t_test():
    gaps = [0.02, 0.05, 0.01, 0.04, 0.03]
    plain = difference_over_folds(gaps, train=1, test=0)
    theirs = ttest_1samp(gaps, 0)
    assert plain.p == pytest.approx(theirs.pvalue)
    assert (plain.low, plain.high) == pytest.approx(tuple(theirs.confidence_interval()))
    folds = difference_over_folds(gaps, train=80, test=20)
    assert (folds.high - folds.low) / (plain.high - plain.low) == pytest.approx(np.sqrt((1 / 5 + 1 / 4) / (1 / 5)))
    assert folds.p > plain.p
    assert np.isnan(difference_over_folds([0.1], 80, 20).p)
    assert difference_over_folds([0, 0, 0], 80, 20).p == 1


def test_interval_over_folds_stays_in_range():
    value, low, high = estimate_over_folds([0.2, 0.6], 80, 20, "f1_macro")
    assert value == pytest.approx(0.4)
    assert 0 < low < value < high < 1
    near = estimate_over_folds([0.50, 0.51, 0.49, 0.505], 80, 20, "f1_macro")
    plain = difference_over_folds([0.50, 0.51, 0.49, 0.505], 80, 20)
    assert near[1:] == pytest.approx((plain.low, plain.high), abs=1e-4)
    assert np.isnan(estimate_over_folds([0.5], 80, 20, "accuracy")[1:]).all()
