"""The rooms stay in order: imports point upstream, the command line starts fast, configs and constructors agree."""

import importlib
import inspect
import subprocess
import sys

import lightning
import pytest
import yaml

from pneumonia.cli import VERBS
from pneumonia.config.keys import conf_dir
from pneumonia.models.config_checks import check_family

FAMILIES = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
EXPERIMENTS = sorted(
    str(p.relative_to(conf_dir() / "experiment").with_suffix("")) for p in conf_dir().glob("experiment/**/*.yaml")
)


@pytest.mark.parametrize("words", [["--help"], *([verb, "--help"] for verb in VERBS)])
def test_help_imports_nothing_heavy(words):
    code = (
        f"import sys; sys.argv = ['pneumonia', *{words!r}]\n"
        "from pneumonia.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "heavy = {'torch', 'lightning', 'hydra', 'pandas', 'numpy', 'albumentations'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: pneumonia" in done.stdout.lower()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_file_lists_exactly_the_keywords_of_its_constructor(family):
    node = yaml.safe_load((conf_dir() / "model" / f"{family}.yaml").read_text())
    module, _, name = node.pop("_target_").rpartition(".")
    parameters = inspect.signature(getattr(importlib.import_module(module), name).__init__).parameters.values()
    assert set(node) == {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}


def test_trainer_words_are_lightnings_own():
    words = yaml.safe_load((conf_dir() / "trainer" / "default.yaml").read_text())
    assert set(words) <= set(inspect.signature(lightning.Trainer.__init__).parameters)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_composes_and_passes_the_checks(experiment, compose):
    config = compose(f"experiment={experiment}", small=False)
    assert config.name != "train", "an experiment names its own folder"
    check_family(config)


@pytest.mark.parametrize("group", ["split", "augmentation", "optimizer", "scheduler", "data", "launcher"])
def test_every_choice_of_a_group_composes_and_passes_the_checks(group, compose, tmp_path):
    for path in (conf_dir() / group).glob("*.yaml"):
        root = [f"data.root={tmp_path}"] if path.stem == "folder" else []
        compose(f"{group}={path.stem}", *root, small=False)
