"""The tables of docs/lightning-and-hydra.md hold."""

import re
import shlex
from importlib import import_module

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher

from pneumonia.config.keys import NOT_PASSED_TO_TRAINER, conf_dir
from pneumonia.training.train import train

PAGE = (conf_dir().parent / "docs" / "lightning-and-hydra.md").read_text(encoding="utf-8")
CELLS = re.findall(r"^\| [^|]+ \| `([^|]+)` \|$", PAGE, flags=re.MULTILINE)
ROWS = [cell for cell in CELLS if not cell.startswith("pneumonia ")]
PLUGINS = {"joblib": "JoblibLauncher", "submitit_local": "LocalLauncher"}


def test_the_page_has_rows():
    assert len(ROWS) > 20


def _slow_with_launcher(command):
    return pytest.param(command, marks=[pytest.mark.slow] if "launcher=" in command else [])


@pytest.mark.parametrize("command", [_slow_with_launcher(cell) for cell in CELLS if cell not in ROWS])
def test_a_command_of_the_page_makes_two_runs(command, tmp_path, monkeypatch, cache_dir):
    _, verb, *arguments = shlex.split(command)
    launcher = re.search("hydra/launcher=(\\w+)", command)
    if launcher and PLUGINS[launcher[1]] not in {one.__name__ for one in Plugins.instance().discover(Launcher)}:
        pytest.skip(f"hydra/launcher={launcher[1]} is not installed (the extra `dev`)")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").symlink_to(conf_dir("sweeps"))
    small = ["image_size=16", "max_epochs=1", "data.phantom.patients=60", "trainer.accelerator=cpu", f"cache_dir={cache_dir}"]
    assert import_module(f"pneumonia.cli.{verb}").run([*arguments, *small]) == 0
    assert len(list(tmp_path.glob("runs/*/*/result.json"))) == (0 if "--cfg" in command else 2)


@pytest.mark.parametrize("override", ROWS)
def test_an_override_of_the_page_trains(override, compose, tmp_path):
    if "RUN" in override:  # the folder of a run
        run = train(compose("scheduler=none", "batch_size=8", runs_dir=tmp_path))
        override = override.replace("RUN", str(tmp_path / run.name / run.run_id))
        result = train(compose("scheduler=none", "batch_size=8", "max_epochs=3", override, runs_dir=tmp_path))
        assert result.epochs == 3
        return
    small = ["trainer.limit_train_batches=3"] if "batches" not in override and "debug" not in override else []
    result = train(compose(*small, "batch_size=8", *override.split(), runs_dir=tmp_path))
    assert result.epochs >= 1


def test_the_page_explains_every_argument_that_is_not_passed_on():
    for name, why in NOT_PASSED_TO_TRAINER.items():
        assert f"| `{name}` | {why} |" in PAGE
