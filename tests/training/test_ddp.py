"""Two processes that train one network together end where one process ends, and write each file once."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

from pneumonia.data.dataset import BatchSampler
from pneumonia.errors import ConfigError
from pneumonia.models.checkpoints import load_classifier
from pneumonia.runs.folder import RunFolder, read_metrics
from pneumonia.runs.result import read_result
from pneumonia.training.prepare import checked_classifier
from pneumonia.training.train import train

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
    "data.phantom.patients=66",
    "batch_size=69",
)


def _folder(place) -> RunFolder:
    (path,) = place.glob("*/*/result.json")
    return RunFolder(path.parent)


def _started(cache_dir, runs_dir, *words):
    small = [
        "image_size=32",
        "trainer.accelerator=cpu",
        f"cache_dir={cache_dir}",
        f"runs_dir={runs_dir}",
        "trainer=ddp",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "pneumonia", "train", *small, *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def _together(cache_dir, runs_dir, *words):
    small = ["data.phantom.patients=60", "image_size=32", "max_epochs=2", "trainer.accelerator=cpu"]
    overrides = [*small, f"cache_dir={cache_dir}", f"runs_dir={runs_dir}", "trainer=ddp", *WORDS, *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "pneumonia", "train", *overrides],
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


def test_subsets_of_odd_size_are_shared_between_processes(pair):
    one, two, _ = pair
    assert read_result(one).data.train % 69 == 1
    steps = read_result(one).data.train // 69 * 2
    for folder in (one, two):
        saved = torch.load(folder.last, weights_only=True)
        assert saved["global_step"] == saved["lr_schedulers"][0]["total_steps"] == steps
    assert read_result(one).data.val % 2 == 1


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


def test_processes_train_a_head_alone(cache_dir, tmp_path):
    words = ["model=backbone", "model.name=test_vit", "model.frozen_epochs=null", "data.phantom.patients=24"]
    process = _started(cache_dir, tmp_path, *words, "batch_size=16", "max_epochs=2")
    output = process.communicate(timeout=300)[1]
    assert process.returncode == 0, output


@pytest.mark.slow
def test_processes_stop_together_when_time_is_over(cache_dir, tmp_path):
    words = [
        "model=simple_cnn",
        "model.width=16",
        "data.phantom.patients=24",
        "max_epochs=3",
        "trainer.max_time=00:00:00:00",
    ]
    for kept in (1, 2):
        process = _started(cache_dir, tmp_path, *words)
        output = process.communicate(timeout=300)[1]
        assert process.returncode == 130, output
        assert f"was over after {kept} of 3 epochs" in output
        assert not list(tmp_path.rglob("result.json"))


def test_it_is_the_same_run_with_every_file_once(pair):
    one, two, output = pair
    assert one.path.name == two.path.name, "how many processes trained it can't change what it is"
    names = [sorted(path.name for path in folder.path.rglob("*") if path.is_file()) for folder in (one, two)]
    assert names[0] == names[1]
    assert output.count("epoch   1/2") == 1, "one process speaks"
    ours, theirs = read_result(two), read_result(one)
    assert ours.confusion == theirs.confusion
    assert ours.cost.images_per_s > 0
    saved = [torch.load(folder.last, weights_only=True)["callbacks"]["Throughput"] for folder in (one, two)]
    assert saved[0]["images"] == saved[1]["images"] == 2 * theirs.data.train


def test_no_advice_of_lightnings_comes_through(pair):
    _, _, output = pair
    assert not re.search("sync_dist|deprecated|Initializing distributed", output), output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_processes_and_the_run_resumes(number, cache_dir, tmp_path):
    words = ["max_epochs=400", "model=simple_cnn", "model.width=16", "data.phantom.patients=66"]
    process = _started(cache_dir, tmp_path, *words)
    for _ in range(1200):
        if list(tmp_path.glob("*/*/checkpoints/last.ckpt")):
            break
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    children = [
        int(line)
        for line in subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=False
        ).stdout.split()
    ]
    assert len(children) >= 2
    process.send_signal(number)  # to it alone, as a service manager does
    output = process.communicate(timeout=60)[1]
    assert process.returncode == 130, output
    assert "Run the same command again to go on." in output
    assert not [child for child in children if os.path.exists(f"/proc/{child}/exe")], "a process trains on"
    (folder,) = tmp_path.glob("*/*/metrics.csv")
    epochs = len(pd.read_csv(folder))
    assert 0 < epochs < 400
    RunFolder(folder.parent).held().__enter__()  # nobody holds it


def test_a_run_of_one_process_goes_on_in_two(compose, cache_dir, pair, tmp_path):
    one, _, _ = pair

    def cut(trainer, *_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(compose(*WORDS, runs_dir=tmp_path), callbacks=[_after_the_first_epoch(cut)])
    done = _together(cache_dir, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Resuming after epoch 1" in done.stderr
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
    shares = [list(BatchSampler(34, 11, seed=4, rank=rank, world=world)) for rank in range(world)]
    alone = list(BatchSampler(34, 11, seed=4))
    for whole, *parts in zip(alone, *shares, strict=True):
        assert sorted(np.concatenate([part.positions for part in parts])) == sorted(whole.positions)
        assert all(np.array_equal(part.whole, whole.positions) for part in parts)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=simple_cnn", "trainer.devices=100"], "needs more cores than the"),
        (["model=pseudo_resnet"], "batch normalisation of PseudoResNet on CPUs"),
        (["model=perceptron", "task=pneumonia"], "does not help Perceptron"),
        (["model=logistic_regression", "task=pneumonia"], "does not help LogisticRegression"),
        (["model=simple_cnn", "mixup=0.2"], r"mixup=0\.2"),
        (["model=simple_cnn", "logger=wandb", "logger.wandb.mode=offline"], "logger=wandb"),
        (["model=simple_cnn", "trainer.devices=0"], "trainer.devices=0 is out of range"),
    ],
)
def test_what_several_processes_can_not_do_is_refused(words, said, compose, tmp_path):
    with pytest.raises(ConfigError, match=said):
        checked_classifier(compose("trainer=ddp", "trainer.accelerator=cpu", *words, runs_dir=tmp_path, small=False))


def test_reduced_precision_of_two_processes_has_one_loss(cache_dir, tmp_path):
    words = ["model=simple_cnn", "data.phantom.patients=24", "image_size=32", "batch_size=8", "max_epochs=3"]
    limits = ["trainer.precision=bf16-true", "trainer.max_steps=9"]
    command = _started(cache_dir, tmp_path, *words, *limits)
    _, said = command.communicate(timeout=300)
    assert command.returncode == 0, said[-3000:]
    folder = _folder(tmp_path)
    result = json.loads(folder.result.read_text())
    assert (result["epochs"], result["shortened_by"]) == (2, ["trainer.max_steps=9"])
    assert result["best_epoch"] > 1, "the processes could differ only after the first validation"
    row = read_metrics(folder)[result["best_epoch"] - 1]
    assert float(row["val/loss"]) == pytest.approx(result["metrics"]["val"]["loss"], rel=2e-6)
