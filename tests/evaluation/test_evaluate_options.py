"""What an evaluation adds to metrics: calibration, thresholds, baselines, ensembles, views, pages; and its bad input."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pneumonia.cli import main
from pneumonia.config.schema import DataConfig
from pneumonia.errors import CheckpointError, ManifestError, RunError, StorageError
from pneumonia.evaluation.evaluate import Request, evaluate, evaluate_ensemble
from pneumonia.metrics.calibration import fit_temperature
from pneumonia.metrics.predictions import prediction_arrays
from pneumonia.metrics.thresholds import one_vs_rest, threshold_for
from pneumonia.report.evaluation_page import write_evaluation_page
from pneumonia.runs.folder import RunFolder
from pneumonia.runs.identity import is_evaluated
from pneumonia.runs.result import read_result
from pneumonia.tasks import TASKS
from pneumonia.training.train import train

TASK = TASKS["subtype"]


@pytest.fixture(scope="module")
def seeds(compose, tmp_path_factory) -> list[Path]:
    """Two runs that differ in their seed, and a third of another split."""
    runs = tmp_path_factory.mktemp("seeds")
    words = (("seed=0",), ("seed=1",), ("seed=0", "split.seed=5"))
    results = [train(compose("max_epochs=1", *one, runs_dir=runs)) for one in words]
    return [runs / result.name / result.run_id for result in results]


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def _command(monkeypatch, capsys, *words: str):
    monkeypatch.setattr(sys, "argv", ["pneumonia", "evaluate", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    return stop.value.code, captured.err


def _validation(run: Path):
    probability, label = prediction_arrays(pd.read_parquet(RunFolder(run).predictions("val")), TASK.classes)
    return probability.astype(np.float64), label


def test_temperature_and_thresholds_are_those_of_the_validation_subset(run, cache_dir):
    report = evaluate(Request(run, "test", cache_dir=cache_dir)).values
    probability, label = _validation(run)
    assert report["calibration"]["temperature"] == fit_temperature(probability, label).value
    assert report["calibration"]["fitted_on"] == {"part": "val", "n": len(label), "same_images": False}
    for point in report["operating_points"]:
        assert point["threshold"] == threshold_for(*one_vs_rest(probability, label, TASK)[point["positive"]])
        assert point["metrics"]["sensitivity"]["value"] is not None


def test_the_baselines_are_scored_on_the_same_images_and_the_gain_is_the_difference(run, cache_dir):
    report = evaluate(Request(run, "test", cache_dir=cache_dir)).values
    for kind in ("metadata", "thumbnail"):
        found = report["baselines"][kind]
        assert found["gain"]["accuracy"]["value"] == pytest.approx(
            report["metrics"]["accuracy"]["value"] - found["metrics"]["accuracy"]["value"]
        )
    assert report["baselines"]["metadata"]["metrics"]["accuracy"]["value"] < 0.8, "phantoms' files say little"


@pytest.fixture
def other(phantoms, tmp_path) -> Path:
    """Other data: a few images of the test folder."""
    for path in sorted((phantoms / "test").rglob("*.jpeg"))[::2]:
        target = tmp_path / "hospital b" / path.relative_to(phantoms)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return tmp_path / "hospital b"


def _files(run: Path) -> set[str]:
    return {path.name for path in (run / "evaluation").iterdir()}


def test_other_data_do_not_overwrite_the_evaluation_of_the_run(run, other, cache_dir):
    own = evaluate(Request(run, "test", cache_dir=cache_dir)).values
    before = {name: (run / "evaluation" / name).read_bytes() for name in _files(run)}
    foreign = evaluate(Request(run, "test", DataConfig("folder", str(other)), cache_dir)).values
    assert foreign["n"] < own["n"]
    assert {name: (run / "evaluation" / name).read_bytes() for name in before} == before
    name = RunFolder(run).name_of_data(other, foreign["of"]["other_sha256"])
    assert name == f"hospital_b-{foreign['of']['other_sha256'][:8]}"
    assert _files(run) - set(before) == {f"{name}-test.json", f"{name}-test.parquet"}
    assert json.loads((run / "evaluation" / f"{name}-test.json").read_text()) == foreign
    assert (own["of"]["other_data"], foreign["of"]["other_data"]) == (None, str(other))


def test_the_same_other_data_in_another_folder_replace_their_evaluation(run, other, cache_dir, tmp_path):
    evaluate(Request(run, "test", DataConfig("folder", str(other)), cache_dir))
    before = _files(run)
    moved = Path(shutil.copytree(other, tmp_path / "moved"))
    report = evaluate(Request(run, "test", DataConfig("folder", str(moved)), cache_dir)).values
    assert _files(run) == before
    assert report["of"]["other_data"] == str(moved)
    next(moved.rglob("*.jpeg")).unlink()
    evaluate(Request(run, "test", DataConfig("folder", str(moved)), cache_dir))
    assert len(_files(run)) == len(before) + 2, "one image fewer is other data"


def test_the_own_data_named_as_a_folder_are_the_own_data(run, phantoms, cache_dir, tmp_path, capsys):
    own = evaluate(Request(run, "test", cache_dir=cache_dir)).values
    before = _files(run)
    copy = shutil.copytree(phantoms, tmp_path / "copy")
    report = evaluate(Request(run, "test", DataConfig("folder", str(copy)), cache_dir)).values
    assert report == own
    assert _files(run) == before
    assert "holds the images and labels of the run's own data" in capsys.readouterr().err


def test_other_views_do_not_overwrite_those_of_the_training(run, other, cache_dir):
    own = evaluate(Request(run, "test", cache_dir=cache_dir)).values
    evaluate(Request(run, "test", cache_dir=cache_dir, tta="flip", cases=True))
    evaluate(Request(run, "test", cache_dir=cache_dir, tta="none"))
    evaluate(Request(run, "test", DataConfig("folder", str(other)), cache_dir, tta="flip"))
    json_files = {name for name in _files(run) if name.endswith(".json")}
    (foreign,) = (name for name in json_files if not name.startswith("own"))
    assert foreign.endswith("-test-tta-flip.json")
    assert json_files - {foreign} == {"own-test.json", "own-test-tta-flip.json", "own-test-tta-flip-cases.json"}
    assert json.loads((run / "evaluation" / "own-test.json").read_text()) == own
    folder = RunFolder(run)
    assert is_evaluated(folder, read_result(folder), "test", "flip")
    assert is_evaluated(folder, read_result(folder), "test", None)


def test_an_ensemble_keeps_other_data_and_views_apart_too(seeds, other, cache_dir):
    for words in ({}, {"tta": "flip"}, {"data": DataConfig("folder", str(other))}):
        evaluate_ensemble(seeds[:2], Request(seeds[0], "test", cache_dir=cache_dir, **words))
    (folder,) = (seeds[0].parent.parent / "ensembles").iterdir()
    assert sorted(data for data, *_ in RunFolder(folder).evaluations())[1:] == ["own", "own"]
    assert len(RunFolder(folder).evaluations()) == 3


def test_other_data_have_baselines_fitted_on_the_images_of_the_run(run, other, cache_dir):
    report = evaluate(Request(run, "test", DataConfig("folder", str(other)), cache_dir)).values
    assert report["baselines"]["reason"] is None
    for kind in ("metadata", "thumbnail"):
        found = report["baselines"][kind]
        assert found["gain"]["accuracy"]["value"] == pytest.approx(
            report["metrics"]["accuracy"]["value"] - found["metrics"]["accuracy"]["value"]
        )
    views = evaluate(Request(run, "test", DataConfig("folder", str(other)), cache_dir, tta="flip")).values
    assert views["calibration"]["temperature"] is not None, "chosen on the own validation images with these views"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (shutil.rmtree, "the run's own images can't be read (data.root="),
        (lambda root: next(root.rglob("*.jpeg")).unlink(), "the run's own images or labels in "),
    ],
    ids=["gone", "changed"],
)
def test_why_other_data_have_no_baselines_is_said_as_it_is(
    spoil, reason, compose, phantoms, other, cache_dir, tmp_path
):
    root = Path(shutil.copytree(phantoms, tmp_path / "own"))
    words = ("data=folder", f"data.root={root}", "max_epochs=1", "split=official")
    run = tmp_path / "runs" / "train" / train(compose(*words, runs_dir=tmp_path / "runs")).run_id
    spoil(root)
    report = evaluate(Request(run, "test", DataConfig("folder", str(other)), cache_dir, tta="flip")).values
    assert report["baselines"]["reason"].startswith(reason)
    assert report["calibration"]["reason"].startswith(reason)
    assert "predictions of its validation images were not made with these views" in report["calibration"]["reason"]


def test_a_part_without_one_class_gives_null_and_the_rest(run, phantoms, cache_dir, tmp_path):
    for name in ("NORMAL", "PNEUMONIA"):
        shutil.copytree(phantoms / "test" / name, tmp_path / "other" / "test" / name)
    for path in (tmp_path / "other").rglob("*virus*"):
        path.unlink()
    report = evaluate(Request(run, "test", DataConfig("folder", str(tmp_path / "other")), cache_dir)).values
    assert report["metrics"]["recall_virus"] == {"value": None, "low": None, "high": None}
    assert report["metrics"]["f1_macro"]["value"] is None
    assert report["metrics"]["accuracy"]["value"] is not None
    virus = next(point for point in report["operating_points"] if point["positive"] == "VIRUS")
    assert virus["metrics"]["sensitivity"]["value"] is None


def test_an_ensemble_is_the_mean_of_its_members(seeds, cache_dir):
    alone = [evaluate(Request(path, "test", cache_dir=cache_dir)).values for path in seeds[:2]]
    report = evaluate_ensemble(seeds[:2], Request(seeds[0], "test", cache_dir=cache_dir)).values
    (folder,) = (seeds[0].parent.parent / "ensembles").iterdir()
    tables = [pd.read_parquet(RunFolder(path).evaluation("test", "parquet")) for path in (*seeds[:2], folder)]
    columns = [f"prob_{name}" for name in TASK.classes]
    mean = (tables[0][columns].to_numpy() + tables[1][columns].to_numpy()) / 2
    assert tables[2][columns].to_numpy() == pytest.approx(mean, abs=1e-6)
    assert (tables[2]["predicted"] == np.array(TASK.classes)[mean.argmax(axis=1)]).all()
    assert report["n"] == alone[0]["n"]
    assert sorted(report["of"]["run_ids"]) == sorted(path.name for path in seeds[:2])
    probability = np.mean([_validation(path)[0] for path in seeds[:2]], axis=0)
    assert report["calibration"]["temperature"] == pytest.approx(
        fit_temperature(probability, _validation(seeds[0])[1]).value, rel=1e-3
    )


def test_folds_join_on_their_common_test_part_and_choose_on_images_that_each_had_not_seen(compose, cache_dir, tmp_path):
    words = ("split=kfold", "split.k=3", "max_epochs=1")
    results = [train(compose(*words, f"split.fold={fold}", runs_dir=tmp_path)) for fold in range(3)]
    paths = [tmp_path / "train" / result.run_id for result in results]
    report = evaluate_ensemble(paths, Request(paths[0], "test", cache_dir=cache_dir)).values
    assert report["calibration"]["fitted_on"]["n"] == sum(result.data.val for result in results)
    assert report["trained_on"] == 0


def test_members_that_have_no_common_images_are_refused(seeds, compose, cache_dir, tmp_path):
    with pytest.raises(RunError, match=r"have different images in split=test.*split=kfold on split=test"):
        evaluate_ensemble([seeds[0], seeds[2]], Request(seeds[0], "test", cache_dir=cache_dir))
    with pytest.raises(RunError, match="two different finished runs or more"):
        evaluate_ensemble([seeds[0], seeds[0]], Request(seeds[0], "test", cache_dir=cache_dir))
    binary = train(compose("task=pneumonia", "max_epochs=1", runs_dir=tmp_path))
    with pytest.raises(RunError, match=r"differ in task \(subtype, pneumonia\)"):
        evaluate_ensemble(
            [seeds[0], tmp_path / "train" / binary.run_id], Request(seeds[0], "test", cache_dir=cache_dir)
        )


def test_views_change_what_is_said_and_the_temperature_is_fitted_under_the_same_views(run, cache_dir):
    evaluate(Request(run, "test", cache_dir=cache_dir))
    before = pd.read_parquet(RunFolder(run).evaluation("test", "parquet"))
    report = evaluate(Request(run, "test", cache_dir=cache_dir, tta="flip")).values
    after = pd.read_parquet(RunFolder(run).evaluation("test", "parquet", tta="flip"))
    assert report["of"]["tta"] == "flip"
    assert not np.allclose(before["prob_VIRUS"], after["prob_VIRUS"])
    probability, label = _validation(run)
    assert report["calibration"]["temperature"] != fit_temperature(probability, label).value


def test_a_rotating_split_has_no_validation_images_to_choose_on(compose, cache_dir, tmp_path):
    words = ("split=rotating", "split.k=3", "split.every=1", "max_epochs=3")
    result = train(compose(*words, runs_dir=tmp_path))
    report = evaluate(Request(tmp_path / "train" / result.run_id, "test", cache_dir=cache_dir)).values
    assert report["calibration"]["temperature"] is None
    assert "trained on its validation images" in report["calibration"]["reason"]
    assert all(point["threshold"] is None for point in report["operating_points"])


def test_several_runs_are_evaluated_once_and_again_when_trained_again(seeds, cache_dir, monkeypatch, capsys, tmp_path):
    runs = Path(shutil.copytree(seeds[0].parent, tmp_path / "runs"))
    shutil.copytree(runs / seeds[0].name, runs / "cut")
    (runs / "cut" / "result.json").unlink()
    code, err = _command(monkeypatch, capsys, runs, "split=test", f"cache_dir={cache_dir}", "force=true")
    assert code == 0
    assert "1 run did not finish and is left out" in err
    folder = RunFolder(runs / seeds[0].name)
    assert is_evaluated(folder, read_result(folder), "test", None)
    code, err = _command(monkeypatch, capsys, runs, "split=test", f"cache_dir={cache_dir}")
    assert "3 of 3 runs are evaluated on test already" in err
    folder.result.write_text(folder.result.read_text())
    import os

    os.utime(folder.result, (2_000_000_000, 2_000_000_000))
    assert not is_evaluated(folder, read_result(folder), "test", None)
    assert not is_evaluated(folder, read_result(folder), "test", "flip")


def test_a_run_that_can_not_be_evaluated_does_not_stop_the_others(seeds, cache_dir, monkeypatch, capsys, tmp_path):
    runs = Path(shutil.copytree(seeds[0].parent, tmp_path / "runs"))
    (runs / seeds[0].name / "checkpoints" / "best.ckpt").unlink()
    code, err = _command(monkeypatch, capsys, runs, "split=test", f"cache_dir={cache_dir}", "force=true")
    assert code == 1
    assert "CheckpointError" in err
    assert "1 run could not be evaluated" in err


def test_the_page_of_images_is_written_with_the_evaluation(run, cache_dir):
    page = write_evaluation_page(evaluate(Request(run, "test", cache_dir=cache_dir, cases=True)).path)
    folder = run / "evaluation"
    kept = json.loads((folder / "own-test-cases.json").read_text())
    assert "Grad-CAM" in kept["how"]
    table = pd.read_parquet(folder / "own-test.parquet").set_index("image_id")
    for case in kept["cases"]:
        row = table.loc[case["image_id"]]
        assert (case["label"], case["predicted"]) == (row["label"], row["predicted"])
    assert page == folder / "own-test.html"
    assert page.read_text().count("data:image/jpeg;base64,") == len(kept["cases"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Say what to evaluate"),
        (["run=a", "ensemble=b,c"], "One of the three"),
        (["run=nowhere"], "no run folder nowhere"),
        (["nowhere"], "There is no folder nowhere"),
        (["ensemble=nowhere,there"], "There is no folder nowhere"),
        (["run=a", "tta=spin"], "tta=spin is not known; choose one of none, flip, shift"),
        (["run=a", "split=all"], "split=all is not known; choose one of train, val, test"),
        (["run=a", "cases=maybe"], "cases=maybe is not known"),
        (["run=a", "data=azure"], "data=azure can't be evaluated"),
        (["run=a", "colour=red"], "colour=red is not understood"),
        (["ensembel=a,b"], "Did you mean 'ensemble'?"),
        (["run=a", "--split", "test"], "--split is not understood; say run=..., ensemble=..., split=..."),
        (["run=a", "split=tset"], "choose one of train, val, test. Did you mean 'test'?"),
        (["run=a", "split="], "split has no value. Say split=test, or leave it out."),
        (["run="], "run has no value. Say run=DIR"),
        (["ensemble="], "ensemble has no value. Say ensemble=DIR,DIR"),
        (["ensemble=,"], "ensemble has no value"),
        (["run=a", "run=b"], "run stands twice, as a and b"),
        (["run=a", "data.on_bad_image=skip"], "data.on_bad_image goes with other data"),
        (["run=a", "data=folder"], "data.root has no value, and data=folder needs one"),
        (["run=a", "data.root=nowhere"], "data.root=nowhere does not exist"),
        (["run=a", "force=yes"], "force=yes is not known; choose one of true, false"),
    ],
)
def test_bad_words_are_refused_before_torch_is_loaded(words, message, monkeypatch, capsys):
    code, err = _command(monkeypatch, capsys, *words)
    assert code == 2
    assert message in err
    assert "Loading torch" not in err


def test_a_damaged_run_costs_itself_alone_and_no_ensemble_goes_on_without_it(
    seeds, cache_dir, monkeypatch, capsys, tmp_path
):
    runs = Path(shutil.copytree(seeds[0].parent, tmp_path / "runs"))
    broken = runs / seeds[0].name / "result.json"
    whole = broken.read_text()
    for content, what in (
        (whole[:300], "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"status": "completed"}', "it lacks"),
    ):
        broken.write_text(content)
        code, err = _command(monkeypatch, capsys, runs, "split=test", f"cache_dir={cache_dir}")
        assert code == 1
        assert what in err
        assert "Delete it and give the same `pneumonia train` again" in err
        assert "1 run could not be evaluated" in err
        code, err = _command(monkeypatch, capsys, f"ensemble={runs}", f"cache_dir={cache_dir}")
        assert code == 2
        assert "result.json is damaged" in err
        assert "Loading torch" not in err
    broken.unlink()
    code, err = _command(monkeypatch, capsys, f"ensemble={seeds[1]},{broken.parent}")
    assert code == 2
    assert f"The run in {broken.parent} did not finish" in err


def test_a_run_without_its_split_says_so_and_lost_validation_predictions_are_made_again(run, cache_dir):
    whole = evaluate(Request(run, "test", cache_dir=cache_dir)).values
    RunFolder(run).predictions("val").write_bytes(b"PAR1")
    again = evaluate(Request(run, "test", cache_dir=cache_dir)).values
    assert again["calibration"]["temperature"] == pytest.approx(whole["calibration"]["temperature"], rel=1e-3)
    (split,) = run.glob("split-*.parquet")
    split.unlink()
    with pytest.raises(RunError, match=r"is missing, which holds the split of the training.*force=true"):
        evaluate(Request(run, "test", cache_dir=cache_dir))


def test_what_is_no_run_is_named_with_what_to_name_instead(run, tmp_path):
    (tmp_path / "ensembles").mkdir()
    (tmp_path / "ensembles" / "ensemble.json").write_text("{}")
    for path, message in (
        (run.parent, rf"is not a run folder: it is a folder of runs. Name one of them, for example {run}"),
        (run / "config.yaml", "is a file, not a run folder"),
        (tmp_path / "ensembles", "it is an evaluation of several runs. Repeat `pneumonia evaluate ensemble="),
    ):
        with pytest.raises(RunError, match=message):
            evaluate(Request(path))


def test_an_empty_folder_of_runs_is_refused(monkeypatch, capsys, tmp_path):
    code, err = _command(monkeypatch, capsys, tmp_path)
    assert code == 2
    assert "There is no finished run in" in err


def test_views_known_to_the_command_line_are_those_of_the_models():
    from pneumonia.cli.evaluate import VIEWS
    from pneumonia.models.components.test_time_augmentation import VIEWS as KNOWN

    assert tuple(KNOWN) == VIEWS


def _change(path: Path, change) -> None:
    change(pd.read_parquet(path)).to_parquet(path, index=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda split: split.iloc[:-5],
        lambda split: split.assign(subset=split["subset"].map({"train": "test", "test": "train", "val": "val"})),
        lambda split: pd.concat([split, split.iloc[:1]]),
    ],
    ids=["shorter", "test and train swapped", "one twice"],
)
def test_a_split_that_was_changed_is_refused_and_the_order_of_its_rows_does_not_matter(change, run, cache_dir):
    whole = evaluate(Request(run, "test", cache_dir=cache_dir)).values
    table = pd.read_parquet(RunFolder(run).evaluation("test", "parquet"))
    (split,) = run.glob("split-*.parquet")
    _change(split, lambda rows: rows.sample(frac=1, random_state=0))
    assert evaluate(Request(run, "test", cache_dir=cache_dir)).values["metrics"] == whole["metrics"]
    pd.testing.assert_frame_equal(pd.read_parquet(RunFolder(run).evaluation("test", "parquet")), table)
    _change(split, change)
    with pytest.raises(ManifestError, match=r"was changed since the run was trained.*the model has seen.*force=true"):
        evaluate(Request(run, "test", cache_dir=cache_dir))
    pd.testing.assert_frame_equal(pd.read_parquet(RunFolder(run).evaluation("test", "parquet")), table)


def test_the_checkpoint_of_another_run_is_refused(seeds, cache_dir, tmp_path):
    own = Path(shutil.copytree(seeds[0], tmp_path / "run"))
    shutil.rmtree(own / "evaluation", ignore_errors=True)  # of another test
    shutil.copy(RunFolder(seeds[1]).best, RunFolder(own).best)
    with pytest.raises(CheckpointError, match=r"best\.ckpt is of another run: .* seed=1, and this run with seed=0"):
        evaluate(Request(own, "test", cache_dir=cache_dir))
    assert not RunFolder(own).evaluation("test", "json").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda best: best.unlink(), "There is no checkpoint .*force=true"),
        (
            lambda best: best.write_bytes(best.read_bytes()[:1000]),
            "is not a checkpoint that pneumonia wrote, or it is damaged",
        ),
    ],
    ids=["gone", "cut short"],
)
def test_a_checkpoint_that_can_not_be_read_says_what_to_do(spoil, message, run, cache_dir):
    spoil(RunFolder(run).best)
    with pytest.raises(CheckpointError, match=message):
        evaluate(Request(run, "test", cache_dir=cache_dir))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda result: result.update(config={}), "it lacks config.task, config.image_size"),
        (lambda result: result.update(data={}), "it lacks data.manifest_sha256, data.split_sha256"),
        (lambda result: result.update(config=3), "is damaged: TypeError"),
        (lambda result: result["config"].update(task="nope"), "config.task=nope; tasks are subtype, pneumonia"),
    ],
    ids=["no config", "no hashes", "a number", "no such task"],
)
def test_a_result_with_half_its_content_is_damaged_not_a_traceback(edit, message, run, monkeypatch, capsys):
    result = json.loads((run / "result.json").read_text())
    edit(result)
    (run / "result.json").write_text(json.dumps(result))
    code, err = _command(monkeypatch, capsys, f"run={run}")
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert "Loading torch" not in err


def test_an_evaluation_that_can_not_be_written_leaves_nothing_half_done(run, cache_dir):
    (run / "evaluation").write_text("mine")
    with pytest.raises(StorageError, match="a file is where a folder is needed"):
        evaluate(Request(run, "test", cache_dir=cache_dir))
    assert (run / "evaluation").read_text() == "mine"
