"""Search with Optuna: ranges, pruning, failures, and the same trials after a kill."""

import json
import re
import shlex
import signal
import time

import optuna
import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from pneumonia.cli.sweep import run
from pneumonia.cli.train import run as run_train
from pneumonia.config.convert import from_plain
from pneumonia.errors import ConfigError
from pneumonia.sweep.search_space import axis_of
from pneumonia.training.train import train

SPACE = """# Which rate and width?   for tests
defaults:
  - train
  - override model: mlp
  - override scheduler: none
  - _self_
name: small
image_size: 16
batch_size: 16
max_epochs: 4
data: {phantom: {patients: 60}}
search: {trials: 7, startup: 3, warmup: 1, seed: 6}
hydra:
  sweeper:
    params:
      optimizer.lr: tag(log, interval(1e-6, 1e-1))
      model.hidden: "[4],[16]"
      augmentation: none,normal
"""


@pytest.fixture
def space(workplace):
    path = workplace.folder / "small.yaml"
    path.write_text(SPACE)
    return str(path)


def _study(workplace):
    return optuna.load_study(study_name="small", storage=f"sqlite:///{workplace.folder / 'runs' / 'small' / 'study.db'}")


def _trials(workplace):
    """Return number, parameters, state, value and epochs of each trial."""
    return [(t.number, t.params, t.state.name, t.value, t.intermediate_values) for t in _study(workplace).trials]


@pytest.mark.parametrize(
    ("override", "distribution", "ends"),
    [
        ("a=interval(0.1,0.5)", FloatDistribution(0.1, 0.5), ["0.1", "0.5"]),
        ("a=tag(log,interval(1e-4,1e-1))", FloatDistribution(1e-4, 1e-1, log=True), ["0.0001", "0.1"]),
        ("a=int(interval(1,9))", IntDistribution(1, 9), ["1", "9"]),
        ("a=range(16,65,16)", IntDistribution(16, 64, step=16), ["16", "64"]),
        ("a=range(16,60,16)", IntDistribution(16, 48, step=16), ["16", "48"]),
        ("a=x,y", CategoricalDistribution(["x", "y"]), ["x", "y"]),
        ("a=[4],[8,2]", CategoricalDistribution(["[4]", "[8,2]"]), ["[4]", "[8,2]"]),
    ],
)
def test_overrides_become_distributions(override, distribution, ends):
    axis = axis_of(OverridesParser.create().parse_overrides([override])[0])
    assert (axis.distribution, axis.ends) == (distribution, ends)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.lr=interval(1e-1,1e-3)"], "the low end of a range must be below its high end"),
        (["optimizer.lr=tag(log,interval(0,1e-1))"], "a logarithmic range must start above 0"),
        (["batch_size=range(8,8,2)"], "has no value"),
        (["optimizer.lr=interval(-1.0,1.0)"], r"optimizer.lr=-1.0 is out of range"),
        (["augmentation=none,strong"], "augmentation=strong is not known"),
        (["model.depth=1,2"], "model.depth"),
        (["search.trials=0"], "search.trials=0 is out of range"),
        (["launcher=parallel"], "launcher=parallel does not work with a search"),
        (["optimizer.lr=tag(lgo,interval(1e-4,1e-1))"], r"tag\(lgo, ...\) is not known.*tag\(log, interval"),
    ],
)
def test_invalid_search_space_is_refused(overrides, message, space, workplace):
    with pytest.raises(ConfigError, match=message):
        run([space, *workplace.overrides, *overrides])
    assert not list(workplace.folder.glob("runs/small/*/config.yaml"))


def test_range_needs_a_search(workplace):
    with pytest.raises(ConfigError, match="a range without steps, which only a search can use"):
        run(["optimizer", *workplace.overrides, "optimizer.lr=interval(1e-4,1e-2)"])


