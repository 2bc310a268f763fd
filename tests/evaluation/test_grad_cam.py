"""Grad-CAM compared with its formula on every convolutional family."""

import numpy as np
import pytest
import torch
from builders import few_images, quick_fit
from torch import nn

from pneumonia.errors import ConfigError
from pneumonia.evaluation.grad_cam import heat_maps, last_feature_map, overlay
from pneumonia.models.factory import build_classifier
from pneumonia.models.options import ClassifierOptions

CONVOLUTIONAL = [
    {"_target_": "pneumonia.models.simple_cnn.SimpleCNN", "width": 16},
    {"_target_": "pneumonia.models.pseudo_resnet.PseudoResNet", "width": 16},
    *(
        {"_target_": "pneumonia.models.backbone.Backbone", "name": name}
        for name in ("resnet18", "densenet121", "efficientnet_b0", "mobilenetv3_small_100", "convnext_atto")
    ),
]


def _named(node: dict) -> str:
    return node.get("name", node["_target_"].rpartition(".")[2])


def _classifier(node: dict, size: int = 64, **options: object):
    torch.manual_seed(0)
    return build_classifier(node, ClassifierOptions("subtype", image_size=size, **options)).eval()


def _pixels(count: int, size: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size)).astype(np.uint8)


def _by_formula(classifier, pixels, target):
    """Selvaraju et al. (2017), equations 1 and 2: the positive part of the maps, weighted by their mean gradients."""
    maps = []
    layer = last_feature_map(classifier, pixels.shape[1:])
    hook = layer.register_forward_hook(lambda module, _, output: maps.append(output))
    with torch.enable_grad():
        image = classifier.prepare(torch.from_numpy(pixels)[:, None])
        logits = classifier.evaluated_network()(image.clone())
    hook.remove()
    slopes = torch.autograd.grad(logits[torch.arange(len(pixels)), torch.from_numpy(target)].sum(), maps[0])[0]
    heat = (slopes.mean(dim=(2, 3), keepdim=True) * maps[0]).sum(dim=1, keepdim=True).relu()
    wide = nn.functional.interpolate(heat, pixels.shape[1:], mode="bilinear", align_corners=False)[:, 0].detach().numpy()
    most = wide.max(axis=(1, 2), keepdims=True)
    return np.divide(wide, most, out=np.zeros_like(wide), where=most > 0)


@pytest.mark.parametrize("node", CONVOLUTIONAL, ids=_named)
def test_heat_maps_equal_the_formula(node):
    classifier, pixels, target = _classifier(node), _pixels(3), np.array([0, 1, 2])
    heat = heat_maps(classifier, pixels, target)
    assert heat.shape == (3, 64, 64)
    assert heat.min() >= 0
    assert heat.max() == pytest.approx(1)
    assert heat == pytest.approx(_by_formula(classifier, pixels, target), abs=2e-4)


def test_heat_is_where_the_class_is():
    rng = np.random.default_rng(0)
    pixels = rng.integers(60, 100, (60, 32, 32)).astype(np.uint8)
    labels = ["NORMAL", "VIRUS"] * 30
    corners = rng.integers(0, 2, 60) * 16
    for number in range(1, 60, 2):
        pixels[number, corners[number] + 4 : corners[number] + 12, 4:12] = 250
    classifier = build_classifier(
        CONVOLUTIONAL[0],
        ClassifierOptions("pneumonia", image_size=32, optimizer={"_target_": "torch.optim.Adam", "lr": 3e-3}),
    )
    quick_fit(classifier, few_images(pixels, labels, batch_size=20), 12)
    classifier.eval()
    ill = pixels[1::2]
    heat = heat_maps(classifier, ill, np.ones(30, dtype=np.int64))
    inside = [one[corner : corner + 16, :16].sum() / one.sum() for one, corner in zip(heat, corners[1::2], strict=True)]
    assert np.mean(inside) > 0.5, "a quarter of the image holds it"


@pytest.mark.parametrize("ema", [None, 0.9])
def test_classifier_is_left_unchanged(ema):
    classifier, pixels = _classifier(CONVOLUTIONAL[1], 32, ema=ema), _pixels(2, 32)
    batch = torch.from_numpy(pixels)[:, None]
    with torch.inference_mode():
        before = classifier(batch)
    frozen = [parameter.requires_grad for parameter in classifier.parameters()]
    heat_maps(classifier, pixels, np.array([0, 1]))
    with torch.inference_mode():
        assert torch.equal(classifier(batch), before)
    assert [parameter.requires_grad for parameter in classifier.parameters()] == frozen
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert not classifier.training
    assert not any(module._forward_hooks or module._backward_hooks for module in classifier.modules())


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "pneumonia.models.mlp.MLP"},
        {"_target_": "pneumonia.models.backbone.Backbone", "name": "vit_tiny_patch16_224"},
    ],
    ids=_named,
)
def test_network_without_feature_map_is_refused(node):
    with pytest.raises(ConfigError, match=r"no feature map at 32 x 32 pixels"):
        heat_maps(_classifier(node, 32), _pixels(1, 32), np.array([0]))


def test_overlay_shows_the_image_where_there_is_no_heat():
    pixels = _pixels(1, 16)[0]
    heat = np.zeros((16, 16), dtype=np.float32)
    heat[4, 4] = 1
    drawn = overlay(pixels, heat)
    assert (drawn[0, 0] == pixels[0, 0]).all()
    assert drawn[4, 4, 2] < drawn[4, 4, 0], "yellow"
