"""Trackers mirror the run folder: TensorBoard and MLflow against their own readers and server, and all four side by side."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import killed_in
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

from pneumonia.cli import run as pneumonia
from pneumonia.config.compose import compose as compose_config
from pneumonia.config.convert import from_plain, to_plain
from pneumonia.errors import ConfigError, Interrupted, TransferError
from pneumonia.evaluation.tracking import mlflow_options, push_run
from pneumonia.runs.folder import RunFolder, read_metrics
from pneumonia.training.loggers import mirror, mlflow, tracking
from pneumonia.training.loggers.record import TrackerRecord
from pneumonia.training.throughput import Throughput
from pneumonia.training.train import train

SMALL = ("image_size=16", "model=mlp", "task=pneumonia")
AT = "evaluation/own-test"
STARTS_S = 180  # a server on a busy machine


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    mirror._warned.clear()
    mlflow._unreachable.clear()


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory) -> Iterator[str]:
    """The address of a real MLflow server with SQLite, on loopback."""
    if find_spec("mlflow") is None or find_spec("flask") is None:
        pytest.skip("mlflow or what its server needs is not installed: pip install 'pneumonia[dev,mlflow]'")
    place = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    store = ["--backend-store-uri", f"sqlite:///{place}/mlflow.db", "--artifacts-destination", str(place / "artifacts")]
    with (place / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *store, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        for _ in range(STARTS_S):
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=5):
                    break
            except OSError:
                time.sleep(1)
        else:
            pytest.fail((place / "log").read_text())
        yield address
    finally:
        os.killpg(server.pid, 15)
        server.wait()


@pytest.fixture
def client(mlflow_server, monkeypatch):
    """A client of the server, whose address the environment names."""
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    return MlflowClient(mlflow_server)


def _only(folder):
    return RunFolder(next(path.parent for path in folder.glob("*/*/config.yaml")))


def _mlflow_run(client, folder):
    return client.get_run(TrackerRecord.read(folder, "mlflow").id)


def _history(client, folder, name):
    points = client.get_metric_history(TrackerRecord.read(folder, "mlflow").id, name)
    return {point.step: point.value for point in sorted(points, key=lambda point: point.step)}


def _events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder.path / "tensorboard"), size_guidance={"scalars": 0, "histograms": 0, "images": 0})
    events.Reload()
    return events


def _scalars(folder, name):
    return {event.step: event.value for event in _events(folder).Scalars(name)}


def _wandb_summaries(folder):
    """What each offline file of W&B says at its end."""
    found = []
    for segment in sorted(folder.path.glob("wandb/offline-run-*")):
        command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--summary", "--json", segment]
        found.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    return found


def _wandb(folder):
    """All values by epoch or step that W&B's offline files hold."""
    epochs, steps = {}, {}
    for segment in sorted(folder.path.glob("wandb/offline-run-*")):
        command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", segment]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        for item in (line["history"]["item"] for line in map(json.loads, lines) if line.get("type") == "history"):
            if "val/loss" in item:
                epochs[item["epoch"]] = item
            elif "train/loss_step" in item:
                steps[item["trainer/global_step"]] = item
    return epochs, steps


def test_four_trackers_hold_the_same_numbers(client, compose, tmp_path):
    train(compose(*SMALL, "logger=[csv,wandb,tensorboard,mlflow]", "trainer.log_every_n_steps=2", runs_dir=tmp_path))
    folder = _only(tmp_path)
    epochs, steps = _wandb(folder)
    table = pd.read_csv(folder.metrics).set_index("epoch")
    assert table.index.tolist() == [1, 2]
    for name in table:
        of_csv = table[name].to_dict()
        assert {epoch: item[name] for epoch, item in epochs.items()} == of_csv
        assert _history(client, folder, name) == of_csv
        assert _scalars(folder, name) == {epoch: float(np.float32(value)) for epoch, value in of_csv.items()}
    table = pd.read_csv(folder.steps).set_index("step")
    assert table.index.tolist() == [1, 3, 5, 7]
    assert list(table) == ["train/loss_step", "lr_step"]
    for name in table:
        of_csv = table[name].to_dict()
        assert {step: item[name] for step, item in steps.items()} == of_csv
        assert _history(client, folder, name) == of_csv
        assert _scalars(folder, name) == {step: float(np.float32(value)) for step, value in of_csv.items()}


