"""Temperature, calibration, thresholds and selective prediction against closed forms and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from pneumonia.metrics.bootstrap import Estimate
from pneumonia.metrics.calibration import Temperature, apply_temperature, calibration_metrics, fit_temperature
from pneumonia.metrics.thresholds import (
    metrics_at_threshold,
    one_vs_rest,
    risk_coverage_curve,
    selective_prediction,
    threshold_for,
)
from pneumonia.tasks import TASKS


def _predictions(images: int = 4000, sharpness: float = 1.0, seed: int = 0):
    """Labels drawn from the stated probabilities, and these made too sure or too unsure."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (images, 3))
    truth = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    label = np.array([rng.choice(3, p=row) for row in truth])
    probability = np.exp(sharpness * logits)
    return probability / probability.sum(axis=1, keepdims=True), label


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 2.5])
def test_temperature_undoes_overconfidence(sharpness):
    probability, label = _predictions(sharpness=sharpness)
    found = fit_temperature(probability, label)
    assert found.value == pytest.approx(sharpness, rel=0.08)
    calibrated = apply_temperature(probability, found)
    assert calibration_metrics(calibrated, label).ece < 0.03
    best = log_loss(label, calibrated)
    for other in (0.9, 1.1):
        assert best < log_loss(label, apply_temperature(probability, Temperature(found.value * other)))


def test_temperature_changes_no_prediction():
    probability, label = _predictions(200, 3.0)
    calibrated = apply_temperature(probability, fit_temperature(probability, label))
    assert (calibrated.argmax(axis=1) == probability.argmax(axis=1)).all()
    assert calibrated.sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize(
    ("probability", "label", "reason"),
    [
        (np.eye(3)[[0, 1, 2]], np.array([0, 1, 2]), "every image .* is predicted correctly"),
        (np.eye(3)[[0, 1, 2]], np.array([0, 1, 1]), "all probabilities are 0 or 1"),
        (np.zeros((0, 3)), np.zeros(0, dtype=int), "no image"),
    ],
)
def test_missing_temperature_has_a_reason(probability, label, reason):
    found = fit_temperature(probability, label)
    assert found.value is None
    import re

    assert re.search(reason, found.reason)
    assert apply_temperature(probability, found) is probability


def test_brier_score_equals_scikit_learn():
    probability, label = _predictions(500)
    found = calibration_metrics(probability, label)
    assert found.brier == pytest.approx(brier_score_loss(label, probability, labels=[0, 1, 2]))
    assert sum(one.n for one in found.reliability) == 500
    ece = sum(one.n * abs(one.confidence - one.accuracy) for one in found.reliability) / 500
    assert found.ece == pytest.approx(ece)


def test_threshold_is_the_highest_of_the_sensitivity():
    score = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05])
    positive = np.array([True] * 4 + [False] + [True] + [False] * 4)
    assert threshold_for(score, positive, 0.8) == 0.6
    assert threshold_for(score, positive, 0.81) == 0.4
    assert threshold_for(score, positive, 1.0) == 0.4
    assert threshold_for(score, np.zeros(10, dtype=bool)) is None


def test_metrics_at_a_threshold():
    score = np.array([0.9, 0.8, 0.2, 0.7, 0.1, 0.3])
    positive = np.array([True, True, True, False, False, False])
    found = metrics_at_threshold(score, positive, 0.7, np.arange(6).astype(object))
    values = {name: entry.value for name, entry in found.items()}
    assert values == pytest.approx({"sensitivity": 2 / 3, "specificity": 2 / 3, "ppv": 2 / 3, "npv": 2 / 3, "flagged": 1 / 2})
    nothing = metrics_at_threshold(score, positive, 2.0, np.arange(6).astype(object))
    assert nothing["ppv"] == Estimate(None, None, None)


def test_pneumonia_is_every_class_but_normal():
    probability, label = np.array([[0.2, 0.5, 0.3], [0.7, 0.1, 0.2]]), np.array([2, 0])
    asked = one_vs_rest(probability, label, TASKS["subtype"])
    assert list(asked) == ["PNEUMONIA", "VIRUS", "BACTERIA"]
    assert asked["PNEUMONIA"][0] == pytest.approx([0.8, 0.3])
    assert asked["PNEUMONIA"][1].tolist() == [True, False]
    assert list(one_vs_rest(probability[:, :2], np.array([1, 0]), TASKS["pneumonia"])) == ["PNEUMONIA"]


def test_risk_by_coverage():
    probability = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    label = np.array([0, 1, 0, 1])
    coverage, risk = risk_coverage_curve(probability, label)
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1]
    assert risk == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    found = selective_prediction(probability, label, np.arange(4).astype(object))
    assert found.aurc == pytest.approx(np.mean(risk))
    assert [point.risk.value for point in found.points if point.asked in (1.0, 0.5)] == [0.5, 0.5]


def test_equal_confidences_are_kept_together():
    probability = np.array([[0.8, 0.2]] * 4)
    for label in ([0, 0, 1, 1], [1, 1, 0, 0]):
        assert risk_coverage_curve(probability, np.array(label))[1] == pytest.approx([0.5] * 4)
