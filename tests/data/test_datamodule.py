"""Test the hooks of the data module: what they load, share and refuse."""

import pickle

import numpy as np
import pytest
from builders import few_images
from lightning import Trainer

from pneumonia.config.schema import DataConfig, PhantomConfig, SplitConfig
from pneumonia.data.datamodule import XRayDataModule
from pneumonia.data.run_data_cache import RunDataCache
from pneumonia.errors import ConfigError, LabelError, ManifestError, SplitLeakageError
from pneumonia.models.factory import build_classifier
from pneumonia.models.options import ClassifierOptions

DATA = DataConfig(phantom=PhantomConfig(60, 0))
MLP = {"_target_": "pneumonia.models.mlp.MLP", "hidden": [2]}


def _module(cache_dir, split=None, **options):
    return XRayDataModule(DATA, split or SplitConfig(), image_size=16, cache_dir=cache_dir, **options)


def _trainer(**options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(max_epochs=1, accelerator="cpu", enable_model_summary=False, **quiet, **options)


def test_plain_trainer_needs_nothing_else(cache_dir, phantoms):
    module, model = _module(cache_dir), build_classifier(MLP, ClassifierOptions("subtype", image_size=16))
    trainer = _trainer()
    trainer.fit(model, module)
    assert np.isfinite(float(trainer.callback_metrics["val/loss"]))


def test_subsets_of_the_loaders_are_those_of_the_split(cache_dir, phantoms):
    module = _module(cache_dir, SplitConfig("official"))
    module.setup()
    loaders = {"train": module.train_dataloader(), "val": module.val_dataloader(), "test": module.test_dataloader()}
    for subset, loader in loaders.items():
        images = sum(len(batch["label"]) for batch in loader)
        assert images == (module.split["subset"] == subset).sum() > 0
    assert sum(len(batch["label"]) for batch in module.predict_dataloader()) == len(module.split)


def test_data_modules_of_one_process_share_images_and_splits(cache_dir, phantoms):
    shared = RunDataCache()
    one, two = _module(cache_dir, data_cache=shared), _module(cache_dir, data_cache=shared, seed=3)
    for module in (one, two):
        module.prepare_data()
        module.setup("fit")
    assert one.images is two.images
    assert one.split is two.split


def test_another_process_gets_the_state_without_the_pixels(cache_dir, phantoms):
    module = _module(cache_dir)
    module.setup()
    packed = pickle.dumps(module)
    assert module.images.pixels[0].tobytes() not in packed
    copy = pickle.loads(packed)
    copy.setup("fit")
    assert copy.hashes == module.hashes
    assert np.array_equal(copy.images.pixels, module.images.pixels)


def test_split_that_leaks_is_refused(cache_dir, phantoms):
    with pytest.raises(SplitLeakageError, match=r"split\.leaky=true"):
        _module(cache_dir, SplitConfig("random")).setup("fit")


def test_missing_split_file_is_refused_before_images_are_read(tmp_path):
    module = _module(tmp_path / "cache", SplitConfig(file=str(tmp_path / "none.parquet")))
    with pytest.raises(ManifestError, match="There is no split file"):
        module.prepare_data()
    assert not (tmp_path / "cache").exists()


def test_class_without_images_is_refused(phantoms, cache_dir, tmp_path):
    for path in phantoms.rglob("*.jpeg"):
        if "virus" not in path.name:
            target = tmp_path / path.relative_to(phantoms)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
    module = XRayDataModule(DataConfig("folder", str(tmp_path)), SplitConfig(), image_size=16, cache_dir=cache_dir)
    with pytest.raises(LabelError, match="The data has no image of class VIRUS"):
        module.setup("fit")


def test_rotating_folds_need_a_trainer_that_reloads(cache_dir, phantoms):
    module = _module(cache_dir, SplitConfig("rotating", k=3, leaky=True))
    model = build_classifier(MLP, ClassifierOptions("subtype", image_size=16))
    with pytest.raises(ConfigError, match="reload_dataloaders_every_n_epochs=1"):
        _trainer().fit(model, module)
    _trainer(reload_dataloaders_every_n_epochs=1).fit(model, module)


def test_resumed_training_starts_with_the_next_epoch(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8)).astype(np.uint8)
    data = few_images(pixels, ["NORMAL", "VIRUS"] * 6, batch_size=4)
    model = build_classifier(MLP, ClassifierOptions("pneumonia", image_size=8))
    trainer = _trainer()
    trainer.fit(model, data)
    assert data.state_dict() == {"epoch": 1}
    data.load_state_dict({"epoch": 7})
    assert data.train_dataloader().sampler.epoch == 7
    data.setup("fit")
    assert data.train_dataloader().sampler.epoch < 7
