"""Compare a sweep that is killed at twenty random moments with an undisturbed one: equal to the last digit."""

import random
import time

import pandas as pd
import pytest

KILLS = 20
OVERRIDES = (
    "optimizer",
    "data.phantom.patients=60",
    "image_size=32",
    "model.width=16",
    "batch_size=16",
    "max_epochs=8",
)


@pytest.mark.slow
def test_killed_sweep_ends_like_an_undisturbed_one(workplace):
    runs = workplace.folder / "runs" / "optimizer"
    code, output = workplace.call(*OVERRIDES, "name=whole")
    assert code == 0, output
    whole = pd.read_csv(workplace.folder / "runs" / "whole" / "results.csv")
    assert len(whole) == 12

    chance, stamps, kills = random.Random(0), {}, 0
    while kills < KILLS:
        started = time.monotonic()
        process = workplace.start(*OVERRIDES, "dry_run=false")
        while not (runs / "results.csv").exists() and process.poll() is None:
            time.sleep(0.05)
        time.sleep(chance.uniform(3, 9))  # from within the imports to some jobs later
        process.kill()
        process.communicate()
        kills += 1
        assert time.monotonic() - started < 120
        found = {path: path.stat().st_mtime_ns for path in runs.glob("*/result.json")}
        assert stamps.items() <= found.items(), "a finished job was trained again"
        stamps = found
    code, output = workplace.call(*OVERRIDES)
    assert code == 0, output
    cut = pd.read_csv(runs / "results.csv")
    columns = [name for name in whole.columns if not name.startswith("cost.")]
    pd.testing.assert_frame_equal(cut[columns], whole[columns], check_exact=True)
    found = {path: path.stat().st_mtime_ns for path in runs.glob("*/result.json")}
    assert stamps.items() <= found.items()
    for job in runs.glob("jobs/*.log"):
        assert "Traceback" not in job.read_text()
