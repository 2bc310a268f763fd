"""`pneumonia train -m` under Hydra's launchers: each failed job is shown, the others run, the exit code tells."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf

from pneumonia.cli.sweepers import check_direction, job_labels
from pneumonia.cli.train import run
from pneumonia.config.keys import conf_dir
from pneumonia.errors import ConfigError
from pneumonia.runs.folder import RunFolder
from pneumonia.runs.listing import job_label

FAMILY = '''
import os, signal, time
from torch import nn
from pneumonia.models.base import Classifier
from pneumonia.models.options import ClassifierOptions

class Troubled(Classifier):
    """Softmax regression that raises or dies in its first batch."""

    def __init__(self, options: ClassifierOptions, *, trouble: str = "none") -> None:
        super().__init__(options)
        self.trouble = trouble
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(options.image_size**2, len(self.task.classes)))

    def training_step(self, batch, batch_idx):
        if self.trouble == "raise":
            raise ArithmeticError("trouble in a batch")
        if self.trouble == "slow":
            time.sleep(0.2)
        if self.trouble == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().training_step(batch, batch_idx)
'''
INSTALLED = {one.__name__ for one in Plugins.instance().discover(Launcher)}
LAUNCHERS = [
    pytest.param(
        name,
        marks=[
            pytest.mark.skipif(plugin not in INSTALLED, reason=f"{plugin} is not installed (the extra `dev`)"),
            *([] if name == "joblib" else [pytest.mark.slow]),
        ],
    )
    for name, plugin in (("basic", "BasicLauncher"), ("joblib", "JoblibLauncher"), ("submitit_local", "LocalLauncher"))
]


@pytest.fixture
def small(tmp_path, cache_dir):
    """A folder with a family that fails on demand, and the overrides of a small run."""
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "troubled.yaml").write_text("_target_: troubled.Troubled\ntrouble: none\n")
    (tmp_path / "troubled.py").write_text(FAMILY)
    return [
        *("--config-dir", "conf", "-m", "model=troubled", "image_size=16", "max_epochs=1"),
        *("data.phantom.patients=60", f"cache_dir={cache_dir}", "trainer.accelerator=cpu"),
    ]


def _train(folder, overrides):
    path = os.pathsep.join([str(folder), *sys.path])
    return subprocess.run(
        [sys.executable, "-m", "pneumonia", "train", *overrides],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def _labels(folder):
    """Return the labels of the finished runs."""
    return sorted(job_label(RunFolder(path.parent)) for path in folder.glob("runs/train/*/result.json"))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_failed_job_is_shown_and_the_others_run(launcher, small, tmp_path):
    done = _train(tmp_path, [*small, f"hydra/launcher={launcher}", "model.trouble=raise,fine", "batch_size=0,16,32"])
    assert done.returncode == 1, done.stderr
    summary = done.stderr.partition("4 of 6 jobs failed:")[2]
    assert re.search(r"0: model.trouble=raise batch_size=0\n +ConfigError: batch_size=0 is out of range", summary)
    assert re.search(r"1: model.trouble=raise batch_size=16\n +ArithmeticError: trouble in a batch", summary)
    assert re.search(r"3: model.trouble=fine batch_size=0\n +ConfigError: batch_size=0 is out of range", summary)
    assert summary.count("Traceback") == 2, "of the bug alone"
    assert 'raise ArithmeticError("trouble in a batch")' in summary
    assert _labels(tmp_path) == ["model.trouble=fine batch_size=16", "model.trouble=fine batch_size=32"]
    assert not list(tmp_path.glob("runs/train/.multirun-*")), "the notes are gone"


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_one_failure_of_six_jobs_sets_the_exit_code(launcher, small, tmp_path):
    done = _train(tmp_path, [*small, f"hydra/launcher={launcher}", "model.trouble=a,b,raise,d,e,f", "batch_size=16"])
    assert done.returncode == 1, done.stderr
    assert re.search(r"1 of 6 jobs failed:\n  2: model.trouble=raise\n +ArithmeticError: trouble in a batch", done.stderr)
    assert _labels(tmp_path) == [f"model.trouble={name}" for name in "abdef"]


@pytest.mark.parametrize("launcher", LAUNCHERS[1:])
def test_a_job_whose_process_is_killed_is_named(launcher, small, tmp_path):
    done = _train(tmp_path, [*small, f"hydra/launcher={launcher}", "batch_size=16", "model.trouble=kill,fine"])
    assert done.returncode == 1, done.stderr
    summary = re.split(r"\d of 2 jobs failed:", done.stderr)[1]
    assert re.search(r"0: .*model.trouble=kill\n +its process was killed", summary), done.stderr
    assert "Traceback" not in summary


def _running(folder):
    from pneumonia.system.files import is_locked

    return [lock for lock in folder.glob("runs/train/*/lock") if is_locked(lock)]


def _until(what, seconds):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_signal_to_the_multirun_alone_ends_its_jobs(launcher, number, small, tmp_path):
    overrides = [*small, f"hydra/launcher={launcher}", "model.trouble=slow", "batch_size=1,2", "max_epochs=500"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pneumonia", "train", *overrides],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "CUDA_VISIBLE_DEVICES": ""},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _until(lambda: list(tmp_path.glob("runs/train/*/progress.json")) or process.poll() is not None, 120)
        assert process.poll() is None
        process.send_signal(number)
        _, output = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == 130, output
    assert re.search("Interrupted|Stopped", output)
    assert "Traceback" not in output
    assert not _running(tmp_path)
    time.sleep(3)  # in which a job that had not begun would
    assert not _running(tmp_path)
    assert not list(tmp_path.glob("runs/train/.multirun-*"))


def test_later_batches_run_after_a_failure(small, tmp_path):
    overrides = ["model.trouble=fine", "hydra.sweeper.max_batch_size=1"]
    done = _train(tmp_path, [*small, *overrides, "batch_size=0,16"])
    assert done.returncode == 1, done.stderr
    assert len(list(tmp_path.glob("runs/train/*/result.json"))) == 1
    assert _train(tmp_path, [*small, *overrides, "batch_size=16"]).returncode == 0


@pytest.mark.parametrize("word", ["experiment=glob(x*)", "seed=range(0,0)", "model=glob(*,exclude=*)", "seed=range(3,1)"])
def test_a_multirun_without_a_job_is_refused(word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(word) + " has no value, so there is no job to run"):
        run(["-m", word])


def test_a_job_returns_its_monitor_to_the_sweeper(compose, tmp_path, monkeypatch, cache_dir):
    from pneumonia.cli import train as verb

    returned = []
    plain = verb._job
    monkeypatch.setattr(verb, "_job", lambda *arguments: returned.append(plain(*arguments)) or returned[-1])
    monkeypatch.chdir(tmp_path)
    overrides = ["model=mlp", "image_size=16", "max_epochs=1", "data.phantom.patients=60", f"cache_dir={cache_dir}"]
    assert run(["-m", *overrides, "trainer.accelerator=cpu", "monitor=val/accuracy"]) == 0
    from pneumonia.runs.result import read_result

    (path,) = tmp_path.glob("runs/train/*/result.json")
    assert returned == [read_result(RunFolder(path.parent)).metrics["val"]["accuracy"]]


def _multirun_config(sweeper, **values):
    return OmegaConf.create({"hydra": {"overrides": {"task": ["model=mlp", "seed=0,1"]}, "sweeper": sweeper}, **values})


def test_labels_have_what_the_sweeper_chooses():
    config = _multirun_config({"params": {"+optimizer.amsgrad": "true,false", "batch_size": "8"}})
    jobs = [["+optimizer.amsgrad=true", "batch_size=8", "model=mlp", "seed=0", "optimizer.lr=0.1", "hydra.verbose=true"]]
    assert job_labels(config, jobs) == ["optimizer.amsgrad=true batch_size=8 seed=0 optimizer.lr=0.1"]
    assert job_labels(_multirun_config({}), [["model=mlp"]]) == [""]


@pytest.mark.parametrize(
    ("monitor", "family", "right"),
    [
        ("val/loss", "MLP", "minimize"),
        ("val/accuracy", "MLP", "maximize"),
        (None, "MLP", "minimize"),
        (None, "Perceptron", "maximize"),
    ],
)
def test_a_study_in_the_wrong_direction_is_refused(monitor, family, right):
    model = {"_target_": f"pneumonia.models.{family.lower()}.{family}"}
    wrong = "maximize" if right == "minimize" else "minimize"
    check_direction(_multirun_config({"direction": right}, monitor=monitor, model=model))
    check_direction(_multirun_config({}, monitor=monitor, model=model))
    with pytest.raises(
        ConfigError, match=f"direction={wrong}, and a job returns its monitor.*Set hydra.sweeper.direction={right}"
    ):
        check_direction(_multirun_config({"direction": wrong}, monitor=monitor, model=model))


def test_a_sweep_file_makes_the_same_runs_under_plain_hydra(tmp_path, monkeypatch, cache_dir):
    from pneumonia.cli.sweep import run as sweep

    small = ["optimizer=sgd,adam", "seed=0", "model=mlp", "image_size=16", "max_epochs=1", "data.phantom.patients=60"]
    small += [f"cache_dir={cache_dir}", "trainer.accelerator=cpu"]
    monkeypatch.chdir(tmp_path)
    assert run(["--config-dir", str(conf_dir("sweeps")), "--config-name", "optimizer", "-m", *small, "runs_dir=hydra"]) == 0
    assert sweep(["optimizer", *small, "runs_dir=own", "dry_run=false"]) == 0
    labels = [
        {path.parent.name: job_label(RunFolder(path.parent)) for path in tmp_path.glob(f"{runs_dir}/optimizer/*/result.json")}
        for runs_dir in ("hydra", "own")
    ]
    assert sorted(labels[0].values()) == ["optimizer=adam seed=0", "optimizer=sgd seed=0"]
    assert labels[0] == labels[1]
