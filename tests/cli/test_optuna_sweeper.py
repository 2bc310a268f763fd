"""`pneumonia train -m hydra/sweeper=optuna`, in an environment of its own: the plugin needs optuna 2, the project optuna 5."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import pneumonia
from pneumonia.config.keys import conf_dir

pytestmark = pytest.mark.slow
# optuna 2 needs an older SQLAlchemy and alembic; everything else comes from the environment of the tests.
PACKAGES = ("hydra-optuna-sweeper==1.3.0", "optuna==2.10.1", "sqlalchemy<2", "alembic<1.14", "cmaes", "colorlog")
TRIALS = """
import json, sys, warnings
warnings.simplefilter("ignore")
import optuna
study = optuna.load_study(study_name="study", storage="sqlite:///study.db")
trials = [(trial.state.name, trial.value, trial.params) for trial in study.trials]
print(json.dumps({"direction": study.direction.name, "trials": trials, "best": study.best_value}))
"""
SEED = 6  # of six trials one has batch_size=0
SMALL = ["model=mlp", "image_size=16", "max_epochs=1", "data.phantom.patients=60", "trainer.accelerator=cpu"]
STUDY = ["hydra.sweeper.storage=sqlite:///study.db", "hydra.sweeper.study_name=study"]


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of an environment with the plugin, on top of the packages of this one."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        pytest.skip("uv is not installed (make setup)")
    folder = tmp_path_factory.mktemp("optuna") / "env"
    interpreter = folder / "bin" / "python"
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, folder], check=True, capture_output=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "rest.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    install = [uv, "pip", "install", "-q", "--no-deps", "--python", interpreter, *PACKAGES]
    done = subprocess.run(install, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the packages of hydra-optuna-sweeper can't be had: {done.stderr.strip().splitlines()[-1]}")
    return interpreter


def _train(python, folder, *arguments):
    return subprocess.run(
        [python, "-m", "pneumonia", "train", "-m", "hydra/sweeper=optuna", *STUDY, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(pneumonia.__file__).parents[1]), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def _study(python, folder):
    done = subprocess.run([python, "-c", TRIALS], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _results(folder):
    return [json.loads(path.read_text()) for path in folder.glob("runs/*/*/result.json")]


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_one_failed_trial_of_six_is_shown(launcher, python, tmp_path, cache_dir):
    own = [f"hydra/launcher={launcher}", "hydra.sweeper.n_trials=6", "hydra.sweeper.max_failure_rate=1"]
    own += ["optimizer.lr=tag(log,interval(1e-4,1e-1))", "batch_size=choice(0,8,16)", f"hydra.sweeper.sampler.seed={SEED}"]
    done = _train(python, tmp_path, *own, *SMALL, f"cache_dir={cache_dir}")
    assert done.returncode == 1, done.stderr
    assert re.search(r"\d: optimizer.lr=\S+ batch_size=0\n +ConfigError: batch_size=0 is out of range", done.stderr), done.stderr
    study = _study(python, tmp_path)
    assert [trial["batch_size"] for state, _, trial in study["trials"] if state == "FAIL"] == [0]
    values = {trial["optimizer.lr"]: value for state, value, trial in study["trials"] if state == "COMPLETE"}
    losses = {result["config"]["optimizer"]["lr"]: result["metrics"]["val"]["loss"] for result in _results(tmp_path)}
    assert len(values) == 5
    assert values == losses
    assert study["direction"] == "MINIMIZE"
    assert study["best"] == min(losses.values())


def test_accuracy_is_maximized(python, tmp_path, cache_dir):
    own = ["monitor=val/accuracy", "optimizer.lr=tag(log,interval(1e-4,1e-1))", "hydra.sweeper.n_trials=2"]
    own += [f"cache_dir={cache_dir}", *SMALL]
    done = _train(python, tmp_path, *own)
    assert done.returncode == 2
    assert "Set hydra.sweeper.direction=maximize" in done.stderr
    assert not (tmp_path / "runs").exists()
    done = _train(python, tmp_path, *own, "hydra.sweeper.direction=maximize")
    assert done.returncode == 0, done.stderr
    study = _study(python, tmp_path)
    assert study["direction"] == "MAXIMIZE"
    assert study["best"] == max(result["metrics"]["val"]["accuracy"] for result in _results(tmp_path))


def test_the_packaged_search_runs(python, tmp_path, cache_dir):
    own = ["--config-dir", str(conf_dir("sweeps")), "--config-name", "search", "hydra.sweeper.n_trials=2"]
    small = [one for one in SMALL if one != "model=mlp"]
    done = _train(python, tmp_path, *own, *small, f"cache_dir={cache_dir}")
    assert done.returncode == 0, done.stderr
    study = _study(python, tmp_path)
    assert all(1e-4 <= trial["optimizer.lr"] <= 1e-2 for _, _, trial in study["trials"])
    assert {value for _, value, _ in study["trials"]} == {result["metrics"]["val"]["loss"] for result in _results(tmp_path)}
