"""Evaluation of a finished run on its own data."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix

from pneumonia.errors import CheckpointError, ManifestError, RunError, StorageError
from pneumonia.evaluation.error_gallery import gallery_file, read_gallery
from pneumonia.evaluation.evaluate import evaluate
from pneumonia.evaluation.result import read_evaluation
from pneumonia.evaluation.summary import print_summary
from pneumonia.metrics.calibration import fit_temperature
from pneumonia.metrics.predictions import prediction_arrays
from pneumonia.metrics.thresholds import one_vs_rest, threshold_for
from pneumonia.report.evaluation_page import write_evaluation_page
from pneumonia.runs.folder import RunFolder
from pneumonia.runs.result import read_result
from pneumonia.tasks import TASKS
from pneumonia.training.train import train

TASK = TASKS["subtype"]


def _validation(run: Path):
    probability, label = prediction_arrays(pd.read_parquet(RunFolder(run).predictions("val")), TASK.classes)
    return probability.astype(np.float64), label


def test_evaluation_is_read_as_it_was_written(run, options):
    evaluation = evaluate(run, options())
    assert evaluation.path == run / "evaluation" / "own-test.json"
    assert read_evaluation(evaluation.path) == evaluation.result


def test_values_are_those_of_the_predictions(run, values_of):
    values = values_of(run)
    table = pd.read_parquet(run / "evaluation" / "own-test.parquet")
    assert len(table) == values["n"] == json.loads((run / "result.json").read_text())["data"]["test"]
    assert values["patients"] == table["patient_id"].nunique() < values["n"]
    assert values["metrics"]["accuracy"]["value"] == pytest.approx(accuracy_score(table["label"], table["predicted"]))
    for name in ("loss", "accuracy"):  # of six patients: some resamples lack a class, and other metrics are undefined
        entry = values["metrics"][name]
        assert entry["low"] < entry["value"] < entry["high"]
    classes = values["confusion"]["classes"]
    expected = confusion_matrix(table["label"], table["predicted"], labels=classes)
    assert values["confusion"]["counts"] == expected.tolist()
    assert values["trained_on"] == 0


def test_undefined_intervals_are_printed_as_none(run, options, capsys):
    found = evaluate(run, options())
    for brief in (False, True):
        print_summary(found.result, TASK, {}, [read_result(RunFolder(run))], brief)
    err = capsys.readouterr().err
    assert "no interval" in err, "of six patients some metrics have none"
    assert "undefined to" not in err


def test_validation_metrics_equal_those_of_the_training(run, values_of):
    metrics = {name: entry["value"] for name, entry in values_of(run, "val")["metrics"].items()}
    assert metrics == pytest.approx(json.loads((run / "result.json").read_text())["metrics"]["val"])


def test_temperature_and_thresholds_are_chosen_on_validation_images(run, values_of):
    values = values_of(run)
    probability, label = _validation(run)
    assert values["calibration"]["temperature"] == fit_temperature(probability, label).value
    assert values["calibration"]["fitted_on"] == {"part": "val", "n": len(label), "same_images": False}
    for point in values["operating_points"]:
        assert point["threshold"] == threshold_for(*one_vs_rest(probability, label, TASK)[point["positive"]])
        assert point["metrics"]["sensitivity"]["value"] is not None


def test_rotating_split_has_no_temperature(compose, values_of, tmp_path):
    overrides = ("split=rotating", "split.k=3", "split.every=1", "max_epochs=3")
    result = train(compose(*overrides, runs_dir=tmp_path))
    values = values_of(tmp_path / "train" / result.run_id)
    assert values["calibration"]["temperature"] is None
    assert "trained on its validation images" in values["calibration"]["reason"]
    assert all(point["threshold"] is None for point in values["operating_points"])


def test_missing_validation_predictions_are_repeated(run, values_of):
    whole = values_of(run)
    RunFolder(run).predictions("val").write_bytes(b"PAR1")
    repeated = values_of(run)["calibration"]["temperature"]
    assert repeated == pytest.approx(whole["calibration"]["temperature"], rel=1e-3)


def test_gain_is_the_difference_from_a_baseline(run, values_of):
    values = values_of(run)
    accuracy = values["metrics"]["accuracy"]["value"]
    for kind in ("metadata", "thumbnail"):
        found = values["baselines"][kind]
        difference = accuracy - found["metrics"]["accuracy"]["value"]
        assert found["gain"]["accuracy"]["value"] == pytest.approx(difference)
    assert values["baselines"]["metadata"]["metrics"]["accuracy"]["value"] < 0.8, "phantoms differ little in file size"


def test_other_tta_has_files_of_its_own(run, other, values_of, options):
    folder, own = RunFolder(run), values_of(run)
    evaluate(run, options(tta="flip", error_gallery=True))
    values_of(run, tta="none")
    json_files = {path.name for path in (run / "evaluation").glob("*.json")}
    assert json_files == {"own-test.json", "own-test-tta-flip.json", "own-test-tta-flip-gallery.json"}
    assert json.loads((run / "evaluation" / "own-test.json").read_text()) == own
    assert folder.evaluations().keys() == {("own", "test", ""), ("own", "test", "flip")}


def test_temperature_is_fitted_with_the_same_tta(run, values_of):
    values_of(run)
    values = values_of(run, tta="flip")
    plain, flipped = (pd.read_parquet(RunFolder(run).evaluation("test", "parquet", tta=tta)) for tta in ("", "flip"))
    assert values["of"]["tta"] == "flip"
    assert not np.allclose(plain["prob_VIRUS"], flipped["prob_VIRUS"])
    assert values["calibration"]["temperature"] != fit_temperature(*_validation(run)).value


def test_error_gallery_shows_images_of_the_evaluation(run, options):
    evaluation = evaluate(run, options(error_gallery=True))
    gallery = read_gallery(gallery_file(evaluation.path))
    assert "Grad-CAM" in gallery.explanation
    table = pd.read_parquet(evaluation.path.with_suffix(".parquet")).set_index("image_id")
    for image in gallery.images:
        row = table.loc[image.image_id]
        assert (image.label, image.predicted) == (row["label"], row["predicted"])
    page = write_evaluation_page(evaluation.path)
    assert page == run / "evaluation" / "own-test.html"
    assert page.read_text().count("data:image/jpeg;base64,") == len(gallery.images)


def test_changed_data_are_refused(run, values_of):
    path = run / "result.json"
    result = json.loads(path.read_text())
    result["data"]["manifest_sha256"] = "0" * 64
    path.write_text(json.dumps(result))
    with pytest.raises(RunError, match="have changed since it was trained"):
        values_of(run)


@pytest.mark.parametrize(
    "change",
    [
        lambda split: split.iloc[:-5],
        lambda split: split.assign(subset=split["subset"].map({"train": "test", "test": "train", "val": "val"})),
        lambda split: pd.concat([split, split.iloc[:1]]),
    ],
    ids=["shorter", "test and train swapped", "one twice"],
)
def test_changed_split_is_refused_unless_only_reordered(change, run, values_of):
    metrics, predictions = values_of(run)["metrics"], RunFolder(run).evaluation("test", "parquet")
    table = pd.read_parquet(predictions)
    (path,) = run.glob("split-*.parquet")
    split = pd.read_parquet(path)
    split.sample(frac=1, random_state=0).to_parquet(path, index=False)
    assert values_of(run)["metrics"] == metrics
    pd.testing.assert_frame_equal(pd.read_parquet(predictions), table)
    change(split).to_parquet(path, index=False)
    with pytest.raises(ManifestError, match=r"was changed since the run was trained.*the model has seen.*force=true"):
        values_of(run)
    pd.testing.assert_frame_equal(pd.read_parquet(predictions), table)


def test_missing_split_is_refused(run, values_of):
    next(run.glob("split-*.parquet")).unlink()
    with pytest.raises(RunError, match=r"is missing, which holds the split of the training.*force=true"):
        values_of(run)


def test_checkpoint_of_another_run_is_refused(seeds, values_of, tmp_path):
    run = Path(shutil.copytree(seeds[0], tmp_path / "run"))
    shutil.rmtree(run / "evaluation", ignore_errors=True)  # of another test
    shutil.copy(RunFolder(seeds[1]).best, RunFolder(run).best)
    with pytest.raises(CheckpointError, match=r"best\.ckpt is of another run: .* seed=1, and this run with seed=0"):
        values_of(run)
    assert not RunFolder(run).evaluation("test", "json").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, "There is no checkpoint .*force=true"),
        (lambda best: best.write_bytes(best.read_bytes()[:1000]), "is not a checkpoint that pneumonia wrote"),
    ],
    ids=["missing", "truncated"],
)
def test_unreadable_checkpoint_is_refused(spoil, message, run, values_of):
    spoil(RunFolder(run).best)
    with pytest.raises(CheckpointError, match=message):
        values_of(run)


def test_folder_that_is_no_run_is_refused(run, values_of, tmp_path):
    (tmp_path / "ensembles").mkdir()
    (tmp_path / "ensembles" / "ensemble.json").write_text("{}")
    for path, message in (
        (run.parent, rf"is not a run folder: it is a folder of runs. Name one of them, for example {run}"),
        (run / "config.yaml", "is a file, not a run folder"),
        (tmp_path / "ensembles", "it is an evaluation of several runs. Repeat `pneumonia evaluate RUN... --ensemble"),
    ):
        with pytest.raises(RunError, match=message):
            values_of(path)


def test_unwritable_evaluation_changes_nothing(run, values_of):
    (run / "evaluation").write_text("mine")
    with pytest.raises(StorageError, match="a file is where a folder is needed"):
        values_of(run)
    assert (run / "evaluation").read_text() == "mine"
