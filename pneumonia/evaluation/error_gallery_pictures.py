"""Draw the pictures of an error gallery: the X-ray, and beside it an explanation of the prediction."""

import io
from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from pneumonia.data.decoded_images import DecodedImages
from pneumonia.errors import ConfigError
from pneumonia.evaluation.error_gallery import ErrorGallery, GalleryImage, choose_images
from pneumonia.evaluation.explanations import contributions
from pneumonia.evaluation.grad_cam import heat_maps, last_feature_map, overlay
from pneumonia.metrics.predictions import PROBABILITY_PREFIX
from pneumonia.models.base import Classifier
from pneumonia.models.weight_images import diverging
from pneumonia.system.arrays import Ints, Pixels
from pneumonia.system.console import track
from pneumonia.tasks import Task

SIDE: Final = 176
JPEG_QUALITY: Final = 82
GRAD_CAM: Final = (
    "Right half: evidence for the predicted class (Grad-CAM), yellow the strongest. Where no colour is, nothing in the last "
    "feature map supports that class."
)
WEIGHTS: Final = "Right half: weights times image for the predicted class; red supports it, blue opposes it."
NO_EXPLANATION: Final = (
    "This family has neither feature maps nor weights that can be laid over an image, so the X-ray is shown alone."
)


def draw_gallery(table: pd.DataFrame, images: DecodedImages, classifiers: Sequence[Classifier], task: Task) -> ErrorGallery:
    """Draw the error gallery of predictions; the heat maps of several classifiers are averaged."""
    chosen = choose_images(table, task)
    rows = sorted({row for _, row in chosen})
    place = pd.Series(images.rows, index=images.manifest["image_id"])
    pixels: Pixels = np.stack([images.pixels[place[table["image_id"].iloc[row]]] for row in rows])
    predicted = np.array([task.classes.index(table["predicted"].iloc[row]) for row in rows])
    explained, explanation = _explain(classifiers, pixels, predicted, task)
    pictures = {row: _jpeg(*halves) for row, *halves in zip(rows, pixels, explained, strict=True)}
    return ErrorGallery([_gallery_image(group, table.iloc[row], pictures[row]) for group, row in chosen], explanation)


def _explain(classifiers: Sequence[Classifier], pixels: Pixels, predicted: Ints, task: Task) -> tuple[list[Pixels | None], str]:
    """Draw the right halves in the way that the family allows, and say what they show."""
    try:
        for classifier in classifiers:
            last_feature_map(classifier, pixels.shape[1:])
    except ConfigError:
        if len(classifiers) == 1 and classifiers[0].weight_images():
            steps = track(range(len(pixels)), len(pixels), "Drawing weights over images")
            return [_weighted(classifiers[0], pixels[k], task.classes[predicted[k]]) for k in steps], WEIGHTS
        return [None] * len(pixels), NO_EXPLANATION
    models = track(classifiers, len(classifiers), "Drawing Grad-CAM heat maps")
    heat = np.mean([heat_maps(classifier, pixels, predicted) for classifier in models], axis=0)
    return [overlay(picture, one) for picture, one in zip(pixels, heat, strict=True)], GRAD_CAM


def _weighted(classifier: Classifier, pixels: Pixels, name: str) -> Pixels:
    """Draw weights times image of the unit of a class, or of the first unit where units belong to no class."""
    products = contributions(classifier, pixels)
    product = products.get(name, next(iter(products.values())))
    return diverging(product, float(np.abs(product).max()))


def _jpeg(left: Pixels, right: Pixels | None) -> bytes:
    halves = [np.repeat(left[:, :, None], 3, axis=2)] + ([] if right is None else [right])
    larger = [cv2.resize(half, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for half in halves]
    file = io.BytesIO()
    Image.fromarray(np.hstack(larger)).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def _gallery_image(group: str, row: pd.Series, picture: bytes) -> GalleryImage:
    predicted = str(row["predicted"])
    probability = float(row[f"{PROBABILITY_PREFIX}{predicted}"])
    return GalleryImage(group, str(row["image_id"]), str(row["patient_id"]), str(row["label"]), predicted, probability, picture)
