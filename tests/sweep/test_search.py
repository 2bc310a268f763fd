"""A search finds what is good, gives up what is not, and goes on after a kill as if nothing had happened."""

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
    return optuna.load_study(
        study_name="small", storage=f"sqlite:///{workplace.folder / 'runs' / 'small' / 'study.db'}"
    )


def _told(workplace):
    """Number, parameters, state, value and epochs of each trial."""
    return [(t.number, t.params, t.state.name, t.value, t.intermediate_values) for t in _study(workplace).trials]


@pytest.mark.parametrize(
    ("word", "distribution", "ends"),
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
def test_words_of_hydra_are_distributions_of_optuna(word, distribution, ends):
    axis = axis_of(OverridesParser.create().parse_overrides([word])[0])
    assert (axis.distribution, axis.ends) == (distribution, ends)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.lr=interval(1e-1,1e-3)"], "a low end below its high end"),
        (["optimizer.lr=tag(log,interval(0,1e-1))"], "on a logarithmic scale a range begins above 0"),
        (["batch_size=range(8,8,2)"], "has no value"),
        (["optimizer.lr=interval(-1.0,1.0)"], r"optimizer.lr=-1.0 is out of range"),
        (["augmentation=none,strong"], "augmentation=strong is not known"),
        (["model.depth=1,2"], "model.depth"),
        (["search.trials=0"], "search.trials=0 is out of range"),
        (["launcher=parallel"], "launcher=parallel does not go with a search"),
        (["optimizer.lr=tag(lgo,interval(1e-4,1e-1))"], r"tag\(lgo, ...\) is not known here.*tag\(log, interval"),
    ],
)
def test_a_space_that_no_trial_can_take_is_refused_before_the_first(words, message, space, workplace):
    from pneumonia.cli.train import explained

    with pytest.raises(ConfigError, match=message), explained():
        run([space, *workplace.words, *words])
    assert not list(workplace.folder.glob("runs/small/*/config.yaml"))


def test_a_range_is_refused_where_nothing_searches(workplace):
    with pytest.raises(ConfigError, match="a range without steps, which only a search can try"):
        run(["optimizer", *workplace.words, "optimizer.lr=interval(1e-4,1e-2)"])


def test_a_search_is_runs_whose_values_optuna_knows(space, workplace, capsys):
    assert run([space, *workplace.words]) == 0
    trials, results = _study(workplace).trials, pd.read_csv(workplace.folder / "runs" / "small" / "results.csv")
    assert len(trials) == 7
    assert {trial.state.name for trial in trials} == {"COMPLETE", "PRUNED"}, "some are given up, not all"
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
    told = capsys.readouterr().err
    best = done.loc[done["val/loss"].idxmin()]
    again = shlex.split(re.search(r"The best again: pneumonia train (.*)", told)[1])
    stamps = {path: path.stat().st_mtime_ns for path in workplace.folder.glob("runs/small/*/result.json")}
    assert run_train([*again, workplace.words[1]]) == 0
    told = capsys.readouterr().err
    assert "This run is finished; nothing was trained" in told
    assert best["run_id"] in told
    assert run([space, *workplace.words]) == 0
    assert {path: path.stat().st_mtime_ns for path in workplace.folder.glob("runs/small/*/result.json")} == stamps
    assert "7 done, 0 to do" in capsys.readouterr().err
    assert run([space, *workplace.words, "search.trials=8"]) == 0
    assert len(_study(workplace).trials) == 8
    assert run(["search", "status", workplace.words[0], "name=small"]) == 0
    with pytest.raises(ConfigError, match=r"holds a search of another kind \(space changed\)"):
        run([space, *workplace.words, "model.hidden=[4],[8]"])


def test_the_best_of_a_family_of_ones_own_is_trained_again_by_its_sweep_file(workplace, capsys):
    path = workplace.folder / "small.yaml"
    path.write_text(
        SPACE.replace("override model: mlp", "override model: troubled").replace(
            'model.hidden: "[4],[16]"', "seed: 0,1"
        )
    )
    assert run([str(path), *workplace.words, "search.prune=false", "search.trials=2"]) == 0
    again = shlex.split(re.search(r"The best again: pneumonia train (.*)", capsys.readouterr().err)[1])
    stamps = {path: path.stat().st_mtime_ns for path in workplace.folder.glob("runs/*/*/result.json")}
    assert run_train(again) == 0
    assert "This run is finished; nothing was trained" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in workplace.folder.glob("runs/*/*/result.json")} == stamps


def test_a_search_killed_in_the_middle_proposes_and_finds_the_same(space, workplace):
    code, told = workplace.call(space, "name=whole")
    assert code == 0, told
    whole = optuna.load_study(
        study_name="whole", storage=f"sqlite:///{workplace.folder / 'runs' / 'whole' / 'study.db'}"
    ).trials
    process = workplace.start(space, "name=small")
    deadline = time.monotonic() + 120
    results = workplace.folder / "runs" / "small"
    while len(list(results.glob("*/checkpoints/last.ckpt"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(_told(workplace)) < 7
    code, told = workplace.call(space, "name=small")
    assert code == 0, told
    assert _told(workplace) == [(t.number, t.params, t.state.name, t.value, t.intermediate_values) for t in whole]


def test_a_trial_that_fails_is_told_and_the_others_go_on(workplace, capsys):
    path = workplace.folder / "small.yaml"
    text = SPACE.replace("override model: mlp", "override model: troubled").replace(
        'model.hidden: "[4],[16]"', "model.trouble: fine,raise"
    )
    path.write_text(text)
    assert run([str(path), *workplace.words, "search.prune=false"]) == 1
    told = capsys.readouterr().err
    assert "ArithmeticError: trouble in the second epoch" in told
    states = {(trial.params["model.trouble"], trial.state.name) for trial in _study(workplace).trials}
    assert states == {("fine", "COMPLETE"), ("raise", "FAIL")}


def test_a_trial_is_an_ordinary_run(space, workplace):
    assert run([space, *workplace.words, "search.trials=1", "search.prune=false"]) == 0
    job = json.loads((workplace.folder / "runs" / "small" / "sweep.json").read_text())["jobs"][0]
    result = train({**job["config"], "runs_dir": str(workplace.folder / "alone")})
    assert result["metrics"]["val"]["loss"] == _study(workplace).trials[0].value
