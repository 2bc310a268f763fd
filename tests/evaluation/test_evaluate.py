"""Evaluation and prediction of a finished run."""

import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix

from pneumonia.cli import main
from pneumonia.config.schema import DataConfig
from pneumonia.errors import LayoutError, RunError, SplitError
from pneumonia.evaluation.evaluate import Request, evaluate
from pneumonia.training.train import train


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of the finished run, which is also a run folder that was moved."""
    return Path(shutil.copytree(finished, tmp_path / "moved"))


def test_the_test_part_is_scored_with_intervals_and_one_row_an_image(run, cache_dir):
    report = evaluate(Request(run, "test", cache_dir=cache_dir)).values
    assert report == json.loads((run / "evaluation" / "own-test.json").read_text())
    table = pd.read_parquet(run / "evaluation" / "own-test.parquet")
    assert len(table) == report["n"] == json.loads((run / "result.json").read_text())["data"]["test"]
    assert report["patients"] == table["patient_id"].nunique() < report["n"]
    assert report["metrics"]["accuracy"]["value"] == pytest.approx(accuracy_score(table["label"], table["predicted"]))
    for name in ("loss", "accuracy"):  # six patients: some resamples lack a class, and what needs all classes is null
        entry = report["metrics"][name]
        assert entry["low"] < entry["value"] < entry["high"]
    classes = report["confusion"]["classes"]
    assert (
        report["confusion"]["counts"] == confusion_matrix(table["label"], table["predicted"], labels=classes).tolist()
    )
    assert report["trained_on"] == 0


def test_validation_scores_equal_those_of_the_training(run, cache_dir):
    report = evaluate(Request(run, "val", cache_dir=cache_dir)).values
    result = json.loads((run / "result.json").read_text())
    assert {name: entry["value"] for name, entry in report["metrics"].items()} == pytest.approx(
        result["metrics"]["val"]
    )


def test_a_folder_that_holds_only_a_test_folder_is_enough(run, phantoms, cache_dir, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(phantoms / "test", other / "test")
    alone = evaluate(Request(run, "test", DataConfig("folder", str(other)), cache_dir)).values
    assert alone["metrics"] == evaluate(Request(run, "test", cache_dir=cache_dir)).values["metrics"]
    bare = tmp_path / "bare"
    shutil.copytree(phantoms / "test", bare)
    assert evaluate(Request(run, "test", DataConfig("folder", str(bare)), cache_dir)).values["n"] == alone["n"]


def test_other_data_are_resized_as_the_run_was_trained(compose, phantoms, cache_dir, tmp_path):
    result = train(compose("data.resize=pad", "split=official", runs_dir=tmp_path / "runs"))
    run = tmp_path / "runs" / result.name / result.run_id
    shutil.copytree(phantoms / "test", tmp_path / "other" / "test")
    other = evaluate(Request(run, "test", DataConfig("folder", str(tmp_path / "other")), cache_dir)).values
    assert other["metrics"] == evaluate(Request(run, "test", cache_dir=cache_dir)).values["metrics"]


def test_images_that_the_model_was_trained_on_are_counted(run, phantoms, cache_dir, tmp_path):
    shutil.copytree(phantoms / "train", tmp_path / "other" / "test")
    report = evaluate(Request(run, "test", DataConfig("folder", str(tmp_path / "other")), cache_dir)).values
    assert report["trained_on"] == json.loads((run / "result.json").read_text())["data"]["train"]


def test_a_folder_without_labels_says_what_it_needs(run, phantoms, cache_dir, tmp_path):
    (tmp_path / "flat").mkdir()
    for number, path in enumerate((phantoms / "test").rglob("*.jpeg")):
        shutil.copy(path, tmp_path / "flat" / f"{number}.jpeg")
    with pytest.raises(LayoutError, match=r"\{NORMAL,PNEUMONIA\}/\*.jpeg; the folder names carry the labels"):
        evaluate(Request(run, "test", DataConfig("folder", str(tmp_path / "flat")), cache_dir))


def test_a_part_that_the_data_lack_is_named(run, phantoms, cache_dir, tmp_path):
    shutil.copytree(phantoms / "test", tmp_path / "other" / "test")
    with pytest.raises(SplitError, match=r"no image of the subset 'val' \(they hold test \d+\)"):
        evaluate(Request(run, "val", DataConfig("folder", str(tmp_path / "other")), cache_dir))


def test_data_that_changed_since_the_training_are_refused(run, cache_dir):
    path = run / "result.json"
    result = json.loads(path.read_text())
    result["data"]["manifest_sha256"] = "0" * 64
    path.write_text(json.dumps(result))
    with pytest.raises(RunError, match="have changed since it was trained"):
        evaluate(Request(run, "test", cache_dir=cache_dir))


def _predict(monkeypatch, capsys, *words: str):
    monkeypatch.setattr(sys, "argv", ["pneumonia", "predict", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def test_predict_prints_the_probabilities_that_evaluate_wrote(run, phantoms, cache_dir, monkeypatch, capsys):
    evaluate(Request(run, "test", cache_dir=cache_dir))
    table = pd.read_parquet(run / "evaluation" / "own-test.parquet").set_index("image_id")
    images = sorted((phantoms / "test").rglob("*.jpeg"))[:5]
    code, out, _ = _predict(monkeypatch, capsys, str(run), *map(str, images), "--json")
    assert code == 0
    answers = json.loads(out)
    assert [answer["image"] for answer in answers] == [str(image) for image in images]
    for image, answer in zip(images, answers, strict=True):
        row = table.loc[image.stem]
        assert answer["label"] == row["predicted"]
        assert answer["raw"] == pytest.approx({c: row[f"prob_{c}"] for c in answer["raw"]}, abs=1e-5)


def test_predict_lists_all_broken_images_at_once_and_tells_the_others(run, phantoms, monkeypatch, capsys, tmp_path):
    (tmp_path / "empty.jpeg").write_bytes(b"")
    Image.new("L", (1, 1)).save(tmp_path / "dot.png")
    good = next(phantoms.rglob("*.jpeg"))
    words = [str(run), str(good), str(tmp_path / "empty.jpeg"), str(tmp_path / "dot.png"), str(tmp_path / "none.jpeg")]
    code, out, err = _predict(monkeypatch, capsys, *words)
    assert code == 2
    assert out.startswith(str(good))
    assert len(out.splitlines()) == 1
    assert "3 images can't be read" in err
    assert "All others were predicted" in err
    assert "none.jpeg: No such file" in err


def test_predict_refuses_what_is_no_run(monkeypatch, capsys, tmp_path):
    code, _, err = _predict(monkeypatch, capsys, str(tmp_path), "a.jpeg")
    assert code == 2
    assert "RunError" in err
