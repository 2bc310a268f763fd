"""`pneumonia predict` gives the same values for a bundle and for its run."""

import csv
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from pneumonia.cli import main


@pytest.fixture
def predict(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pneumonia", "predict", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return call


def test_bundle_and_run_predict_the_same_probabilities(predict, finished, bundle_dir, val_files):
    files = val_files[:3]
    _, of_run, _ = predict(finished, *files, "--json")
    code, of_bundle, _ = predict(bundle_dir, *files, "--json")
    assert code == 0
    only_of_bundles = ("label", "abstained", "out_of_distribution", "ood_score", "ood_threshold", "bundle_version")
    for one, other, path in zip(json.loads(of_run), json.loads(of_bundle), files, strict=True):
        assert one["image"] == other["image"] == str(path)
        assert list(one) == list(other)
        silent = other["abstained"] or other["out_of_distribution"]
        assert other["label"] == (None if silent else one["label"])
        assert one["label"] == max(one["probabilities"], key=one["probabilities"].get)
        assert [one[key] for key in only_of_bundles[1:]] == [None] * 5
        assert one["confidence"] == pytest.approx(other["confidence"], abs=1e-5)
        assert silent or one["decisions"] == other["decisions"]
        assert None not in one["decisions"].values()
        for kind in ("raw", "probabilities"):
            assert one[kind] == pytest.approx(other[kind], abs=1e-5)
        assert one["raw"] != one["probabilities"]
        assert one["temperature"] == other["temperature"]
        assert one["model_version"] == other["model_version"]


def test_json_is_the_prediction_of_the_bundle(predict, bundle, bundle_dir, val_files):
    _, out, _ = predict(bundle_dir, val_files[0], "--json")
    assert json.loads(out) == [{"image": str(val_files[0]), **bundle.predict(val_files[0].read_bytes()).model_dump()}]


def test_decisions_of_a_run_use_the_thresholds_of_its_bundle(predict, bundle, finished, val_files):
    _, out, _ = predict(finished, *val_files, "--json")
    thresholds = {point.positive: point.threshold for point in bundle.contract.operating_points}
    for prediction in json.loads(out):
        probabilities = prediction["probabilities"]
        scores = {
            "PNEUMONIA": 1 - probabilities["NORMAL"],
            "VIRUS": probabilities["VIRUS"],
            "BACTERIA": probabilities["BACTERIA"],
        }
        assert prediction["decisions"] == {name: score >= thresholds[name] - 1e-6 for name, score in scores.items()}


def test_damaged_validation_predictions_are_named(predict, finished, val_files, tmp_path):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "predictions" / "val.parquet").write_bytes(b"PAR1")
    code, out, err = predict(run, val_files[0], "--json")
    assert (code, out) == (2, "")
    assert "RunError: " in err
    assert "val.parquet can't be read" in err


