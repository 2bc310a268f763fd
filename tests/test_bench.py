"""The harness of `make bench` counts only what is the same work, and says so where it is not."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import gpu_check
from benchmarks.harness import Arm, Differs, Goal, Row, measure, words
from pneumonia.config.keys import conf_dir


def _bench(*said):
    command = [sys.executable, "-m", "benchmarks.bench", *said]
    return subprocess.run(command, cwd=conf_dir().parent, capture_output=True, text=True, check=False)


def _row(seconds, goals, **more):
    """A row whose arms take given seconds, round by round."""
    left = {name: iter(values) for name, values in seconds.items()}
    arms = {name: Arm(lambda name=name: next(left[name]), timed=True) for name in seconds}
    settings = {"guard": lambda: "the same", "rounds": 3, **more}
    return Row("row", "what", 10, "images", arms, goals, **settings)


def test_ratios_are_medians_of_rounds_side_by_side_not_of_medians():
    seconds = {"ours": [1.0, 2.0, 4.0], "baseline": [4.0, 2.0, 40.0]}
    found = measure(_row(seconds, (Goal("baseline", "faster", 4.0),)))
    assert found.ratios["baseline"] == (4.0, 1.0, 10.0)
    assert found.as_json["per_s"] == {"ours": 5.0, "baseline": 2.5}
    assert found.as_json["ratios"]["baseline"]["reached"] is True


def test_a_cost_is_ours_over_theirs_and_must_stay_below():
    found = measure(_row({"ours": [1.1, 1.1, 1.1], "limit": [1.0, 1.0, 1.0]}, (Goal("limit", "cost", 1.03),)))
    assert found.ratios["limit"][0] == pytest.approx(1.1)
    assert words([found])[0][-1] == "NO"


def test_an_arm_that_does_a_share_counts_for_the_whole():
    row = _row({"ours": [1.0] * 3, "baseline": [1.0] * 3}, (Goal("baseline", "faster", 1.0),))
    row.arms["baseline"] = Arm(lambda: 1.0, share=0.25, timed=True)
    assert measure(row).ratios["baseline"][0] == 4.0


def test_arms_take_turns():
    order = []
    arms = {name: Arm(lambda name=name: order.append(name)) for name in ("ours", "baseline", "limit")}
    measure(Row("row", "what", 1, "images", arms, (), lambda: "the same", rounds=2))
    assert order == ["ours", "baseline", "limit"] * 2


def test_where_arms_differ_nothing_is_timed():
    def guard() -> str:
        raise Differs("one gives other pixels")

    with pytest.raises(Differs, match="other pixels"):
        measure(_row({"ours": []}, (), guard=guard))


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (["--only", "epochs"], "--only epochs: there is no such row. There are: ingest, epoch"),
        (["--rounds", "0"], "--rounds 0: at least one"),
        (["--originals", "/no/such"], "--originals /no/such: there is no such folder"),
        (["--xrays", "/no/such"], "--xrays /no/such: there is no such folder"),
    ],
)
def test_bad_words_are_named_before_anything_is_measured(said, why):
    done = _bench(*said)
    assert done.returncode == 2
    assert why in done.stderr


def test_one_command_measures_guards_and_writes(tmp_path):
    out = tmp_path / "figures" / "bench.json"
    done = _bench("--only", "augment", "--rounds", "1", "--out", str(out), "--patients", "60")
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(out.read_text())
    assert results["refused"] == {}
    assert results["versions"]["torch"]
    assert results["rows"]["augment"]["ratios"]["baseline"]["median"] > 0
    assert "means of a pixel over all images differ by" in results["rows"]["augment"]["guard"]
    assert "augment" in done.stderr


def test_gpu_check_needs_a_card_and_says_so():
    command = [sys.executable, "-m", "benchmarks.gpu_check"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=conf_dir().parent, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert "torch sees no NVIDIA card here. `pneumonia doctor` says why" in done.stderr


def test_gpu_check_tells_what_trains_otherwise(monkeypatch, capsys, tmp_path):
    """Its comparison, on losses that are made up: those of the third run are off by a tenth."""
    losses = iter([[1.0, 0.5], [1.005, 0.5], [1.0, 0.55]] * len(gpu_check.CASES))
    cost = {"device": "cpu", "precision": "32-true", "images_per_s": 1.0, "peak_memory_mib": 1.0}
    monkeypatch.setattr(gpu_check, "_train", lambda words: {"losses": next(losses), "cost": dict(cost)})
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--dry-run"])
    assert gpu_check.main() == 1
    results = capsys.readouterr().err
    assert results.count(" yes ") == results.count(" NO ") == len(gpu_check.CASES)


def test_gpu_check_measures_what_its_json_can_keep(tmp_path):
    words = (
        "model=simple_cnn",
        "image_size=16",
        "max_epochs=1",
        "data.phantom.patients=20",
        "trainer.accelerator=cpu",
        "name=check",
    )
    found = gpu_check._train((*words, f"runs_dir={tmp_path}/runs", f"cache_dir={tmp_path}/cache"))
    kept = json.loads(json.dumps(found))
    assert len(kept["losses"]) == 1
    assert kept["cost"]["precision"] == "32-true"
