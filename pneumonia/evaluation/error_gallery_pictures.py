"""The pictures of the images worth looking at: the X-ray, and beside it what the model looked at."""

import io
from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from pneumonia.data.datamodule import DecodedImages
from pneumonia.errors import ConfigError
from pneumonia.evaluation.error_gallery import Case, choose
from pneumonia.evaluation.explanations import contributions
from pneumonia.evaluation.grad_cam import heat_maps, last_map, overlay
from pneumonia.metrics.predictions import PROBABILITY_PREFIX
from pneumonia.models.base import Classifier
from pneumonia.models.weight_images import diverging
from pneumonia.system.console import track
from pneumonia.tasks import Task

SIDE = 176
QUALITY = 82
CAM = (
    "Right half: where the network looked for what it told (Grad-CAM), yellow the most. Where no colour is, "
    "nothing in its last map "
    "spoke for that class."
)
WEIGHTS = "Right half: weights times image for what it told; red speaks for it, blue against."
NOTHING = "This family has neither places nor weights that can be laid over an image, so that the X-ray stands alone."
Pixels = NDArray[np.uint8]


def draw_cases(
    table: pd.DataFrame, images: DecodedImages, classifiers: Sequence[Classifier], task: Task
) -> tuple[list[Case], str]:
    """The images of an evaluation that are worth looking at, each with its picture.

    Args:
        table: Predictions, one row an image.
        images: That hold them.
        classifiers: What told them; of several the mean of the heat maps is drawn.
        task: Gives the classes.

    Returns:
        The cases, and what their right halves show.
    """
    chosen = choose(table, task)
    rows = sorted({choice.row for choice in chosen})
    place = pd.Series(images.rows, index=images.manifest["image_id"])
    pixels: Pixels = np.stack([images.pixels[place[table["image_id"].iloc[row]]] for row in rows])
    told = np.array([task.classes.index(table["predicted"].iloc[row]) for row in rows])
    beside, how = _beside(classifiers, pixels, told, task)
    drawn = dict(zip(rows, (_jpeg(left, right) for left, right in zip(pixels, beside, strict=True)), strict=True))
    return [_case(choice.group, table.iloc[choice.row], drawn[choice.row]) for choice in chosen], how


def _beside(
    classifiers: Sequence[Classifier], pixels: Pixels, told: NDArray[np.int64], task: Task
) -> tuple[list[Pixels | None], str]:
    """The right halves, in the way that the family allows."""
    shape = pixels.shape[1:]
    try:
        for classifier in classifiers:
            last_map(classifier, shape)
    except ConfigError:
        if len(classifiers) == 1 and classifiers[0].weight_images():
            steps = track(range(len(pixels)), len(pixels), "Drawing weights over images")
            return [_weighed(classifiers[0], pixels[number], task.classes[told[number]]) for number in steps], WEIGHTS
        return [None] * len(pixels), NOTHING
    heats = [
        heat_maps(one, pixels, told) for one in track(classifiers, len(classifiers), "Drawing where networks looked")
    ]
    heat = np.mean(heats, axis=0)
    return [overlay(picture, one) for picture, one in zip(pixels, heat, strict=True)], CAM


def _weighed(classifier: Classifier, pixels: Pixels, name: str) -> Pixels:
    """Weights times image of the unit of a class; of the only unit, or the first, where units are of no class."""
    products = contributions(classifier, pixels)
    product = products.get(name, next(iter(products.values())))
    return diverging(product, float(np.abs(product).max()))


def _jpeg(left: Pixels, right: Pixels | None) -> bytes:
    halves = [np.repeat(left[:, :, None], 3, axis=2)] + ([] if right is None else [right])
    larger = [cv2.resize(half, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for half in halves]
    file = io.BytesIO()
    Image.fromarray(np.hstack(larger)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _case(group: str, row: pd.Series, picture: bytes) -> Case:
    predicted, label = str(row["predicted"]), str(row["label"])
    sure = float(row[f"{PROBABILITY_PREFIX}{predicted}"])
    return Case(group, str(row["image_id"]), str(row["patient_id"]), label, predicted, sure, picture)
