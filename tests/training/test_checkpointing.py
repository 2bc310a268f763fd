"""Checkpoints and metrics of each epoch, and why Lightning's own callbacks do not keep them alone."""

import numpy as np
import pytest
import torch
from builders import few_images, quick_fit
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.loggers.logger import DummyLogger

from pneumonia.models.base import Classifier
from pneumonia.models.factory import build_classifier
from pneumonia.models.options import ClassifierOptions
from pneumonia.runs.folder import RunFolder, read_metrics
from pneumonia.training.callbacks import RunCallbacks
from pneumonia.training.checkpointing import AtomicCheckpointIO

MLP = {"_target_": "pneumonia.models.mlp.MLP", "hidden": [2]}
LOGISTIC = {"_target_": "pneumonia.models.logistic_regression.LogisticRegression"}


@pytest.fixture
def data():
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8)).astype(np.uint8)
    return few_images(pixels, ["NORMAL", "VIRUS"] * 6, batch_size=4)


@pytest.fixture
def rising_loss(monkeypatch):
    """The first epoch has the best validation loss."""
    plain = Classifier.on_validation_epoch_end

    def spoil(self):
        plain(self)
        self.log("val/loss", 1.0 + self.current_epoch)

    monkeypatch.setattr(Classifier, "log_dict", lambda self, values: None)
    monkeypatch.setattr(Classifier, "on_validation_epoch_end", spoil)
    monkeypatch.setattr(Classifier, "on_train_epoch_end", lambda self: self.log("train/loss", 1.0))


def _fit(data, epochs, node=MLP, **options):
    classifier = build_classifier(node, ClassifierOptions("pneumonia", image_size=8))
    return quick_fit(classifier, data, epochs, limit_val_batches=1.0, enable_checkpointing=True, default_root_dir=None, **options)


def test_last_checkpoint_follows_every_epoch(data, rising_loss, tmp_path):
    record = RunCallbacks.of(RunFolder(tmp_path / "ours"))
    _fit(data, 3, callbacks=record.ordered(), plugins=[AtomicCheckpointIO()])
    folder = RunFolder(tmp_path / "ours")
    assert torch.load(folder.last, weights_only=True)["epoch"] == 2
    assert torch.load(folder.best, weights_only=True)["epoch"] == 0
    theirs = ModelCheckpoint(tmp_path / "theirs", monitor="val/loss", save_last=True)
    _fit(data, 3, callbacks=[theirs])
    assert torch.load(theirs.last_model_path, weights_only=True)["epoch"] == 0, "then LastCheckpoint can go"


def test_epochs_without_optimizer_steps_are_saved(data, tmp_path):
    record = RunCallbacks.of(RunFolder(tmp_path / "ours"), "train/objective")
    trainer = _fit(data, 2, LOGISTIC, callbacks=record.ordered())
    assert trainer.global_step == 0
    assert record.best.best_epoch == trainer.current_epoch
    theirs = ModelCheckpoint(tmp_path / "theirs")
    _fit(data, 2, LOGISTIC, callbacks=[theirs])
    assert not theirs.best_model_path, "then EpochCheckpoint need not decide when to save"


def test_moved_run_resumes_with_its_best_epoch(data, rising_loss, tmp_path):
    record = RunCallbacks.of(RunFolder(tmp_path / "here"))
    _fit(data, 2, callbacks=record.ordered())
    (tmp_path / "here").rename(tmp_path / "there")
    folder = RunFolder(tmp_path / "there")
    again = RunCallbacks.of(folder)
    assert again.restore(folder.last) == 2
    assert (again.best.best_epoch, again.best.best) == (1, 1.0)
    assert again.throughput.totals.images == 24


def test_loggers_see_an_epoch_after_its_checkpoint(data):
    calls = []

    class Saver(Checkpoint):
        def on_train_epoch_end(self, trainer, pl_module):
            calls.append("checkpoint")

    class Logger(DummyLogger):
        def log_metrics(self, metrics, step=None):
            if "train/loss" in metrics:
                calls.append("logger")

    _fit(data, 1, callbacks=[Saver()], logger=Logger(), log_every_n_steps=1)
    assert calls == ["checkpoint", "logger"], "else MetricsCsv could be a Logger"


def test_metrics_of_an_epoch_are_a_row(data, tmp_path):
    record = RunCallbacks.of(RunFolder(tmp_path))
    trainer = _fit(data, 2, callbacks=record.ordered())
    rows = read_metrics(RunFolder(tmp_path))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert set(rows[0]) == {"epoch", "lr", *trainer.callback_metrics}
    assert float(rows[-1]["val/loss"]) == float(trainer.callback_metrics["val/loss"])


def test_a_failing_write_leaves_the_checkpoint_before_it(tmp_path, monkeypatch):
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint({"epoch": 1}, path)

    def break_off(*_):
        raise OSError("no space")

    monkeypatch.setattr("lightning.fabric.plugins.io.torch_io._atomic_save", break_off)
    with pytest.raises(OSError, match="no space"):
        io.save_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]