def test_losses_of_steps_average_to_that_of_the_epoch(compose, tmp_path):
    config = compose(*SMALL, "trainer.log_every_n_steps=1", "scheduler=none", "max_epochs=1", runs_dir=tmp_path)
    result = train(config)
    rows = pd.read_csv(_only(tmp_path).steps)
    sizes = [config.batch_size] * (result.data.train // config.batch_size)
    sizes.append(result.data.train - sum(sizes))
    assert np.average(rows["train/loss_step"], weights=sizes) == pytest.approx(result.metrics["train"]["loss"], rel=1e-6)
    assert set(rows["lr_step"]) == {config.optimizer.lr}


def test_mlflow_knows_the_config_data_and_result(client, compose, tmp_path):
    words = ["logger=mlflow", "logger.mlflow.experiment_name=mine", "logger.mlflow.tags={team: radiology}"]
    words += ["augmentation=normal", "logger.mlflow.artifact=true"]
    result = train(compose(*SMALL, *words, runs_dir=tmp_path), label="seed=0")
    folder = _only(tmp_path)
    run = _mlflow_run(client, folder)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "seed=0")
    assert client.get_experiment(run.info.experiment_id).name == "mine"
    expected = {"team": "radiology", "group": "train", "task": "pneumonia", "run_id": result.run_id, "status": "completed"}
    assert expected.items() <= run.data.tags.items()
    assert run.data.params["optimizer.lr"] == str(result.config.optimizer.lr)
    assert run.data.params["manifest_sha256"] == result.data.manifest_sha256
    assert run.data.params["split_sha256"] == result.data.split_sha256
    assert int(run.data.params["parameters"]) > 0
    assert run.data.metrics["best/val/accuracy"] == result.metrics["val"]["accuracy"]
    assert {"augmentation.png", "checkpoints"} <= {found.path for found in client.list_artifacts(run.info.run_id)}
    assert "parameters" not in to_plain(result.config)


def test_tensorboard_has_hyperparameters_and_pictures(compose, tmp_path):
    result = train(compose("logger=tensorboard", "model=perceptron", "task=pneumonia", "image_size=16", runs_dir=tmp_path))
    events = _events(_only(tmp_path))
    assert len(events.Images("weights")) == result.epochs
    assert events.Scalars("best/val/accuracy")[0].value == pytest.approx(result.metrics["val"]["accuracy"])
    assert events.SummaryMetadata("_hparams_/session_start_info").plugin_data.plugin_name == "hparams"
    assert events.Tensors("status/text_summary")[0].tensor_proto.string_val == [b"completed"]


def test_a_resumed_run_continues_in_all_trackers(client, compose, tmp_path):
    words = ["logger=[tensorboard,mlflow,wandb]", "logger.wandb.mode=offline", "trainer.log_every_n_steps=1", "max_epochs=3"]
    config = compose(*SMALL, *words, runs_dir=tmp_path)
    with killed_in(epoch=1):
        train(config)
    folder = _only(tmp_path)
    first = _mlflow_run(client, folder)
    assert first.info.status == "FAILED"
    assert "status" not in first.data.tags
    train(config)
    last = _mlflow_run(client, folder)
    assert (last.info.run_id, last.info.status) == (first.info.run_id, "FINISHED")
    epochs = [int(row["epoch"]) for row in read_metrics(folder)]
    assert epochs == [1, 2, 3]
    assert list(_history(client, folder, "val/loss")) == epochs
    assert [event.step for event in _events(folder).Scalars("val/loss")] == epochs
    assert list(_wandb(folder)[0]) == epochs
    steps = pd.read_csv(folder.steps)["step"].tolist()
    assert steps == list(range(len(steps)))
    assert list(_history(client, folder, "train/loss_step")) == steps


