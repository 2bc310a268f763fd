"""What is compared with what, and what is called better."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from pneumonia.data.splits.leaks import Leak
from pneumonia.errors import RunError
from pneumonia.report.collect import gather
from pneumonia.report.compare import comparisons
from pneumonia.report.formatting import NO_DIFFERENCE


def _all(*places, metric="f1_macro"):
    return comparisons(gather(list(places)).entries, metric)


def test_verdicts_of_better_and_equal_configurations(make_run, tmp_path):
    for seed in range(3):
        make_run(tmp_path, "s", "optimizer.lr=0.1", seed=seed, skill=2.0, differs={"optimizer.lr": "0.1"})
        make_run(tmp_path, "s", "optimizer.lr=0.2", seed=seed + 10, skill=2.0, differs={"optimizer.lr": "0.2"})
        make_run(tmp_path, "s", "optimizer.lr=0.3", seed=seed, skill=0.8, differs={"optimizer.lr": "0.3"})
    (found,) = _all(tmp_path)
    assert (found.subset, found.kind, [one.trainings for one in found.candidates]) == ("test", "images", [3, 3, 3])
    assert found.candidates[-1].label == "lr=0.3"
    verdicts = {(pair.first, pair.second): pair.verdict for pair in found.pairs}
    first, second = (one.label for one in found.candidates[:2])
    assert verdicts == {(first, second): NO_DIFFERENCE, (first, "lr=0.3"): "better", (second, "lr=0.3"): "better"}
    assert all(pair.corrected >= pair.difference.p for pair in found.pairs)


def test_lower_loss_ranks_first(make_run, tmp_path):
    make_run(tmp_path, "a", skill=2.0)
    make_run(tmp_path, "b", "optimizer.lr=0.5", skill=0.6)
    (found,) = _all(tmp_path, metric="loss")
    assert [one.label.partition("(")[2] for one in found.candidates] == ["a)", "b)"]
    assert found.pairs[0].verdict == "better"
    assert found.pairs[0].difference.value < 0


def test_tasks_images_and_splits_are_separate(make_run, tmp_path):
    make_run(tmp_path, "one")
    make_run(tmp_path, "two", "task=pneumonia")
    make_run(tmp_path, "three", manifest="n" * 64)
    make_run(tmp_path, "four", "split=random")
    make_run(tmp_path, "five", "split.seed=7")
    make_run(tmp_path, "six", subset=None)
    found = _all(tmp_path)
    assert len(found) == 6
    assert all(len(one.candidates) == 1 and one.pairs == [] for one in found)
    assert {one.split for one in found} == {"grouped", "random", "grouped split.seed=7"}
    assert [one.subset for one in found].count("val") == 1


def test_different_test_images_are_separate(make_run, tmp_path):
    make_run(tmp_path, "one", patients=80)
    make_run(tmp_path, "two", "optimizer.lr=0.5", patients=60)
    assert len(_all(tmp_path)) == 2


def test_folds_are_compared_by_nadeau_and_bengio(make_run, tmp_path):
    for fold in range(5):
        overrides = ("split=kfold", f"split.fold={fold}")
        make_run(tmp_path, "a", *overrides, seed=fold, skill=1.5, subset=None)
        make_run(tmp_path, "b", *overrides, "optimizer.lr=0.5", seed=fold, skill=1.1, subset=None)
    (found,) = _all(tmp_path)
    assert found.kind == "folds"
    first, second = (
        np.array([one.entries[k].result.metrics["val"]["f1_macro"] for k in _by_fold(one)]) for one in found.candidates
    )
    pair = found.pairs[0]
    assert pair.difference.value == pytest.approx((first - second).mean())
    plain = ttest_1samp(first - second, 0).confidence_interval()
    train, val = 800, found.candidates[0].entries[0].result.data.val
    wider = np.sqrt((1 / 5 + val / train) / (1 / 5))
    assert pair.difference.high - pair.difference.low == pytest.approx((plain.high - plain.low) * wider)


def _by_fold(candidate):
    folds = [entry.config.split.fold for entry in candidate.entries]
    return np.argsort(folds)


def test_many_configurations_are_compared_with_the_best(make_run, tmp_path):
    for number in range(14):
        make_run(tmp_path, "s", f"optimizer.lr={0.01 * (number + 1)}", seed=number, patients=25)
    (found,) = _all(tmp_path)
    assert len(found.pairs) == 13
    assert {pair.first for pair in found.pairs} == {found.candidates[0].label}


def test_missing_class_leaves_its_metrics_undefined(make_run, tmp_path):
    whole = make_run(tmp_path / "x", "whole")
    table = pd.read_parquet(whole.evaluation("test", "parquet"))
    val = pd.read_parquet(whole.predictions("val"))
    lacking = table[table["label"] != "VIRUS"].reset_index(drop=True)
    make_run(tmp_path / "y", "one", tables={"val": val, "test": lacking})
    make_run(tmp_path / "y", "two", "optimizer.lr=0.5", tables={"val": val, "test": lacking})
    (found,) = _all(tmp_path / "y")
    assert np.isnan(found.candidates[0].estimates["f1_macro"]).all()
    assert np.isfinite(found.candidates[0].estimates["accuracy"]).all()
    assert found.pairs[0].verdict == "undefined"


def test_unfinished_and_failed_runs_are_left_out(make_run, tmp_path):
    good = make_run(tmp_path, "s", differs={"optimizer.lr": "0.1"})
    cut = make_run(tmp_path, "s", "optimizer.lr=0.2", differs={"optimizer.lr": "0.2"})
    cut.result.unlink()
    damaged = make_run(tmp_path, "s", "optimizer.lr=0.3")
    damaged.result.write_text("{")
    plan = json.loads((tmp_path / "s" / "sweep.json").read_text())
    plan["jobs"] += [{"key": "failed", "differs": {"optimizer.lr": "9"}, "config": {}}]
    plan["jobs"] += [{"key": "never", "differs": {"optimizer.lr": "8"}, "config": {}}]
    (tmp_path / "s" / "sweep.json").write_text(json.dumps(plan))
    (tmp_path / "s" / "jobs" / "failed.broken.json").write_text(json.dumps({"state": "failed", "reason": "out of memory"}))
    found = gather([tmp_path])
    assert [entry.folder.path for entry in found.entries] == [good.path]
    reasons = dict(found.left_out)
    assert reasons[str(cut.path)] == "not finished: 3 epochs done; the same `pneumonia train` resumes it"
    assert "damaged" in reasons[str(damaged.path)]
    assert reasons["s: optimizer.lr=9"] == "failed: out of memory"
    assert reasons["s: optimizer.lr=8"] == "this job of the sweep was not started"


def _change(run, subset, change):
    path = run.evaluation(subset, "parquet")
    change(pd.read_parquet(path)).to_parquet(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda table: table.assign(image_id="x" + table["image_id"]),
            "do not match the test subset.* images are not in it",
        ),
        (lambda table: table.iloc[:-3], "3 are missing"),
        (lambda table: pd.concat([table, table.iloc[:2]]), "2 are duplicated"),
        (lambda table: table.drop(columns="prob_VIRUS"), "lacks the columns prob_VIRUS"),
        (lambda table: table.assign(prob_VIRUS=0.9), "do not sum to one"),
    ],
    ids=["other images", "missing", "twice", "no column", "no probabilities"],
)
def test_mismatched_predictions_are_left_out(make_run, tmp_path, change, reason):
    make_run(tmp_path, "good")
    _change(make_run(tmp_path, "bad", "optimizer.lr=0.5"), "test", change)
    found = gather([tmp_path])
    assert len(found.entries) == 1
    import re

    assert re.search(reason, found.left_out[0][1])


def test_copied_run_counts_once(make_run, tmp_path):
    run = make_run(tmp_path / "runs", "one")
    shutil.copytree(run.path, tmp_path / "copy" / run.path.name)
    found = gather([tmp_path])
    assert len(found.entries) == 1
    assert len(found.copies) == 1


def test_shared_run_is_in_both_sweeps(make_run, tmp_path):
    shared = make_run(tmp_path, "a", differs={"optimizer.lr": "0.1"})
    make_run(tmp_path, "a", "optimizer.lr=0.2", differs={"optimizer.lr": "0.2"})
    make_run(tmp_path, "b", "optimizer.lr=0.3", differs={"optimizer.lr": "0.3"})
    shutil.copytree(shared.path, tmp_path / "b" / shared.path.name)
    found = gather([tmp_path])
    assert len(found.entries) == 3
    assert {name: len(entries) for name, entries in found.by_sweep.items()} == {"a": 2, "b": 2}


def test_evaluated_copy_is_preferred(make_run, tmp_path):
    run = make_run(tmp_path / "b", "one")
    copy = shutil.copytree(run.path, tmp_path / "a" / "one" / run.path.name)
    shutil.rmtree(copy / "evaluation")
    found = gather([tmp_path])
    assert [entry.folder.path for entry in found.entries] == [run.path]
    assert found.copies == [(str(copy), str(run.path))]


def test_names_include_the_family_if_several(make_run, tmp_path):
    for family in ("simple_cnn", "pseudo_resnet"):
        for rate in ("0.1", "0.2"):
            make_run(tmp_path, family, f"model={family}", f"optimizer.lr={rate}", differs={"optimizer.lr": rate})
    (found,) = _all(tmp_path)
    names = {one.label for one in found.candidates}
    assert names == {f"{family} lr={rate}" for family in ("SimpleCNN", "PseudoResNet") for rate in ("0.1", "0.2")}


def test_nothing_finished_is_refused(make_run, tmp_path):
    make_run(tmp_path, "one").result.unlink()
    with pytest.raises(RunError, match=r"no finished run to report on .*not finished: 3 epochs"):
        gather([tmp_path])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="there is no run folder"):
        gather([tmp_path / "empty"])
    with pytest.raises(RunError, match="There is no folder"):
        gather([tmp_path / "nowhere"])


def test_other_data_are_a_separate_comparison(make_run, evaluate_again, tmp_path):
    leak = Leak("test", 40, 160, "p1")
    runs = [
        make_run(tmp_path, "s", f"optimizer.lr={rate}", leaks=(leak,), differs={"optimizer.lr": rate}) for rate in ("0.1", "0.2")
    ]
    for number, run in enumerate(runs):
        table = pd.read_parquet(run.evaluation("test", "parquet"))
        evaluate_again(run, table.iloc[::2], other="x")
        if number == 0:
            evaluate_again(run, table.iloc[1::2], other="y")
    found = gather([tmp_path])
    assert len(found.entries) == 2
    made = comparisons([one for entry in found.entries for one in entry.everywhere], "f1_macro")
    assert [(one.other_data, len(one.candidates)) for one in made] == [(None, 2), ("x-xxxxxxxx", 2), ("y-yyyyyyyy", 1)]
    assert "test subset of other data, x-xxxxxxxx (trained with split=" in made[1].title
    assert (bool(made[0].leaks), made[1].leaks) == (True, ""), "the split leaks on its own test split"
    assert made[0].n > made[1].n


def test_other_tta_is_a_candidate_of_its_own(make_run, evaluate_again, tmp_path):
    run = make_run(tmp_path, "s")
    evaluate_again(run, pd.read_parquet(run.evaluation("test", "parquet")), tta="flip")
    (entry,) = gather([tmp_path]).entries
    (made,) = comparisons(list(entry.everywhere), "f1_macro")
    assert len(made.candidates) == 2
    assert sum("tta=flip" in one.label for one in made.candidates) == 1
    assert {one.trainings for one in made.candidates} == {1}


def test_renamed_evaluation_is_left_out(make_run, evaluate_again, tmp_path):
    run = make_run(tmp_path, "s")
    evaluate_again(run, pd.read_parquet(run.evaluation("test", "parquet")).iloc[::2], other="x")
    for suffix in ("json", "parquet"):
        run.evaluation("test", suffix, "x-xxxxxxxx").rename(run.evaluation("test", suffix))
    with pytest.raises(RunError, match=r"own-test\.json was renamed: its name and its content name different data"):
        gather([tmp_path])
