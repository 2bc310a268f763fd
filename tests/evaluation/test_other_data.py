"""Evaluation of a run on other data than its own."""

import json
import shutil
from pathlib import Path

import pytest

from pneumonia.config.schema import DataConfig
from pneumonia.errors import LayoutError, SplitError
from pneumonia.runs.folder import RunFolder
from pneumonia.training.train import train


def _folder(root: Path) -> DataConfig:
    return DataConfig("folder", str(root))


def _files(run: Path) -> set[str]:
    return {path.name for path in (run / "evaluation").iterdir()}


def test_other_data_have_files_of_their_own(run, other, values_of):
    own = values_of(run)
    before = {name: (run / "evaluation" / name).read_bytes() for name in _files(run)}
    foreign = values_of(run, data=_folder(other))
    assert foreign["n"] < own["n"]
    assert {name: (run / "evaluation" / name).read_bytes() for name in before} == before
    name = RunFolder(run).name_of_data(other, foreign["of"]["other_sha256"])
    assert name == f"hospital_b-{foreign['of']['other_sha256'][:8]}"
    assert _files(run) - set(before) == {f"{name}-test.json", f"{name}-test.parquet"}
    assert json.loads((run / "evaluation" / f"{name}-test.json").read_text()) == foreign
    assert (own["of"]["other_data"], foreign["of"]["other_data"]) == (None, str(other))
    values_of(run, data=_folder(other), tta="flip")
    assert f"{name}-test-tta-flip.json" in _files(run)


def test_moved_data_replace_their_evaluation(run, other, values_of, tmp_path):
    values_of(run, data=_folder(other))
    before = _files(run)
    moved = Path(shutil.copytree(other, tmp_path / "moved data"))
    assert values_of(run, data=_folder(moved))["of"]["other_data"] == str(moved)
    assert _files(run) == before
    next(moved.rglob("*.jpeg")).unlink()
    values_of(run, data=_folder(moved))
    assert len(_files(run)) == len(before) + 2, "one image fewer is other data"


def test_copy_of_the_own_data_is_the_own_data(run, phantoms, values_of, tmp_path, capsys):
    own = values_of(run)
    before = _files(run)
    copy = shutil.copytree(phantoms, tmp_path / "copy")
    assert values_of(run, data=_folder(copy)) == own
    assert _files(run) == before
    assert "holds the images and labels of the run's own data" in capsys.readouterr().err


def test_images_without_a_test_folder_are_the_test_images(run, phantoms, values_of, tmp_path):
    metrics = values_of(run)["metrics"]
    shutil.copytree(phantoms / "test", tmp_path / "other" / "test")
    shutil.copytree(phantoms / "test", tmp_path / "bare")
    for root in ("other", "bare"):
        assert values_of(run, data=_folder(tmp_path / root))["metrics"] == metrics


def test_other_data_are_resized_as_in_training(compose, phantoms, values_of, tmp_path):
    result = train(compose("data.resize=pad", "split=official", runs_dir=tmp_path / "runs"))
    run = tmp_path / "runs" / result.name / result.run_id
    shutil.copytree(phantoms / "test", tmp_path / "other" / "test")
    assert values_of(run, data=_folder(tmp_path / "other"))["metrics"] == values_of(run)["metrics"]


def test_training_images_among_other_data_are_counted(run, phantoms, values_of, tmp_path):
    shutil.copytree(phantoms / "train", tmp_path / "other" / "test")
    trained_on = values_of(run, data=_folder(tmp_path / "other"))["trained_on"]
    assert trained_on == json.loads((run / "result.json").read_text())["data"]["train"]


def test_baselines_are_fitted_on_the_own_images(run, other, values_of):
    values = values_of(run, data=_folder(other), tta="flip")
    assert values["baselines"]["reason"] is None
    for kind in ("metadata", "thumbnail"):
        found = values["baselines"][kind]
        difference = values["metrics"]["accuracy"]["value"] - found["metrics"]["accuracy"]["value"]
        assert found["gain"]["accuracy"]["value"] == pytest.approx(difference)
    assert values["calibration"]["temperature"] is not None, "fitted on the own validation images with the same TTA"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (shutil.rmtree, "the run's own images can't be read (data.root="),
        (lambda root: next(root.rglob("*.jpeg")).unlink(), "the run's own images or labels in "),
    ],
    ids=["missing", "changed"],
)
def test_missing_own_images_are_the_reason_for_no_baselines(spoil, reason, compose, phantoms, other, values_of, tmp_path):
    root = Path(shutil.copytree(phantoms, tmp_path / "own"))
    overrides = ("data=folder", f"data.root={root}", "max_epochs=1", "split=official")
    run = tmp_path / "runs" / "train" / train(compose(*overrides, runs_dir=tmp_path / "runs")).run_id
    spoil(root)
    values = values_of(run, data=_folder(other), tta="flip")
    assert values["baselines"]["reason"].startswith(reason)
    assert values["calibration"]["reason"].startswith(reason)
    assert "were not made with this test-time augmentation" in values["calibration"]["reason"]


def test_metrics_of_a_missing_class_are_null(run, phantoms, values_of, tmp_path):
    shutil.copytree(phantoms / "test", tmp_path / "other" / "test", ignore=shutil.ignore_patterns("*virus*"))
    values = values_of(run, data=_folder(tmp_path / "other"))
    assert values["metrics"]["recall_virus"] == {"value": None, "low": None, "high": None}
    assert values["metrics"]["f1_macro"]["value"] is None
    assert values["metrics"]["accuracy"]["value"] is not None
    virus = next(point for point in values["operating_points"] if point["positive"] == "VIRUS")
    assert virus["metrics"]["sensitivity"]["value"] is None


def test_folder_without_labels_is_refused(run, phantoms, values_of, tmp_path):
    (tmp_path / "flat").mkdir()
    for number, path in enumerate((phantoms / "test").rglob("*.jpeg")):
        shutil.copy(path, tmp_path / "flat" / f"{number}.jpeg")
    with pytest.raises(LayoutError, match=r"\{NORMAL,PNEUMONIA\}/\*.jpeg; the folder names carry the labels"):
        values_of(run, data=_folder(tmp_path / "flat"))


def test_missing_subset_is_refused(run, phantoms, values_of, tmp_path):
    shutil.copytree(phantoms / "test", tmp_path / "other" / "test")
    with pytest.raises(SplitError, match=r"no image of the subset 'val' \(they hold test \d+\)"):
        values_of(run, "val", data=_folder(tmp_path / "other"))
