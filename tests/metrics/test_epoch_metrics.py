"""Metrics and intervals against scikit-learn and simulation."""

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from pneumonia.metrics.bootstrap import bootstrap_intervals
from pneumonia.metrics.calibration import MIN_PROBABILITY, calibration_metrics
from pneumonia.metrics.classification import confusion_matrix, nan_to_none, weighted_metrics
from pneumonia.metrics.epoch_metrics import (
    build_epoch_metrics,
    compute_epoch_metrics,
    cross_entropy,
    metrics_of_predictions,
)
from pneumonia.tasks import TASKS


def _draw(task: str, images: int = 300, seed: int = 0, *, ties: bool = False):
    classes = len(TASKS[task].classes)
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, images)
    logits = rng.normal(0, 1, (images, classes)) + 1.2 * np.eye(classes)[label]
    if ties:
        logits = np.round(logits, 0)
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probability.astype(np.float32), label


def _reference(probability, label, task):
    predicted = probability.argmax(axis=1)
    many = probability.shape[1] > 2
    score = probability if many else probability[:, 1]
    values = {
        "loss": sk.log_loss(label, probability.astype(np.float64) / probability.sum(axis=1, keepdims=True, dtype=np.float64)),
        "accuracy": sk.accuracy_score(label, predicted),
        "f1_macro": sk.f1_score(label, predicted, average="macro"),
        "recall_macro": sk.recall_score(label, predicted, average="macro"),
        "auroc": sk.roc_auc_score(label, score, multi_class="ovr", average="macro"),
    }
    if task == "pneumonia":
        tn, fp, fn, tp = sk.confusion_matrix(label, predicted).ravel()
        values |= {"fpr": fp / (fp + tn), "fnr": fn / (fn + tp), "specificity": tn / (tn + fp)}
        values |= {"sensitivity": sk.recall_score(label, predicted), "f1": sk.f1_score(label, predicted)}
        return values
    for name, score_of in (("recall", sk.recall_score), ("precision", sk.precision_score)):
        each = score_of(label, predicted, average=None, labels=range(probability.shape[1]), zero_division=np.nan)
        values |= {f"{name}_{kind.lower()}": value for kind, value in zip(TASKS[task].classes, each, strict=True)}
    return values


