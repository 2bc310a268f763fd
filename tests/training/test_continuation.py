"""More epochs on a finished run, exact continuation of a checkpoint, and first weights of another run."""

import shutil

import pandas as pd
import pytest
import torch

from pneumonia.config.convert import to_plain
from pneumonia.errors import CheckpointError, ConfigError, PneumoniaError, RunError
from pneumonia.models.checkpoints import load_classifier
from pneumonia.models.factory import build_classifier, options_from_config
from pneumonia.models.initial_weights import head_keys, load_initial_weights
from pneumonia.runs.folder import RunFolder
from pneumonia.training.train import train

FAMILIES = ["mlp", "simple_cnn", "pseudo_resnet", "perceptron", "backbone"]
FAMILY = {"perceptron": ["task=pneumonia"], "backbone": ["model.name=mobilenetv3_small_050", "image_size=32"]}


def _folder(result, runs):
    return RunFolder(runs / result.name / result.run_id)


def _values(result):
    return result.metrics, result.confusion, result.best_epoch, result.epochs


def _same_weights(first, second):
    first, second = (torch.load(path.best, weights_only=True)["state_dict"] for path in (first, second))
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize(
    "options",
    [
        ["model=simple_cnn", "scheduler=none", "augmentation=normal", "model.dropout=0.3"],
        ["model=simple_cnn", "scheduler=step", "ema=0.9", "mixup=0.2"],
        ["model=mlp", "scheduler=plateau", "scheduler.patience=0"],
        ["model=pseudo_resnet", "model.width=8", "scheduler=exponential", "split=rotating", "split.k=3"],
        ["model=mlp", "scheduler=none", "early_stopping.patience=2", "optimizer.lr=1e-12"],
    ],
)
def test_more_epochs_continue_as_if_trained_from_the_start(options, compose, tmp_path):
    short, long = ["max_epochs=2", *options], ["max_epochs=4", *options]
    whole = train(compose(*long, runs_dir=tmp_path / "whole"))
    train(compose(*short, runs_dir=tmp_path / "parts"))
    continued = train(compose(*long, runs_dir=tmp_path / "parts"))
    assert continued.run_id == whole.run_id
    assert _values(continued) == _values(whole)
    first, second = _folder(whole, tmp_path / "whole"), _folder(continued, tmp_path / "parts")
    pd.testing.assert_frame_equal(pd.read_csv(first.metrics), pd.read_csv(second.metrics), check_exact=True)
    assert _same_weights(first, second)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["scheduler=one_cycle"], "scheduler=one_cycle is spread over max_epochs"),
        (["scheduler=cosine"], "scheduler=cosine is spread over max_epochs"),
        (["scheduler=none", "swa=0.5"], "swa=0.5 begins at a fraction of max_epochs"),
    ],
)
def test_what_depends_on_the_length_is_trained_anew(options, why, compose, tmp_path, capsys):
    train(compose("model=mlp", *options, runs_dir=tmp_path))
    longer = train(compose("model=mlp", "max_epochs=3", *options, runs_dir=tmp_path))
    assert why in " ".join(capsys.readouterr().err.split())
    alone = train(compose("model=mlp", "max_epochs=3", *options, runs_dir=tmp_path / "alone"))
    assert _values(longer) == _values(alone)


