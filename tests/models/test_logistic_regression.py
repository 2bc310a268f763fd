"""Logistic regression against scikit-learn's."""

import numpy as np
import pytest
import torch
from builders import few_images, quick_fit
from sklearn.linear_model import LogisticRegression as Reference
from sklearn.metrics import log_loss

from pneumonia.data.sources.phantom import draw
from pneumonia.errors import ConfigError
from pneumonia.models.config_checks import check_family
from pneumonia.models.factory import build_classifier
from pneumonia.models.options import ClassifierOptions
from pneumonia.tasks import LABELS
from pneumonia.training.train import train

SIDE = 12
NODE = {"_target_": "pneumonia.models.logistic_regression.LogisticRegression"}


@pytest.fixture(scope="module")
def features():
    """Small phantoms with their labels, and the numbers that a network is given of them."""
    import cv2

    names = [LABELS[n % 3] for n in range(150)]
    pixels = np.stack([cv2.resize(draw(name, n, 0), (SIDE, SIDE), interpolation=cv2.INTER_AREA) for n, name in enumerate(names)])
    label = np.array([LABELS.index(name) for name in names])
    return pixels, names, label, (pixels.reshape(len(pixels), -1).astype(np.float64) - 127.5) / 127.5


def _solve(features, task="subtype", epochs=10, **words):
    pixels, names, *_ = features
    weights = words.pop("class_weights", None)
    setup = ClassifierOptions(task, image_size=SIDE, class_weights=weights)
    classifier = build_classifier({**NODE, "max_iter": 20_000, **words}, setup)
    trainer = quick_fit(classifier, few_images(pixels, names, task), epochs)
    return classifier, {name: float(value) for name, value in trainer.callback_metrics.items()}


def _relative(ours, reference):
    return np.linalg.norm(ours - reference) / np.linalg.norm(reference)


@pytest.mark.parametrize("solver", ["lbfgs", "proximal"])
@pytest.mark.parametrize("C", [0.01, 1.0])
def test_l2_reaches_scikit_learns_optimum(features, C, solver):
    _, _, label, x = features
    reference = Reference(C=C, tol=1e-8, max_iter=20_000).fit(x, label)
    ours, logged = _solve(features, C=C, tolerance=1e-6, solver=solver)
    assert _relative(ours.linear.weight.detach().numpy(), reference.coef_) < 1e-3
    centred = ours.linear.intercept().detach().numpy()
    assert centred - centred.mean() == pytest.approx(reference.intercept_ - reference.intercept_.mean(), abs=2e-3)
    assert logged["train/loss"] == pytest.approx(log_loss(label, reference.predict_proba(x)), rel=1e-3)
    assert logged["train/gradient"] <= 1e-6


def test_with_two_classes_scikit_learns_c_is_twice_ours(features):
    _, _, label, x = features
    reference = Reference(C=0.2, tol=1e-8, max_iter=20_000).fit(x, label > 0)
    ours, _ = _solve(features, task="pneumonia", C=0.1, tolerance=1e-6)
    weight = ours.linear.weight.detach().numpy()
    assert _relative((weight[1] - weight[0])[None], reference.coef_) < 1e-3


def test_balanced_class_weights_are_scikit_learns(features):
    pixels, names, label, x = features
    keep = np.flatnonzero((label > 0) | (np.arange(len(label)) % 2 == 0))
    fewer = (pixels[keep], [names[n] for n in keep], label[keep], x[keep])
    count = np.bincount(label[keep])
    balanced = (count.sum() / (3 * count)).tolist()
    reference = Reference(C=0.1, tol=1e-8, max_iter=20_000, class_weight="balanced").fit(x[keep], label[keep])
    ours, _ = _solve(fewer, C=0.1, tolerance=1e-6, class_weights=balanced)
    assert _relative(ours.linear.weight.detach().numpy(), reference.coef_) < 1e-3


@pytest.mark.parametrize(("penalty", "ratio"), [("l1", 1.0), ("elasticnet", 0.5)])
def test_l1_and_elastic_net_keep_the_same_pixels_as_scikit_learn(features, penalty, ratio):
    _, _, label, x = features
    reference = Reference(C=0.3, l1_ratio=ratio, solver="saga", tol=1e-7, max_iter=20_000).fit(x, label)
    ours, _ = _solve(features, C=0.3, penalty=penalty, l1_ratio=0.5, tolerance=1e-7)
    weight = ours.linear.weight.detach().numpy()
    kept = np.abs(reference.coef_) > 1e-4
    assert 0 < kept.sum() < kept.size
    assert ((weight != 0) == kept).mean() > 0.995  # saga itself leaves a few near zero
    assert _relative(weight, reference.coef_) < 1e-2


