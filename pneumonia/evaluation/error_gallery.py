"""Which images of an evaluated subset are worth looking at, and the file that keeps them; imports no torch."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pneumonia.metrics.predictions import prediction_arrays
from pneumonia.system.files import write_json
from pneumonia.tasks import Task

SUREST: Final = "The surest mistakes"
UNSURE: Final = "The least certain"
SHOWN: Final = {SUREST: 12, UNSURE: 12}
PER_CELL: Final = 4


@dataclass(frozen=True)
class Choice:
    """An image that was chosen.

    Attributes:
        group: Why: among the surest mistakes, the least certain, or an example of one cell of the confusion matrix.
        row: Of the table of predictions.
    """

    group: str
    row: int


@dataclass(frozen=True)
class Case:
    """An image that was chosen, with its picture.

    Attributes:
        group: See :class:`Choice`.
        image_id: Its name.
        patient_id: Whose it is.
        label: What it shows.
        predicted: What it was told as.
        probability: Of what it was told as.
        picture: JPEG: the image, and beside it what the model looked at.
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
        told = "told right" if self.predicted == self.label else f"told as {self.predicted}"
        return f"{self.label}, {told} ({self.probability:.2f}): {self.image_id}"


def choose(table: pd.DataFrame, task: Task) -> list[Choice]:
    """The images worth looking at, always the same ones; within a group one of a patient.

    Examples of a cell of the confusion matrix are spread evenly from the surest to the least sure.
    """
    probability, label = prediction_arrays(table, task.classes)
    said, patient = probability.argmax(axis=1), table["patient_id"].to_numpy(dtype=object)
    sure, wrong = probability.max(axis=1), said != label
    ranked = np.sort(probability, axis=1)
    margin = ranked[:, -1] - ranked[:, -2]
    chosen = [Choice(SUREST, row) for row in _first(np.argsort(-sure, kind="stable"), wrong, patient, SHOWN[SUREST])]
    everything = np.ones(len(table), dtype=bool)
    chosen += [
        Choice(UNSURE, row) for row in _first(np.argsort(margin, kind="stable"), everything, patient, SHOWN[UNSURE])
    ]
    for truth, name in enumerate(task.classes):
        for told, other in enumerate(task.classes):
            cell = (label == truth) & (said == told)
            rows = _first(np.argsort(-sure, kind="stable"), cell, patient, len(table))
            places = np.unique(np.linspace(0, len(rows) - 1, min(PER_CELL, len(rows))).round().astype(int))
            group = f"{name} told right" if truth == told else f"{name} told as {other}"
            chosen += [Choice(group, rows[place]) for place in places]
    return chosen


def _first(order: NDArray[np.int64], among: NDArray[np.bool_], patient: NDArray[np.object_], count: int) -> list[int]:
    """The first rows of an order that are among some, one of a patient."""
    found: dict[str, int] = {}
    for row in order:
        if among[row] and len(found) < count:
            found.setdefault(str(patient[row]), int(row))
    return list(found.values())


def cases_file(evaluation: Path) -> Path:
    """Where the cases of an evaluation are kept, beside its JSON file."""
    return evaluation.with_name(f"{evaluation.stem}-cases.json")


def write_cases(path: Path, cases: Sequence[Case], how: str) -> None:
    """Keeps cases, their pictures in base64, and what the right halves of these show."""
    kept = [{**vars(case), "picture": base64.b64encode(case.picture).decode()} for case in cases]
    write_json(path, {"how": how, "cases": kept})


def read_cases(path: Path) -> tuple[list[Case], str]:
    """Cases as they were kept, and what the right halves of their pictures show."""
    kept = json.loads(path.read_text(encoding="utf-8"))
    return [Case(**{**case, "picture": base64.b64decode(case["picture"])}) for case in kept["cases"]], kept["how"]
