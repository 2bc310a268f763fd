"""Pictures of why: the weights of linear units, and what each pixel added to a prediction."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pneumonia.errors import ConfigError
from pneumonia.evaluation.grad_cam import heat_maps, last_map, overlay
from pneumonia.models.base import Classifier
from pneumonia.system.files import replacing

SIDE: Final = 192  # least pixels of one picture
GAP: Final = 12
TEXT: Final = 14
PAPER: Final = (255, 255, 255)
INK: Final = (32, 32, 32)
LOW: Final = np.array([33, 102, 172])  # ColorBrewer RdBu: blue speaks against, red for, also to colour-blind readers
HIGH: Final = np.array([178, 24, 43])
ACROSS: Final = 8  # pictures in a line
Floats = NDArray[np.float32]


def weights_picture(weights: Mapping[str, torch.Tensor], title: str) -> Image.Image:
    """Weights as images: white is zero, red positive, blue negative, full colour the largest of all in either direction.

    Args:
        weights: ``(H, W)`` each, by name.
        title: Above all.
    """
    arrays = {name: weight.float().cpu().numpy() for name, weight in weights.items()}
    most = _most(arrays.values())
    tiles = [(diverging(array, most), name) for name, array in arrays.items()]
    return _page(tiles, title, f"red: up to {most:.3g}   blue: down to -{most:.3g}")


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
        last_map(classifier, (classifier.setup_values.image_size,) * 2)


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
    most, most_product = _most(weights.values()), _most(products.values())
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
    return _page(tiles, title, key, across=3 if len(weights) == 1 else 1 + 2 * 2)


def _looked_at(classifier: Classifier, pixels: NDArray[np.uint8], title: str) -> Image.Image:
    """An image, then where the network looked for each class."""
    classes = classifier.task.classes
    heat = heat_maps(classifier, np.repeat(pixels[None], len(classes), axis=0), np.arange(len(classes)))
    tiles = [(np.repeat(pixels[:, :, None], 3, axis=2), "image")]
    tiles += [(overlay(pixels, one), f"for {name}") for one, name in zip(heat, classes, strict=True)]
    return _page(tiles, title, "Grad-CAM: yellow speaks for the class the most, without colour nothing does")


def diverging(values: Floats, most: float) -> NDArray[np.uint8]:
    """``(H, W, 3)`` colours of ``(H, W)`` numbers from ``-most`` (blue) over 0 (white) to ``most`` (red)."""
    share = np.clip(values / most, -1, 1)[:, :, None] if most > 0 else np.zeros((*values.shape, 1))
    end = np.where(share < 0, LOW, HIGH)
    colours: NDArray[np.uint8] = np.rint(255 + np.abs(share) * (end - 255)).astype(np.uint8)
    return colours


def _most(arrays: Iterable[Floats]) -> float:
    return max(float(np.abs(array).max()) for array in arrays)


def _page(tiles: list[tuple[NDArray[np.uint8], str]], title: str, key: str, across: int = ACROSS) -> Image.Image:
    height, width = tiles[0][0].shape[:2]
    times = max(1, -(-SIDE // max(height, width)))
    height, width = height * times, width * times
    font, bold = ImageFont.load_default(TEXT - 2), ImageFont.load_default(TEXT)
    columns, lines = min(across, len(tiles)), -(-len(tiles) // across)
    top = 2 * (GAP + TEXT)
    wide = max(columns * (width + GAP) + GAP, int(max(bold.getlength(title), font.getlength(key))) + 2 * GAP)
    page = Image.new("RGB", (wide, top + lines * (height + TEXT + 2 * GAP)), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((GAP, GAP // 2), title, INK, bold)
    draw.text((GAP, GAP // 2 + TEXT + 4), key, INK, font)
    for number, (tile, name) in enumerate(tiles):
        x, y = GAP + number % across * (width + GAP), top + number // across * (height + TEXT + 2 * GAP)
        large = cv2.resize(tile, (width, height), interpolation=cv2.INTER_NEAREST)
        draw.text((x, y), name, INK, font)
        page.paste(Image.fromarray(large), (x, y + TEXT + GAP // 2))
        draw.rectangle(
            (x - 1, y + TEXT + GAP // 2 - 1, x + width, y + TEXT + GAP // 2 + height), outline=(200, 200, 200)
        )
    return page
