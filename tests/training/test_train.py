"""Runs: complete, recognised, resumed to the last digit, stopped cleanly."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from builders import killed_in
from lightning.pytorch.callbacks import Callback
from sklearn.metrics import confusion_matrix

from pneumonia.config.convert import from_plain, identity, to_plain
from pneumonia.config.schema import SplitConfig
from pneumonia.config.validation import SET_BY_RUN, check_together
from pneumonia.data.datamodule import XRayDataModule
from pneumonia.data.dataset import XRayDataset
from pneumonia.data.decoded_images import load_images
from pneumonia.data.normalization import fit_scaling, histogram
from pneumonia.errors import (
    CheckpointError,
    ConfigError,
    DivergenceError,
    Interrupted,
    LabelError,
    RunError,
    SplitLeakageError,
    StorageError,
    TimeLimitReached,
)
from pneumonia.evaluation.evaluate import evaluate
from pneumonia.evaluation.run_predictions import EvaluateOptions
from pneumonia.export.predict import predict_files
from pneumonia.models.base import Classifier
from pneumonia.models.checkpoints import load_classifier
from pneumonia.report.collect import gather
from pneumonia.runs.folder import RunFolder
from pneumonia.runs.identity import run_identity
from pneumonia.runs.load import load_finished_run
from pneumonia.system.files import check_writable
from pneumonia.training import time_limit
from pneumonia.training.prepare import check_monitor
from pneumonia.training.throughput import Throughput
from pneumonia.training.train import train


def _folder(result, runs: Path) -> RunFolder:
    return RunFolder(runs / result.name / result.run_id)


def test_a_finished_run_holds_every_promised_file(finished):
    result = json.loads((finished / "result.json").read_text())
    assert result["status"] == "completed"
    promised = "name run_id task classes model seed config data epochs best_epoch metrics cost versions".split()
    assert set(promised) <= set(result)
    assert {"loss", "accuracy", "f1_macro", "recall_macro", "auroc"} <= set(result["metrics"]["val"])
    assert {"device", "precision", "fit_s", "images_per_s", "batches_per_s", "peak_memory_mib", "usd"} == set(result["cost"])
    assert yaml.safe_load((finished / "config.yaml").read_text()) == result["config"]
    assert len(pd.read_csv(finished / "metrics.csv")) == result["epochs"] == 2
    predictions = pd.read_parquet(finished / "predictions" / "val.parquet")
    assert len(predictions) == result["data"]["val"]
    assert predictions.filter(like="prob_").sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
    assert (predictions["label"] == predictions["predicted"]).mean() == pytest.approx(result["metrics"]["val"]["accuracy"])
    split = pd.read_parquet(next(finished.glob("split-*.parquet")))
    assert list(split.columns) == ["image_id", "subset", "fold"]
    assert not list(finished.rglob("*.part"))


def test_the_result_is_the_metrics_of_the_best_epoch(finished):
    result = json.loads((finished / "result.json").read_text())
    history = pd.read_csv(finished / "metrics.csv")
    assert history["epoch"].tolist() == [1, 2]
    assert history["val/loss"].idxmin() + 1 == result["best_epoch"]
    row = history.loc[result["best_epoch"] - 1]
    for name, value in result["metrics"]["val"].items():
        expected = row[f"val/{name}"]
        assert value is None if np.isnan(expected) else value == pytest.approx(expected, abs=1e-6)


def test_the_line_of_an_epoch_holds_the_figures_of_that_epoch(compose, tmp_path, capsys):
    result = train(compose("max_epochs=3", "image_size=16", "model.width=16", runs_dir=tmp_path))
    lines = re.findall(r"epoch +\d+/3  train loss (\S+)  val loss (\S+)  accuracy (\S+)  f1 (\S+)", capsys.readouterr().err)
    history = pd.read_csv(_folder(result, tmp_path).metrics)
    columns = ["train/loss", "val/loss", "val/accuracy", "val/f1_macro"]
    assert np.array(lines, dtype=float) == pytest.approx(history[columns].to_numpy(), abs=1e-4)


def test_the_result_holds_the_confusion_of_its_predictions(finished):
    result = json.loads((finished / "result.json").read_text())
    table = pd.read_parquet(finished / "predictions" / "val.parquet")
    expected = confusion_matrix(table["label"], table["predicted"], labels=result["classes"])
    assert result["confusion"] == {"classes": result["classes"], "counts": expected.tolist()}


@pytest.mark.parametrize("monitor", ["val/accuracy", "val/auroc", "val/loss"])
def test_another_metric_may_choose_the_best_epoch(monitor, compose, tmp_path):
    result = train(compose(f"monitor={monitor}", "max_epochs=5", "optimizer.lr=1e-2", runs_dir=tmp_path))
    values = pd.read_csv(_folder(result, tmp_path).metrics)[monitor]
    assert result.best_epoch == 1 + (values.idxmin() if monitor == "val/loss" else values.idxmax())


def test_early_stopping_follows_the_monitor(compose, tmp_path):
    words = ["monitor=val/accuracy", "early_stopping.patience=1", "early_stopping.min_delta=1", "max_epochs=6"]
    assert train(compose(*words, runs_dir=tmp_path)).epochs == 2  # an accuracy never gains a whole 1


def test_the_logged_rate_is_that_of_the_epoch(compose, tmp_path):
    words = ["scheduler=exponential", "scheduler.rate=0.5", "optimizer.lr=1e-3", "max_epochs=3"]
    result = train(compose(*words, runs_dir=tmp_path))
    rates = pd.read_csv(_folder(result, tmp_path).metrics)["lr"]
    assert rates.tolist() == pytest.approx([1e-3 * math.exp(-0.5 * epoch) for epoch in range(3)])


ROTATING = ["split=rotating", "split.k=3", "max_epochs=4", "batch_size=31"]


@pytest.mark.parametrize(
    "words",
    [
        ["scheduler=one_cycle"],
        ["scheduler=cosine", "trainer.check_val_every_n_epoch=2"],
        ["trainer.limit_train_batches=2", "trainer.accumulate_grad_batches=2"],
        ["scheduler=exponential", "num_workers=1"],
        [*ROTATING, "num_workers=1"],
        [*ROTATING, "split.every=2", "normalisation=zscore", "trainer.accumulate_grad_batches=2"],
    ],
)
def test_a_run_interrupted_in_every_epoch_ends_the_same(words, compose, tmp_path):
    words = [*words, "augmentation=clinical", "max_epochs=3", "early_stopping.patience=5"]
    whole = train(compose(*words, runs_dir=tmp_path / "whole"))
    for epoch in range(3):
        with killed_in(epoch, 1):
            train(compose(*words, runs_dir=tmp_path / "cut"))
    cut = train(compose(*words, runs_dir=tmp_path / "cut"))
    assert cut.metrics == whole.metrics
    one, other = _folder(whole, tmp_path / "whole"), _folder(cut, tmp_path / "cut")
    assert one.metrics.read_text() == other.metrics.read_text()
    assert one.predictions("val").read_bytes() == other.predictions("val").read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        ["model.frozen_epochs=null"],
        ["model.frozen_epochs=1", "ema=0.9"],
        ["model.frozen_epochs=1", "model.unfreeze_every=1", "swa=0.3", "scheduler=none"],
        ["model.frozen_epochs=2", "model.layer_decay=0.5", "model.head_lr=2", "model.drop_path=0.3"],
    ],
)
def test_unfreezing_cut_in_every_epoch_ends_as_uncut(options, compose, tmp_path):
    options = ["model=backbone", "model.name=test_resnet", "data.phantom.patients=24", "max_epochs=4", *options]
    uncut = train(compose(*options, runs_dir=tmp_path / "uncut"))
    for epoch in range(4):
        with killed_in(epoch):
            train(compose(*options, runs_dir=tmp_path / "cut"))
    cut = train(compose(*options, runs_dir=tmp_path / "cut"))
    one, other = _folder(uncut, tmp_path / "uncut"), _folder(cut, tmp_path / "cut")
    assert one.metrics.read_text() == other.metrics.read_text()
    assert one.predictions("val").read_bytes() == other.predictions("val").read_bytes()


def test_a_killed_run_resumes_and_a_finished_one_is_skipped(compose, cache_dir, tmp_path):
    words = [
        "max_epochs=60",
        "data.phantom.patients=60",
        "image_size=32",
        "model.width=16",
        "batch_size=32",
        "scheduler=cosine",
    ]
    command = [
        sys.executable,
        "-c",
        "from pneumonia.cli import main; main()",
        "train",
        *words,
        f"cache_dir={cache_dir}",
    ]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    child = subprocess.Popen([*command, f"runs_dir={tmp_path}"], stderr=subprocess.PIPE, env=environment)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/*/checkpoints/last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    cut = next(tmp_path.glob("*/*/metrics.csv"))
    assert 0 < len(pd.read_csv(cut)) < 60
    assert not list(tmp_path.rglob("result.json"))
    again = subprocess.run([*command, f"runs_dir={tmp_path}"], capture_output=True, text=True, check=False, env=environment)
    assert again.returncode == 0, again.stderr
    assert "Resuming after epoch" in again.stderr
    assert len(pd.read_csv(cut)) == 60
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"}
    third = subprocess.run([*command, f"runs_dir={tmp_path}"], capture_output=True, text=True, check=False, env=environment)
    assert "This run is finished; nothing was trained." in third.stderr
    assert before == {path: path.stat().st_mtime_ns for path in before}
    whole = train(compose("max_epochs=60", "scheduler=cosine", runs_dir=tmp_path / "whole"))
    assert _folder(whole, tmp_path / "whole").metrics.read_text() == cut.read_text()


def test_ctrl_c_stops_cleanly_and_the_run_goes_on(compose, tmp_path, monkeypatch):
    plain = Throughput.on_train_batch_end

    def press(self, trainer, module, outputs, batch, index):
        plain(self, trainer, module, outputs, batch, index)
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Throughput, "on_train_batch_end", press)
    with pytest.raises(Interrupted, match=r"Stopped after 1 of 2 epochs.*Run the same command again"):
        train(compose(runs_dir=tmp_path))
    monkeypatch.setattr(Throughput, "on_train_batch_end", plain)
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    assert train(compose(runs_dir=tmp_path)).epochs == 2


TINY = ("image_size=16", "data.phantom.patients=24", "batch_size=8", "model=mlp")


def _clock(monkeypatch, of_batch: float = 1.0):
    """Each training batch takes so many seconds of the clock that limits the time."""
    now = [0.0]
    plain = Throughput.on_train_batch_end

    def tick(self, *arguments):
        now[0] += of_batch
        plain(self, *arguments)

    monkeypatch.setattr(Throughput, "on_train_batch_end", tick)
    monkeypatch.setattr(time_limit, "time", SimpleNamespace(monotonic=lambda: now[0]))


@pytest.mark.parametrize("options", [[], ["scheduler=one_cycle", "trainer.accumulate_grad_batches=2", "ema=0.9"]])
def test_a_run_resumed_after_a_time_limit_ends_the_same(options, compose, tmp_path, monkeypatch):
    options = [*TINY, "max_epochs=4", *options]
    uncut = train(compose(*options, runs_dir=tmp_path / "uncut"))
    _clock(monkeypatch)
    for limit, epochs in (("00:00:00:02", 0), ("00:00:00:10", 1), ("00:00:00:10", 2)):
        with pytest.raises(TimeLimitReached, match=rf"max_time={limit} was over after {epochs} of 4 epochs.*Rerun the command"):
            train(compose(*options, f"trainer.max_time={limit}", runs_dir=tmp_path / "cut"))
        assert not list(tmp_path.glob("cut/*/*/result.json"))
        (folder,) = tmp_path.glob("cut/*/*/config.yaml")
        with pytest.raises(RunError, match="did not finish"):
            load_finished_run(folder.parent)
    cut = train(compose(*options, "trainer.max_time=01:00:00:00", runs_dir=tmp_path / "cut"))
    assert (cut.run_id, cut.status, cut.metrics) == (uncut.run_id, "completed", uncut.metrics)
    one, other = _folder(uncut, tmp_path / "uncut"), _folder(cut, tmp_path / "cut")
    assert one.metrics.read_text() == other.metrics.read_text()
    again = train(compose(*options, "trainer.max_time=00:00:00:01", runs_dir=tmp_path / "cut"))
    assert again.status == "completed", "the limit is of training alone, and nothing is left to train"


def test_a_time_limit_may_name_its_parts(compose, tmp_path):
    with pytest.raises(TimeLimitReached, match="after 0 of 2 epochs"):
        train(compose(*TINY, "trainer.max_time={hours:0,seconds:0}", runs_dir=tmp_path))


def test_early_stopping_within_the_time_completes_a_run(compose, tmp_path):
    patience = ["early_stopping.patience=1", "early_stopping.min_delta=10", "trainer.max_time=01:00:00:00"]
    result = train(compose(*TINY, "max_epochs=9", *patience, runs_dir=tmp_path))
    assert (result.status, result.epochs) == ("completed", 2)


def test_a_stop_from_elsewhere_completes_no_run(compose, tmp_path):
    class Stop(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = True

    with pytest.raises(RunError, match=r"Something has stopped the training after 1 of 2 epochs"):
        train(compose(*TINY, runs_dir=tmp_path), callbacks=[Stop()])
    assert train(compose(*TINY, runs_dir=tmp_path)).epochs == 2


@pytest.mark.parametrize(
    ("option", "epochs"),
    [
        ("trainer.limit_train_batches=2", 2),
        ("trainer.limit_train_batches=1", 2),
        ("trainer.limit_train_batches=0.5", 2),
        ("trainer.limit_val_batches=1", 2),
        ("trainer.max_steps=3", 1),
        ("trainer.max_steps=8", 2),
        ("trainer.fast_dev_run=true", 1),
    ],
)
def test_a_shortened_run_is_recorded_as_debug(option, epochs, compose, tmp_path, capsys):
    result = train(compose(*TINY, option, runs_dir=tmp_path))
    assert (result.status, result.shortened_by, result.epochs) == (
        "debug",
        [option.replace("true", "True")],
        epochs,
    )
    folder = _folder(result, tmp_path)
    assert json.loads(folder.result.read_text())["status"] == "debug"
    with pytest.raises(RunError, match=rf"was shortened for debugging by {option[:20]}"):
        load_finished_run(folder.path)
    with pytest.raises(RunError, match=r"was shortened for debugging"):
        gather([tmp_path])
    capsys.readouterr()
    assert train(compose(*TINY, option, runs_dir=tmp_path)).metrics == result.metrics
    assert "was shortened for debugging by" in capsys.readouterr().err
    full = train(compose(*TINY, runs_dir=tmp_path))
    assert (full.status, full.epochs) == ("completed", 2)
    assert full.run_id != result.run_id


def test_limits_that_leave_nothing_out_complete_a_run(compose, tmp_path):
    full = ["trainer.limit_train_batches=1.0", "trainer.max_steps=1000", "trainer.fast_dev_run=false"]
    assert train(compose(*TINY, *full, runs_dir=tmp_path)).status == "completed"


def test_steps_that_end_with_the_last_epoch_complete_a_run(compose, tmp_path):
    result = train(compose(*TINY, runs_dir=tmp_path))
    steps = torch.load(_folder(result, tmp_path).last, weights_only=True)["global_step"]
    exact = train(compose(*TINY, f"trainer.max_steps={steps}", runs_dir=tmp_path))
    assert (exact.status, exact.metrics) == ("completed", result.metrics)
    assert train(compose(*TINY, f"trainer.max_steps={steps - 1}", runs_dir=tmp_path)).status == "debug"


@pytest.mark.parametrize(
    ("options", "epochs", "status"),
    [
        (["trainer.max_steps=100000"], 4, "completed"),
        (["trainer.max_steps=15", "scheduler=one_cycle"], 3, "debug"),
        (["trainer.max_steps=12"], 2, "debug"),  # the last step of an epoch
        (["trainer.max_steps=8", "trainer.accumulate_grad_batches=2", "trainer.limit_train_batches=4"], 4, "debug"),
        (["trainer.max_steps=7", "split=rotating", "split.k=3", "early_stopping.patience=9"], 2, "debug"),
        (["trainer.max_steps=3", "model=perceptron", "task=pneumonia", "scheduler=one_cycle"], 1, "debug"),
    ],
)
def test_an_interrupted_run_with_max_steps_resumes_to_the_same_end(options, epochs, status, compose, tmp_path):
    options = [*TINY, "max_epochs=4", *options]
    whole = train(compose(*options, runs_dir=tmp_path / "whole"))
    assert (whole.status, whole.epochs) == (status, epochs)
    for epoch in range(epochs):
        with killed_in(epoch):
            train(compose(*options, runs_dir=tmp_path / "cut"))
    cut = train(compose(*options, runs_dir=tmp_path / "cut"))
    one, other = _folder(whole, tmp_path / "whole"), _folder(cut, tmp_path / "cut")
    assert (cut.status, cut.metrics) == (whole.status, whole.metrics)
    assert one.metrics.read_text() == other.metrics.read_text()
    schedules = [torch.load(folder.last, weights_only=True)["lr_schedulers"] for folder in (one, other)]
    assert schedules[0] == schedules[1]
    other.result.unlink()  # killed between the last epoch and the result
    assert train(compose(*options, runs_dir=tmp_path / "cut")).metrics == whole.metrics
    assert one.metrics.read_text() == other.metrics.read_text()


def test_a_fraction_that_leaves_no_batch_is_refused_by_name(compose, tmp_path):
    for key in ("limit_train_batches", "limit_val_batches"):
        with pytest.raises(ConfigError, match=rf"trainer.{key}=0.01 of \d batches leaves none"):
            train(compose(*TINY, f"trainer.{key}=0.01", runs_dir=tmp_path))


@pytest.mark.parametrize("key", SET_BY_RUN)
def test_what_a_run_sets_in_the_trainer_is_refused_by_name(key, compose):
    config = to_plain(compose())
    config["trainer"][key] = 1
    with pytest.raises(ConfigError, match=rf"trainer.{key} is set by the run itself"):
        check_together(from_plain(config))


def test_force_trains_a_finished_run_again(compose, tmp_path):
    result = train(compose(runs_dir=tmp_path))
    folder = _folder(result, tmp_path)
    before = folder.best.stat().st_mtime_ns
    again = train(compose("force=true", runs_dir=tmp_path))
    assert folder.best.stat().st_mtime_ns != before
    assert again.metrics == result.metrics
    assert again.run_id == result.run_id


def test_early_stopping_ends_a_run_and_its_resume_trains_no_further(compose, tmp_path):
    words = ["max_epochs=40", "early_stopping.patience=1", "early_stopping.min_delta=10"]
    result = train(compose(*words, runs_dir=tmp_path))
    assert result.epochs == 2
    folder = _folder(result, tmp_path)
    folder.result.unlink()  # killed between the last epoch and the result
    assert train(compose(*words, runs_dir=tmp_path)).epochs == 2


def test_identity_changes_with_what_changes_a_result_and_with_nothing_else(compose):
    def run_id(*words: str, **more) -> str:
        return run_identity(identity(compose(*words, **more)), "manifest", "split")

    assert run_id() == run_id("num_workers=2", "name=other", "force=true", runs_dir="/elsewhere")
    words = [
        "seed=1",
        "batch_size=31",
        "optimizer.lr=1e-4",
        "augmentation=high",
        "data.resize=pad",
        "trainer.precision=bf16-mixed",
    ]
    assert len({run_id(), *(run_id(word) for word in words)}) == len(words) + 1


def test_two_processes_can_not_train_one_run(compose, tmp_path):
    result = train(compose(runs_dir=tmp_path))
    with _folder(result, tmp_path).held(), pytest.raises(RunError, match="Another process is training this run"):
        train(compose("force=true", runs_dir=tmp_path))


def test_a_damaged_last_checkpoint_or_result_says_what_to_do(compose, tmp_path):
    folder = _folder(train(compose(runs_dir=tmp_path)), tmp_path)
    folder.result.write_text("{")
    with pytest.raises(RunError, match="force=true"):
        train(compose(runs_dir=tmp_path))
    folder.result.unlink()
    folder.last.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"last.ckpt can't be read.*force=true"):
        train(compose(runs_dir=tmp_path))


def test_a_run_folder_without_a_checkpoint_or_result_is_refused(tmp_path):
    with pytest.raises(RunError, match="no run folder"):
        load_finished_run(tmp_path / "none")
    with pytest.raises(RunError, match="not a run folder"):
        load_finished_run(tmp_path)
    (tmp_path / "config.yaml").write_text("a: 1")
    with pytest.raises(RunError, match="did not finish"):
        load_finished_run(tmp_path)


def test_an_unwritable_runs_folder_is_refused_first(compose, tmp_path):
    (tmp_path / "runs").write_bytes(b"")
    with pytest.raises(StorageError, match=r"Can't write .*runs_dir=DIR"):
        train(compose(runs_dir=tmp_path / "runs"))


def test_a_run_killed_before_its_result_only_writes_it(compose, tmp_path):
    result = train(compose(runs_dir=tmp_path))
    folder = _folder(result, tmp_path)
    folder.result.unlink()
    before = folder.last.stat().st_mtime_ns
    again = train(compose(runs_dir=tmp_path))
    assert (again.metrics, again.epochs) == (result.metrics, result.epochs)
    assert folder.last.stat().st_mtime_ns == before


def test_data_without_a_class_of_the_task_are_refused(compose, phantoms, tmp_path):
    root = tmp_path / "data"
    for path in phantoms.rglob("*.jpeg"):
        if "virus" not in path.name:
            target = root / path.relative_to(phantoms)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
    with pytest.raises(LabelError, match="no image of class VIRUS"):
        train(compose("data=folder", f"data.root={root}", runs_dir=tmp_path / "runs"))
    assert not list((tmp_path / "runs").rglob("*.yaml"))
    binary = train(compose("task=pneumonia", "data=folder", f"data.root={root}", runs_dir=tmp_path / "runs"))
    assert binary.status == "completed"


def test_finite_weights_whose_loss_never_is_finite_diverged(compose, tmp_path, capsys):
    config = compose("optimizer=sgd", "optimizer.lr=1000", "scheduler=none", "max_epochs=3", runs_dir=tmp_path)
    for _ in range(2):
        with pytest.raises(DivergenceError, match=r"diverged in epoch 1"):
            train(config)
    assert "Resuming after epoch" not in capsys.readouterr().err
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["early_stopping.patience=1", "monitor=val/accuracy"],
        ["ema=0.9"],
        ["swa=0.5"],
    ],
)
def test_training_that_never_is_finite_says_that_it_diverged(options, compose, tmp_path):
    # Linear layers: a rate far too high makes weights grow until they are NaN, within the first epoch.
    linear = ["model=mlp", "model.activation=linear"]
    extreme = ["optimizer=sgd", "optimizer.lr=1000", "optimizer.momentum=0.99", "scheduler=none", "max_epochs=4"]
    config = compose(*TINY, *linear, *extreme, "batch_size=1", *options, runs_dir=tmp_path)
    for _ in range(2):
        with pytest.raises(DivergenceError, match=r"diverged in epoch 1.*Lower optimizer.lr \(1000.*clip the gradient") as found:
            train(config)
        assert found.value.exit_code == 2
        assert "force" not in str(found.value)
    assert not list(tmp_path.rglob("result.json"))
    assert not list(tmp_path.rglob("best.ckpt"))
    (history,) = tmp_path.rglob("metrics.csv")
    assert len(pd.read_csv(history)) == 1, "weights that are NaN stay so: no epoch more is trained"


@pytest.mark.parametrize("monitor", ["val/loss", "val/accuracy", "val/auroc"])
def test_an_epoch_that_diverged_is_never_the_best(monitor, compose, tmp_path, monkeypatch):
    plain = Classifier.on_train_epoch_end

    def spoil(self):
        plain(self)
        if self.current_epoch == 1:
            with torch.no_grad():
                next(self.network.parameters()).fill_(math.nan)
        self.trainer.callback_metrics["val/accuracy"] = torch.tensor(float(self.current_epoch))

    monkeypatch.setattr(Classifier, "on_train_epoch_end", spoil)
    result = train(compose(*TINY, "max_epochs=4", f"monitor={monitor}", runs_dir=tmp_path))
    assert (result.status, result.epochs, result.best_epoch) == ("completed", 4, 1)
    assert math.isfinite(result.metrics["val"]["loss"])


@pytest.mark.parametrize(
    "options", [["model=mlp"], ["model=mlp", "ema=0.9", "tta=flip"], ["model=logistic_regression", "model.C=1e12"]]
)
def test_an_overconfident_model_has_one_loss_everywhere(options, compose, tmp_path):
    extreme = ["optimizer=sgd", "optimizer.lr=1000", "scheduler=none", "max_epochs=2", "normalisation=zscore"]
    config = compose("task=pneumonia", *extreme, *options, runs_dir=tmp_path)
    result = train(config)
    folder = _folder(result, tmp_path)
    row = pd.read_csv(folder.metrics).set_index("epoch").loc[result.best_epoch]
    table = pd.read_parquet(folder.predictions("val"))
    report = evaluate(folder.path, EvaluateOptions("val", cache_dir=Path(config.cache_dir))).result
    likelihood = np.where(table["label"] == "NORMAL", table["prob_NORMAL"], table["prob_PNEUMONIA"])
    expected = -np.log(np.maximum(likelihood.astype(float), 2**-126)).mean()
    assert expected > 1, "the case would show nothing"
    assert row["val/loss"] == pytest.approx(expected, rel=1e-5)
    assert result.metrics["val"]["loss"] == pytest.approx(expected, rel=1e-5)
    assert report.metrics["loss"].value == pytest.approx(expected, rel=1e-5)
    assert row["train/loss"] < 88


@pytest.mark.parametrize(
    "options",
    [
        ["trainer.precision=bf16-mixed"],
        ["trainer.precision=bf16-true"],
        ["trainer.precision=bf16-mixed", "ema=0.9", "tta=flip"],
        ["trainer.precision=bf16-true", "swa=0.5", "scheduler=none"],
        ["trainer.precision=64-true"],
    ],
)
def test_reduced_precision_has_one_loss_everywhere(options, compose, tmp_path):
    small = ["image_size=16", "data.phantom.patients=24", "batch_size=8", "model=pseudo_resnet", "model.width=8"]
    config = compose(*small, *options, runs_dir=tmp_path)
    result = train(config)
    folder = _folder(result, tmp_path)
    row = pd.read_csv(folder.metrics).set_index("epoch").loc[result.best_epoch]
    report = evaluate(folder.path, EvaluateOptions("val", cache_dir=Path(config.cache_dir))).result
    for name in ("loss", "accuracy", "auroc"):
        assert row[f"val/{name}"] == pytest.approx(result.metrics["val"][name], rel=2e-6)
        assert report.metrics[name].value == pytest.approx(result.metrics["val"][name], rel=2e-6)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.float32), ("bf16-true", torch.bfloat16)])
def test_validation_in_float32_leaves_the_training_precision(precision, dtype, compose, tmp_path):
    seen = []

    class Look(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append(({weight.dtype for weight in pl_module.parameters()}, pl_module.dtype))

    small = [*TINY, "max_epochs=2", f"trainer.precision={precision}"]
    train(compose(*small, runs_dir=tmp_path), callbacks=[Look()])
    assert seen
    assert all(found == ({dtype}, dtype) for found in seen)


def test_a_class_that_validation_lacks_is_null_in_the_result(compose, phantoms, tmp_path):
    data = _without_virus_in_validation(phantoms, tmp_path / "data")
    result = train(compose(*data, runs_dir=tmp_path / "runs"))
    values = result.metrics["val"]
    assert values["auroc"] is None
    assert values["f1_macro"] is None
    assert values["accuracy"] is not None


def _without_virus_in_validation(phantoms: Path, root: Path) -> list[str]:
    """Overrides for data whose validation split has no image of class VIRUS."""
    for path in phantoms.rglob("*.jpeg"):
        subset = "val" if "virus" not in path.name and path.parent.parent.name == "test" else "train"
        target = root / subset / path.relative_to(path.parent.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    return ["data=folder", f"data.root={root}", "split=given"]


@pytest.mark.parametrize("monitor", ["val/auroc", "val/f1_macro", "val/recall_macro"])
def test_a_monitor_that_validation_leaves_undefined_is_refused(monitor, compose, phantoms, tmp_path):
    data = [*_without_virus_in_validation(phantoms, tmp_path / "data"), "early_stopping.patience=3"]
    with pytest.raises(ConfigError, match=rf"monitor={monitor} is undefined.*no image of VIRUS.*monitor=val/loss"):
        train(compose(*data, f"monitor={monitor}", runs_dir=tmp_path / "runs"))
    assert not list((tmp_path / "runs").rglob("*.ckpt"))
    for defined in ("val/accuracy", "val/loss"):
        words = ["image_size=16", "max_epochs=1", f"monitor={defined}"]
        assert train(compose(*data, *words, runs_dir=tmp_path / "runs")).status == "completed"
    binary = train(compose(*data, "max_epochs=1", f"monitor={monitor}", "task=pneumonia", runs_dir=tmp_path / "runs"))
    assert binary.metrics["val"][monitor.removeprefix("val/")] is not None


@pytest.mark.parametrize("limit", ["trainer.limit_val_batches=1", "trainer.fast_dev_run=true"])
def test_a_monitor_that_limited_validation_leaves_undefined_is_refused(limit, compose, tmp_path):
    words = [*TINY, "batch_size=1", limit]
    with pytest.raises(ConfigError, match=r"monitor=val/auroc is undefined.*or leave " + limit.partition("=")[0]):
        train(compose(*words, "monitor=val/auroc", runs_dir=tmp_path))
    assert train(compose(*words, "monitor=val/loss", runs_dir=tmp_path)).status == "debug"


def test_a_monitor_undefined_on_a_later_fold_is_refused(compose, cache_dir):
    config = compose("data.phantom.patients=24", "image_size=16", "monitor=val/auroc")
    images = load_images(config.data, 16, cache_dir)
    fold = np.where(images.manifest["label"] == "VIRUS", 0, np.arange(len(images.manifest)) % 2)
    split = pd.DataFrame({"image_id": images.manifest["image_id"], "subset": np.where(fold, "train", "val"), "fold": fold})
    data = XRayDataModule.from_images(images, split, split_config=SplitConfig("rotating", every=2), batch_size=8)
    check_monitor(replace(config, max_epochs=2), data)
    with pytest.raises(ConfigError, match=r"monitor=val/auroc is undefined in epoch 3: .*no image of VIRUS"):
        check_monitor(replace(config, max_epochs=3), data)


def test_the_binary_task_and_balanced_weights_train_to_the_end(compose, tmp_path):
    words = [
        "task=pneumonia",
        "class_weights=balanced",
        "optimizer=sgd",
        "augmentation=normal",
        "label_smoothing=0.1",
        "channels=3",
    ]
    result = train(compose(*words, "trainer.gradient_clip_val=1", runs_dir=tmp_path))
    assert result.task.classes == ("NORMAL", "PNEUMONIA")
    assert {"fpr", "fnr"} <= set(result.metrics["val"])


def test_rotating_folds_validate_in_turn_and_are_marked_leaky(compose, tmp_path):
    result = train(compose(*ROTATING, "split.every=1", runs_dir=tmp_path))
    folder = _folder(result, tmp_path)
    split = pd.read_parquet(next(folder.path.glob("split-*.parquet")))
    predictions = pd.read_parquet(folder.predictions("val"))
    fold = (result.best_epoch - 1) % 3
    assert set(predictions["image_id"]) == set(split["image_id"][split["fold"] == fold])
    history = pd.read_csv(folder.metrics)
    assert history["val/loss"][result.best_epoch - 1] == pytest.approx(result.metrics["val"]["loss"], abs=1e-6)
    leak = next(leak for leak in result.data.leaks if leak.subset == "val")
    assert leak.images == leak.of == result.data.val
    report = evaluate(folder.path, EvaluateOptions("val", cache_dir=Path(compose().cache_dir))).result
    assert report.trained_on == report.n


def test_in_each_epoch_all_folds_but_the_validating_one_train(compose, tmp_path, monkeypatch):
    seen: dict[tuple[int, int], set[int]] = {}
    plain = XRayDataset.__getitem__

    def recorded(self, key):
        seen.setdefault((key[0], len(self)), set()).update(self.rows[key[1]].tolist())
        return plain(self, key)

    monkeypatch.setattr(XRayDataset, "__getitem__", recorded)
    result = train(compose(*ROTATING, "split.every=2", runs_dir=tmp_path))
    split = pd.read_parquet(next(_folder(result, tmp_path).path.glob("split-*.parquet")))
    folds = split["fold"].to_numpy()
    for epoch, fold in ((0, 0), (1, 0), (2, 1), (3, 1)):
        trained = set(np.flatnonzero((folds >= 0) & (folds != fold)))
        assert seen[epoch, len(trained)] == trained


@pytest.mark.parametrize(
    "options",
    [
        ["trainer.limit_train_batches=1"],
        ["trainer.limit_train_batches=0.5", "trainer.accumulate_grad_batches=2", "batch_size=8"],
        ["trainer.accumulate_grad_batches=2", "batch_size=8"],
        ["split=rotating", "split.k=5", "max_epochs=5", "batch_size=3", "data.phantom.patients=12"],
        ["model=perceptron", "task=pneumonia", "trainer.limit_train_batches=1"],
    ],
)
def test_one_cycle_of_a_run_ends_with_its_last_step(options, compose, tmp_path):
    options = ["image_size=16", "data.phantom.patients=24", "scheduler=one_cycle", *options]
    result = train(compose(*options, runs_dir=tmp_path))
    saved = torch.load(_folder(result, tmp_path).last, weights_only=True)
    (schedule,) = saved["lr_schedulers"]
    assert saved["global_step"] == schedule["total_steps"] == schedule["last_epoch"]


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_last_batch_of_one_trains_where_folds_rotate(epoch, compose, tmp_path):
    options = ["split=rotating", "split.k=3", "max_epochs=3", "image_size=8", "data.phantom.patients=24"]
    split = pd.read_parquet(_split_of(train(compose(*options, "max_epochs=1", runs_dir=tmp_path)), tmp_path))
    trained = int(((split["fold"] >= 0) & (split["fold"] != epoch)).sum())
    result = train(compose(*options, f"batch_size={trained - 1}", runs_dir=tmp_path))
    assert result.epochs == 3


def _split_of(result, runs: Path) -> Path:
    return next(_folder(result, runs).path.glob("split-*.parquet"))


def test_cross_validation_is_one_run_a_fold_with_one_test_subset(compose, tmp_path):
    words = ["split=kfold", "split.k=3", "max_epochs=1"]
    folders = [_folder(train(compose(*words, f"split.fold={fold}", runs_dir=tmp_path)), tmp_path) for fold in range(3)]
    splits = [pd.read_parquet(next(folder.path.glob("split-*.parquet"))) for folder in folders]
    validated = pd.concat([pd.read_parquet(folder.predictions("val"))["image_id"] for folder in folders])
    assert validated.is_unique
    assert set(validated) == set(splits[0]["image_id"][splits[0]["subset"] != "test"])
    assert len({folder.path for folder in folders}) == 3


@pytest.mark.parametrize("method", ["minus_one_one", "minmax", "zscore", "robust"])
def test_a_normalisation_is_fitted_on_training_images_and_used_by_predict(method, compose, tmp_path, phantoms):
    config = compose(f"normalisation={method}", "max_epochs=1", runs_dir=tmp_path)
    folder = _folder(train(config), tmp_path)
    scaling = load_classifier(folder.best).options.scaling
    images = load_images(config.data, config.image_size, Path(config.cache_dir))
    split = pd.read_parquet(next(folder.path.glob("split-*.parquet")))
    rows = images.rows[(split["subset"] == "train").to_numpy()]
    assert scaling == fit_scaling(method, histogram(images.pixels, rows))
    # `predict` decodes the file anew and must arrive at what validation saw.
    predictions = pd.read_parquet(folder.predictions("val"))
    for row in predictions.head(3).itertuples():
        path = next(phantoms.rglob(f"{row.image_id}.jpeg"))
        predicted = next(predict_files(folder.path, [path]))
        assert predicted.prediction.raw["VIRUS"] == pytest.approx(row.prob_VIRUS, abs=1e-5)


def test_a_learning_curve_trains_on_less_and_validates_on_the_same(compose, tmp_path):
    whole = train(compose("max_epochs=1", runs_dir=tmp_path))
    smaller = train(compose("max_epochs=1", "split.fraction=0.3", runs_dir=tmp_path))
    assert smaller.data.train == pytest.approx(0.3 * whole.data.train, abs=6)
    names = [set(pd.read_parquet(_folder(r, tmp_path).predictions("val"))["image_id"]) for r in (whole, smaller)]
    assert names[0] == names[1]


def test_a_leaky_split_file_is_refused_unless_named_so(compose, phantoms, tmp_path):
    root = tmp_path / "data"
    for path in phantoms.rglob("*.jpeg"):
        target = root / ("val" if path.stem.endswith("1") else "train") / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(path)
    words = ["data=folder", f"data.root={root}", "split=given", "max_epochs=1"]
    with pytest.raises(SplitLeakageError, match=r"split\.leaky=true"):
        train(compose(*words, runs_dir=tmp_path / "runs"))
    assert train(compose(*words, "split.leaky=true", runs_dir=tmp_path / "runs")).data.leaks


def test_with_stochastic_averaging_only_epochs_of_the_mean_can_be_best(compose, tmp_path):
    words = ["model=mlp", "swa=0.6", "scheduler=none", "optimizer.lr=0.03", "max_epochs=5", "seed=1"]
    result = train(compose(*words, runs_dir=tmp_path))
    history = pd.read_csv(_folder(result, tmp_path).metrics)
    assert result.best_epoch == history["val/loss"][3:].idxmin() + 1
    assert result.best_epoch != history["val/loss"].idxmin() + 1, "the case would show nothing"


def test_a_run_whose_weights_run_away_says_so(compose, tmp_path, capsys):
    words = [
        "model=mlp",
        "model.activation=linear",
        "optimizer=sgd",
        "optimizer.lr=1000",
        "scheduler=none",
        "max_epochs=12",
    ]
    train(compose(*words, runs_dir=tmp_path))
    assert re.search(r"The training loss of epoch \d is (nan|inf): the training diverges", capsys.readouterr().err)


def test_a_finished_run_without_checkpoint_names_the_remedy(compose, tmp_path):
    config = compose("max_epochs=1", "image_size=16", "model.width=16", runs_dir=tmp_path)
    best = _folder(train(config), tmp_path).best
    best.write_bytes(best.read_bytes()[:3000])
    with pytest.raises(RunError, match=r"is finished, but best.ckpt is gone from it or damaged. Say force=true"):
        train(config)
    best.unlink()
    with pytest.raises(RunError, match=r"is finished, but best.ckpt is gone from it or damaged. Say force=true"):
        train(config)


def test_concurrent_runs_find_their_folder_writable(tmp_path):
    """Each looks whether it may write there, and none must stumble over another's look."""

    def look(_: int) -> None:
        for _ in range(200):
            check_writable(tmp_path / "runs")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(look, range(8)))
    assert not list((tmp_path / "runs").iterdir())
