"""Callbacks that a config names: Lightning's and one's own."""

import sys

import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from pneumonia.config.convert import from_plain, identity, to_plain
from pneumonia.config.keys import conf_dir
from pneumonia.config.overrides import overrides_from_config
from pneumonia.errors import ConfigError, PneumoniaError, TargetError
from pneumonia.runs.folder import RunFolder, read_config
from pneumonia.training.train import train

FILES = sorted(path.stem for path in (conf_dir() / "callbacks").glob("*.yaml"))
MINE = '''
from lightning.pytorch.callbacks import Callback


class Count(Callback):
    """Counts batches, and keeps the count in checkpoints."""

    def __init__(self, path, start=0):
        self.path, self.count = path, start

    def on_train_batch_end(self, *_):
        self.count += 1

    def on_fit_end(self, *_):
        with open(self.path, "w") as file:
            file.write(str(self.count))

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class Unplain(Callback):
    def state_dict(self):
        import pathlib

        return {"where": pathlib.Path("x")}


class Hook(Callback):
    def on_save_checkpoint(self, trainer, module, checkpoint):
        import pathlib

        checkpoint["mine"] = pathlib.Path("x")


class Late(Callback):
    """Its state becomes one that can't be given back; then it fails."""

    def __init__(self, fails=False):
        self.fails, self.seen = fails, 0

    def on_train_epoch_end(self, *_):
        self.seen = lambda: None
        if self.fails:
            raise ZeroDivisionError("mine")

    def state_dict(self):
        return {"seen": self.seen}


class Picky(Callback):
    def __init__(self):
        raise RuntimeError("no licence")
'''


