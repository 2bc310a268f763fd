"""The documented Python API, on phantoms."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch import Trainer

import pneumonia
from pneumonia import XRayDataModule, build_model, compose, load_run
from pneumonia.config.keys import conf_dir
from pneumonia.errors import CheckpointError, ConfigError, RunError
from pneumonia.models.mlp import MLP
from pneumonia.models.options import ClassifierOptions

FAMILIES = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plain_trainer_fits_every_family(family, cache_dir, tmp_path):
    small = {"backbone": ["model.name=test_resnet", "model.pretrained=false"], "pseudo_resnet": ["model.width=8"]}
    task = "pneumonia" if family == "perceptron" else "subtype"
    config = compose(f"model={family}", f"task={task}", "data.phantom.patients=60", *small.get(family, []))
    datamodule = XRayDataModule(config.data, config.split, task=task, image_size=32, batch_size=32, cache_dir=cache_dir)
    model = build_model(config, datamodule)
    trainer = Trainer(max_epochs=1, default_root_dir=tmp_path, enable_checkpointing=False, **QUIET)
    trainer.fit(model, datamodule)
    assert {"train/loss", "val/loss", "val/accuracy"} <= set(trainer.callback_metrics)
    trainer.test(model, datamodule, verbose=False)
    assert 0 <= float(trainer.callback_metrics["test/accuracy"]) <= 1
    probabilities = torch.cat(trainer.predict(model, datamodule))
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(len(probabilities)), atol=1e-5)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    restored = type(model).load_from_checkpoint(tmp_path / "model.ckpt")
    image = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)
    assert torch.equal(restored(image), model.eval()(image))


@pytest.mark.parametrize("family", FAMILIES)
def test_hydra_instantiates_the_model_node_of_every_family(family, tmp_path):
    config = compose(f"model={family}", *(["model.pretrained=false"] if family == "backbone" else []))
    model = instantiate(config.model)
    assert type(model).__name__ in config.model._target_
    assert model.eval()(torch.zeros(1, 1, 75, 75, dtype=torch.uint8)).shape == (1, len(model.task.classes))


def test_the_example_of_the_readme_runs(finished, cache_dir, phantoms, tmp_path):
    config = compose("experiment=article/final", "data=folder", f"data.root={phantoms}")
    datamodule = XRayDataModule(config.data, config.split, image_size=75, batch_size=200, cache_dir=cache_dir)
    model = build_model(config, datamodule)
    Trainer(max_epochs=1, default_root_dir=tmp_path, enable_checkpointing=False, **QUIET).fit(model, datamodule)
    run = load_run(finished)
    images = sorted(phantoms.rglob("*.jpeg"))[:2]
    predictions = run.predict(images)
    assert list(predictions["image"]) == [str(path) for path in images]
    assert isinstance(run.history(), pd.DataFrame)
    assert run.result.completed


def test_a_checkpoint_of_another_family_is_refused(finished):
    from pneumonia.models.perceptron import Perceptron

    with pytest.raises(CheckpointError, match="not a Perceptron"):
        Perceptron.load_from_checkpoint(finished / "checkpoints" / "best.ckpt")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="is not a run folder"):
        load_run(tmp_path)


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, pneumonia; print({'torch', 'lightning', 'pandas', 'hydra'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pneumonia.nothing  # noqa: B018
    assert set(pneumonia.__all__) <= set(dir(pneumonia))
    assert Path(pneumonia.__file__).parent.name == "pneumonia"


@pytest.fixture
def small(cache_dir, phantoms):
    config = compose("model=mlp", "data.phantom.patients=60")
    module = XRayDataModule(config.data, config.split, image_size=16, batch_size=32, cache_dir=cache_dir)
    return config, module, build_model(config, module)


def test_a_model_is_fitted_again_after_a_test(small, tmp_path):
    _, module, model = small
    options = {**QUIET, "default_root_dir": tmp_path, "enable_checkpointing": False}
    Trainer(max_epochs=1, **options).fit(model, module)
    Trainer(**options).test(model, module, verbose=False)
    Trainer(max_epochs=1, **options).fit(model, module)


def test_averaged_weights_are_used_without_build_model(small, tmp_path):
    _, module, _ = small
    model = MLP(ClassifierOptions(image_size=16, ema=0.9), hidden=[4])
    Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET).fit(model, module)
    assert model.evaluated_network() is not model.network


def test_a_data_module_that_does_not_match_the_model_is_refused(small, cache_dir, tmp_path):
    config, _, model = small
    other = XRayDataModule(config.data, config.split, image_size=24, batch_size=32, cache_dir=cache_dir)
    with pytest.raises(ConfigError, match=r"image_size=24, and the model was built for .*image_size=16"):
        Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET).fit(model, other)


def test_weight_averaging_without_a_data_module_is_refused(small, tmp_path):
    _, module, _ = small
    model = MLP(ClassifierOptions(image_size=16, swa=0.5), hidden=[4])
    with pytest.raises(ConfigError, match="needs a data module"):
        Trainer(max_epochs=2, default_root_dir=tmp_path, **QUIET).fit(model, module.train_dataloader(), module.val_dataloader())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "cats"}, "task=cats is not known; choose one of subtype, pneumonia"),
        ({"image_size": 0}, "image_size=0 is out of range"),
        ({"batch_size": 0}, "batch_size=0 is out of range"),
        ({"augmenter": "bach"}, "Did you mean 'batch'"),
    ],
)
def test_arguments_of_a_data_module_are_checked(options, message):
    config = compose()
    with pytest.raises(ConfigError, match=message):
        XRayDataModule(config.data, config.split, **options)


def test_loaders_before_setup_are_refused():
    config = compose()
    with pytest.raises(ConfigError, match=r"Call prepare_data\(\) and setup\(\) first"):
        XRayDataModule(config.data, config.split).train_dataloader()


@pytest.mark.parametrize(("overrides", "message"), [([""], "'' is not an override"), ([3], "3 is not an override")])
def test_what_is_no_override_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        compose(*overrides)


def test_a_data_module_needs_the_nodes_of_a_config():
    config = compose()
    with pytest.raises(ConfigError, match=r"data has the type SplitConfig\. Use config\.data of pneumonia\.compose"):
        XRayDataModule(config.split, config.data)
    with pytest.raises(ConfigError, match=r"split has the type NoneType\. Use config\.split"):
        XRayDataModule(config.data, None)
    with pytest.raises(ConfigError, match="cache_dir holds None, which is no path"):
        XRayDataModule(config.data, config.split, cache_dir=None)


@pytest.mark.parametrize("config", [None, "model=mlp"])
def test_a_model_needs_a_config_and_a_data_module(config):
    with pytest.raises(ConfigError, match=r"config has the type (NoneType|str)\. Use the TrainConfig that pneumonia.compose"):
        build_model(config, None)
    with pytest.raises(ConfigError, match=r"datamodule has the type (NoneType|str), .* Use XRayDataModule\(config\.data"):
        build_model(compose(), config)


@pytest.mark.parametrize("path", [None, 3, ["a"]])
def test_a_run_is_loaded_by_its_path(path):
    with pytest.raises(ConfigError, match=r"path=.* is no path\. Use the folder"):
        load_run(path)


def test_a_missing_config_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is not a folder"):
        compose(config_dir=str(tmp_path / "none"))
