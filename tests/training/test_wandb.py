"""W&B mirrors the run folder: what its offline files hold, and what happens where it fails. Nothing is mocked."""

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest

from pneumonia.cli import run as pneumonia
from pneumonia.cli.sweep import run as sweep
from pneumonia.errors import AccessError, ConfigError, RunError, TransferError
from pneumonia.evaluation.tracking import push_run, wandb_options
from pneumonia.runs.folder import RunFolder
from pneumonia.training.loggers import mirror
from pneumonia.training.loggers import wandb as tracking
from pneumonia.training.loggers.record import Sent, TrackerRecord
from pneumonia.training.throughput import Throughput
from pneumonia.training.train import train

WANDB = Path(sys.executable).with_name("wandb")
KEY = "0123456789abcdef" * 2 + "deadbeef"
SMALL = ("logger=wandb", "image_size=16", "model=mlp", "task=pneumonia")


@pytest.fixture(autouse=True)
def no_key(monkeypatch, tmp_path):
    """As on a machine that has never heard of W&B."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    mirror._warned.clear()
    tracking._refused.clear()
    tracking._given.clear()


def _segments(folder):
    return sorted(folder.glob("wandb/offline-run-*"))


def _inspect(segment, *words):
    command = [WANDB, "leet", "inspect", *words, "--json", segment]
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=quiet).stdout


def _summary(segment):
    return json.loads(_inspect(segment, "--summary"))


def _records(segment, kind):
    return [line[kind] for line in map(json.loads, _inspect(segment).splitlines()) if line.get("type") == kind]


def _history(segment):
    """Numbers by epoch, as they were logged."""
    return [record["item"] for record in _records(segment, "history")]


def _only(folder):
    return next(path.parent for path in folder.glob("*/*/config.yaml"))


def test_offline_files_hold_what_the_run_folder_holds(compose, tmp_path):
    words = ["model=perceptron", "task=pneumonia", "augmentation=normal", "logger.wandb.tags=[mine]", "usd_per_hour=0.4"]
    result = train(compose("logger=wandb", "name=alone", *words, runs_dir=tmp_path), label="seed=0")
    folder = _only(tmp_path)
    (segment,) = _segments(folder)
    summary, opened = _summary(segment), _records(segment, "run")[0]
    assert (summary["name"], summary["project"], summary["state"]) == ("seed=0", "pneumonia", "finished")
    assert (opened["run_group"], opened["job_type"]) == ("alone", "Perceptron")
    assert {"mine", "pneumonia", "grouped", "phantom"} <= set(summary["tags"])
    assert summary["config"]["optimizer"]["lr"] == result.config.optimizer.lr
    history = pd.read_csv(folder / "metrics.csv")
    logged = [row for row in _history(segment) if "val/loss" in row]
    assert [row["epoch"] for row in logged] == [1, 2]
    for name in ("val/loss", "val/accuracy", "train/loss", "lr"):
        assert [row[name] for row in logged] == pytest.approx(history[name].tolist())
    assert all(row["images_per_s"] > 0 and row["peak_memory_mib"] > 0 for row in logged)
    assert history["epoch"].tolist() == [1, 2]
    assert summary["summary"]["best_epoch"] == result.best_epoch
    assert sorted(path.name for path in folder.glob("pictures/weights/*")) == ["epoch-001.png", "epoch-002.png"]
    assert summary["summary"]["best/val/accuracy"] == result.metrics["val"]["accuracy"]
    assert summary["summary"]["cost/usd"] == pytest.approx(result.cost.fit_s / 3600 * 0.4, abs=1e-6)
    assert _records(segment, "stats"), "the system's own figures"
    media = [path.relative_to(segment / "files" / "media").as_posix() for path in segment.rglob("*.*") if "media" in path.parts]
    assert sum(name.startswith("images/weights") for name in media) == 2
    assert sum(name.startswith("images/augmentation") for name in media) == 1
    assert sum(name.startswith("images/val/samples") for name in media) == min(16, result.data.val)
    assert {name.partition("_table")[0] for name in media if name.startswith("table/")} == {
        "table/val/confusion",
        "table/val/roc",
        "table/val/precision_recall",
    }


def test_the_best_checkpoint_is_an_artifact_on_request(compose, tmp_path):
    result = train(compose(*SMALL, "logger.wandb.artifact=true", runs_dir=tmp_path))
    (segment,) = _segments(_only(tmp_path))
    (artifact,) = [one for one in _records(segment, "artifact") if one["type"] == "model"]
    assert artifact["name"] == f"train-{result.run_id}"
    assert set(artifact["aliases"]) == {"latest", "best"}


def test_without_samples_no_x_ray_is_sent(compose, tmp_path):
    train(compose(*SMALL, "logger.wandb.samples=0", runs_dir=tmp_path))
    assert not list(tmp_path.rglob("media/images/val"))


def test_a_resumed_run_is_one_run_and_a_failed_one_failed(compose, tmp_path, monkeypatch):
    plain = Throughput.on_train_batch_end

    def die(self, trainer, module, outputs, batch, index):
        plain(self, trainer, module, outputs, batch, index)
        if trainer.current_epoch == 1:
            raise ArithmeticError("trouble")

    monkeypatch.setattr(Throughput, "on_train_batch_end", die)
    config = compose(*SMALL, "max_epochs=3", runs_dir=tmp_path)
    with pytest.raises(ArithmeticError):
        train(config)
    monkeypatch.setattr(Throughput, "on_train_batch_end", plain)
    train(config)
    first, second = map(_summary, _segments(_only(tmp_path)))
    assert first["run_id"] == second["run_id"]
    assert (first["state"], first["exit_code"], second["state"]) == ("failed", 1, "finished")
    epochs = [row["epoch"] for segment in _segments(_only(tmp_path)) for row in _history(segment) if "val/loss" in row]
    assert epochs == [1, 2, 3], "none missing, none twice"


def test_the_jobs_of_a_sweep_are_one_group(cache_dir, tmp_path):
    words = [
        f"runs_dir={tmp_path}",
        f"cache_dir={cache_dir}",
        "data.phantom.patients=60",
        "max_epochs=2",
        "dry_run=false",
    ]
    assert sweep(["optimizer", *SMALL, *words, "optimizer=sgd,adam", "seed=0"]) == 0
    segments = [segment for folder in tmp_path.glob("optimizer/*") for segment in _segments(folder)]
    found = {_summary(segment)["name"]: segment for segment in segments}
    assert set(found) == {"optimizer=sgd seed=0", "optimizer=adam seed=0"}
    for name, segment in found.items():
        assert _records(segment, "run")[0]["run_group"] == "optimizer"
        assert [row["epoch"] for row in _history(segment) if "val/loss" in row] == [1, 2]
        kind = _summary(segment)["config"]["optimizer"]["_target_"].rpartition(".")[2].lower()
        assert name == f"optimizer={kind} seed=0"


@pytest.mark.parametrize(
    "launcher", ["joblib", *(pytest.param(name, marks=pytest.mark.slow) for name in ("submitit_local", "basic"))]
)
def test_jobs_of_a_multirun_have_ids_of_their_own(launcher, cache_dir, tmp_path):
    words = [*SMALL, "logger.wandb.mode=offline", f"cache_dir={cache_dir}", "data.phantom.patients=60", "max_epochs=1"]
    done = subprocess.run(
        [sys.executable, "-m", "pneumonia", "train", "-m", f"hydra/launcher={launcher}", "seed=0,1", *words],
        cwd=tmp_path,
        env={**os.environ, "WANDB_RUN_ID": "fixedid", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ids = [json.loads(path.read_text())["id"] for path in tmp_path.glob("runs/train/*/wandb.json")]
    assert len(set(ids)) == 2
    assert "fixedid" not in ids
    assert done.stderr.count("WANDB_RUN_ID=fixedid names one run") == 1


@pytest.mark.parametrize("launcher", ["local", "parallel"])
def test_jobs_of_a_sweep_have_ids_of_their_own(launcher, cache_dir, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_RUN_ID", "fixedid")
    words = [f"runs_dir={tmp_path}", f"cache_dir={cache_dir}", "data.phantom.patients=60", "max_epochs=1"]
    jobs = ["optimizer=sgd,adam", "seed=0", "dry_run=false", f"launcher={launcher}"]
    assert sweep(["optimizer", *SMALL, *words, *jobs]) == 0
    ids = {json.loads(path.read_text())["id"] for path in tmp_path.glob("optimizer/*/wandb.json")}
    assert len(ids) == 2
    assert "fixedid" not in ids
    assert capfd.readouterr().err.count("WANDB_RUN_ID=fixedid names one run") == 1
    assert os.environ["WANDB_RUN_ID"] == "fixedid"


def test_a_debug_run_is_pushed_once_as_finished(compose, tmp_path, capsys):
    train(compose(*SMALL, "logger=csv", "trainer.limit_train_batches=1", runs_dir=tmp_path))
    for made in (1, 0):
        assert pneumonia(["track", "push", str(tmp_path), "--offline"]) == 0
        assert f"Written for {made} of 1 runs" in capsys.readouterr().err
    (segment,) = _segments(_only(tmp_path))
    summary = _summary(segment)
    assert (summary["state"], summary["exit_code"], summary["summary"]["status"]) == ("finished", 0, "debug")


@pytest.mark.parametrize(("broken", "status", "code"), [("", "interrupted", 130), ("failed", "failed", 1)])
def test_a_run_without_a_result_is_pushed_with_its_true_state(broken, status, code, finished, tmp_path):
    run = tmp_path / "runs" / finished.name
    shutil.copytree(finished, run)
    (run / "result.json").unlink()
    if broken:
        (tmp_path / "runs" / "jobs").mkdir()
        (tmp_path / "runs" / "sweep.json").write_text(json.dumps({"jobs": [{"key": "k", "differs": {}}]}))
        (tmp_path / "runs" / "jobs" / "k.json").write_text(json.dumps({"run": run.name}))
        (tmp_path / "runs" / "jobs" / "k.broken.json").write_text(json.dumps({"state": broken}))
    assert pneumonia(["track", "push", str(run), "--offline"]) == 0
    summary = _summary(*_segments(run))
    assert (summary["exit_code"], summary["summary"]["status"]) == (code, status)


@pytest.mark.parametrize("content", [b"a: [", b"a: 1", b"\xff\xfe", b"name: train"])
def test_an_unfinished_run_with_a_damaged_config_is_named(content, finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "result.json").unlink()
    (run / "config.yaml").write_bytes(content)
    with pytest.raises(RunError, match=r"config.yaml is damaged"):
        push_run(RunFolder(run), wandb_options("mine", None, "offline"))


@pytest.mark.parametrize("content", ["[", "3", '{"id": 3}', '{"online": 7}', '{"online": {"rows": "many", "result": false}}'])
def test_a_damaged_record_of_uploads_is_an_empty_one(content, tmp_path):
    folder = RunFolder(tmp_path)
    folder.tracker("wandb").write_text(content)
    assert TrackerRecord.read(folder, "wandb") == TrackerRecord()
    whole = TrackerRecord("abc", Sent(3, True), trouble="none")
    whole.write(folder, "wandb")
    assert TrackerRecord.read(folder, "wandb") == whole


def test_the_figures_do_not_depend_on_the_logger(compose, tmp_path):
    followed = train(compose(*SMALL, runs_dir=tmp_path / "a"))
    alone = train(compose(*SMALL, "logger=csv", runs_dir=tmp_path / "b"))
    assert (followed.run_id, followed.metrics) == (alone.run_id, alone.metrics)


def test_a_run_of_another_logger_is_pushed_once(finished, tmp_path, capsys):
    copy = tmp_path / "runs" / finished.name
    shutil.copytree(finished, copy)
    assert pneumonia(["track", "push", str(tmp_path / "runs"), "--offline", "--project", "mine"]) == 0
    (segment,) = _segments(copy)
    output = capsys.readouterr().err
    assert "Written for 1 of 1 runs, and nothing was sent; 0 had nothing new." in output
    assert "Sent" not in output
    assert f"`wandb sync {segment}` sends them" in output
    summary = _summary(segment)
    assert (summary["project"], summary["state"]) == ("mine", "finished")
    assert len([row for row in _history(segment) if "val/loss" in row]) == 2
    assert pneumonia(["track", "push", str(copy), "--offline"]) == 0
    assert "Written for 0 of 1 runs, and nothing was sent; 1 had nothing new." in capsys.readouterr().err
    assert len(_segments(copy)) == 1


def test_pushing_without_a_key_or_nothing_says_what_to_do(finished, tmp_path):
    with pytest.raises(AccessError, match="No key of W&B is known, so nothing was sent"):
        pneumonia(["track", "push", str(finished)])
    with pytest.raises(RunError, match="There is no run in"):
        pneumonia(["track", "push", str(tmp_path)])
    with pytest.raises(RunError, match="There is no folder"):
        pneumonia(["track", "push", str(tmp_path / "none")])
    assert not (finished / "wandb").exists()


@pytest.mark.parametrize("mode", ["offline", "dryrun", "disabled"])
def test_a_push_that_the_environment_forbids_is_refused(mode, finished, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with pytest.raises(AccessError, match=f"WANDB_MODE={mode} in the environment, so nothing was sent"):
        pneumonia(["track", "push", str(finished)])
    assert not (finished / "wandb").exists()


def test_a_disabled_mode_makes_no_run_and_says_so(compose, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    result = train(compose(*SMALL, "logger.wandb.mode=online", runs_dir=tmp_path))
    assert result.status == "completed"
    assert not list(tmp_path.rglob("wandb*"))
    assert "W&B: off, as WANDB_MODE=disabled in the environment says" in capfd.readouterr().err


@pytest.mark.parametrize("mode", ["offline", "dryrun"])
def test_an_offline_mode_of_the_environment_wins_over_auto(mode, compose, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    train(compose(*SMALL, runs_dir=tmp_path))
    assert len(_segments(_only(tmp_path))) == 1


@pytest.mark.parametrize(
    ("mode", "word", "message"),
    [
        ("sometimes", "logger.wandb.mode=auto", "WANDB_MODE=sometimes in the environment is no mode of W&B"),
        ("online", "logger.wandb.mode=auto", "WANDB_MODE=online needs a key of W&B"),
        ("run", "logger.wandb.mode=auto", "WANDB_MODE=run needs a key of W&B"),
    ],
)
def test_a_mode_of_the_environment_that_cannot_work_is_refused(mode, word, message, compose, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", mode)
    with pytest.raises(ConfigError, match=message):
        train(compose(*SMALL, word, runs_dir=tmp_path))
    assert not list(tmp_path.glob("*/*"))


def test_environment_variables_replace_packaged_values(compose, tmp_path, monkeypatch, capfd):
    said = {
        "PROJECT": "xrays",
        "ENTITY": "team",
        "RUN_GROUP": "night",
        "NAME": "mine",
        "TAGS": "a,b",
        "JOB_TYPE": "probe",
    }
    for name, value in {**said, "DIR": str(tmp_path / "files")}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    (tmp_path / "files").mkdir()
    train(compose(*SMALL, "logger.wandb.group=ours", "max_epochs=1", runs_dir=tmp_path / "runs"), label="seed=0")
    (segment,) = _segments(tmp_path / "files")
    summary, opened = _summary(segment), _records(segment, "run")[0]
    assert (summary["name"], summary["project"], opened["entity"]) == ("mine", "xrays", "team")
    assert (opened["run_group"], opened["job_type"]) == ("ours", "probe")
    assert {"a", "b", "pneumonia"} <= set(summary["tags"])
    output = capfd.readouterr().err
    assert "logger.wandb.group=ours takes precedence over WANDB_RUN_GROUP=night of the environment" in output
    assert f"W&B: offline, in {segment}" in output


def test_each_trial_of_an_agent_has_its_own_run_id(compose, tmp_path, monkeypatch):
    config = compose(*SMALL, runs_dir=tmp_path)
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep123")
    stamps = []
    for trial in ("trial001", "trial002", "trial002"):
        monkeypatch.setenv("WANDB_RUN_ID", trial)
        result = train(config)
        folder = _only(tmp_path)
        assert json.loads((folder / "wandb.json").read_text())["id"] == trial
        stamps.append((folder / "result.json").stat().st_mtime_ns)
    assert len(set(stamps)) == 1, "trained once"
    segments = {_summary(segment)["run_id"]: segment for segment in _segments(folder)}
    assert set(segments) == {"trial001", "trial002"}
    assert len(_segments(folder)) == 2, "the same trial is not mirrored twice"
    for segment in segments.values():
        assert [row["epoch"] for row in _history(segment) if "val/loss" in row] == [1, 2]
        assert _summary(segment)["summary"]["best/val/accuracy"] == result.metrics["val"]["accuracy"]
    monkeypatch.delenv("WANDB_SWEEP_ID")
    monkeypatch.delenv("WANDB_RUN_ID")
    train(config)
    assert len(_segments(folder)) == 2, "without an agent a finished run is only recognised"


@pytest.fixture(params=[401, 500])
def server(request, monkeypatch):
    """A server in W&B's place that refuses, on loopback."""

    class Refuse(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(request.param)
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *words):
            pass

    one = ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=one.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{one.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(tracking, "TIMEOUT_S", 3)
    yield request.param
    one.shutdown()
    one.server_close()


def test_a_server_that_refuses_is_named_once_and_training_goes_on(server, compose, tmp_path, capfd):
    result = train(compose(*SMALL, runs_dir=tmp_path))
    output = capfd.readouterr()
    assert result.status == "completed"
    assert output.err.count("W&B can't be reached or refuses us") == 1
    assert KEY not in output.err + output.out
    (segment,) = _segments(_only(tmp_path))
    assert _summary(segment)["state"] == "finished"
    texts = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix in {".json", ".yaml", ".csv", ".wandb"}]
    assert not any(KEY.encode() in path.read_bytes() for path in texts), "the key is in no file"
    train(compose(*SMALL, "seed=1", runs_dir=tmp_path / "next"))
    assert "can't be reached" not in capfd.readouterr().err, "the next run does not ask again"
    assert len(list((tmp_path / "next").glob("*/*/wandb/offline-run-*"))) == 1
    with pytest.raises(TransferError, match="was not sent whole"):
        pneumonia(["track", "push", str(_only(tmp_path))])


