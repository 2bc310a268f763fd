"""Mixup, averaged weights and test-time views: what each does to the numbers."""

import numpy as np
import pytest
import torch
from builders import few_images, quick_fit
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pneumonia.models.checkpoints import load_classifier
from pneumonia.models.components.mixup import mixup
from pneumonia.models.components.test_time_augmentation import VIEWS, mean_of_views
from pneumonia.models.components.weight_averaging import averaged_copy, decay_at, first_averaged_epoch
from pneumonia.models.factory import build_classifier
from pneumonia.models.options import ClassifierOptions

MLP = {"_target_": "pneumonia.models.mlp.MLP", "hidden": [3], "activation": "tanh"}
RESNET = {"_target_": "pneumonia.models.pseudo_resnet.PseudoResNet", "width": 16}
SGD = {"_target_": "torch.optim.SGD", "lr": 0.1}


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return few_images(rng.integers(0, 256, (20, 8, 8)).astype(np.uint8), ["NORMAL", "VIRUS"] * 10, batch_size=8)


@given(alpha=st.floats(0.05, 10), seed=st.integers(0, 1000), count=st.integers(1, 9))
def test_mixup_blends_images_and_targets_alike(alpha, seed, count):
    label = torch.arange(count) % 3
    image = nn.functional.one_hot(label, 3).float().reshape(count, 1, 1, 3)  # an image that is its own target
    blend, target = mixup(image, label, 3, alpha, (seed, 0, 0))
    assert target.sum(dim=1).tolist() == pytest.approx([1.0] * count)
    assert torch.allclose(blend.reshape(count, 3), target)
    again, _ = mixup(image, label, 3, alpha, (seed, 0, 0))
    assert torch.equal(again, blend)


def test_mixup_shares_are_drawn_from_the_beta_distribution():
    image, label = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1), torch.tensor([0, 1])
    drawn = [float(mixup(image, label, 2, 0.4, (seed,))[1][0, 0]) for seed in range(2000)]
    shares = np.array([share for share in drawn if 0 < share < 1])  # half the time each image is its own partner
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), rel=0.1)  # of Beta(0.4, 0.4)


def test_mixup_changes_the_training_loss_alone(data):
    classifier = build_classifier(MLP, ClassifierOptions("pneumonia", image_size=8, optimizer=SGD, mixup=5.0))
    plain = build_classifier(MLP, ClassifierOptions("pneumonia", image_size=8, optimizer=SGD))
    losses = []
    for model in (classifier, plain):
        trainer = quick_fit(model, data, 30, limit_val_batches=1.0)
        losses.append({name: float(value) for name, value in trainer.callback_metrics.items()})
    assert losses[0]["train/loss"] > losses[1]["train/loss"] + 0.1
    batch = next(iter(data.loader("val")))
    mixed = nn.functional.cross_entropy(classifier.eval()(batch["image"]), batch["label"])
    assert mixed.isfinite()


def test_the_moving_average_has_the_values_of_its_closed_form():
    network = nn.Linear(1, 1, bias=False)
    averaged = averaged_copy(network, 0.8)
    history = [float(value) for value in np.random.default_rng(0).normal(size=60)]
    for value in history:
        network.weight.data.fill_(value)
        averaged.update_parameters(network)
    decay = [min(0.8, (1 + n) / (10 + n)) for n in range(len(history))]
    share = [(1 - decay[n] if n else 1.0) * np.prod(decay[n + 1 :]) for n in range(len(history))]
    assert sum(share) == pytest.approx(1)
    assert averaged.module.weight.item() == pytest.approx(np.dot(share, history), rel=1e-5)
    assert decay_at(0, 0.8) == 0.1
    assert decay_at(1000, 0.8) == 0.8


def test_a_moving_average_is_evaluated_and_not_trained(data, tmp_path):
    classifier = build_classifier(MLP, ClassifierOptions("pneumonia", image_size=8, optimizer=SGD, ema=0.9))
    followed = averaged_copy(classifier.network, 0.9)
    steps = []

    def note(optimizer, *_):
        followed.update_parameters(classifier.network)
        steps.append(1)

    plain = classifier.optimizer_step
    classifier.optimizer_step = lambda *words, **more: (plain(*words, **more), note(None))[0]
    trainer = quick_fit(classifier, data, 4, limit_val_batches=1.0)
    assert len(steps) == 4 * 3
    mean, last = classifier.averaged.module[1].weight, classifier.network[1].weight
    assert torch.equal(mean, followed.module[1].weight)
    assert not torch.equal(mean, last)
    batch = next(iter(data.loader("val")))
    answer = classifier.eval()(batch["image"])
    assert torch.equal(answer, classifier.averaged.module(classifier.prepare(batch["image"])))
    trainer.save_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert torch.equal(load_classifier(tmp_path / "model.ckpt")(batch["image"]), answer)