def test_without_a_penalty_the_loss_is_that_of_scikit_learn(features):
    pixels, _, label, _ = features
    noisy = label.copy()
    noisy[::4] = (noisy[::4] + 1) % 3  # else the classes are separable, and there is no optimum
    few = pixels[:, ::4, ::4]
    reference = Reference(C=np.inf, tol=1e-7, max_iter=20_000)
    inputs = (few.reshape(len(few), -1) - 127.5) / 127.5
    reference.fit(inputs, noisy)
    setup = ClassifierOptions("subtype", image_size=3)
    classifier = build_classifier({**NODE, "penalty": "none", "max_iter": 5000, "tolerance": 1e-5}, setup)
    trainer = quick_fit(classifier, few_images(few, [LABELS[n] for n in noisy], "subtype"), 5)
    loss = float(trainer.callback_metrics["train/loss"])
    assert loss == pytest.approx(log_loss(noisy, reference.predict_proba(inputs)), rel=1e-3)


def test_it_stops_when_solved_and_warns_when_not(features, capsys):
    solved, _ = _solve(features, C=0.01)
    assert solved.trainer.current_epoch < 10
    assert "has not converged" not in capsys.readouterr().err
    _solve(features, C=100.0, max_iter=3, epochs=3)
    assert "has not converged in model.max_iter=3 steps" in capsys.readouterr().err


def test_the_number_of_epochs_does_not_change_the_optimum(features):
    one, _ = _solve(features, C=0.1, tolerance=1e-6, epochs=1)
    many, _ = _solve(features, C=0.1, tolerance=1e-6, epochs=2000)
    assert _relative(one.linear.weight.detach().numpy(), many.linear.weight.detach().numpy()) < 1e-3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"C": 0}, r"model.C=0 is out of range: it must be finite and above 0"),
        ({"C": -1}, "model.C=-1 is out of range"),
        ({"penalty": "l3"}, "model.penalty=l3 is not known"),
        ({"solver": "lbfg"}, "Did you mean 'lbfgs'"),
        (
            {"solver": "lbfgs", "penalty": "l1"},
            r"solver=lbfgs can't minimise model.penalty=l1.*Use model.solver=proximal",
        ),
        ({"solver": "lbfgs", "penalty": "elasticnet"}, "can't minimise model.penalty=elasticnet"),
        ({"l1_ratio": 1.5}, "model.l1_ratio=1.5"),
        ({"max_iter": 0}, "model.max_iter=0"),
        ({"tolerance": 0}, "model.tolerance=0"),
    ],
)
def test_bad_settings_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        build_classifier({**NODE, **words}, ClassifierOptions("subtype", image_size=SIDE))


@pytest.mark.parametrize("word", ["augmentation=normal", "ema=0.9", "swa=0.5", "trainer.limit_train_batches=0.5"])
def test_options_without_effect_are_refused(word, compose):
    with pytest.raises(ConfigError, match="has no effect on LogisticRegression"):
        check_family(compose("model=logistic_regression", word))


def test_a_training_split_that_changes_is_refused(compose):
    with pytest.raises(ConfigError, match=r"split=rotating changes the training subset.*Use split=kfold"):
        check_family(compose("model=logistic_regression", "split=rotating"))


def test_the_optimum_is_kept_not_the_best_validation(compose, tmp_path):
    result = train(compose("model=logistic_regression", "model.C=1e3", "max_epochs=5", runs_dir=tmp_path))
    assert result.best_epoch == result.epochs
    assert result.metrics["val"]["loss"] > 2 * result.metrics["train"]["loss"]


def test_blocks_of_images_give_the_same_result(features, monkeypatch):
    whole, _ = _solve(features, C=0.1, tolerance=1e-6)
    monkeypatch.setattr("pneumonia.models.logistic_regression.BLOCK", 7 * SIDE**2)
    few, _ = _solve(features, C=0.1, tolerance=1e-6)
    assert torch.allclose(whole.linear.weight, few.linear.weight, atol=1e-4)
