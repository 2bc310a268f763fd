"""Choose the images of an error gallery, and read and write its file; imports no torch."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pneumonia.metrics.classification import confusion_matrix
from pneumonia.metrics.predictions import prediction_arrays
from pneumonia.system.files import write_json
from pneumonia.tasks import Task

CONFIDENT: Final = "Most confident errors"
UNCERTAIN: Final = "Least certain"
PER_GROUP: Final = 12
PER_CELL: Final = 4  # images of each cell of the confusion matrix
MOST_CELLS: Final = 25  # those of the most images; a page of all 400 of twenty classes would be too large


@dataclass(frozen=True)
class GalleryImage:
    """An image of an error gallery.

    Attributes:
        group: :data:`CONFIDENT`, :data:`UNCERTAIN`, or the name of a cell of the confusion matrix.
        image_id: Id of the image.
        patient_id: Id of the patient.
        label: True class.
        predicted: Predicted class.
        probability: Probability of the predicted class.
        picture: JPEG of the image, and beside it an explanation of the prediction.
    """

    group: str
    image_id: str
    patient_id: str
    label: str
    predicted: str
    probability: float
    picture: bytes

    @property
    def caption(self) -> str:
        return f"{_outcome(self.label, self.predicted)} ({self.probability:.2f}): {self.image_id}"


@dataclass(frozen=True)
class ErrorGallery:
    """The images of an error gallery, ordered by group, and what the right halves of their pictures show."""

    images: Sequence[GalleryImage]
    explanation: str


def choose_images(table: pd.DataFrame, task: Task) -> list[tuple[str, int]]:
    """Choose the images of an error gallery; the choice is deterministic, with one image per patient in a group.

    Examples of a cell of the confusion matrix are spread evenly from the most to the least confident.

    Returns:
        Group and row of the table.
    """
    probability, label = prediction_arrays(table, task.classes)
    predicted, patient = probability.argmax(axis=1), table["patient_id"].to_numpy(dtype=object)
    ranked = np.sort(probability, axis=1)
    by_confidence = np.argsort(-ranked[:, -1], kind="stable")
    by_margin = np.argsort(ranked[:, -1] - ranked[:, -2], kind="stable")
    chosen = [(CONFIDENT, row) for row in _one_per_patient(by_confidence, predicted != label, patient)[:PER_GROUP]]
    everything = np.ones(len(table), dtype=bool)
    chosen += [(UNCERTAIN, row) for row in _one_per_patient(by_margin, everything, patient)[:PER_GROUP]]
    counts = confusion_matrix(predicted, label, len(task.classes))
    largest = np.sort(np.argsort(-counts, axis=None, kind="stable")[:MOST_CELLS])
    for true_class, predicted_class in zip(*np.unravel_index(largest, counts.shape), strict=True):
        rows = _one_per_patient(by_confidence, (label == true_class) & (predicted == predicted_class), patient)
        spread = np.unique(np.linspace(0, len(rows) - 1, min(PER_CELL, len(rows))).round().astype(int))
        group = _outcome(task.classes[true_class], task.classes[predicted_class])
        chosen += [(group, rows[place]) for place in spread]
    return chosen


def gallery_file(evaluation: Path) -> Path:
    """Return the file of an evaluation's error gallery, beside its JSON file."""
    return evaluation.with_name(f"{evaluation.stem}-gallery.json")


def write_gallery(path: Path, gallery: ErrorGallery) -> None:
    """Write an error gallery, with its pictures in base64."""
    images = [{**vars(image), "picture": base64.b64encode(image.picture).decode()} for image in gallery.images]
    write_json(path, {"explanation": gallery.explanation, "images": images})


def read_gallery(path: Path) -> ErrorGallery:
    """Read an error gallery."""
    found = json.loads(path.read_text(encoding="utf-8"))
    images = [GalleryImage(**{**image, "picture": base64.b64decode(image["picture"])}) for image in found["images"]]
    return ErrorGallery(images, found["explanation"])


def _outcome(label: str, predicted: str) -> str:
    return f"{label}, correct" if label == predicted else f"{label}, predicted {predicted}"


def _one_per_patient(order: NDArray[np.int64], chosen: NDArray[np.bool_], patient: NDArray[np.object_]) -> list[int]:
    """Return the chosen rows in an order, the first of each patient."""
    first: dict[str, int] = {}
    for row in order[chosen[order]]:
        first.setdefault(str(patient[row]), int(row))
    return list(first.values())
