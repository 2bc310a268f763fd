"""Arguments of Lightning's Trainer and the debug group, in real short trainings."""

from dataclasses import fields
from inspect import signature

import pandas as pd
import pytest
import torch
from lightning import Trainer

from pneumonia.config.convert import identity
from pneumonia.config.keys import NOT_PASSED_TO_TRAINER, conf_dir
from pneumonia.config.nodes import TrainerConfig
from pneumonia.errors import ConfigError, RunError
from pneumonia.runs.folder import RunFolder
from pneumonia.runs.load import load_finished_run
from pneumonia.system.device import check_device, process_count
from pneumonia.training.prepare import build_datamodule
from pneumonia.training.train import train

DEBUG = sorted(path.stem for path in (conf_dir() / "debug").glob("*.yaml"))


def _folder(result, runs):
    return RunFolder(runs / result.name / result.run_id)


def test_every_argument_of_lightnings_trainer_is_a_key_or_explained():
    arguments = set(signature(Trainer).parameters)
    keys = {item.name for item in fields(TrainerConfig)}
    assert keys <= arguments
    assert arguments - keys == set(NOT_PASSED_TO_TRAINER)


def test_later_keys_leave_the_identity_of_a_run_alone(compose):
    later = {"overfit_batches", "check_val_every_n_epoch", "val_check_interval", "debug"}
    plain = identity(compose())
    assert not later & (set(plain) | set(plain["trainer"]))
    changed = identity(compose("trainer.check_val_every_n_epoch=2"))
    assert changed["trainer"]["check_val_every_n_epoch"] == 2


def test_only_validated_epochs_are_the_best(compose, tmp_path):
    result = train(compose("trainer.check_val_every_n_epoch=2", "max_epochs=5", runs_dir=tmp_path))
    rows = pd.read_csv(_folder(result, tmp_path).metrics, index_col="epoch")
    assert rows["val/loss"].notna().tolist() == [False, True, False, True, False]
    assert rows["train/loss"].notna().all()
    assert result.best_epoch == rows["val/loss"].idxmin()
    assert result.metrics["val"]["loss"] == pytest.approx(rows.loc[result.best_epoch, "val/loss"], rel=1e-5)
    assert result.completed
    assert result.cost.images_per_s > 0


def test_validations_within_an_epoch_are_logged_as_steps(compose, tmp_path):
    options = ["trainer.val_check_interval=2", "batch_size=16", "early_stopping.patience=5"]  # 8 batches
    result = train(compose(*options, runs_dir=tmp_path))
    folder = _folder(result, tmp_path)
    epochs, steps = pd.read_csv(folder.metrics, index_col="epoch"), pd.read_csv(folder.steps, index_col="step")
    assert steps.index.tolist() == [1, 3, 5, 9, 11, 13]  # from 0
    assert steps["val/loss_step"].notna().all()
    assert result.metrics["val"]["loss"] == pytest.approx(epochs.loc[result.best_epoch, "val/loss"], rel=1e-5)
    assert result.epochs == 2
    assert result.cost.images_per_s > 0


def test_validations_that_miss_the_end_of_an_epoch_are_refused(compose, tmp_path):
    with pytest.raises(ConfigError, match=r"validates every 3 of 8 batches.*divides 8: 1, 2, 4, 8"):
        train(compose("trainer.val_check_interval=3", "batch_size=16", runs_dir=tmp_path))


def test_overfitting_learns_a_few_batches_by_heart(compose, tmp_path):
    options = ["trainer.overfit_batches=1", "max_epochs=30", "optimizer.lr=1e-2", "augmentation=clinical", "batch_size=8"]
    result = train(compose(*options, runs_dir=tmp_path))
    rows = pd.read_csv(_folder(result, tmp_path).metrics)
    assert rows["train/accuracy"].iloc[-1] == 1
    assert result.shortened_by == ["trainer.overfit_batches=1"]
    with pytest.raises(RunError, match=r"was shortened for debugging by trainer.overfit_batches=1"):
        load_finished_run(_folder(result, tmp_path).path)


def test_overfitting_repeats_the_batches_of_the_first_epoch(compose):
    first = {}
    for option in ("trainer.overfit_batches=1", "trainer.limit_train_batches=1"):
        data = build_datamodule(compose(option, "augmentation=clinical"))
        data.prepare_data()
        data.setup("fit")
        batches = [next(iter(data.loader("train", seed=0, epoch=epoch))) for epoch in (0, 1)]
        first[option] = [batch["image"] for batch in batches]
    assert torch.equal(*first["trainer.overfit_batches=1"])
    assert not torch.equal(*first["trainer.limit_train_batches=1"])


def test_a_sanity_check_changes_no_result(compose, tmp_path):
    plain = train(compose(runs_dir=tmp_path / "plain"))
    checked = train(compose("trainer.num_sanity_val_steps=-1", runs_dir=tmp_path / "checked"))
    assert (checked.run_id, checked.metrics) == (plain.run_id, plain.metrics)
    assert _folder(checked, tmp_path / "checked").metrics.read_text() == _folder(plain, tmp_path / "plain").metrics.read_text()


@pytest.mark.parametrize("profiler", ["simple", "advanced", "pytorch"])
def test_the_report_of_a_profiler_is_printed_and_kept(profiler, compose, tmp_path, capsys):
    result = train(compose(f"trainer.profiler={profiler}", "max_epochs=1", runs_dir=tmp_path))
    reports = list(_folder(result, tmp_path).profile.glob("*.txt"))
    printed = capsys.readouterr().err
    assert len(reports) == 1
    assert {"simple": "run_training_batch", "advanced": "training_step", "pytorch": "aten::"}[profiler] in reports[0].read_text()
    assert str(reports[0]) in printed.replace("\n", "")
    assert result.completed


@pytest.mark.parametrize("name", DEBUG)
def test_a_debug_run_is_never_a_finished_one(name, compose, tmp_path):
    result = train(compose(f"debug={name}", "batch_size=8", runs_dir=tmp_path))
    assert result.status == "debug"
    assert result.shortened_by[0] == f"debug={name}"
    with pytest.raises(RunError, match=f"was shortened for debugging by debug={name}"):
        load_finished_run(_folder(result, tmp_path).path)


@pytest.mark.parametrize(("devices", "processes"), [("1", 1), ("auto", 1), ("-1", 1), ("2", 2)])
def test_devices_without_a_gpu(devices, processes, compose, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    trainer = compose(f"trainer.devices={devices}").trainer
    check_device(trainer)
    assert process_count(trainer) == processes


def test_devices_of_gpus(compose, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    gpus = {"auto": 4, "-1": 4, "3": 3, "[1,3]": 2}
    for devices, processes in gpus.items():
        assert process_count(compose(f"trainer.devices={devices}", "trainer.accelerator=auto").trainer) == processes
    with pytest.raises(ConfigError, match=r"trainer.devices=\[4\] names GPU 4, and this machine has 4, counted from 0"):
        check_device(compose("trainer.devices=[4]", "trainer.accelerator=gpu").trainer)


def test_numbered_gpus_without_a_gpu_are_refused(compose, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"trainer.devices=\[0\] names GPUs, and none is used here"):
        check_device(compose("trainer.devices=[0]").trainer)
