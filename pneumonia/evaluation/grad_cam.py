"""Where a convolutional network looked: Grad-CAM, at the last layer that still has places."""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pneumonia.errors import ConfigError
from pneumonia.models.base import Classifier

BATCH = 16
VEIL = 0.55  # of the colours over the X-ray where the heat is greatest
Heat = NDArray[np.float32]


def heat_maps(classifier: Classifier, pixels: NDArray[np.uint8], classes: NDArray[np.int64]) -> Heat:
    """What of each image speaks for a class, as the network sees it.

    Args:
        classifier: Of a convolutional family.
        pixels: ``(N, H, W)`` grey levels.
        classes: ``(N,)`` the class that is asked about, for each image.

    Returns:
        ``(N, H, W)`` from 0 (nothing, or against) to 1 (the most in that image).

    Raises:
        ConfigError: The network has no layer with places; see :func:`last_map`.

    Source: Selvaraju et al. (2017), Grad-CAM, as captum computes it.
    """
    from captum.attr import LayerAttribution, LayerGradCam  # a second to import

    network = classifier.evaluated_network()
    trained = [parameter.requires_grad for parameter in network.parameters()]
    network.requires_grad_(True)  # a restored average is frozen, and Grad-CAM asks for gradients
    try:
        method = LayerGradCam(network, last_map(classifier, pixels.shape[1:]))
        parts = []
        for start in range(0, len(pixels), BATCH):
            batch = torch.from_numpy(np.ascontiguousarray(pixels[start : start + BATCH]))[:, None].to(classifier.device)
            image = classifier.prepare(batch).detach().clone()
            target = torch.from_numpy(classes[start : start + BATCH]).to(classifier.device)
            heat = method.attribute(image, target, relu_attributions=True)
            wide = LayerAttribution.interpolate(heat, tuple(pixels.shape[1:]), "bilinear")
            parts.append(wide[:, 0].detach().float().cpu().numpy())
    finally:
        for parameter, before in zip(network.parameters(), trained, strict=True):
            parameter.requires_grad_(before)
            parameter.grad = None
    heat_of = np.concatenate(parts)
    most = heat_of.max(axis=(1, 2), keepdims=True)
    scaled: Heat = np.divide(heat_of, most, out=np.zeros_like(heat_of), where=most > 0).astype(np.float32)
    return scaled


def last_map(classifier: Classifier, shape: tuple[int, ...]) -> nn.Module:
    """The layer whose output is the last map of features ``(B, C, h, w)`` with more than one place, after a convolution.

    It is found by running an image through, so that no family has to name its layer.

    Args:
        classifier: Any.
        shape: Height and width of an image.

    Raises:
        ConfigError: There is no such layer, as in networks without convolutions.
    """
    network = classifier.evaluated_network()
    found: list[nn.Module] = []
    convolved = False

    def look(module: nn.Module, _: object, output: object) -> None:
        nonlocal convolved
        convolved = convolved or (isinstance(module, nn.Conv2d) and not _cuts_patches(module))
        if convolved and isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
            found.append(module)

    hooks = [part.register_forward_hook(look) for part in network.modules() if not list(part.children())]
    try:
        with torch.inference_mode():
            network(classifier.prepare(torch.zeros(1, 1, *shape, dtype=torch.uint8, device=classifier.device)))
    finally:
        for hook in hooks:
            hook.remove()
    once = [module for module in found if found.count(module) == 1]  # of a layer that runs twice captum has two outputs
    if not once:
        raise ConfigError(
            f"{type(classifier).__name__} has no layer of features with places at {shape[0]} x {shape[1]} pixels, so there is "
            "nothing to show of where it looked: convolutional networks have, and larger images. Leave --explain out."
        )
    return once[-1]


def _cuts_patches(module: nn.Conv2d) -> bool:
    """Whether a convolution only cuts the image into patches, as transformers do; what follows has no places of its own."""
    return tuple(module.kernel_size) == tuple(module.stride) and max(module.kernel_size) > 1


def overlay(pixels: NDArray[np.uint8], heat: Heat) -> NDArray[np.uint8]:
    """The X-ray under the heat, ``(H, W, 3)``; cividis from blue to yellow, as clear as the heat is great.

    Args:
        pixels: ``(H, W)``.
        heat: ``(H, W)`` from 0 to 1.
    """
    levels = (np.clip(heat, 0, 1) * 255).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_CIVIDIS), cv2.COLOR_BGR2RGB).astype(np.float32)
    grey = np.repeat(pixels[:, :, None], 3, axis=2).astype(np.float32)
    share = VEIL * np.clip(heat, 0, 1)[:, :, None] ** 0.7
    mixed: NDArray[np.uint8] = np.rint(grey * (1 - share) + colours * share).astype(np.uint8)
    return mixed
