"""Two processes that train one network together end where one process ends, and write each file once."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from pneumonia.config import check_values
from pneumonia.data.dataset import Batches
from pneumonia.errors import ConfigError
from pneumonia.models.build import load_classifier
from pneumonia.runs import RunFolder, read_metrics
from pneumonia.train import check_settings, train

WORDS = (
    "model=simple_cnn",
    "model.width=16",
    "split=official",
    "optimizer=sgd",
    "optimizer.lr=0.05",
    "class_weights=balanced",  # so that a process's share is not its number of images
    "label_smoothing=0.1",
    "augmentation=normal",
    "ema=0.9",
    "batch_size=61",
)


def _folder(place) -> RunFolder:
    (path,) = place.glob("*/*/result.json")
    return RunFolder(path.parent)


def _together(cache_dir, runs_dir, *words):
    small = ["data.phantom.patients=60", "image_size=32", "max_epochs=2", "trainer.accelerator=cpu"]
    told = [*small, f"cache_dir={cache_dir}", f"runs_dir={runs_dir}", "trainer=ddp", *WORDS, *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "pneumonia", "train", *told],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


@pytest.fixture(scope="module")
def pair(compose, cache_dir, phantoms, tmp_path_factory):
    """The same run by one process and by two."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    train(compose(*WORDS, runs_dir=one))
    done = _together(cache_dir, two)
    assert done.returncode == 0, done.stderr[-3000:]
    return _folder(one), _folder(two), done.stderr


def test_the_last_batch_leaves_one_process_without_an_image(pair):
    one, _, _ = pair
    assert one.finished()["data"]["train"] % 61 == 1


def test_losses_and_metrics_of_all_epochs_are_those_of_one_process(pair):
    one, two, _ = pair
    mine, theirs = (pd.DataFrame(read_metrics(folder)).astype(float) for folder in (two, one))
    assert list(mine) == list(theirs)
    assert len(mine) == 2
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_weights_and_predictions_are_those_of_one_process(pair):
    one, two, _ = pair
    ours, theirs = (load_classifier(folder.best).state_dict() for folder in (two, one))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-5, msg=name)
    mine, other = (pd.read_parquet(folder.predictions("val")) for folder in (two, one))
    assert mine["image_id"].tolist() == other["image_id"].tolist()
    np.testing.assert_allclose(mine.filter(like="prob_"), other.filter(like="prob_"), atol=1e-4)


def test_it_is_the_same_run_with_every_file_once(pair):
    one, two, told = pair
    assert one.path.name == two.path.name, "how many processes trained it can't change what it is"
    names = [sorted(path.name for path in folder.path.rglob("*") if path.is_file()) for folder in (one, two)]
    assert names[0] == names[1]
    assert told.count("epoch   1/2") == 1, "one process speaks"
    ours, theirs = two.finished(), one.finished()
    assert ours["confusion"] == theirs["confusion"]
    assert ours["cost"]["images_per_s"] > 0
    saved = [torch.load(folder.last, weights_only=True)["callbacks"]["Recorder"] for folder in (one, two)]
    assert saved[0]["images"] == saved[1]["images"] == 2 * theirs["data"]["train"]


def test_a_run_of_one_process_goes_on_in_two(compose, cache_dir, pair, tmp_path):
    one, _, _ = pair

    def cut(trainer, *_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(compose(*WORDS, runs_dir=tmp_path), callbacks=[_after_the_first_epoch(cut)])
    done = _together(cache_dir, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "cut after epoch 1; it goes on" in done.stderr
    mine, theirs = (pd.DataFrame(read_metrics(folder)).astype(float) for folder in (_folder(tmp_path), one))
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def _after_the_first_epoch(work):
    from lightning.pytorch.callbacks import Callback

    class Cut(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.current_epoch == 1:
                work(trainer)

    return Cut()


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_each_batch_without_loss_or_repetition(world):
    shares = [list(Batches(34, 11, seed=4, rank=rank, world=world)) for rank in range(world)]
    alone = list(Batches(34, 11, seed=4))
    for whole, *parts in zip(alone, *shares, strict=True):
        assert sorted(np.concatenate([part.positions for part in parts])) == sorted(whole.positions)
        assert all(np.array_equal(part.whole, whole.positions) for part in parts)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=pseudo_resnet"], "batch normalisation of PseudoResNet on CPUs"),
        (["model=perceptron", "task=pneumonia"], "no use to Perceptron"),
        (["model=logistic_regression", "task=pneumonia"], "no use to LogisticRegression"),
        (["model=simple_cnn", "mixup=0.2"], r"mixup=0\.2"),
        (["model=simple_cnn", "logger=wandb", "logger.mode=offline"], "logger=wandb"),
        (["model=simple_cnn", "trainer=default", "trainer.devices=2"], "trainer.strategy=auto is for one"),
        (["model=simple_cnn", "trainer.devices=0"], "trainer.devices=0 is out of range"),
    ],
)
def test_what_several_processes_can_not_do_is_refused(words, said, compose, tmp_path):
    config = compose("trainer=ddp", "trainer.accelerator=cpu", *words, runs_dir=tmp_path, small=False)

    def check() -> None:
        check_values(config)
        check_settings(config)

    with pytest.raises(ConfigError, match=said):
        check()