@pytest.fixture
def my_module(tmp_path, monkeypatch):
    """A module of the user's, ``my_callbacks``."""
    (tmp_path / "my_callbacks.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_callbacks"
    sys.modules.pop("my_callbacks", None)


@pytest.mark.parametrize("name", FILES)
def test_every_file_of_the_group_trains(name, compose, tmp_path):
    result = train(compose(f"callbacks={name}", "max_epochs=1", "trainer.log_every_n_steps=1", runs_dir=tmp_path))
    assert result.epochs == 1


def test_several_callbacks_are_a_list(compose, tmp_path, capsys):
    config = compose("callbacks=[early_stopping,model_summary]", "callbacks.early_stopping.patience=3", runs_dir=tmp_path)
    assert list(config.callbacks) == ["early_stopping", "model_summary"]
    result = train(config)
    assert "Total params" in capsys.readouterr().out
    assert read_config(RunFolder(tmp_path / result.name / result.run_id)) == config


def test_callbacks_early_stopping_is_that_of_the_run(compose, tmp_path):
    options = ["max_epochs=6", "optimizer=sgd_plain", "optimizer.lr=1e-12", "scheduler=none"]
    ours = train(compose(*options, "early_stopping.patience=2", "early_stopping.min_delta=0.5", runs_dir=tmp_path))
    node = ["callbacks=early_stopping", "callbacks.early_stopping.patience=2", "callbacks.early_stopping.min_delta=0.5"]
    theirs = train(compose(*options, *node, runs_dir=tmp_path))
    assert ours.epochs == theirs.epochs == 3
    assert theirs.completed
    assert ours.metrics == theirs.metrics
    assert ours.run_id != theirs.run_id


def test_own_callback_runs_and_resumes_its_state(compose, tmp_path, my_module):
    file = tmp_path / "count.txt"
    own = [f"+callbacks.count._target_={my_module}.Count", f"+callbacks.count.path={file}", "max_epochs=3"]

    class Stop(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(compose(*own, runs_dir=tmp_path), callbacks=[Stop()])
    train(compose(*own, runs_dir=tmp_path))
    batches = torch.load(next(tmp_path.glob("train/*/checkpoints/last.ckpt")), weights_only=True)["global_step"]
    assert int(file.read_text()) == batches


def test_identity_knows_what_can_change_a_result(compose):
    plain = identity(compose())
    assert "callbacks" not in plain
    assert identity(compose("callbacks=[model_summary,lr_monitor,rich_progress_bar,device_stats]")) == plain
    assert identity(compose("callbacks=early_stopping")) != plain
    assert identity(compose("+callbacks.a._target_=my.Own")) != plain
    assert identity(compose("+callbacks.b._target_=my.Own")) == identity(compose("+callbacks.a._target_=my.Own"))


def test_overrides_name_the_callbacks_again(compose):
    config = compose("callbacks=early_stopping", "+callbacks.mine._target_=my.Own", "+callbacks.mine.rate=0.5")
    overrides = overrides_from_config(config)
    again = compose(*(f"{key}={value}" for key, value in overrides.items()))
    assert again.callbacks == config.callbacks
    assert from_plain(to_plain(config)) == config


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["callbacks=model_sumary"], ConfigError, r"callbacks=model_sumary is not known.*Did you mean 'model_summary'"),
        (["callbacks=[model_summary,nope]"], ConfigError, r"callbacks=nope is not known"),
        (["+callbacks.x.a=1"], ConfigError, r"callbacks.x._target_ is missing"),
        (["+callbacks.x=3"], ConfigError, r"callbacks.x=3 must hold keys and values"),
        (["+callbacks.x._target_=nope.Nope"], TargetError, r"callbacks.x._target_=nope.Nope names no class"),
        (["+callbacks.x._target_=torch.nn.ReLU"], TargetError, r"callbacks.x._target_=torch.nn.ReLU is not a callback"),
        (
            ["callbacks=rich_progress_bar", "+callbacks.rich_progress_bar.deep=1"],
            ConfigError,
            r"callbacks.rich_progress_bar: .*'deep'",
        ),
        (
            ["+callbacks.x._target_=my_callbacks.Picky"],
            ConfigError,
            r"callbacks.x: my_callbacks.Picky can't be built, it raises RuntimeError: no licence",
        ),
        (
            ["callbacks=early_stopping", "callbacks.early_stopping.monitor=val/acc"],
            ConfigError,
            r"val/acc is not a metric.*accuracy",
        ),
        (["callbacks=early_stopping", "early_stopping.patience=1"], ConfigError, r"both stop the training early"),
        (
            ["callbacks=early_stopping", "callbacks.early_stopping.patience=abc"],
            ConfigError,
            r"callbacks.early_stopping.patience=abc",
        ),
        (["callbacks=early_stopping", "callbacks.early_stopping.patience=-1"], ConfigError, r"patience=-1 is out of range"),
        (["callbacks=early_stopping", "callbacks.early_stopping.min_delta=[1]"], ConfigError, r"min_delta=\[1\]"),
        (
            ["callbacks=early_stopping", "+callbacks.early_stopping.stopping_threshold=abc"],
            ConfigError,
            r"stopping_threshold=abc",
        ),
        (
            ["+callbacks.x._target_=lightning.pytorch.callbacks.ModelCheckpoint", "+callbacks.x.filename=best"],
            ConfigError,
            r"callbacks.x.filename=best would replace the best.ckpt of the run",
        ),
        (
            ["callbacks=rich_progress_bar", "+callbacks.rich_progress_bar.refresh_rate=abc"],
            ConfigError,
            r"refresh_rate=abc is out",
        ),
        (["callbacks=early_stopping", "callbacks.early_stopping.mode=max"], ConfigError, r"would stop while val/loss improves"),
        (["callbacks=early_stopping", "callbacks.early_stopping.mode=up"], ConfigError, r"mode=up is not known"),
        (["callbacks=model_summary", "callbacks.model_summary.max_depth=abc"], ConfigError, r"max_depth=abc is out of range"),
        (["callbacks=model_summary", "callbacks.model_summary.max_depth=-5"], ConfigError, r"max_depth=-5 is out of range"),
        (
            ["+callbacks.x._target_=lightning.pytorch.callbacks.ModelCheckpoint", "+callbacks.x.monitor=val/foo"],
            ConfigError,
            r"callbacks.x.monitor=val/foo is not a metric of the epochs; they have .*val/recall_virus",
        ),
        (
            ["+callbacks.x._target_=lightning.pytorch.callbacks.ModelPruning", "+callbacks.x.pruning_fn=l1_unstructured"],
            ConfigError,
            r"ModelPruning replaces weights by masked ones",
        ),
        (
            [
                "+callbacks.x._target_=my_callbacks.Count",
                "+callbacks.x.path=a",
                "+callbacks.y._target_=my_callbacks.Count",
                "+callbacks.y.path=b",
            ],
            ConfigError,
            r"callbacks.x and callbacks.y would keep their states under one key",
        ),
        (["+callbacks.x._target_=my_callbacks.Unplain"], ConfigError, r"callbacks.x: its state_dict holds where=.*PosixPath"),
        (["callbacks=early_stopping", "swa=0.5"], ConfigError, r"swa=0.5 with callbacks.early_stopping"),
        (["+callbacks.x._target_=lightning.pytorch.callbacks.Timer"], ConfigError, r"Timer.*Use trainer.max_time"),
        (["+callbacks.x._target_=lightning.pytorch.callbacks.WeightAveraging"], ConfigError, r"Use ema=0.99 or swa=0.75"),
        (
            ["+callbacks.x._target_=lightning.pytorch.callbacks.ModelCheckpoint", "+callbacks.x.save_last=true"],
            ConfigError,
            r"callbacks.x.save_last=true would replace",
        ),
        (
            ["callbacks=rich_progress_bar", "+callbacks.x._target_=lightning.pytorch.callbacks.TQDMProgressBar"],
            ConfigError,
            r"several progress bars",
        ),
    ],
)
def test_bad_callbacks_are_refused_before_any_work(overrides, error, message, compose, tmp_path, my_module):
    runs = tmp_path / "runs"
    with pytest.raises(error, match=message) as caught:
        train(compose(*overrides, runs_dir=runs))
    assert isinstance(caught.value, PneumoniaError)
    assert not any(runs.rglob("*.yaml"))


