"""A config survives JSON and pickling, and its identity leaves out what can't change a result."""

import json
import pickle
from dataclasses import fields, replace

import pytest
import torch
import yaml
from hydra.utils import instantiate

from pneumonia.config.choices import CHOICES
from pneumonia.config.compose import compose
from pneumonia.config.convert import from_plain, group_node, identity, to_plain
from pneumonia.config.keys import conf_dir
from pneumonia.config.schema import GROUPS
from pneumonia.errors import ConfigError

FILES = [(group, path) for group in GROUPS for path in sorted((conf_dir() / group).glob("*.yaml"))]


@pytest.mark.parametrize(("group", "path"), FILES, ids=lambda value: getattr(value, "stem", value))
def test_every_file_has_a_class_with_its_keys(group, path, compose):
    node = getattr(compose(f"{group}={path.stem}", small=False), group)
    own = yaml.safe_load(path.read_text())
    assert type(node) in CHOICES[group]
    assert all(getattr(type(node), key) == own[key] for key in ("_target_", "kind") if key in own)
    assert set(own) - {"defaults"} <= {item.name for item in fields(node)}


@pytest.mark.parametrize("override", ["model=backbone", "+optimizer.amsgrad=true", "logger=wandb", "launcher=slurm"])
def test_config_survives_json_and_pickle(override):
    config = compose(override)
    assert from_plain(json.loads(json.dumps(to_plain(config)))) == config
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": None}, "seed=null is out of range"),
        ({"seed": "a"}, "seed=a is out of range: it must be a whole number from 0 to 4294967295"),
        ({"model": 3}, "model=3 must hold keys and values"),
        ({"data": {"source": "web"}}, "data.source=web is not known; choose one of phantom, folder"),
        ({"old_key": 1}, "old_key is not a config key"),
        ({"optimizer": {"_target_": "torch.optim.Adam", "lr": 0}}, "optimizer.lr=0 is out of range"),
    ],
)
def test_unreadable_config_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        from_plain({**to_plain(compose()), **change})


def test_missing_key_is_refused():
    plain = to_plain(compose())
    del plain["tta"]
    with pytest.raises(ConfigError, match="tta is missing from the config"):
        from_plain(plain)


def test_optimizer_is_instantiated_from_its_node():
    optimizer = instantiate(compose("optimizer=sgd").optimizer, params=[torch.nn.Parameter(torch.zeros(2))])
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["momentum"] == 0.9


def test_arguments_leave_out_the_target():
    node = group_node("optimizer", {"_target_": "my_package.Optimizer", "lr": 0.1})
    assert to_plain(node) == {"_target_": "my_package.Optimizer", "lr": 0.1}


def test_identity_leaves_out_where_a_run_is_computed():
    config = compose()
    elsewhere = replace(config, runs_dir="x", num_workers=3, trainer=replace(config.trainer, accelerator="cpu"))
    assert identity(elsewhere) == identity(config)
    assert identity(replace(config, seed=1)) != identity(config)
