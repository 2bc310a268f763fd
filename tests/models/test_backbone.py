"""timm's networks: weights from files made here, folding, freezing, rates by layer, bad input."""

import pytest
import timm
import torch
from builders import few_images, quick_fit
from lightning.pytorch.callbacks import Callback
from safetensors.torch import save_file
from timm.layers import DropPath
from torch.nn import Dropout

from pneumonia.data.sources.phantom import draw
from pneumonia.errors import CheckpointError, ConfigError
from pneumonia.models.checkpoints import load_classifier
from pneumonia.models.factory import build_classifier
from pneumonia.models.options import ClassifierOptions
from pneumonia.tasks import LABELS, SUBTYPE

NAMES = ["densenet121", "resnet18", "convnext_atto", "vit_tiny_patch16_224"]
TARGET = "pneumonia.models.backbone.Backbone"


def _node(name="resnet18", **words):
    return {"_target_": TARGET, "name": name, **words}


def _setup(**words):
    return ClassifierOptions(
        **{"task": "subtype", "image_size": 32, "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1}, **words}
    )


@pytest.fixture(scope="module")
def colour_weights(tmp_path_factory):
    """By name: a colour network of a thousand classes, as ImageNet weights are, and files of its weights."""
    folder = tmp_path_factory.mktemp("weights")
    made = {}
    for name in NAMES:
        torch.manual_seed(7)
        network = timm.create_model(name).eval()  # a ViT's positions are those of 224 pixels
        save_file(network.state_dict(), folder / f"{name}.safetensors")
        torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, folder / f"{name}.pth")
        made[name] = (network, folder)
    return made


@pytest.fixture(scope="module")
def data():
    import cv2

    names = [LABELS[n % 3] for n in range(12)]
    pixels = [cv2.resize(draw(name, n, 0), (32, 32)) for n, name in enumerate(names)]
    import numpy as np

    return few_images(np.stack(pixels), names, "subtype", batch_size=6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_colour_weights_folded_to_grey_give_the_same_logits(name, suffix, colour_weights):
    network, folder = colour_weights[name]
    classifier = build_classifier(_node(name, weights=str(folder / f"{name}.{suffix}")), _setup(image_size=224)).eval()
    image = torch.randn(2, 1, 224, 224)
    with torch.no_grad():
        ours, theirs = (
            net.forward_features(x) for net, x in ((classifier.network, image), (network, image.expand(-1, 3, -1, -1)))
        )
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_is_restored_without_the_weights_file(name, colour_weights, data, tmp_path):
    _, folder = colour_weights[name]
    copy = tmp_path / "weights.safetensors"
    copy.write_bytes((folder / f"{name}.safetensors").read_bytes())
    classifier = build_classifier(_node(name, weights=str(copy)), _setup())
    trainer = quick_fit(classifier, data, 1)
    trainer.save_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    copy.unlink()
    restored = load_classifier(tmp_path / "model.ckpt", SUBTYPE)
    image = torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8)
    assert torch.equal(restored(image), classifier.eval()(image))


def test_the_image_size_reaches_a_vision_transformer():
    classifier = build_classifier(_node("vit_tiny_patch16_224"), _setup(image_size=48))
    assert classifier.network.patch_embed.grid_size == (3, 3)


def _moved(before, network):
    return {key for key, value in network.named_parameters() if not torch.equal(before[key], value)}


def _values(network):
    return {key: value.detach().clone() for key, value in network.named_parameters()}


def test_frozen_stages_and_their_batch_norms_do_not_change(data):
    classifier = build_classifier(_node(frozen_epochs=None), _setup())
    before, measured = _values(classifier.network), classifier.network.bn1.running_mean.clone()
    quick_fit(classifier, data, 2)
    assert _moved(before, classifier.network) == {"fc.weight", "fc.bias"}
    assert torch.equal(classifier.network.bn1.running_mean, measured)