def test_own_checkpoints_lie_in_the_run_folder(compose, tmp_path):
    target = "+callbacks.every._target_=lightning.pytorch.callbacks.ModelCheckpoint"
    result = train(compose(target, "+callbacks.every.save_top_k=-1", runs_dir=tmp_path))
    names = {path.name for path in (tmp_path / result.name / result.run_id / "checkpoints").iterdir()}
    assert {"best.ckpt", "last.ckpt"} < names
    assert len(names) == 4


def test_monitors_reach_the_logged_steps(compose, tmp_path):
    options = ["callbacks=[lr_monitor,device_stats]", "trainer.log_every_n_steps=2", "max_epochs=1", "batch_size=8"]
    result = train(compose(*options, runs_dir=tmp_path))
    steps = pd.read_csv(tmp_path / result.name / result.run_id / "steps.csv")
    assert steps["lr"].notna().any()
    assert steps.filter(like="cpu_percent").notna().any(axis=None)


def test_device_stats_without_psutil_says_what_to_install(compose, tmp_path, monkeypatch):
    monkeypatch.setattr("pneumonia.training.config_callbacks.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"callbacks.device_stats needs psutil.*pip install psutil"):
        train(compose("callbacks=device_stats", runs_dir=tmp_path))


def test_a_state_that_no_checkpoint_gives_back_is_named_when_saved(compose, tmp_path, my_module):
    with pytest.raises(ConfigError, match=r"Late: its state_dict holds seen=<function"):
        train(compose("+callbacks.x._target_=my_callbacks.Late", runs_dir=tmp_path))
    assert not list(tmp_path.rglob("last.ckpt"))


def test_a_hook_that_makes_checkpoints_unreadable_is_named(compose, tmp_path, my_module):
    with pytest.raises(ConfigError, match=r"on_save_checkpoint.* holds mine=x \(PosixPath\)"):
        train(compose("+callbacks.x._target_=my_callbacks.Hook", runs_dir=tmp_path))
    assert not list(tmp_path.rglob("last.ckpt"))


def test_an_error_of_a_callback_says_where_the_epochs_are(compose, tmp_path, my_module):
    with pytest.raises(ZeroDivisionError) as caught:
        train(compose("+callbacks.x._target_=my_callbacks.Late", "+callbacks.x.fails=true", runs_dir=tmp_path))
    assert "after 0 of 2 epochs" in caught.value.__notes__[0]
    assert str(tmp_path) in caught.value.__notes__[0]


def test_what_is_no_callback_is_refused(compose, tmp_path):
    with pytest.raises(ConfigError, match=r"which is no callback"):
        train(compose(runs_dir=tmp_path), callbacks=[object()])


def test_any_metric_of_the_epochs_can_be_monitored(compose, tmp_path):
    node = ["callbacks=early_stopping", "callbacks.early_stopping.monitor=val/recall_virus"]
    assert train(compose(*node, runs_dir=tmp_path)).completed