def test_swa_averages_the_last_epochs_and_updates_batch_norm(data):
    classifier = build_classifier(RESNET, ClassifierOptions("pneumonia", image_size=8, optimizer=SGD, swa=0.5))
    weights = []
    plain = classifier.on_train_batch_end

    def note(outputs, batch, index):
        plain(outputs, batch, index)
        if classifier.trainer.is_last_batch:
            weights.append(classifier.network.features[0].weight.detach().clone())

    classifier.on_train_batch_end = note
    quick_fit(classifier, data, 6, limit_val_batches=1.0)
    assert int(classifier.averaged.n_averaged) == 3
    mean = classifier.averaged.module.features[0].weight
    assert torch.allclose(mean, torch.stack(weights[3:]).mean(dim=0), atol=1e-6)
    norm = classifier.averaged.module.features[1]
    seen = [batch["image"] for batch in data.loader("train", 0, 5)]
    with torch.no_grad():
        inputs = [classifier.averaged.module.features[0](classifier.prepare(part)) for part in seen]
    expected = torch.stack([part.mean(dim=(0, 2, 3)) for part in inputs]).mean(dim=0)
    assert torch.allclose(norm.running_mean, expected, atol=1e-6)


def test_before_its_first_epoch_a_stochastic_average_leaves_the_weights_alone():
    classifier = build_classifier(MLP, ClassifierOptions("pneumonia", image_size=8, swa=0.5)).eval()
    image = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(classifier(image), classifier.network(classifier.prepare(image)))
    assert [first_averaged_epoch(start, 10) for start in (0.0, 0.5, 0.75, 0.999)] == [0, 5, 8, 9]


@pytest.mark.parametrize(("name", "count"), [("none", 1), ("flip", 2), ("shift", 5)])
def test_test_time_views_average_probabilities(name, count):
    classifier = build_classifier(MLP, ClassifierOptions("subtype", image_size=32, tta=name)).eval()
    image = torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8)
    views = VIEWS[name](image)
    assert len(views) == count
    with torch.no_grad():
        each = [classifier.network(classifier.prepare(view)).softmax(dim=1) for view in views]
        assert torch.allclose(classifier(image).softmax(dim=1), torch.stack(each).mean(dim=0), atol=1e-6)


def test_views_are_the_image_its_mirror_image_and_its_shifts():
    image = torch.arange(64 * 64, dtype=torch.uint8).reshape(1, 1, 64, 64)
    same, mirrored = VIEWS["flip"](image)
    assert torch.equal(same, image)
    assert torch.equal(mirrored[..., 0], image[..., -1])
    centre, down, up, right, left = VIEWS["shift"](image)
    assert torch.equal(centre, image.float())
    assert torch.equal(down[..., 2:, :], image[..., :-2, :].float())
    assert torch.equal(up[..., :-2, :], image[..., 2:, :].float())
    assert torch.equal(right[..., 2:], image[..., :-2].float())
    assert torch.equal(left[..., :-2], image[..., 2:].float())
    assert torch.equal(right[..., 0], image[..., 0].float())


def test_logits_of_one_view_stay_as_they_are():
    logits = torch.randn(3, 2)
    assert mean_of_views([logits]) is logits


@pytest.mark.parametrize("words", [["ema=0.9", "swa=0.5"]])
def test_two_averages_at_once_are_refused(words, tmp_path):
    from pneumonia.cli.train import run
    from pneumonia.errors import ConfigError

    with pytest.raises(ConfigError, match=r"ema=0.9 and swa=0.5 are two averages"):
        run([*words, f"runs_dir={tmp_path}"])


def test_no_article_experiment_switches_any_of_them_on(compose):
    from pneumonia.config.keys import conf_dir

    for path in (conf_dir() / "experiment" / "article").glob("*.yaml"):
        config = compose(f"experiment=article/{path.stem}")
        assert (config.mixup, config.ema, config.swa, config.tta) == (0, None, None, "none"), path.stem