@pytest.mark.parametrize("task", TASKS)
def test_every_metric_equals_scikit_learn(task):
    probability, label = _draw(task)
    ours = metrics_of_predictions(torch.from_numpy(probability), torch.from_numpy(label), TASKS[task])
    assert ours == pytest.approx(_reference(probability, label, task), abs=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_metrics_over_batches_equal_metrics_at_once(task):
    probability, label = map(torch.from_numpy, _draw(task))
    metrics = build_epoch_metrics(TASKS[task])
    for start in range(0, len(label), 37):
        metrics.update(probability[start : start + 37], label[start : start + 37])
    whole = metrics_of_predictions(probability, label, TASKS[task])
    assert compute_epoch_metrics(metrics, TASKS[task]) == pytest.approx({k: v for k, v in whole.items() if k != "loss"})


def test_undefined_metric_is_null():
    probability, label = _draw("subtype")
    keep = label != 1
    values = nan_to_none(
        metrics_of_predictions(torch.from_numpy(probability[keep]), torch.from_numpy(label[keep]), TASKS["subtype"])
    )
    assert {name for name, value in values.items() if value is None} == {
        "f1_macro",
        "recall_macro",
        "auroc",
        "recall_virus",
    }
    probability, label = _draw("pneumonia")
    values = nan_to_none(
        metrics_of_predictions(torch.from_numpy(probability[label == 1]), torch.from_numpy(label[label == 1]), TASKS["pneumonia"])
    )
    assert {name for name, value in values.items() if value is None} >= {"fpr", "specificity", "auroc"}
    assert values["fnr"] is not None


def test_precision_without_predictions_is_undefined():
    sure = torch.eye(3)[torch.tensor([0, 0, 2])]
    values = nan_to_none(metrics_of_predictions(sure, torch.tensor([0, 1, 2]), TASKS["subtype"]))
    assert values["precision_virus"] is None
    assert values["recall_virus"] == 0
    assert values["precision_normal"] == 0.5


def test_confusion_counts_are_scikit_learns():
    probability, label = _draw("subtype")
    predicted = probability.argmax(axis=1)
    assert (confusion_matrix(predicted, label, 3) == sk.confusion_matrix(label, predicted)).all()


@pytest.mark.parametrize("task", TASKS)
def test_weighted_metrics_equal_those_of_images_repeated_as_often(task):
    probability, label = _draw(task, 120, ties=True)
    weight = np.random.default_rng(1).integers(0, 4, (5, 120)).astype(float)
    ours = weighted_metrics(probability.astype(np.float64), label, weight, TASKS[task])
    for row in range(5):
        times = weight[row].astype(int)
        reference = _reference(np.repeat(probability, times, axis=0), np.repeat(label, times), task)
        reference["loss"] = -np.log(np.repeat(probability, times, axis=0)[np.arange(times.sum()), np.repeat(label, times)]).mean()
        assert {name: values[row] for name, values in ours.items()} == pytest.approx(reference, abs=1e-6)


def test_intervals_widen_when_images_of_one_patient_agree():
    probability, label = _draw("subtype", 200)
    alone = bootstrap_intervals(probability.astype(float), label, np.arange(200).astype(object), TASKS["subtype"])
    six = np.repeat(np.arange(200), 6)
    together = bootstrap_intervals(probability[six].astype(float), label[six], six.astype(object), TASKS["subtype"])
    naive = bootstrap_intervals(probability[six].astype(float), label[six], np.arange(1200).astype(object), TASKS["subtype"])
    width = {name: high - low for name, (low, high) in alone.items()}
    for name, (low, high) in together.items():
        assert high - low == pytest.approx(width[name], rel=0.15)
        assert high - low > 1.8 * (naive[name][1] - naive[name][0])


def test_an_accuracy_interval_is_near_the_closed_form():
    probability, label = _draw("subtype", 500)
    low, high = bootstrap_intervals(probability.astype(float), label, np.arange(500).astype(object), TASKS["subtype"])["accuracy"]
    share = float((probability.argmax(axis=1) == label).mean())
    half = 1.96 * math.sqrt(share * (1 - share) / 500)
    assert (low, high) == pytest.approx((share - half, share + half), abs=0.008)


def test_calibration_by_hand_and_brier_as_scikit_learn():
    probability = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.6, 0.4]])
    label = np.array([0, 1, 1, 0])
    found = calibration_metrics(probability, label)
    assert found.ece == pytest.approx((abs(0.9 - 0.5) * 2 + abs(0.7 - 1) + abs(0.6 - 1)) / 4)
    assert found.brier == pytest.approx(2 * sk.brier_score_loss(label, probability[:, 1]))


@pytest.mark.parametrize("scale", [1, 10, 30, 1e3, 1e14])
def test_loss_of_logits_is_the_loss_of_their_probabilities(scale):
    rng = np.random.default_rng(1)
    label = rng.integers(0, 3, 200)
    logits = torch.from_numpy(scale * rng.uniform(-1, 1, (200, 3)).astype(np.float32))
    target = torch.from_numpy(label)
    loss = float(cross_entropy(logits, target))
    exact = torch.nn.functional.cross_entropy(logits.double(), target, reduction="none").numpy()
    assert loss == pytest.approx(np.minimum(exact, -math.log(MIN_PROBABILITY)).mean(), rel=1e-5)
    probability = logits.softmax(dim=1)
    from_table = weighted_metrics(probability.numpy().astype(float), label, np.ones((1, 200)), TASKS["subtype"])
    assert from_table["loss"][0] == pytest.approx(loss, rel=1e-5)
    assert metrics_of_predictions(probability, target, TASKS["subtype"])["loss"] == pytest.approx(loss, rel=1e-5)
    if scale <= 30:  # no probability is below the bound
        assert loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, target)), rel=1e-6)
    if scale <= 10:  # scikit-learn bounds them at 2.2e-16
        assert loss == pytest.approx(sk.log_loss(label, logits.double().softmax(dim=1).numpy()), rel=1e-6)


@pytest.mark.parametrize("options", [{"weight": torch.tensor([1.0, 2.0, 3.0])}, {"label_smoothing": 0.1}, {"reduction": "sum"}])
def test_reported_loss_weighs_and_smooths_as_torch_does(options):
    logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    blend = torch.rand(50, 3).softmax(dim=1)
    for target in (torch.arange(50) % 3, blend):
        reference = torch.nn.functional.cross_entropy(logits, target, **options)
        assert float(cross_entropy(logits, target, **options)) == pytest.approx(float(reference), rel=1e-5)