def test_optuna_has_the_values_of_the_runs(space, workplace, capsys):
    assert run([space, *workplace.overrides]) == 0
    trials, results = _study(workplace).trials, pd.read_csv(workplace.folder / "runs" / "small" / "results.csv")
    assert len(trials) == 7
    assert {trial.state.name for trial in trials} == {"COMPLETE", "PRUNED"}, "some are pruned, not all"
    done = results[results["state"] == "done"]
    assert sorted(done["val/loss"].round(6)) == sorted(
        {round(trial.value, 6) for trial in trials if trial.state.name == "COMPLETE"}
    )
    pruned = results[results["state"] == "pruned"]
    assert (pruned["epochs"] < 4).all()
    assert (pruned["epochs"] > 1).all(), "warmup=1"
    for row in results.itertuples():
        history = pd.read_csv(workplace.folder / "runs" / "small" / row.run_id / "metrics.csv").set_index("epoch")
        assert row.best_epoch == history["val/loss"].idxmin()
    assert all(list(trial.intermediate_values) == list(range(1, trial.last_step + 1)) for trial in trials)
    output = capsys.readouterr().err
    best = done.loc[done["val/loss"].idxmin()]
    command = shlex.split(re.search(r"Train the best again: pneumonia train (.*)", output)[1])
    stamps = {path: path.stat().st_mtime_ns for path in workplace.folder.glob("runs/small/*/result.json")}
    assert run_train([*command, workplace.overrides[1]]) == 0
    output = capsys.readouterr().err
    assert "This run is finished; nothing was trained" in output
    assert best["run_id"] in output
    assert run([space, *workplace.overrides]) == 0
    assert {path: path.stat().st_mtime_ns for path in workplace.folder.glob("runs/small/*/result.json")} == stamps
    assert "7 done, 0 to do" in capsys.readouterr().err
    assert run([space, *workplace.overrides, "search.trials=8"]) == 0
    assert len(_study(workplace).trials) == 8
    assert run(["search", "status", workplace.overrides[0], "name=small"]) == 0
    with pytest.raises(ConfigError, match=r"holds a search of other settings \(space changed\)"):
        run([space, *workplace.overrides, "model.hidden=[4],[8]"])


def test_best_trial_of_an_own_family_is_trained_again(workplace, capsys):
    path = workplace.folder / "small.yaml"
    path.write_text(
        SPACE.replace("override model: mlp", "override model: troubled").replace('model.hidden: "[4],[16]"', "seed: 0,1")
    )
    assert run([str(path), *workplace.overrides, "search.prune=false", "search.trials=2"]) == 0
    command = shlex.split(re.search(r"Train the best again: pneumonia train (.*)", capsys.readouterr().err)[1])
    stamps = {path: path.stat().st_mtime_ns for path in workplace.folder.glob("runs/*/*/result.json")}
    assert run_train(command) == 0
    assert "This run is finished; nothing was trained" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in workplace.folder.glob("runs/*/*/result.json")} == stamps


def test_killed_search_resumes_to_the_same_trials(space, workplace):
    code, output = workplace.call(space, "name=whole")
    assert code == 0, output
    whole = optuna.load_study(study_name="whole", storage=f"sqlite:///{workplace.folder / 'runs' / 'whole' / 'study.db'}").trials
    process = workplace.start(space, "name=small")
    deadline = time.monotonic() + 120
    results = workplace.folder / "runs" / "small"
    while len(list(results.glob("*/checkpoints/last.ckpt"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(_trials(workplace)) < 7
    code, output = workplace.call(space, "name=small")
    assert code == 0, output
    assert _trials(workplace) == [(t.number, t.params, t.state.name, t.value, t.intermediate_values) for t in whole]


def test_failed_trial_leaves_others_alone(workplace, capsys):
    path = workplace.folder / "small.yaml"
    text = SPACE.replace("override model: mlp", "override model: troubled").replace(
        'model.hidden: "[4],[16]"', "model.trouble: fine,raise"
    )
    path.write_text(text)
    assert run([str(path), *workplace.overrides, "search.prune=false"]) == 1
    output = capsys.readouterr().err
    assert "ArithmeticError: trouble in the second epoch" in output
    states = {(trial.params["model.trouble"], trial.state.name) for trial in _study(workplace).trials}
    assert states == {("fine", "COMPLETE"), ("raise", "FAIL")}


def test_trial_is_an_ordinary_run(space, workplace):
    assert run([space, *workplace.overrides, "search.trials=1", "search.prune=false"]) == 0
    job = json.loads((workplace.folder / "runs" / "small" / "sweep.json").read_text())["jobs"][0]
    result = train(from_plain({**job["config"], "runs_dir": str(workplace.folder / "alone")}))
    assert result.metrics["val"]["loss"] == _study(workplace).trials[0].value