def test_a_sweep_shows_the_trouble_of_its_jobs_once(server, cache_dir, tmp_path, capfd):
    words = [
        f"runs_dir={tmp_path}",
        f"cache_dir={cache_dir}",
        "data.phantom.patients=60",
        "max_epochs=1",
        "dry_run=false",
    ]
    assert sweep(["optimizer", *SMALL, *words, "optimizer=sgd", "seed=0,1"]) == 0
    output = capfd.readouterr().err
    assert output.count("W&B can't be reached or refuses us") == 1
    assert KEY not in output


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("logger.wandb.mode=sometimes", "logger.wandb.mode=sometimes is not known"),
        ("logger.wandb.samples=-1", "logger.wandb.samples=-1 is out of range"),
        ("usd_per_hour=-1", "usd_per_hour=-1.0 is out of range"),
    ],
)
def test_words_that_it_does_not_know_are_refused(word, message):
    from pneumonia.sweep.plan import make_plan

    with pytest.raises(ConfigError, match=message):
        make_plan("optimizer", ["logger=wandb", word])


def test_online_without_a_key_is_refused_before_training(compose, tmp_path):
    with pytest.raises(ConfigError, match=r"logger\.wandb\.mode=online needs a key"):
        train(compose(*SMALL, "logger.wandb.mode=online", runs_dir=tmp_path))
    assert not list(tmp_path.glob("*/*"))