def test_stages_learn_one_after_the_other_from_the_head_down(data):
    classifier = build_classifier(_node(frozen_epochs=1, unfreeze_every=2), _setup())
    assert [classifier.learning_stages(epoch) for epoch in range(10)] == [1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    before = _values(classifier.network)
    quick_fit(classifier, data, 4)
    roots = {key.split(".")[0] for key in _moved(before, classifier.network)}
    assert roots == {"fc", "layer4", "layer3"}
    all_at_once = build_classifier(_node(frozen_epochs=2), _setup())
    assert [all_at_once.learning_stages(epoch) for epoch in range(4)] == [1, 1, 6, 6]


class _Modes(Callback):
    """Notes in each epoch which stages' statistics moved, and which dropouts and stochastic depths were on."""

    def __init__(self):
        self.moved, self.random = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            self._before = _statistics(pl_module.network)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.is_last_batch:
            now = _statistics(pl_module.network)
            self.moved.append({key for key, value in now.items() if not torch.equal(value, self._before[key])})
            modules = pl_module.network.named_modules()
            self.random.append({key for key, one in modules if isinstance(one, DropPath | Dropout) and one.training})


def _statistics(network):
    return {key: value.clone() for key, value in network.named_buffers() if "running" in key}


def _of_roots(keys, roots):
    return {key for key in keys if key.split(".")[0] in roots}


@pytest.mark.parametrize("limit_val_batches", [0, 1.0])
def test_statistics_move_in_learning_stages_alone(limit_val_batches, data):
    node = _node("test_resnet", frozen_epochs=1, unfreeze_every=1, drop_path=0.5)
    classifier, modes = build_classifier(node, _setup()), _Modes()
    every = set(_statistics(classifier.network))
    quick_fit(classifier, data, 6, callbacks=[modes], limit_val_batches=limit_val_batches)
    roots = ["fc", "layer4", "layer3", "layer2", "layer1", "conv1 bn1"]
    learning = [set(" ".join(roots[: epoch + 1]).split()) for epoch in range(6)]
    assert modes.moved == [_of_roots(every, known) for known in learning]
    assert modes.moved[-1] == every
    random = {key for key, module in classifier.network.named_modules() if isinstance(module, DropPath)}
    assert modes.random == [_of_roots(random, known) for known in learning]


def test_frozen_vision_transformer_still_drops_head_features(data):
    classifier = build_classifier(_node("test_vit", dropout=0.5, drop_path=0.5, frozen_epochs=None), _setup())
    modes = _Modes()
    quick_fit(classifier, data, 1, callbacks=[modes])
    assert "head_drop" in modes.random[0]
    assert not any(key.startswith("blocks") for key in modes.random[0])


def test_parameters_that_timm_fixes_stay_fixed(data, monkeypatch):
    plain = timm.create_model

    def create(*words, **more):
        network = plain(*words, **more)
        network.layer4.requires_grad_(False)
        return network

    monkeypatch.setattr(timm, "create_model", create)
    classifier = build_classifier(_node("test_resnet", frozen_epochs=1), _setup())
    before = _values(classifier.network)
    quick_fit(classifier, data, 3)
    moved = _moved(before, classifier.network)
    assert not _of_roots(moved, {"layer4"})
    assert _of_roots(moved, {"layer3"})


@pytest.mark.parametrize("averaging", [{"ema": 0.5}, {"swa": 0.0}])
def test_averages_keep_statistics_of_frozen_stages(averaging, data):
    classifier = build_classifier(_node("test_resnet", frozen_epochs=None), _setup(**averaging))
    before = _statistics(classifier.network)
    quick_fit(classifier, data, 2, limit_val_batches=1.0)
    after = _statistics(classifier.averaged.module)
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_mode_follows_the_stage_whoever_calls_train(data):
    classifier = build_classifier(_node("test_resnet", frozen_epochs=2), _setup())
    norms = [module for module in classifier.network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    classifier._freeze(len(classifier.stages) - 1)
    assert not any(norm.training for norm in classifier.train().network.modules() if norm in norms)
    classifier._freeze(0)
    assert all(norm.training for norm in norms)
    classifier.eval()
    classifier._freeze(1)
    assert not any(norm.training for norm in norms)


def test_rates_fall_by_stage_from_the_head_down(data):
    classifier = build_classifier(_node(layer_decay=0.5, head_lr=10.0), _setup())
    trainer = quick_fit(classifier, data, 1)
    groups = trainer.optimizers[0].param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.1 / 32, 0.1 / 16, 0.1 / 8, 0.1 / 4, 0.1 / 2, 1.0])
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in classifier.network.parameters()}
    assert groups[-1]["params"][0] is classifier.network.fc.weight