def test_own_callbacks_may_depend_on_the_length(compose, tmp_path, capsys, monkeypatch):
    (tmp_path / "length_callbacks.py").write_text("from lightning.pytorch import Callback\n\n\nclass Own(Callback):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = ["model=mlp", "scheduler=none", "+callbacks.own._target_=length_callbacks.Own"]
    train(compose(*own, runs_dir=tmp_path))
    train(compose(*own, "max_epochs=3", runs_dir=tmp_path))
    assert "callbacks.own may depend on max_epochs" in " ".join(capsys.readouterr().err.split())


def test_debug_runs_are_not_continued(compose, tmp_path, capsys):
    options = ["model=mlp", "scheduler=none", "trainer.limit_train_batches=1"]
    train(compose(*options, runs_dir=tmp_path))
    train(compose(*options, "max_epochs=3", runs_dir=tmp_path))
    assert "Continuing" not in capsys.readouterr().err


def test_a_checkpoint_from_elsewhere_is_continued(compose, tmp_path):
    options = ["model=mlp", "scheduler=none"]
    short = _folder(train(compose(*options, runs_dir=tmp_path / "there")), tmp_path / "there")
    whole = train(compose(*options, "max_epochs=4", runs_dir=tmp_path / "whole"))
    own = compose(*options, "max_epochs=4", f"ckpt_path={short.last}", runs_dir=tmp_path / "here")
    continued = train(own)
    assert _values(continued) == _values(whole)
    assert continued.run_id != whole.run_id  # the checkpoint is part of the identity, by its content
    shutil.copytree(short.path, tmp_path / "moved")
    moved = f"ckpt_path={tmp_path / 'moved' / 'checkpoints' / 'last.ckpt'}"
    again = train(compose(*options, "max_epochs=4", moved, runs_dir=tmp_path / "here"))
    assert again.run_id == continued.run_id


def _changed(run, name, compose, tmp_path):
    """A copy of a run folder in which a file is gone or of another training."""
    copy = RunFolder(shutil.copytree(run.path, tmp_path / "copies" / name))
    if name == "no_metrics":
        copy.metrics.unlink()
    elif name == "text_metrics":
        copy.metrics.write_text("epoch,lr\nfirst,1\n")
    elif name == "binary_metrics":
        copy.metrics.write_bytes(b"\xff\x00")
    elif name in {"no_best", "text_epoch"}:
        saved = torch.load(copy.last, weights_only=True)
        torch.save(saved | ({"callbacks": {}} if name == "no_best" else {"epoch": "x"}), copy.last)
    elif name == "foreign":
        options = ["model=simple_cnn", "scheduler=none", "max_epochs=1"]
        shutil.copy(_folder(train(compose(*options, runs_dir=tmp_path / "other")), tmp_path / "other").last, copy.last)
    else:
        saved = torch.load(copy.best, weights_only=True)
        torch.save(saved | {"epoch": 0}, copy.best)
    return copy.last


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["optimizer.lr=0.5"], ConfigError, r"is of another run.*optimizer.lr=0.001 there, 0.5 here.*init_from="),
        (["model=simple_cnn"], ConfigError, r"is of another run.*model._target_="),
        (["scheduler=none", "max_epochs=2"], ConfigError, r"has 2 epochs already, so max_epochs=2 leaves nothing"),
        (["split.seed=3"], ConfigError, r"split.seed=0 there, 3 here"),
        (["data.phantom.seed=1"], RunError, r"was trained on other images or another split"),
        (["ckpt_path=nowhere.ckpt"], CheckpointError, r"There is no file ckpt_path=nowhere.ckpt"),
        (["ckpt_path={best}"], CheckpointError, r"holds weights alone.*init_from"),
        (["ckpt_path={noise}"], CheckpointError, r"is not a checkpoint, or it is damaged"),
        (["ckpt_path={loose}"], CheckpointError, r"does not lie in checkpoints/ of a run folder"),
        (["init_from={run}"], ConfigError, r"both give the first weights"),
        (["ckpt_path={loop}"], CheckpointError, r"can't be followed to a file"),
        (["ckpt_path={foreign}"], CheckpointError, r"was trained with model=pneumonia.models.simple_cnn"),
        (["ckpt_path={no_metrics}"], RunError, r"metrics.csv has 0 of the 2 epochs.*init_from="),
        (["ckpt_path={text_metrics}"], RunError, r"metrics.csv is damaged"),
        (["ckpt_path={binary_metrics}"], RunError, r"metrics.csv is damaged"),
        (["ckpt_path={no_best}"], CheckpointError, r"does not say which epoch was the best"),
        (["ckpt_path={text_epoch}"], CheckpointError, r"is not a checkpoint, or it is damaged"),
        (["ckpt_path={other_best}"], RunError, r"best.ckpt has weights of epoch 1, and the best of the 2 epochs"),
    ],
)
def test_bad_checkpoints_are_refused_before_training(overrides, error, message, compose, tmp_path):
    base = ["model=mlp", "scheduler=none"]
    run = _folder(train(compose(*base, runs_dir=tmp_path / "there")), tmp_path / "there")
    (tmp_path / "loose").mkdir()
    loose = shutil.copy(run.last, tmp_path / "loose" / "last.ckpt")
    noise = run.last.with_name("noise.ckpt")
    noise.write_bytes(b"no checkpoint")
    places = {"best": run.best, "noise": noise, "loose": loose, "run": run.path, "loop": tmp_path / "loop"}
    places["loop"].symlink_to(places["loop"])
    for name in ("foreign", "no_metrics", "text_metrics", "binary_metrics", "no_best", "text_epoch", "other_best"):
        if f"ckpt_path={{{name}}}" in overrides:
            places[name] = _changed(run, name, compose, tmp_path)
    named = [one.format(**places) for one in overrides]
    first = [f"ckpt_path={run.last}"] if not any(one.startswith("ckpt_path") for one in named) else []
    with pytest.raises(error, match=message) as caught:
        train(compose(*base, "max_epochs=4", *first, *named, runs_dir=tmp_path / "here"))
    assert isinstance(caught.value, PneumoniaError)
    assert not any((tmp_path / "here").rglob("*.ckpt"))


def test_a_run_folder_names_its_last_checkpoint(compose, tmp_path):
    run = _folder(train(compose("model=mlp", "scheduler=none", runs_dir=tmp_path / "there")), tmp_path / "there")
    assert train(compose("model=mlp", "scheduler=none", "max_epochs=3", f"ckpt_path={run.path}", runs_dir=tmp_path)).epochs == 3


@pytest.mark.parametrize("key", ["ckpt_path", "init_from"])
def test_a_run_in_training_is_not_a_start(key, compose, tmp_path):
    run = _folder(train(compose("model=mlp", "scheduler=none", runs_dir=tmp_path / "there")), tmp_path / "there")
    file = run.last if key == "ckpt_path" else run.best
    with run.held(), pytest.raises(PneumoniaError, match=r"is being trained by another process"):
        train(compose("model=mlp", "scheduler=none", "max_epochs=3", f"{key}={file}", runs_dir=tmp_path))