def test_an_interrupted_run_is_killed_in_mlflow(client, compose, tmp_path, monkeypatch):
    def interrupt(self, trainer, module, outputs, batch, index):
        raise KeyboardInterrupt

    monkeypatch.setattr(Throughput, "on_train_batch_end", interrupt)
    with pytest.raises(Interrupted):
        train(compose(*SMALL, "logger=mlflow", runs_dir=tmp_path))
    assert _mlflow_run(client, _only(tmp_path)).info.status == "KILLED"


def test_an_unreachable_server_is_named_once_and_changes_nothing(compose, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter22")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://someone:hunter22@127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        followed = train(compose(*SMALL, "logger=[csv,mlflow]", runs_dir=tmp_path / "a"))
        with pytest.raises(TransferError, match="was not sent whole"):
            push_run(_only(tmp_path / "a"), mlflow_options(address.replace("someone:hunter22@", ""), "mine"))
    output, _, pushed = capfd.readouterr().err.partition("Warning MLflow at http://127")
    assert re.search(r" \.\.\.\)\. `pneumonia track push --to mlflow` sends it later\.", pushed), pushed
    assert output.count("MLflow at http://...@127.0.0.1") == output.count("Warning MLflow") == 1
    assert "can't be reached or refuses us" in output
    assert "The run continues without it; `pneumonia track push --to mlflow` sends it later." in output
    alone = train(compose(*SMALL, runs_dir=tmp_path / "b"))
    assert (followed.status, followed.run_id, followed.metrics) == (alone.status, alone.run_id, alone.metrics)
    kept = [path for path in (tmp_path / "a").rglob("*") if path.suffix in {".json", ".yaml", ".csv"}]
    assert not any("hunter22" in path.read_text() for path in kept)
    assert "hunter22" not in output


@pytest.mark.parametrize("watch", ["gradients", "all"])
def test_gradients_are_sent_on_request(watch, client, compose, tmp_path):
    loggers = ("wandb", "tensorboard", "mlflow")
    words = [f"logger=[{','.join(loggers)}]", "logger.wandb.mode=offline", *(f"logger.{name}.watch={watch}" for name in loggers)]
    words += ["trainer.log_every_n_steps=2", "max_epochs=1", "optimizer=sgd_plain", "scheduler=none"]
    train(compose(*SMALL, *words, runs_dir=tmp_path))
    folder = _only(tmp_path)
    names = [name for name in _events(folder).Tags()["histograms"] if name.startswith("gradients/")]
    assert len(names) == 4, "weights and biases of two layers"
    for name in names:
        assert [event.step for event in _events(folder).Histograms(name)] == [1, 3]
        assert list(_history(client, folder, name)) == [1, 3]
        assert _wandb_summaries(folder)[0]["summary"][name]["_type"] == "histogram"
    parameters = [name for name in _events(folder).Tags()["histograms"] if name.startswith("parameters/")]
    assert len(parameters) == (4 if watch == "all" else 0)


def test_the_best_checkpoint_becomes_a_version_of_a_registered_model(client, compose, tmp_path):
    words = ["logger=mlflow", "logger.mlflow.registry=pneumonia-test", "max_epochs=1"]
    for seed in (0, 1):
        train(compose(*SMALL, *words, f"seed={seed}", runs_dir=tmp_path / str(seed)))
    versions = client.search_model_versions("name='pneumonia-test'")
    assert {found.run_id for found in versions} == {
        TrackerRecord.read(_only(tmp_path / seed), "mlflow").id for seed in ("0", "1")
    }
    copy = client.download_artifacts(versions[0].run_id, "checkpoints/best.ckpt", str(tmp_path))
    assert any(Path(copy).read_bytes() == _only(tmp_path / seed).best.read_bytes() for seed in ("0", "1"))


def test_a_run_of_another_logger_is_pushed_once(client, finished, cache_dir, tmp_path, capsys):
    copy = RunFolder(shutil.copytree(finished, tmp_path / "runs" / finished.name))
    assert pneumonia(["evaluate", str(copy.path), "--cache-dir", str(cache_dir), "--no-gallery"]) == 0
    assert not any(copy.tracker(name).exists() for name in ("wandb", "tensorboard", "mlflow"))
    for sent in (1, 0):
        assert pneumonia(["track", "push", str(tmp_path), "--to", "mlflow"]) == 0
        assert f"Sent {sent} of 1 runs" in capsys.readouterr().err
        assert pneumonia(["track", "push", str(tmp_path), "--to", "tensorboard"]) == 0
        assert f"Sent {sent} of 1 runs" in capsys.readouterr().err
        assert pneumonia(["track", "push", str(tmp_path), "--offline"]) == 0
        assert f"Written for {sent} of 1 runs" in capsys.readouterr().err
    accuracy = json.loads(copy.evaluation("test", "json").read_text())["metrics"]["accuracy"]["value"]
    assert _history(client, copy, f"{AT}/accuracy") == {0: accuracy}
    assert _scalars(copy, f"{AT}/accuracy") == {0: float(np.float32(accuracy))}
    assert _wandb_summaries(copy)[0]["summary"][f"{AT}/accuracy"] == accuracy
    losses = {int(row["epoch"]): float(row["val/loss"]) for row in read_metrics(copy)}
    assert _history(client, copy, "val/loss") == losses
    assert _scalars(copy, "val/loss") == pytest.approx(losses)
    assert _mlflow_run(client, copy).info.status == "FINISHED"


def test_callbacks_reach_the_loggers_of_lightning(client, compose, tmp_path):
    class Mine(Callback):
        def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: object) -> None:
            module.log("mine", float(trainer.global_step), on_step=True, on_epoch=False)
            loggers[:] = trainer.loggers

    loggers: list[object] = []
    words = ["logger=[wandb,tensorboard,mlflow]", "logger.wandb.mode=offline", "trainer.log_every_n_steps=1", "max_epochs=1"]
    train(compose(*SMALL, *words, runs_dir=tmp_path), callbacks=[Mine(), LearningRateMonitor("step")])
    for kind in (WandbLogger, TensorBoardLogger, MLFlowLogger):
        assert any(isinstance(logger, kind) for logger in loggers)
    folder = _only(tmp_path)
    steps = pd.read_csv(folder.steps).dropna(subset="mine")["mine"].tolist()
    assert list(_history(client, folder, "mine").values()) == steps
    assert [event.value for event in _events(folder).Scalars("mine")] == steps
    assert len(_scalars(folder, "lr")) == len(steps), "of the monitor, by step"


