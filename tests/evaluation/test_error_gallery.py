"""Which images are shown, and that they come back from their file as they were."""

import numpy as np
import pandas as pd

from pneumonia.evaluation.error_gallery import SUREST, UNSURE, Case, choose, read_cases, write_cases
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
    return [choice.row for choice in choose(table, TASK) if choice.group == name]


def test_the_surest_mistakes_come_first_and_one_of_a_patient():
    table = _table([0.9, 0.99, 0.6, 0.95, 0.1], ["NORMAL"] * 4 + ["PNEUMONIA"], ["a", "b", "c", "b", "d"])
    assert _group(table, SUREST) == [1, 0, 4, 2]


def test_the_least_certain_are_those_of_the_smallest_margin():
    table = _table([0.9, 0.52, 0.3, 0.49], ["PNEUMONIA"] * 4)
    assert _group(table, UNSURE)[:2] == [3, 1]


def test_examples_of_a_cell_are_spread_from_the_surest_to_the_least_sure():
    likely = list(np.linspace(0.51, 0.99, 31))
    rows = _group(_table(likely, ["PNEUMONIA"] * 31), "PNEUMONIA told right")
    assert rows == [30, 20, 10, 0]


def test_each_cell_that_has_images_has_examples_and_no_other():
    table = _table([0.9, 0.2, 0.8, 0.1], ["PNEUMONIA", "PNEUMONIA", "NORMAL", "NORMAL"])
    groups = {choice.group for choice in choose(table, TASK)} - {SUREST, UNSURE}
    assert groups == {
        "PNEUMONIA told right",
        "PNEUMONIA told as NORMAL",
        "NORMAL told as PNEUMONIA",
        "NORMAL told right",
    }
    only = {choice.group for choice in choose(_table([0.9], ["PNEUMONIA"]), TASK)}
    assert only == {UNSURE, "PNEUMONIA told right"}


def test_cases_survive_their_file(tmp_path):
    case = Case(UNSURE, "i1", "p1", "NORMAL", "NORMAL", 0.51, b"\xff\xd8picture")
    write_cases(tmp_path / "cases.json", [case], "how")
    assert read_cases(tmp_path / "cases.json") == ([case], "how")
