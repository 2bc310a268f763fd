"""Explain convolutional networks by Grad-CAM, at the last layer whose output still has spatial positions."""

from typing import Final

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from pneumonia.errors import ConfigError
from pneumonia.models.base import Classifier
from pneumonia.system.arrays import Floats32, Ints, Pixels

BATCH_SIZE: Final = 16
MAX_OPACITY: Final = 0.55  # of the colours over the X-ray


def heat_maps(classifier: Classifier, pixels: Pixels, classes: Ints) -> Floats32:
    """Compute where each image supports a class.

    Args:
        classifier: Of a convolutional family.
        pixels: ``(N, H, W)`` grey levels.
        classes: ``(N,)`` class index for each image.

    Returns:
        ``(N, H, W)`` from 0 (no evidence, or against the class) to 1 (the strongest of that image).

    Raises:
        ConfigError: The network has no feature map; see :func:`last_feature_map`.

    Source: Selvaraju et al. (2017), Grad-CAM, as implemented by captum.
    """
    from captum.attr import LayerAttribution, LayerGradCam  # a second to import

    network = classifier.evaluated_network()
    trained = [parameter.requires_grad for parameter in network.parameters()]
    network.requires_grad_(True)  # a restored average is frozen, and Grad-CAM needs gradients
    try:
        method = LayerGradCam(network, last_feature_map(classifier, pixels.shape[1:]))
        maps = []
        for start in range(0, len(pixels), BATCH_SIZE):
            batch = torch.from_numpy(np.ascontiguousarray(pixels[start : start + BATCH_SIZE]))[:, None].to(classifier.device)
            image = classifier.prepare(batch).detach().clone()
            target = torch.from_numpy(classes[start : start + BATCH_SIZE]).to(classifier.device)
            heat = method.attribute(image, target, relu_attributions=True)
            wide = LayerAttribution.interpolate(heat, tuple(pixels.shape[1:]), "bilinear")
            maps.append(wide[:, 0].detach().float().cpu().numpy())
    finally:
        for parameter, before in zip(network.parameters(), trained, strict=True):
            parameter.requires_grad_(before)
            parameter.grad = None
    evidence = np.concatenate(maps)
    largest = evidence.max(axis=(1, 2), keepdims=True)
    scaled: Floats32 = np.divide(evidence, largest, out=np.zeros_like(evidence), where=largest > 0).astype(np.float32)
    return scaled


def last_feature_map(classifier: Classifier, shape: tuple[int, ...]) -> nn.Module:
    """Find the last layer after a convolution whose output ``(B, C, h, w)`` has more than one spatial position.

    An image is passed through the network, so that no family needs to name its layer.

    Raises:
        ConfigError: There is no such layer, as in networks without convolutions.
    """
    network = classifier.evaluated_network()
    found: list[nn.Module] = []
    convolved = False

    def record(module: nn.Module, _: object, output: object) -> None:
        nonlocal convolved
        convolved = convolved or (isinstance(module, nn.Conv2d) and not _is_patch_embedding(module))
        if convolved and isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
            found.append(module)

    hooks = [layer.register_forward_hook(record) for layer in network.modules() if not list(layer.children())]
    try:
        with torch.inference_mode():
            network(classifier.prepare(torch.zeros(1, 1, *shape, dtype=torch.uint8, device=classifier.device)))
    finally:
        for hook in hooks:
            hook.remove()
    once = [module for module in found if found.count(module) == 1]  # captum cannot tell two outputs apart
    if not once:
        raise ConfigError(
            f"{type(classifier).__name__} has no feature map at {shape[0]} x {shape[1]} pixels, so Grad-CAM cannot explain it. "
            "Leave --explain out, or use a convolutional network or larger images."
        )
    return once[-1]


def _is_patch_embedding(module: nn.Conv2d) -> bool:
    """Whether a convolution embeds patches, as in transformers, whose later layers have no spatial positions."""
    return tuple(module.kernel_size) == tuple(module.stride) and max(module.kernel_size) > 1


def overlay(pixels: Pixels, heat: Floats32) -> Pixels:
    """Lay a heat map over an X-ray; colours (cividis) and opacity increase with the heat.

    Args:
        pixels: ``(H, W)``.
        heat: ``(H, W)`` from 0 to 1.

    Returns:
        ``(H, W, 3)`` RGB.
    """
    levels = (np.clip(heat, 0, 1) * 255).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_CIVIDIS), cv2.COLOR_BGR2RGB).astype(np.float32)
    grey = np.repeat(pixels[:, :, None], 3, axis=2).astype(np.float32)
    opacity = MAX_OPACITY * np.clip(heat, 0, 1)[:, :, None] ** 0.7
    mixed: Pixels = np.rint(grey * (1 - opacity) + colours * opacity).astype(np.uint8)
    return mixed
