"""Draw explanations of predictions: weights and their products with the image, or Grad-CAM."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pneumonia.errors import ConfigError
from pneumonia.evaluation.grad_cam import heat_maps, last_feature_map, overlay
from pneumonia.models.base import Classifier
from pneumonia.models.weight_images import diverging, largest, tile_page
from pneumonia.system.arrays import Floats32
from pneumonia.system.files import replacing


def contributions(classifier: Classifier, pixels: NDArray[np.uint8]) -> dict[str, Floats32]:
    """Multiply weights and image: the contribution of each pixel to the input of a unit.

    Args:
        classifier: Of a family with weight images.
        pixels: ``(H, W)``.

    Returns:
        ``(H, W)`` by name of the unit.

    Raises:
        ConfigError: The family has no weight images.
    """
    weights = classifier.weight_images()
    if not weights:
        raise ConfigError(
            f"{type(classifier).__name__} has no weights that can be laid over an image. Use a perceptron, logistic regression "
            "or an MLP."
        )
    scaled = classifier.scale(torch.from_numpy(pixels)[None, None].to(classifier.device))[0, 0]
    return {name: (weight * scaled).float().cpu().numpy() for name, weight in weights.items()}


def check_explainable(classifier: Classifier) -> None:
    """Refuse a family that cannot be explained: it has neither weight images nor a feature map.

    Raises:
        ConfigError: With the families that can.
    """
    if not classifier.weight_images():
        last_feature_map(classifier, (classifier.options.image_size,) * 2)


def draw_explanations(
    classifier: Classifier,
    pixels: Sequence[NDArray[np.uint8]],
    images: Sequence[Path],
    titles: Sequence[str],
    folder: Path,
) -> list[Path]:
    """Write an explanation of each image into a folder, under the image's name, numbered if names repeat.

    ``pixels`` are ``(H, W)`` each, as the classifier sees them.

    Raises:
        ConfigError: The family cannot be explained; see :func:`check_explainable`.
        StorageError: The folder cannot be written.
    """
    taken: Counter[str] = Counter()
    paths = []
    for picture, image, title in zip(pixels, images, titles, strict=True):
        taken[image.stem] += 1
        number = f"-{taken[image.stem]}" if taken[image.stem] > 1 else ""
        paths.append(folder / f"{image.stem}{number}.png")
        with replacing(paths[-1]) as part:
            explanation(classifier, picture, title).save(part, "PNG")
    return paths


def explanation(classifier: Classifier, pixels: NDArray[np.uint8], title: str) -> Image.Image:
    """Draw an image, and for each unit its weights and their product with the image, or for each class a Grad-CAM heat map.

    Raises:
        ConfigError: The family cannot be explained; see :func:`check_explainable`.
    """
    if not classifier.weight_images():
        return _grad_cam(classifier, pixels, title)
    products = contributions(classifier, pixels)
    weights = {name: weight.float().cpu().numpy() for name, weight in classifier.weight_images().items()}
    most, most_product = largest(weights.values()), largest(products.values())
    offsets = classifier.weight_offsets()
    tiles = [(np.repeat(pixels[:, :, None], 3, axis=2), "image")]
    for name, product in products.items():
        tiles.append((diverging(weights[name], most), f"{name}: weights"))
        total = float(product.sum())
        sums = f"x image: {total:.3g} {offsets[name]:+.3g} = {total + offsets[name]:.3g}"
        tiles.append((diverging(product, most_product), sums))
    key = f"red: for, up to {most:.2g} (weights), {most_product:.2g} (x image)   blue: against   sum, bias, both"
    return tile_page(tiles, title, key, columns=3 if len(weights) == 1 else 1 + 2 * 2)


def _grad_cam(classifier: Classifier, pixels: NDArray[np.uint8], title: str) -> Image.Image:
    """Draw an image, and a heat map for each class."""
    classes = classifier.task.classes
    heat = heat_maps(classifier, np.repeat(pixels[None], len(classes), axis=0), np.arange(len(classes)))
    tiles = [(np.repeat(pixels[:, :, None], 3, axis=2), "image")]
    tiles += [(overlay(pixels, one), f"for {name}") for one, name in zip(heat, classes, strict=True)]
    return tile_page(tiles, title, "Grad-CAM: yellow is the strongest evidence for the class, no colour is none")
