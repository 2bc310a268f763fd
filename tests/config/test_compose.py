"""Overrides become one typed config, and the packaged config files are found as Hydra finds any others."""

import pickle

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from pneumonia.config.compose import UntypedTask, compose
from pneumonia.config.keys import config_groups
from pneumonia.config.schema import GROUPS
from pneumonia.errors import ConfigError


def test_compose_returns_typed_nodes():
    config = compose("model=mlp", "model.hidden=[4]", "optimizer.lr=1e-2", "split=article", "+optimizer.amsgrad=true")
    assert (config.model.hidden, config.optimizer.lr, config.optimizer.amsgrad) == ([4], 1e-2, True)
    assert (config.split.method, config.split.rules.leaky, config.split.rules.folded) == ("random", True, False)
    assert not config.augmentation


def test_compose_reads_files_of_its_own_folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("_target_: my_package.Net\nwidth: 8\nblocks: {deep: 2}\n")
    config = compose("model=mine", "model.width=9", config_dir=tmp_path)
    assert (config.model._target_, config.model.width, config.model.blocks) == ("my_package.Net", 9, {"deep": 2})
    with pytest.raises(ConfigError, match=r"model.width=0 is out of range"):
        compose("model=mine", "model.width=0", config_dir=tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("task", "- a", r"task/mine.yaml holds a list where keys and values belong"),
        ("model", "- a", r"model/mine.yaml holds a list where keys and values belong"),
        ("callbacks", "- a", r"callbacks/mine.yaml holds a list where keys and values belong"),
        ("callbacks", "_target_: a.B", r"callbacks._target_=a.B must hold keys and values: the _target_ of its class"),
        (
            "experiment",
            "# @package _global_\ndefaults: [{override /callbacks: [null]}]",
            r"A defaults list can't be read: .*NoneType",
        ),
        ("experiment", "# @package _global_\ndefaults: [{override /callbacks: [[a]]}]", r"A defaults list can't be read: .*list"),
        ("experiment", "# @package _global_\ndefaults: [{override /model: [mlp]}]", r"model has no file, or a list of them"),
    ],
)
def test_a_file_of_the_wrong_shape_is_named(file, text, message, tmp_path):
    (tmp_path / file).mkdir()
    (tmp_path / file / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        compose(f"{file}=mine", config_dir=tmp_path)


def test_compose_restores_the_callers_hydra():
    with initialize_config_module("pneumonia.conf", version_base="1.3"):
        outer = GlobalHydra.instance().hydra
        compose()
        assert GlobalHydra.instance().hydra is outer
        assert hydra_compose("train", ["model=mlp"]).model.hidden == [8]
    assert not GlobalHydra.instance().is_initialized()


def test_the_schema_of_a_task_can_be_pickled_for_launchers():
    assert pickle.loads(pickle.dumps(UntypedTask)) is UntypedTask


def test_compose_translates_errors():
    with pytest.raises(ConfigError, match=r"btach_size is not a config key.*'batch_size'"):
        compose("btach_size=3")


def test_groups_are_the_folders_of_conf():
    assert {*GROUPS, "task", "data", "split", "augmentation", "experiment", "debug", "reproduce", "callbacks", "logger"} == set(
        config_groups()
    )