def test_a_damaged_shorter_run_is_not_continued(compose, tmp_path, capsys):
    short = _folder(train(compose("model=mlp", "scheduler=none", runs_dir=tmp_path)), tmp_path)
    short.metrics.unlink()
    assert train(compose("model=mlp", "scheduler=none", "max_epochs=3", runs_dir=tmp_path)).epochs == 3
    assert "Training from the start" in " ".join(capsys.readouterr().err.split())


def test_a_longer_schedule_is_not_continued_by_checkpoint(compose, tmp_path):
    run = _folder(train(compose("model=mlp", runs_dir=tmp_path)), tmp_path)
    with pytest.raises(ConfigError, match=r"trained with max_epochs=2, and this run has 3: scheduler=one_cycle is spread"):
        train(compose("model=mlp", "max_epochs=3", f"ckpt_path={run.last}", runs_dir=tmp_path))


@pytest.mark.parametrize("family", FAMILIES)
def test_first_weights_are_those_of_the_other_run(family, compose, tmp_path):
    options = [f"model={family}", *FAMILY.get(family, []), "max_epochs=1", "batch_size=8"]
    run = _folder(train(compose(*options, runs_dir=tmp_path)), tmp_path)
    config = compose(*options, "seed=7", "ema=0.9" if family != "perceptron" else "seed=7", f"init_from={run.path}")
    classifier = build_classifier(to_plain(config.model), options_from_config(config))
    load_initial_weights(classifier, str(run.path))
    trained = load_classifier(run.best).evaluated_network().state_dict()
    networks = [classifier.network, *([classifier.averaged.module] if classifier.averaged is not None else [])]
    for network in networks:
        assert all(torch.equal(value, trained[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("family", ["mlp", "simple_cnn", "pseudo_resnet", "backbone"])
def test_head_is_replaced_where_classes_differ(family, compose, tmp_path):
    options = [f"model={family}", *FAMILY.get(family, []), "max_epochs=1", "batch_size=8"]
    run = _folder(train(compose(*options, "task=subtype", runs_dir=tmp_path)), tmp_path)
    config = compose(*options, "task=pneumonia", "seed=7")
    classifier = build_classifier(to_plain(config.model), options_from_config(config))
    before = {key: value.clone() for key, value in classifier.network.state_dict().items()}
    load_initial_weights(classifier, str(run.best))
    trained = load_classifier(run.best).network.state_dict()
    head = head_keys(classifier.network, 2)
    assert head
    assert {len(before[key]) for key in head} == {2}
    for key, value in classifier.network.state_dict().items():
        assert torch.equal(value, before[key] if key in head else trained[key])


def test_init_from_trains_and_is_part_of_the_identity(compose, tmp_path, capsys):
    base = ["model=simple_cnn", "scheduler=none", "max_epochs=1"]
    run = _folder(train(compose(*base, runs_dir=tmp_path)), tmp_path)
    plain = train(compose(*base, "seed=1", runs_dir=tmp_path))
    tuned = train(compose(*base, "seed=1", f"init_from={run.path}", runs_dir=tmp_path))
    assert "Starts from the weights of" in capsys.readouterr().err
    assert tuned.run_id != plain.run_id
    assert tuned.metrics["train"]["loss"] < plain.metrics["train"]["loss"]
    binary = train(compose(*base, "task=pneumonia", f"init_from={run.best}", runs_dir=tmp_path))
    assert binary.completed


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["init_from=nowhere"], CheckpointError, r"init_from=nowhere: there is no checkpoint"),
        (["init_from={noise}"], CheckpointError, r"init_from=.*noise.ckpt: .*is not a checkpoint that pneumonia wrote"),
        (["model=simple_cnn"], ConfigError, r"holds a MLP of another architecture: \d+ layers differ, for example"),
        (["model.hidden=[7]"], ConfigError, r"\(\d+, \d+\) there and \(7, \d+\) here"),
        (["image_size=16"], ConfigError, r"another architecture \(image_size=32 there, 16 here\)"),
        (["model=logistic_regression"], ConfigError, r"no effect on LogisticRegression"),
    ],
)
def test_bad_first_weights_are_refused_before_data(overrides, error, message, compose, tmp_path):
    run = _folder(train(compose("model=mlp", "max_epochs=1", runs_dir=tmp_path / "there")), tmp_path / "there")
    noise = tmp_path / "noise.ckpt"
    noise.write_bytes(b"no checkpoint")
    named = [one.format(noise=noise) for one in overrides]
    first = [f"init_from={run.path}"] if not any(one.startswith("init_from") for one in named) else []
    with pytest.raises(error, match=message) as caught:
        train(compose("model=mlp", "max_epochs=1", *first, *named, runs_dir=tmp_path / "here"))
    assert isinstance(caught.value, PneumoniaError)
    assert not any((tmp_path / "here").rglob("*.yaml"))