@pytest.mark.parametrize("model", ["run", "bundle", "run with pictures"])
def test_predictions_keep_the_order_of_the_images(model, predict, finished, bundle_dir, val_files, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, path in enumerate(val_files[:3]):
        shutil.copy(path, folder / f"{2 * number}.jpeg")
    for name in ("1.jpeg", "3.jpeg"):
        (folder / name).write_bytes(b"none")
    inside = [folder / f"{number}.jpeg" for number in range(5)]
    named = [tmp_path / "gone.png", val_files[3], folder, val_files[4], tmp_path / "gone.png", val_files[4]]
    expected = list(map(str, [*named[:2], *inside, *named[3:]]))
    bad = {str(path) for path in (named[0], inside[1], inside[3])}
    place = bundle_dir if model == "bundle" else finished
    more = ["--explain", tmp_path / "why"] if model == "run with pictures" else []
    code, out, _ = predict(place, *named, "--json", *more)
    predictions = json.loads(out)
    assert code == 2
    assert [prediction["image"] for prediction in predictions] == expected
    assert [prediction["image"] for prediction in predictions if "error" in prediction] == [
        path for path in expected if path in bad
    ]
    assert all(("explanation" in prediction) == bool(more) for prediction in predictions if "error" not in prediction)
    code, out, _ = predict(place, *named, "--csv", tmp_path / "a.csv", *more)
    assert (code, out) == (2, "")
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == expected
    assert {row["image"] for row in rows if row["error"]} == bad
    code, out, err = predict(place, *named, *more)
    assert code == 2
    assert [line.split("  ")[0].strip() for line in out.splitlines()] == [path for path in expected if path not in bad]
    listed = [line.strip().rpartition(": ")[0] for line in err.splitlines() if line.startswith("  ")]
    assert listed == list(dict.fromkeys(path for path in expected if path in bad))


def test_only_unreadable_images_predict_nothing(predict, bundle_dir, tmp_path):
    _, _, err = predict(bundle_dir, tmp_path / "gone.png", tmp_path / "gone.png")
    assert "Nothing was predicted" in err


def test_prediction_without_a_label_is_marked_in_every_format(predict, bundle_dir, tmp_path):
    Image.linear_gradient("L").save(tmp_path / "gradient.png")
    _, out, _ = predict(bundle_dir, tmp_path / "gradient.png", "--json")
    assert json.loads(out)[0]["label"] is None
    predict(bundle_dir, tmp_path / "gradient.png", "--csv", tmp_path / "a.csv")
    row = next(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert row["label"] == row["decision_VIRUS"] == ""
    assert row["out_of_distribution"] == "True"
    assert float(row["confidence"]) == max(float(row[f"prob_{name}"]) for name in ("NORMAL", "VIRUS", "BACTERIA"))
    _, out, _ = predict(bundle_dir, tmp_path / "gradient.png")
    assert out.split()[1] == "-"
    assert "NOT LIKE AN X-RAY" in out


def test_folder_gives_one_csv_row_per_image(predict, bundle, bundle_dir, phantoms, tmp_path):
    code, out, err = predict(bundle_dir, phantoms / "test", "--csv", tmp_path / "predictions.csv")
    assert (code, out) == (0, "")
    assert "Predicting" in err
    files = sorted((phantoms / "test").rglob("*.jpeg"))
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [str(path) for path in files]
    prediction = bundle.predict(files[-1].read_bytes())
    assert float(rows[-1]["prob_VIRUS"]) == prediction.probabilities["VIRUS"]
    assert float(rows[-1]["raw_NORMAL"]) == prediction.raw["NORMAL"]
    assert rows[-1]["abstained"] == str(prediction.abstained)
    assert rows[-1]["bundle_version"] == bundle.contract.bundle_version


def test_unreadable_file_is_named_and_the_others_are_predicted(predict, bundle_dir, val_files, tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    arguments = (tmp_path / "empty.png", val_files[0], tmp_path / "none.png")
    code, out, err = predict(bundle_dir, *arguments)
    assert code == 2
    assert out.startswith(str(val_files[0]))
    assert len(out.splitlines()) == 1
    assert "empty.png: empty file" in err
    assert "none.png: No such file" in err
    code, _, _ = predict(bundle_dir, *arguments, "--csv", tmp_path / "a.csv")
    assert code == 2
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert [bool(row["error"]) for row in rows] == [True, False, True]
    assert rows[0]["label"] == ""


def test_impossible_requests_are_refused_with_the_reason(predict, bundle_dir, val_files, tmp_path):
    code, _, err = predict(bundle_dir, val_files[0], "--explain", tmp_path / "why")
    assert code == 2
    assert "Name the run that it was exported from" in err
    (tmp_path / "none").mkdir()
    code, _, err = predict(bundle_dir, tmp_path / "none")
    assert code == 2
    assert "contains no image file" in err
    code, _, err = predict(bundle_dir, val_files[0], "--csv", tmp_path)
    assert code == 2
    assert "is a folder; name a file" in err
    code, _, err = predict(bundle_dir, val_files[0], "--csv", Path("/proc/a.csv"))
    assert code == 2
    assert "StorageError" in err


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("xray.jpeg", "is one of the images, and would be overwritten"),
        ("notes.txt", ", and is not overwritten"),
        ("none/a.csv", "there is no folder"),
        ("pipe", "is not a regular file"),
    ],
)
def test_csv_overwrites_nothing_but_a_table_of_predictions(place, message, predict, bundle_dir, val_files, tmp_path):
    (tmp_path / "xray.jpeg").write_bytes(val_files[0].read_bytes())
    (tmp_path / "notes.txt").write_text("mine\n")
    os.mkfifo(tmp_path / "pipe")
    code, _, err = predict(bundle_dir, tmp_path / "xray.jpeg", "--csv", tmp_path / place)
    assert (code, message in err) == (2, True), err
    assert (tmp_path / "xray.jpeg").read_bytes() == val_files[0].read_bytes()
    assert (tmp_path / "notes.txt").read_text() == "mine\n"
    for _ in range(2):
        assert predict(bundle_dir, tmp_path / "xray.jpeg", "--csv", tmp_path / "predictions.csv")[0] == 0


def test_unreadable_files_of_a_folder_are_named(predict, bundle_dir, val_files, tmp_path):
    (tmp_path / "good.jpeg").write_bytes(val_files[0].read_bytes())
    (tmp_path / "gone.jpeg").symlink_to(tmp_path / "nowhere.jpeg")
    os.mkfifo(tmp_path / "pipe.jpeg")
    code, out, err = predict(bundle_dir, tmp_path)
    assert code == 2
    assert "2 images can't be read" in err
    assert "gone.jpeg: No such file" in err
    assert "pipe.jpeg: it is no regular file" in err
    assert "good.jpeg" in out


def test_folder_that_is_neither_run_nor_bundle_is_refused(predict, val_files, tmp_path):
    code, _, err = predict(tmp_path, val_files[0])
    assert (code, "is neither a run folder (it holds no config.yaml) nor a bundle" in err) == (2, True), err
