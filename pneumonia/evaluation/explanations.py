"""Pictures of why: the weights of linear units, and what each pixel added to a prediction."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pneumonia.errors import ConfigError
from pneumonia.evaluation.grad_cam import heat_maps, last_map, overlay
from pneumonia.models.base import Classifier
from pneumonia.models.weight_images import Floats, diverging, largest, tile_page
from pneumonia.system.files import replacing


def contributions(classifier: Classifier, pixels: NDArray[np.uint8]) -> dict[str, Floats]:
    """Weights times image, pixel by pixel: what each pixel adds to the sum that a unit compares with its threshold.

    Args:
        classifier: Of a family with weights that can be looked at.
        pixels: ``(H, W)``.

    Returns:
        ``(H, W)`` by name of the unit.

    Raises:
        ConfigError: The family has no such weights.
    """
    weights = classifier.weight_images()
    if not weights:
        raise ConfigError(
            f"{type(classifier).__name__} has no weights that can be laid over an image: a perceptron, logistic regression and "
            "the first layer of an MLP have."
        )
    scaled = classifier.scale(torch.from_numpy(pixels)[None, None].to(classifier.device))[0, 0]
    return {name: (weight * scaled).float().cpu().numpy() for name, weight in weights.items()}


def check_explainable(classifier: Classifier) -> None:
    """Refuses a family that there is no picture of: it has neither weights to lay over an image nor a map of features.

    Raises:
        ConfigError: With what has.
    """
    if not classifier.weight_images():
        last_map(classifier, (classifier.options.image_size,) * 2)


def draw_explanations(
    classifier: Classifier,
    pixels: Sequence[NDArray[np.uint8]],
    images: Sequence[Path],
    titles: Sequence[str],
    folder: Path,
) -> list[Path]:
    """A picture of each image into a folder, under the image's name; images of one name get numbers.

    Raises:
        ConfigError: There is no picture of the family; see :func:`check_explainable`.
        StorageError: The folder can't be written.
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
    """An image, then for each unit its weights and their product with the image; for networks where each class was looked for.

    Raises:
        ConfigError: There is no picture of the family; see :func:`check_explainable`.
    """
    if not classifier.weight_images():
        return _looked_at(classifier, pixels, title)
    products = contributions(classifier, pixels)
    weights = {name: weight.float().cpu().numpy() for name, weight in classifier.weight_images().items()}
    most, most_product = largest(weights.values()), largest(products.values())
    offsets = classifier.weight_offsets()
    tiles = [(np.repeat(pixels[:, :, None], 3, axis=2), "image")]
    for name, product in products.items():
        tiles.append((diverging(weights[name], most), f"{name}: weights"))
        total = float(product.sum())
        tiles.append(
            (
                diverging(product, most_product),
                f"x image: {total:.3g} {offsets[name]:+.3g} = {total + offsets[name]:.3g}",
            )
        )
    key = f"red: for it, up to {most:.2g} (weights), {most_product:.2g} (x image)   blue: against   sum, bias, both"
    return tile_page(tiles, title, key, columns=3 if len(weights) == 1 else 1 + 2 * 2)


def _looked_at(classifier: Classifier, pixels: NDArray[np.uint8], title: str) -> Image.Image:
    """An image, then where the network looked for each class."""
    classes = classifier.task.classes
    heat = heat_maps(classifier, np.repeat(pixels[None], len(classes), axis=0), np.arange(len(classes)))
    tiles = [(np.repeat(pixels[:, :, None], 3, axis=2), "image")]
    tiles += [(overlay(pixels, one), f"for {name}") for one, name in zip(heat, classes, strict=True)]
    return tile_page(tiles, title, "Grad-CAM: yellow speaks for the class the most, without colour nothing does")
