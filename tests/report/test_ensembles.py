"""Ensembles in a report: found, named, compared with their members, and left out where something is wrong."""

import json
import shutil

import pytest

from pneumonia.report.collect import gather
from pneumonia.report.compare import comparisons
from pneumonia.report.write import ReportRequest, write_report


@pytest.fixture
def seeds(make_run, make_ensemble, tmp_path):
    runs = [make_run(tmp_path / "runs", "one", seed=seed) for seed in (0, 1, 2)]
    return runs, make_ensemble(runs[:2])


def test_ensemble_is_found_and_lists_its_members(seeds, tmp_path):
    runs, _ = seeds
    write_report(ReportRequest([runs[0].path.parent], tmp_path / "out"))
    text = (tmp_path / "out" / "report.md").read_text()
    assert "3 finished runs" in text
    assert "| ensemble of 2 x PseudoResNet | 2 as one |" in text
    for seed, run in enumerate(runs[:2]):
        assert f"| ensemble of 2 x PseudoResNet | PseudoResNet | {seed} | – | `{run.path}` |" in text
    assert f"`{runs[2].path}` |" not in text


def test_ensemble_counts_once(seeds, tmp_path):
    _, folder = seeds
    places = [tmp_path, folder.path, tmp_path / "runs", tmp_path / "runs" / "one" / ".."]
    found = gather(places)
    assert sum(entry.members == 2 for entry in found.entries) == 1
    assert found.left_out == []


def test_ensembles_are_named_by_their_seeds(seeds, make_ensemble, tmp_path):
    runs, _ = seeds
    make_ensemble(runs[1:])
    (found,) = comparisons(gather([tmp_path]).entries, "f1_macro")
    assert {one.label for one in found.candidates} >= {
        "ensemble of 2 x PseudoResNet of seeds 0, 1",
        "ensemble of 2 x PseudoResNet of seeds 1, 2",
    }


def test_ensemble_of_other_runs_is_left_out(seeds, make_run, tmp_path):
    runs, folder = seeds
    assert gather([runs[0].path]).left_out == []
    other = make_run(tmp_path / "other", "two", "optimizer.lr=0.5")
    (left,) = gather([other.path, folder.path]).left_out
    assert left == (str(folder.path), "none of the ensemble's members is among these runs. Name their folders too.")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: (path / "ensemble.json").write_text("{"), "ensemble.json is damaged"),
        (lambda path: shutil.rmtree(path / "evaluation"), "its evaluation was interrupted"),
        (lambda path: (path / "evaluation" / "own-test.json").write_text("[]"), "is damaged or older"),
        (lambda path: (path / "evaluation" / "own-test.parquet").unlink(), "own-test.parquet is gone"),
    ],
    ids=["note", "cut", "evaluation", "predictions"],
)
def test_damaged_ensemble_is_left_out(seeds, tmp_path, damage, reason):
    _, folder = seeds
    damage(folder.path)
    found = gather([tmp_path])
    assert len(found.entries) == 3
    (left,) = found.left_out
    assert reason in left[1]
    assert "--ensemble" in left[1]


def test_evaluation_of_other_members_is_left_out(seeds, tmp_path):
    _, folder = seeds
    path = folder.evaluation("test", "json")
    held = json.loads(path.read_text())
    held["of"]["run_ids"] = ["a", "b"]
    path.write_text(json.dumps(held))
    assert "is of another run (a, b)" in gather([tmp_path]).left_out[0][1]
