"""`pneumonia train tune=lr` and `tune=batch_size`."""

import numpy as np
import pytest
import torch

from pneumonia.cli import main
from pneumonia.errors import ConfigError
from pneumonia.system.memory import limited_memory
from pneumonia.training.train import train
from pneumonia.training.tune import BETA, smoothed, steepest, tune


def _as_lightning_averages(raw):
    average, found = 0.0, []
    for step, loss in enumerate(raw, start=1):
        average = BETA * average + (1 - BETA) * loss
        found.append(average / (1 - BETA ** (step + 1)))
    return np.array(found)


def test_smoothing_recovers_a_constant_loss():
    np.testing.assert_allclose(smoothed(_as_lightning_averages([1.1] * 100)), 1.1, rtol=1e-9)


def test_the_steepest_descent_of_a_sigmoid_is_its_middle():
    rates = np.logspace(-7, 0, 100)
    noise = np.random.default_rng(0).normal(0, 0.01, 100)
    loss = 1 / (1 + np.exp(6 * (np.log10(rates) + 3))) + noise + np.where(rates > 0.1, 5, 0)
    step = steepest(rates, smoothed(_as_lightning_averages(loss)))
    assert 3e-4 < rates[step] < 3e-3


def test_a_rising_loss_has_no_suggestion():
    assert steepest(np.logspace(-7, 0, 100), np.linspace(1, 2, 100)) is None


def test_lr_is_suggested_as_an_override_with_a_picture(compose, tmp_path, capsys):
    suggestion = tune(compose("model=simple_cnn", "tune=lr", runs_dir=tmp_path))
    key, _, value = suggestion.partition("=")
    assert key == "optimizer.lr"
    assert 1e-6 < float(value) < 1
    assert suggestion in capsys.readouterr().err
    (picture,) = (tmp_path / "train").iterdir()
    assert picture.name.startswith("tune-lr-")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_batch_size_stops_at_the_training_split(compose, tmp_path):
    suggestion = tune(compose("model=mlp", "tune=batch_size", runs_dir=tmp_path))
    assert suggestion == "batch_size=128"  # of 123 training images
    assert not list(tmp_path.rglob("*.ckpt"))


def test_memory_is_limited_in_the_block():
    size = 2**36  # 256 GiB of float32
    with limited_memory(0.5), pytest.raises(RuntimeError, match="allocate memory"):
        torch.ones(size)
    torch.ones(2**20)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=logistic_regression", "tune=lr"], r"tune=lr finds nothing for LogisticRegression"),
        (["model=perceptron", "task=pneumonia", "tune=batch_size"], r"finds nothing for Perceptron"),
        (["tune=lr", "ckpt_path=a.ckpt"], r"tune=lr has no use for ckpt_path=a.ckpt"),
        (["tune=lr", "debug=fdr"], r"tune=lr has no use for trainer.fast_dev_run=true"),
        (["tune=rate"], r"tune=rate is not known; choose one of lr, batch_size"),
    ],
)
def test_bad_tuning_is_refused(overrides, message, compose, tmp_path):
    with pytest.raises(ConfigError, match=message):
        tune(compose(*overrides, runs_dir=tmp_path))


def test_training_refuses_to_tune(compose, tmp_path):
    with pytest.raises(ConfigError, match=r"tune=lr trains no run"):
        train(compose("tune=lr", runs_dir=tmp_path))


def test_the_command_line_tunes(compose, tmp_path, cache_dir, monkeypatch, capsys):
    small = ["data.phantom.patients=60", "image_size=16", "model=mlp", f"cache_dir={cache_dir}", f"runs_dir={tmp_path}"]
    monkeypatch.setattr("sys.argv", ["pneumonia", "train", *small, "tune=batch_size"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "batch_size=128" in capsys.readouterr().err
