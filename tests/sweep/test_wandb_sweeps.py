"""The sweeps of W&B: each file fits the config, and W&B's own agent trains a trial of it, offline."""

import json
import os
import sys
from pathlib import Path

import pytest
import yaml

from pneumonia.config.compose import compose as compose_config
from pneumonia.config.keys import conf_dir
from pneumonia.runs.folder import RunFolder
from pneumonia.runs.result import read_result

FILES = sorted((conf_dir("sweeps") / "wandb").glob("*.yaml"))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def _settings(file):
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def _values(parameter):
    return parameter.get("values") or [parameter["min"], parameter["max"]]


def _fixed(settings):
    command = settings["command"]
    return [word for word in command[command.index("train") + 1 :] if not word.startswith("$")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_value_of_a_sweep_fits_the_config(file):
    settings = _settings(file)
    assert settings["command"][:3] == ["${env}", "pneumonia", "train"]
    assert settings["command"][-1] == "${args_no_hyphens}"
    for key, parameter in settings["parameters"].items():
        for value in _values(parameter):
            config = compose_config(*_fixed(settings), f"{key}={value}")
            assert config.logger.trackers == ["wandb"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_agent_of_wandb_trains_a_trial(file, cache_dir, tmp_path, monkeypatch):
    agents = pytest.importorskip("wandb.wandb_agent", reason="wandb is not installed: pip install 'pneumonia[wandb]'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep123")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    settings = _settings(file)
    small = [f"cache_dir={cache_dir}", "data.phantom.patients=60", "image_size=16", "max_epochs=1", "model=simple_cnn"]
    agent = agents.Agent(None, None, sweep_id="sweep123")
    agent._sweep_command = [*settings["command"][:-1], *small, settings["command"][-1]]
    values = {key: _values(parameter)[-1] for key, parameter in settings["parameters"].items()}
    args = {key: {"value": value} for key, value in values.items()}
    agent._command_run({"run_id": "trial001", "args": args, "program": settings["program"]})
    assert agent._run_processes["trial001"].wait() == 0
    (folder,) = (RunFolder(path.parent) for path in tmp_path.glob("runs/*/*/result.json"))
    assert json.loads(folder.tracker("wandb").read_text())["id"] == "trial001"
    result = read_result(folder)
    assert (result.name, result.config.seed) == (f"wandb_{file.stem}", values.get("seed", 0))
    assert settings["metric"]["name"].removeprefix("best/") == "val/loss"
    assert result.metrics["val"]["loss"] > 0
