"""Intervals and paired differences by patient, against simulation and closed forms."""

import numpy as np
import pytest
from scipy.stats import t, ttest_rel
from simulated_predictions import simulate

from pneumonia.metrics.bootstrap import (
    ResampledMetric,
    bootstrap_intervals,
    differing_patients,
    estimate,
    paired_bootstrap,
    paired_difference,
    resampled_metrics,
    t_test,
    wilson_interval,
)
from pneumonia.tasks import TASKS

TASK = TASKS["subtype"]


def _own(count: int) -> np.ndarray:
    return np.arange(count).astype(object)


def test_perfect_accuracy_has_wilsons_interval():
    label = np.repeat([0, 1, 2], 10)
    low, high = bootstrap_intervals(np.eye(3)[label], label, _own(30), TASK)["accuracy"]
    assert high == pytest.approx(1)
    assert low == pytest.approx(30 / (30 + 1.959964**2)), "Wilson's bound at 30 of 30"
    few = bootstrap_intervals(np.eye(3)[label], label, np.arange(30).astype(object) // 5, TASK)["accuracy"]
    assert few[0] == pytest.approx(6 / (6 + 1.959964**2)), "six patients are six observations"


def test_interval_stays_in_range():
    (predicted, _), label, patient = simulate(40, np.random.default_rng(3), skill=2.2)
    for name, (low, high) in bootstrap_intervals(predicted, label, patient, TASK).items():
        assert low >= 0
        assert high <= 1 or name == "loss"


def test_metric_without_a_class_has_no_interval():
    label = np.repeat([0, 1], 20)
    predicted = np.random.default_rng(0).dirichlet([1, 1, 1], 40)
    found = bootstrap_intervals(predicted, label, _own(40), TASK)
    assert np.isnan(found["f1_macro"]).all()
    assert np.isfinite(found["accuracy"]).all()


def test_wilson_interval_equals_statsmodels():
    from statsmodels.stats.proportion import proportion_confint

    hits = np.array([1.0] * 37 + [0.0] * 13)
    share, low, high = wilson_interval(hits, np.ones(50, dtype=int))
    assert share == 0.74
    # The effective number has the spread over G - 1, statsmodels' the spread over G.
    assert (low, high) == pytest.approx(proportion_confint(37 * 49 / 50, 49, method="wilson"), abs=1e-9)


def test_equal_models_do_not_differ():
    (predicted, _), label, patient = simulate(60, np.random.default_rng(0))
    for found in paired_bootstrap(predicted, predicted, label, patient, TASK).values():
        assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_paired_test_agrees_with_t_test():
    (first, second), label, _ = simulate(400, np.random.default_rng(5), one_each=True)
    ours = paired_bootstrap(first, second, label, _own(400), TASK)["accuracy"]
    right = [one.argmax(axis=1) == label for one in (first, second)]
    theirs = ttest_rel(right[0].astype(float), right[1].astype(float))
    assert ours.value == pytest.approx(right[0].mean() - right[1].mean())
    assert ours.p == pytest.approx(theirs.pvalue, abs=0.03)
    interval = theirs.confidence_interval()
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), abs=0.004)


def test_bounds_of_a_difference_stay_in_range():
    far = t_test(-0.4286, 0.35, 3, "accuracy")
    assert (far.low, far.high) == pytest.approx((-1, -0.4286 + 0.35 * t.ppf(0.975, 3)))
    free = t_test(-0.4286, 0.35, 3, "loss")
    assert free.low == pytest.approx(-0.4286 - 0.35 * t.ppf(0.975, 3))
    assert far.p == free.p


def test_better_model_is_found():
    (first, _), label, patient = simulate(150, np.random.default_rng(1), skill=1.6)
    guess = np.full_like(first, 1 / 3)
    there, back = (paired_bootstrap(a, b, label, patient, TASK)["accuracy"] for a, b in ((first, guess), (guess, first)))
    assert there.p < 1e-6
    assert there.low > 0
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))


def test_variation_between_trainings_widens_the_interval():
    (predicted, other), label, patient = simulate(150, np.random.default_rng(2), skill=1.4)
    once = resampled_metrics([predicted], label, patient, TASK)["accuracy"]
    spread = ResampledMetric(once.values[0] + np.array([-0.05, 0.0, 0.05]), once.resampled, once.patients)
    equal = ResampledMetric(np.repeat(once.values, 3), once.resampled, once.patients)
    width = {name: np.subtract(*estimate(one, "accuracy")[:0:-1]) for name, one in (("spread", spread), ("equal", equal))}
    assert width["equal"] == pytest.approx(np.subtract(*estimate(once, "accuracy")[:0:-1]), rel=1e-9)
    assert width["spread"] > 1.5 * width["equal"]
    rival = resampled_metrics([other], label, patient, TASK)["accuracy"]
    wide, narrow = (paired_difference(one, rival, "accuracy").p for one in (spread, equal))
    assert wide > narrow or narrow > 0.9


def test_interval_over_trainings_is_students():
    values = np.array([0.80, 0.82, 0.87])
    still = ResampledMetric(values, np.full(2000, values.mean()), 10_000)
    _, low, high = estimate(still, "accuracy")
    mean, error = values.mean(), values.std(ddof=1) / np.sqrt(3)
    odds, reach = np.log(mean / (1 - mean)), 4.302653 * error / (mean * (1 - mean))
    assert (low, high) == pytest.approx(tuple(1 / (1 + np.exp(-(odds + sign * reach))) for sign in (-1, 1)), rel=1e-5)


def test_patients_with_equal_predictions_do_not_differ():
    predicted = np.eye(3)[[0, 1, 2, 0]]
    other = np.eye(3)[[0, 1, 0, 0]]
    assert differing_patients([predicted], [other], np.array(["a", "a", "b", "c"], dtype=object)) == 1
    assert differing_patients([predicted, predicted], [predicted], np.array(["a", "a", "b", "c"], dtype=object)) == 0


def test_single_patient_has_no_interval():
    predicted, label = np.random.default_rng(0).dirichlet([1, 1, 1], 9), np.arange(9) % 3
    found = bootstrap_intervals(predicted, label, np.full(9, "a", dtype=object), TASK)
    assert all(np.isnan(bounds).all() for bounds in found.values())
    assert np.isnan(paired_bootstrap(predicted, predicted[::-1], label, np.full(9, "a", dtype=object), TASK)["accuracy"].p)
