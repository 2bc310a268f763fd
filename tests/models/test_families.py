"""Every family of conf/model, the day its file lands."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from builders import few_images, killed_in, quick_fit

from pneumonia.config.convert import to_plain
from pneumonia.config.keys import conf_dir
from pneumonia.config.schema import DataConfig, PhantomConfig, SplitConfig
from pneumonia.data.datamodule import XRayDataModule
from pneumonia.data.decoded_images import load_images
from pneumonia.data.splits.assign import make_split
from pneumonia.errors import CheckpointError, ConfigError, TargetError
from pneumonia.models.base import Classifier
from pneumonia.models.checkpoints import load_classifier
from pneumonia.models.components.activations import ACTIVATIONS
from pneumonia.models.components.batch_norm import has_batch_norm
from pneumonia.models.factory import build_classifier, family_of
from pneumonia.models.options import ClassifierOptions
from pneumonia.models.pseudo_resnet import ResidualNetwork
from pneumonia.tasks import PNEUMONIA, SUBTYPE, TASKS, Task
from pneumonia.training.prepare import checked_classifier
from pneumonia.training.train import train

FAMILIES = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))


@pytest.fixture(scope="module")
def two_batches(cache_dir, phantoms) -> dict[str, XRayDataModule]:
    images = load_images(DataConfig(phantom=PhantomConfig(60, 0)), 32, cache_dir)
    split = make_split(images.manifest, SplitConfig())
    train = np.flatnonzero(split["subset"] == "train")
    split.loc[train[64:], "subset"] = "test"
    return {name: XRayDataModule.from_images(images, split, task, batch_size=32) for name, task in TASKS.items()}


def _cases() -> list[tuple[str, Task]]:
    """Every family with each task that it can be set."""
    nodes = {family: yaml.safe_load((conf_dir() / "model" / f"{family}.yaml").read_text()) for family in FAMILIES}
    return [
        (family, task)
        for family, node in nodes.items()
        for task in TASKS.values()
        if len(task.classes) <= family_of(node).most_classes
    ]


def _task(family: type[Classifier]) -> Task:
    """The built-in task of most classes that a family can be set."""
    return SUBTYPE if family.most_classes > 2 else PNEUMONIA


@pytest.mark.parametrize(("family", "task"), _cases())
@pytest.mark.parametrize("channels", [1, 3])
def test_a_family_returns_one_logit_per_class(family, task, channels, compose):
    config = compose(f"model={family}", f"task={task.name}", f"channels={channels}")
    classifier = build_classifier(to_plain(config.model), ClassifierOptions(task, channels=channels, image_size=32)).eval()
    assert classifier(torch.zeros(4, 1, 32, 32)).shape == (4, len(task.classes))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_learns_two_batches_by_heart_and_restores(family, compose, two_batches, tmp_path):
    node = to_plain(compose(f"model={family}").model)
    node |= {key: value for key, value in {"dropout": 0, "C": 1e6}.items() if key in node}  # nothing that holds it back
    task = _task(family_of(node))
    setup = ClassifierOptions(task, image_size=32, optimizer={"_target_": "torch.optim.Adam", "lr": 3e-3})
    classifier = build_classifier(node, setup)
    trainer = quick_fit(classifier, two_batches[task.name], 40)
    batch = next(iter(two_batches[task.name].loader("train")))
    logits = classifier.eval()(batch["image"])
    assert (logits.argmax(dim=1) == batch["label"]).float().mean() >= 0.95
    path = tmp_path / "model.ckpt"
    trainer.save_checkpoint(path, weights_only=True)
    torch.load(path, weights_only=True)
    restored = load_classifier(path, task)
    assert torch.equal(restored(batch["image"]), logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_cut_in_any_epoch_ends_as_if_never_cut(family, compose, tmp_path):
    task = _task(family_of(to_plain(compose(f"model={family}").model)))
    words = [f"model={family}", f"task={task.name}", "max_epochs=3", "scheduler=plateau", "scheduler.patience=0"]
    config = compose(*words, runs_dir=tmp_path / "whole")
    if hasattr(config.model, "tolerance"):
        config.model.tolerance = 1e-12  # not solved before the cut
    whole = train(config)
    for epoch in (1, 2):
        with killed_in(epoch):
            train(replace(config, runs_dir=str(tmp_path / "cut")))
    cut = train(replace(config, runs_dir=str(tmp_path / "cut")))
    files = [tmp_path / where / whole.name / whole.run_id / "metrics.csv" for where in ("whole", "cut")]
    assert files[0].read_text() == files[1].read_text()
    assert cut.metrics == whole.metrics


def _single(family, compose):
    """The config node of a family, and a size at which the last maps of the networks with batch norm are single pixels."""
    return to_plain(compose(f"model={family}").model), 8 if family == "pseudo_resnet" else 16


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("every", [1, 2])
def test_last_batch_of_one_image_trains(family, every, compose):
    node, side = _single(family, compose)
    pixels = np.random.default_rng(0).integers(0, 256, (9, side, side)).astype(np.uint8)
    data = few_images(pixels, ["NORMAL", "VIRUS", "BACTERIA"] * 3, batch_size=4)
    classifier = build_classifier(node, ClassifierOptions("pneumonia", image_size=side, mixup=0.0 if _own_rule(node) else 0.2))
    trainer = quick_fit(classifier, data, 2, accumulate_grad_batches=1 if _own_rule(node) else every)
    assert trainer.num_training_batches == (1 if classifier.full_batch else 2)
    assert np.isfinite(float(trainer.callback_metrics["train/loss"]))


def _own_rule(node) -> bool:
    return bool(family_of(node).training_rule)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_image_a_batch_trains_or_is_refused_by_name(family, compose):
    node, side = _single(family, compose)
    pixels = np.random.default_rng(0).integers(0, 256, (3, side, side)).astype(np.uint8)
    classifier = build_classifier(node, ClassifierOptions("pneumonia", image_size=side))
    data = few_images(pixels, ["NORMAL", "VIRUS", "VIRUS"], batch_size=1)
    config = compose(f"model={family}", "task=pneumonia", f"image_size={side}", "batch_size=1")
    if has_batch_norm(classifier.network):
        with pytest.raises(ConfigError, match=r"A training batch has one image.* Use batch_size=2"):
            quick_fit(classifier, data, 1)
        with pytest.raises(ConfigError, match=r"A training batch has one image"):
            checked_classifier(config)
    else:
        quick_fit(classifier, data, 1)
        checked_classifier(config)


def test_a_training_set_of_one_image_is_refused_by_name(compose):
    classifier = build_classifier(to_plain(compose().model), ClassifierOptions("pneumonia", image_size=8))
    with pytest.raises(ConfigError, match="A training batch has one image"):
        quick_fit(classifier, few_images(np.zeros((1, 8, 8), np.uint8), ["VIRUS"]), 1)


def test_one_image_a_batch_trains_on_maps_of_several_pixels(compose):
    checked_classifier(compose("batch_size=1", "image_size=32"))
    checked_classifier(compose("batch_size=1", "model=backbone", "model.frozen_epochs=null"))
    with pytest.raises(ConfigError, match="A training batch has one image"):
        checked_classifier(compose("batch_size=1", "model=backbone", "model.frozen_epochs=1"))


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_a_share_of_no_image_adds_zero_gradients(name):
    node = {"_target_": "pneumonia.models.backbone.Backbone", "name": name}
    classifier = build_classifier(node, ClassifierOptions(image_size=32))
    logits = classifier.trained_logits(torch.zeros(0, 1, 32, 32, dtype=torch.uint8))
    assert logits.shape == (0, 3)
    logits.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in classifier.parameters())


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_trains_at_other_precisions(family, precision, compose, two_batches):
    node = to_plain(compose(f"model={family}").model)
    task = _task(family_of(node))
    classifier = build_classifier(node, ClassifierOptions(task, image_size=32))
    trainer = quick_fit(classifier, two_batches[task.name], 1, precision=precision, limit_val_batches=1.0)
    assert np.isfinite(float(trainer.callback_metrics["val/loss"]))


def test_weights_and_smoothing_are_in_the_training_loss_alone(compose):
    config = compose()
    weighted = build_classifier(
        to_plain(config.model), ClassifierOptions("subtype", class_weights=[1.0, 2.0, 3.0], label_smoothing=0.1)
    )
    logits, label = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    reference = torch.nn.functional.cross_entropy(logits, label, torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1)
    assert torch.equal(weighted.criterion(logits, label), reference)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_builds_a_network(name):
    assert ResidualNetwork(1, 3, 16, 1, 0.0, name)(torch.zeros(2, 1, 32, 32)).shape == (2, 3)


def test_the_networks_channels_double_at_each_of_three_stages():
    network = ResidualNetwork(1, 3, 32, 2, 0.0, "relu")
    assert [network.features[: 3 + n](torch.zeros(1, 1, 64, 64)).shape[1] for n in (2, 4, 6, 8)] == [32, 64, 128, 256]


@pytest.mark.parametrize("width", [8, 16])
def test_batches_of_changing_size_train_at_every_width(width, compose):
    # Widths that are no multiple of 16 corrupt memory in torch 2.15's channels-last backward pass; see models/base.py.
    classifier = build_classifier({**to_plain(compose().model), "width": width}, ClassifierOptions("subtype", image_size=32))
    for size in (32, 32, 27, 5, 32, 9):
        loss = classifier.criterion(classifier(torch.randn(size, 1, 32, 32)), torch.randint(0, 3, (size,)))
        loss.backward()
        assert torch.isfinite(loss)


def test_a_checkpoint_of_another_task_or_of_nobody_is_refused(finished, tmp_path):
    with pytest.raises(CheckpointError, match=r"trained for task=subtype .*, and task=pneumonia .* was asked"):
        load_classifier(finished / "checkpoints" / "best.ckpt", PNEUMONIA)
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        load_classifier(tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(CheckpointError, match="not a checkpoint that pneumonia wrote"):
        load_classifier(tmp_path / "text.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="not a checkpoint that pneumonia wrote"):
        load_classifier(tmp_path / "other.ckpt")


def test_a_checkpoint_can_not_call_what_is_no_family():
    with pytest.raises(TargetError, match="was not imported"):
        build_classifier({"_target_": "subprocess.Popen", "args": ["true"]}, ClassifierOptions("subtype"))