@pytest.mark.parametrize("name", ["optimizer", "families", "learning_rate"])
def test_a_dashboard_is_built_without_a_login(name, tmp_path, capsys):
    assert pneumonia(["track", "dashboard", name, "--json", str(tmp_path / "board.json"), "--entity", "me"]) == 0
    board = json.loads((tmp_path / "board.json").read_text())
    assert board["entity"] == "me"
    assert name in board["displayName"]
    text = json.dumps(board["spec"])
    for metric in ("val/loss", "best/val/accuracy", "cost/images_per_s", "val/samples"):
        assert metric in text
    assert ("best/val/fnr" in text) == (name == "families")
    assert name in json.dumps(board["spec"]["section"]["runSets"][0]["filters"])
    with pytest.raises(AccessError, match="needs a key of W&B and --entity"):
        pneumonia(["track", "dashboard", name])


@pytest.mark.filterwarnings("ignore:Pydantic V1 style")  # of wandb_workspaces itself, as it is imported
def test_the_panels_are_those_that_wandb_workspaces_writes_itself(tmp_path):
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    assert pneumonia(["track", "dashboard", "optimizer", "--json", str(tmp_path / "board.json"), "--entity", "me"]) == 0
    ours = _panels(json.loads((tmp_path / "board.json").read_text()))
    axes = [wr.Config("optimizer._target_"), wr.Config("seed"), wr.SummaryMetric("best/val/loss")]
    theirs = ws.Workspace(
        entity="me",
        project="pneumonia",
        sections=[
            ws.Section(
                name="all",
                panels=[
                    wr.LinePlot(title="val/loss", x=wr.Metric("epoch"), y=[wr.Metric("val/loss")]),
                    wr.BarPlot(title="best/val/loss", metrics=[wr.Metric("best/val/loss")]),
                    wr.MediaBrowser(title="weights", media_keys=["weights"]),
                    wr.ParallelCoordinatesPlot(
                        title="Which optimiser?",
                        columns=[wr.ParallelCoordinatesPlotColumn(metric=axis) for axis in axes],
                    ),
                ],
            )
        ],
    )
    for title, panel in _panels(json.loads(theirs._to_model().model_dump_json(by_alias=True))).items():
        found = ours[title]
        if "columns" in panel["config"]:
            found["config"]["columns"] = found["config"]["columns"][: len(axes)]
        assert (found["viewType"], found["config"]) == (panel["viewType"], panel["config"])
    accessors = [column["accessor"] for column in ours["Which optimiser?"]["config"]["columns"]]
    assert accessors == ["config:optimizer.value._target_", "config:seed.value", "summary:best/val/loss"]


def _panels(board):
    """Panels of a workspace by their title, without what the library draws at random."""
    found = {}
    for section in board["spec"]["section"]["panelBankConfig"]["sections"]:
        for panel in section["panels"]:
            config = panel["config"]
            found[config.get("chartTitle") or config.get("title") or config["mediaKeys"][0]] = panel
    return found