def test_several_loggers_may_name_one_twice():
    config = compose_config("logger=[csv,tensorboard,tensorboard]")
    assert config.logger.trackers == ["tensorboard"]
    assert compose_config("logger=csv").logger.trackers == []
    assert compose_config("~logger").logger.trackers == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["logger=comet"], "logger=comet is not known. Choose one of csv, mlflow, tensorboard, wandb"),
        (["logger=[csv,tensorbord]"], "logger=tensorbord is not known.*Did you mean 'tensorboard'"),
        (["logger.mode=offline"], "Options follow the name of their logger: logger.wandb.mode"),
        (["logger=mlflow", "logger.wandb.mode=offline"], "option of a logger that is not chosen: logger=wandb"),
        (["logger=mlflow", "logger.mlflow.mode=offline"], "logger.mlflow.mode is not a config key"),
        (["logger=mlflow", "logger.mlflow.tags=3"], "logger.mlflow.tags=3 has the wrong type: it must be keys and values"),
        (["logger=wandb", "logger.wandb=3"], "logger.wandb=3 must hold keys and values"),
        (["+logger.comet.x=1"], "logger.comet is not a config key"),
        (["logger=wandb", "logger.wandb.watch=losses"], "logger.wandb.watch=losses is not known; choose one of gradients"),
        (["trainer.log_every_n_steps=0"], "trainer.log_every_n_steps=0 is out of range"),
    ],
)
def test_unknown_loggers_and_options_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        compose_config(*overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["logger=mlflow"], "MLflow needs the address of a server .* Use logger.mlflow.tracking_uri=http://HOST:PORT or"),
        (["logger=wandb", "logger.wandb.registry=models"], "logger.wandb.registry=models links a checkpoint on the server"),
        (
            ["logger=mlflow", "logger.mlflow.tracking_uri=http://a:b@host"],
            r"tracking_uri=http://\.\.\.@host holds a password",
        ),
    ],
)
def test_options_that_cannot_work_are_refused_before_work(overrides, message, compose, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train(compose(*SMALL, *overrides, runs_dir=tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["wandb", "tensorboard", "mlflow"])
def test_a_missing_package_is_named_before_work(name, compose, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda wanted: None if wanted == name else find_spec(wanted))
    with pytest.raises(ConfigError, match=rf"pip install 'pneumonia\[{name}\]'"):
        train(compose(*SMALL, f"logger={name}", runs_dir=tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_config_from_before_there_were_several_loggers_is_read():
    plain = to_plain(compose_config("logger=wandb"))
    wandb = plain["logger"]["wandb"]
    assert from_plain({**plain, "logger": {"kind": "wandb", **wandb}}).logger == compose_config("logger=wandb").logger
    assert from_plain({**plain, "logger": {"kind": "csv"}}).logger == compose_config("logger=csv").logger


def test_trackers_are_imported_only_when_chosen():
    check = "import sys, pneumonia.training.train; print(sorted({'wandb', 'mlflow', 'tensorboard'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_evaluation_reaches_the_trackers_of_its_run(client, compose, cache_dir, tmp_path):
    words = ["logger=[tensorboard,mlflow,wandb]", "logger.wandb.mode=offline"]
    result = train(compose(*SMALL, *words, runs_dir=tmp_path))
    folder = _only(tmp_path)
    for _ in range(2):
        assert pneumonia(["evaluate", str(folder.path), "--cache-dir", str(cache_dir), "--no-gallery"]) == 0
    evaluation = json.loads(folder.evaluation("test", "json").read_text())
    accuracy = evaluation["metrics"]["accuracy"]
    expected = {f"{AT}/accuracy{bound}": accuracy[key] for key, bound in (("value", ""), ("low", "_low"), ("high", "_high"))}
    expected[f"{AT}/ece"] = evaluation["calibration"]["ece"]
    run = _mlflow_run(client, folder)
    assert run.info.status == "FINISHED"
    assert expected.items() <= run.data.metrics.items()
    assert {path.path.rpartition("/")[2] for path in client.list_artifacts(run.info.run_id, AT)} >= {
        *("confusion.png", "roc.png", "precision_recall.png", "calibration.png", "predictions.json", "own-test.json")
    }
    table = json.loads(Path(client.download_artifacts(run.info.run_id, f"{AT}/predictions.json", str(tmp_path))).read_text())
    assert table["columns"] == ["image_id", "label", "prob_NORMAL", "prob_PNEUMONIA", "predicted"]
    assert len(table["data"]) == result.data.test
    events = _events(folder)
    for name, value in expected.items():
        assert [event.value for event in events.Scalars(name)] == [float(np.float32(value))]
    assert {f"{AT}/{name}" for name in ("confusion", "roc", "calibration")} <= set(events.Tags()["images"])
    summary = _wandb_summaries(folder)[-1]
    assert expected.items() <= summary["summary"].items()
    assert summary["summary"][f"{AT}/predictions"]["nrows"] == result.data.test
    assert summary["state"] == "finished"
    assert len(_wandb_summaries(folder)) == 2, "the second evaluation is the same, so nothing was sent twice"