def test_a_file_of_weights_counts_by_its_content(colour_weights, tmp_path):
    from pneumonia.models.backbone import Backbone

    _, folder = colour_weights["resnet18"]
    moved = tmp_path / "elsewhere.safetensors"
    moved.write_bytes((folder / "resnet18.safetensors").read_bytes())
    one = Backbone.identity(_node(weights=str(folder / "resnet18.safetensors")))
    assert one == Backbone.identity(_node(weights=str(moved)))
    assert one != Backbone.identity(_node(weights=str(folder / "resnet18.pth")))


@pytest.mark.parametrize(
    ("words", "setup", "error", "message"),
    [
        ({"name": "densnet121"}, {}, ConfigError, r"not a network of timm .* Did you mean 'densenet121'"),
        (
            {"name": "vit_tiny_patch16_224"},
            {"image_size": 75},
            ConfigError,
            r"no multiple of the patches.*image_size=64 or 80",
        ),
        ({"name": "vgg11"}, {"image_size": 16}, ConfigError, r"image_size=16 .*vgg11.*Its own is 224"),
        ({"weights": "missing.pth"}, {}, CheckpointError, "There is no file model.weights=missing.pth"),
        ({"layer_decay": 0}, {}, ConfigError, "model.layer_decay=0 is out of range"),
        ({"head_lr": 0}, {}, ConfigError, "model.head_lr=0 is out of range"),
        ({"drop_path": 1.0}, {}, ConfigError, "model.drop_path=1.0 is out of range"),
        ({"frozen_epochs": -1}, {}, ConfigError, "model.frozen_epochs=-1 is out of range"),
        ({"unfreeze_every": 2}, {}, ConfigError, "model.unfreeze_every=2 unfreezes nothing"),
    ],
)
def test_bad_settings_are_refused(words, setup, error, message):
    with pytest.raises(error, match=message):
        build_classifier(_node(**words), _setup(**setup))


def test_weights_of_another_network_or_of_no_network_are_refused(colour_weights, tmp_path):
    _, folder = colour_weights["densenet121"]
    with pytest.raises(CheckpointError, match=r"not the weights of model.name=resnet18"):
        build_classifier(_node(weights=str(folder / "densenet121.safetensors")), _setup())
    save_file(timm.create_model("resnet34").state_dict(), tmp_path / "deeper.safetensors")
    with pytest.raises(CheckpointError, match=r"\d+ tensors are unknown to it, for example layer1.2"):
        build_classifier(_node(weights=str(tmp_path / "deeper.safetensors")), _setup())
    save_file(timm.create_model("resnet10t").state_dict(), tmp_path / "shape.safetensors")
    with pytest.raises(CheckpointError, match=r"not the weights of model.name=resnet18"):
        build_classifier(_node(weights=str(tmp_path / "shape.safetensors")), _setup())
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(CheckpointError, match=r"can't be read"):
        build_classifier(_node(weights=str(tmp_path / "text.pth")), _setup())
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(CheckpointError, match="holds no tensors by name"):
        build_classifier(_node(weights=str(tmp_path / "empty.pth")), _setup())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda key, value: None if key == "bn1.weight" else value, "1 tensors are missing, for example bn1.weight"),
        (lambda key, value: value * float("nan") if value.is_floating_point() else value, "hold NaN or infinity"),
        (lambda key, value: value * 0, "every tensor is constant"),
    ],
)
def test_weights_with_gaps_or_without_numbers_are_refused(change, message, colour_weights, tmp_path):
    network, _ = colour_weights["resnet18"]
    changed = {key: change(key, value) for key, value in network.state_dict().items()}
    torch.save({key: value for key, value in changed.items() if value is not None}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=message):
        build_classifier(_node(weights=str(tmp_path / "w.pt")), _setup())


def test_an_empty_file_and_two_places_of_weights_are_refused(tmp_path):
    (tmp_path / "empty.pt").touch()
    with pytest.raises(CheckpointError, match="can't be read"):
        build_classifier(_node(weights=str(tmp_path / "empty.pt")), _setup())
    with pytest.raises(ConfigError, match="two sources of weights"):
        build_classifier(_node(weights=str(tmp_path / "empty.pt"), pretrained=True), _setup())


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({"state_dict": Hostile()}, tmp_path / "hostile.pth")
    with pytest.raises(CheckpointError, match="its content is not executed"):
        build_classifier(_node(weights=str(tmp_path / "hostile.pth")), _setup())


def test_weights_that_can_not_be_downloaded_are_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"could not be downloaded.*use model.weights=FILE"):
        build_classifier(_node(pretrained=True), _setup())
