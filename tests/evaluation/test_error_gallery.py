"""Choice of the images of an error gallery, and its file."""

import numpy as np
import pandas as pd

from pneumonia.evaluation.error_gallery import (
    CONFIDENT,
    UNCERTAIN,
    ErrorGallery,
    GalleryImage,
    choose_images,
    read_gallery,
    write_gallery,
)
from pneumonia.tasks import TASKS

TASK = TASKS["pneumonia"]


def _table(likely: list[float], label: list[str], patient: list[str] | None = None) -> pd.DataFrame:
    ill = np.array(likely, dtype=np.float32)
    return pd.DataFrame(
        {
            "image_id": [f"i{number}" for number in range(len(ill))],
            "patient_id": patient or [f"p{number}" for number in range(len(ill))],
            "label": label,
            "predicted": np.where(ill > 0.5, "PNEUMONIA", "NORMAL"),
            "prob_NORMAL": 1 - ill,
            "prob_PNEUMONIA": ill,
        }
    )


def _group(table: pd.DataFrame, name: str) -> list[int]:
    return [row for group, row in choose_images(table, TASK) if group == name]


def test_most_confident_errors_have_one_image_per_patient():
    table = _table([0.9, 0.99, 0.6, 0.95, 0.1], ["NORMAL"] * 4 + ["PNEUMONIA"], ["a", "b", "c", "b", "d"])
    assert _group(table, CONFIDENT) == [1, 0, 4, 2]


def test_least_certain_images_have_the_smallest_margin():
    table = _table([0.9, 0.52, 0.3, 0.49], ["PNEUMONIA"] * 4)
    assert _group(table, UNCERTAIN)[:2] == [3, 1]


def test_examples_of_a_cell_are_spread_by_confidence():
    likely = list(np.linspace(0.51, 0.99, 31))
    rows = _group(_table(likely, ["PNEUMONIA"] * 31), "PNEUMONIA, correct")
    assert rows == [30, 20, 10, 0]


def test_only_cells_with_images_have_examples():
    table = _table([0.9, 0.2, 0.8, 0.1], ["PNEUMONIA", "PNEUMONIA", "NORMAL", "NORMAL"])
    groups = {group for group, _ in choose_images(table, TASK)} - {CONFIDENT, UNCERTAIN}
    assert groups == {
        "PNEUMONIA, correct",
        "PNEUMONIA, predicted NORMAL",
        "NORMAL, predicted PNEUMONIA",
        "NORMAL, correct",
    }
    only = {group for group, _ in choose_images(_table([0.9], ["PNEUMONIA"]), TASK)}
    assert only == {UNCERTAIN, "PNEUMONIA, correct"}


def test_gallery_file_restores_the_gallery(tmp_path):
    image = GalleryImage(UNCERTAIN, "i1", "p1", "NORMAL", "NORMAL", 0.51, b"\xff\xd8picture")
    write_gallery(tmp_path / "gallery.json", ErrorGallery([image], "explanation"))
    assert read_gallery(tmp_path / "gallery.json") == ErrorGallery([image], "explanation")
