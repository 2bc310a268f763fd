"""Test that interrupted work resumes on another machine from its backup, with the same result.

Two folders act as two machines; the Blob Storage between them is a real emulator, and the signals are real.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import pandas as pd
import pytest
from azure.storage.blob import BlobLeaseClient

from pneumonia.cli import main
from pneumonia.config.schema import BackupConfig
from pneumonia.errors import BlobError, ConfigError, TransferError
from pneumonia.runs.backup import RunUnits, backed_up, finished_trials
from pneumonia.runs.folder import RunFolder
from pneumonia.storage import backup as blob_backup
from pneumonia.storage.backup import BlobBackup
from pneumonia.storage.client import Place
from pneumonia.storage.snapshot import capture

from .conftest import free_port

SWEEP = (
    *("seeds", "seed=0,1", "data.phantom.patients=60", "image_size=32", "batch_size=16", "max_epochs=12"),
    *("model.width=16", "optimizer=sgd", "dry_run=false", "trainer.accelerator=cpu"),
)


class Machine:
    """Run the command in its own folder."""

    def __init__(self, folder: Path, cache_dir: Path) -> None:
        folder.mkdir()
        self.folder, self.runs = folder, folder / "runs" / "seeds"
        self.arguments = [f"cache_dir={cache_dir}"]

    def start(self, *arguments: str) -> subprocess.Popen:
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        command = [sys.executable, "-m", "pneumonia", *arguments, *self.arguments]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=self.folder, env=env)

    def end(self, *arguments: str) -> str:
        process = self.start(*arguments)
        output = process.communicate(timeout=240)[1]
        assert process.returncode == 0, output
        return output

    def wait_for(self, process: subprocess.Popen, done: int, epochs: int) -> None:
        """Wait until ``done`` runs are finished and the next one has ``epochs`` epochs."""
        for _ in range(2400):
            begun = [read.get("epochs", 0) for read in map(_read, self.runs.glob("*/progress.json"))]
            if len(list(self.runs.glob("*/result.json"))) >= done and len(begun) > done and min(begun) >= epochs:
                return
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        raise AssertionError("the sweep did not get there in two minutes")


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _figures(machine: Machine) -> pd.DataFrame:
    table = pd.read_csv(machine.runs / "results.csv")
    return table[[name for name in table.columns if not name.startswith("cost.")]]


@pytest.fixture
def place(service) -> str:
    return f"backup{free_port()}/study"


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache_dir) -> Machine:
    """Return a machine that ran the sweep without interruption."""
    machine = Machine(tmp_path_factory.mktemp("whole") / "machine", cache_dir)
    machine.end("sweep", *SWEEP)
    return machine


@pytest.fixture(scope="module")
def undisturbed(whole) -> pd.DataFrame:
    return _figures(whole)


@pytest.mark.slow
def test_sweep_after_sigterm_resumes_elsewhere_with_the_same_table(place, tmp_path, cache_dir, undisturbed):
    first, second = Machine(tmp_path / "first", cache_dir), Machine(tmp_path / "second", cache_dir)
    cut = first.start("sweep", *SWEEP, f"backup.place={place}")
    first.wait_for(cut, done=1, epochs=2)
    cut.send_signal(signal.SIGTERM)  # spot machines get it half a minute before they go
    output = cut.communicate(timeout=30)[1]
    assert cut.returncode == 130, output
    assert f"Backed up to {place}/seeds" in output
    done = {path.parent.name: path.read_bytes() for path in first.runs.glob("*/result.json")}
    assert len(done) == 1
    output = second.end("sweep", *SWEEP, f"backup.place={place}")
    assert "2 runs resume here, 1 of them finished" in output
    pd.testing.assert_frame_equal(_figures(second), undisturbed, check_exact=True)
    for run, result in done.items():
        assert (second.runs / run / "result.json").read_bytes() == result, "a finished run was trained again"
    kept = "".join(path.read_text() for path in second.runs.rglob("*") if path.suffix in {".json", ".yaml", ".csv", ".log"})
    assert "AccountKey" not in kept


def test_vanished_machine_loses_only_work_after_the_last_push(place, service, tmp_path, cache_dir, undisturbed):
    first, second = Machine(tmp_path / "first", cache_dir), Machine(tmp_path / "second", cache_dir)
    gone = first.start("sweep", *SWEEP, f"backup.place={place}", "backup.every_min=0.02")
    first.wait_for(gone, done=1, epochs=4)
    gone.kill()
    gone.communicate()
    _let_a_minute_pass(service, f"{place}/seeds")
    output = second.end("sweep", *SWEEP, f"backup.place={place}")
    assert "runs resume here" in output
    pd.testing.assert_frame_equal(_figures(second), undisturbed, check_exact=True)


@pytest.mark.slow
def test_full_disk_fails_one_job_and_backs_up_the_rest(place, tmp_path, cache_dir, whole, undisturbed):
    if subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("this machine lets no one mount a small disk of their own")
    first, second = Machine(tmp_path / "first", cache_dir), Machine(tmp_path / "second", cache_dir)
    # A file is replaced by a whole new one, so that a job needs more than it leaves: the first fits, the second does not.
    one_job = sum(path.stat().st_size for path in whole.runs.rglob("*") if path.is_file()) / 2
    disk = first.folder / "runs"
    disk.mkdir()
    arguments = [*SWEEP, f"backup.place={place}", *first.arguments]
    script = (
        f"mount -t tmpfs -o size={2.3 * one_job:.0f} tmpfs {disk}; "
        'cd "$1"; shift; "$@" 2> output; echo $? > code; mount -o remount,size=1g runs; "$@" 2> again; echo $? >> code'
    )
    command = [sys.executable, "-m", "pneumonia", "sweep", *arguments]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(["unshare", "-rm", "sh", "-c", script, "sh", first.folder, *command], env=env, check=True, timeout=240)
    output = (first.folder / "output").read_text()
    assert (first.folder / "code").read_text().split() == ["1", "0"], output + (first.folder / "again").read_text()
    assert "the disk is full. Free some space" in output
    assert f"Backed up to {place}/seeds" in output
    assert "1 done, 1 failed; 1 to do" in (first.folder / "again").read_text(), "with more space the same command resumes"
    output = second.end("sweep", *SWEEP, f"backup.place={place}")
    assert "2 runs resume here, 2 of them finished" in output
    pd.testing.assert_frame_equal(_figures(second), undisturbed, check_exact=True)


def test_single_run_goes_on_on_another_machine(place, tmp_path, cache_dir):
    arguments = ("train", *SWEEP[2:-2], "trainer.accelerator=cpu", "name=seeds", "seed=0")
    whole, first, second = (Machine(tmp_path / name, cache_dir) for name in ("whole", "first", "second"))
    whole.end(*arguments)
    cut = first.start(*arguments, f"backup.place={place}")
    first.wait_for(cut, done=0, epochs=2)
    cut.send_signal(signal.SIGTERM)
    output = cut.communicate(timeout=30)[1]
    assert cut.returncode == 130, output
    output = second.end(*arguments, f"backup.place={place}")
    assert "Resuming after epoch" in output
    (one,), (other,) = whole.runs.glob("*/metrics.csv"), second.runs.glob("*/metrics.csv")
    assert one.read_text() == other.read_text()


def _let_a_minute_pass(service, place: str) -> None:
    """Expire the lease of a vanished machine."""
    container, _, prefix = place.partition("/")
    blob = service.get_container_client(container).get_blob_client(f"{prefix}/.lease")
    BlobLeaseClient(blob).break_lease(lease_break_period=0)


# Below: made-up run folders, since only their files matter.


def _run(folder: Path, epochs: int, finished: bool = False, prefix: str = "") -> RunFolder:
    """Write a run folder whose checkpoints name its number of epochs."""
    run = RunFolder(folder)
    run.last.parent.mkdir(parents=True, exist_ok=True)
    run.config.write_text("seed: 0\n")
    run.metrics.write_text("epoch\n" + "".join(f"{epoch}\n" for epoch in range(epochs)))
    run.best.write_text(f"{prefix}{epochs}")
    run.last.write_text(f"{prefix}{epochs}")
    run.result.write_text(f'{{"status": "completed", "of": "{prefix}{epochs}"}}') if finished else run.result.unlink(True)
    return run


def _settings(place: str, every_min: float = 5) -> BackupConfig:
    return BackupConfig(place=place, every_min=every_min, account_url=None)


def _push(folder: Path, place: str) -> None:
    with backed_up(folder, _settings(place), "s"):
        pass


@pytest.mark.parametrize(
    ("here", "there", "kept"),
    [
        ((3, False), (5, False), "there"),
        ((5, False), (3, False), "here"),
        ((4, False), (4, False), "here"),
        ((3, False), (2, True), "there"),
        ((2, True), (3, False), "here"),
        ((2, True), (2, True), "here"),
        (None, (1, False), "there"),
    ],
)
def test_of_two_states_of_a_run_the_further_stays(place, tmp_path, here, there, kept):
    _run(tmp_path / "one" / "s" / "r", *there, prefix="there")
    _push(tmp_path / "one" / "s", place)
    mine = RunFolder(tmp_path / "two" / "s" / "r")
    if here is not None:
        _run(mine.path, *here, prefix="here")
    _push(tmp_path / "two" / "s", place)
    assert mine.last.read_text().startswith(kept)
    assert mine.best.read_text().startswith(kept)
    fresh = tmp_path / "three" / "s"  # and the backup has it too
    _push(fresh, place)
    assert (fresh / "r" / "checkpoints" / "last.ckpt").read_text().startswith(kept)


def test_retrained_run_is_unfinished_in_the_backup(place, tmp_path):
    folder = tmp_path / "s"
    _run(folder / "r", 3, finished=True)
    _push(folder, place)
    with backed_up(folder, _settings(place), "s"):
        RunFolder(folder / "r").clear()  # force=true
        _run(folder / "r", 1, prefix="anew")
    _push(tmp_path / "fresh" / "s", place)
    fresh = RunFolder(tmp_path / "fresh" / "s" / "r")
    assert not fresh.result.exists()
    assert fresh.last.read_text() == "anew1"


@pytest.mark.parametrize("waves", [0, 1, 2, 3])
def test_interrupted_push_leaves_a_resumable_backup(place, tmp_path, monkeypatch, waves):
    folder = tmp_path / "one" / "s"
    _run(folder / "r", 2)
    _push(folder, place)
    _run(folder / "r", 7, finished=True)
    really, left = blob_backup.send, [waves]

    def cut(*arguments):
        if left[0] == 0:
            raise TransferError("the cable is out")
        left[0] -= 1
        return really(*arguments)

    monkeypatch.setattr(blob_backup, "send", cut)
    with pytest.raises(TransferError):
        _push(folder, place)
    monkeypatch.setattr(blob_backup, "send", really)
    _push(tmp_path / "two" / "s", place)
    run = RunFolder(tmp_path / "two" / "s" / "r")
    assert not run.result.exists()
    assert int(run.best.read_text()) >= int(run.last.read_text()), "the last epoch speaks of a best one that is not there"


def test_snapshot_of_a_running_job_can_be_resumed(tmp_path):
    folder, stop = tmp_path / "s", threading.Event()
    run = _run(folder / "r", 0)

    def train() -> None:
        epoch = 0
        while not stop.is_set():
            epoch += 1
            for path in (run.best, run.last):
                part = path.with_suffix(".part")
                part.write_text(str(epoch))
                part.replace(path)

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        for number in range(200):
            scratch = tmp_path / f"scratch{number}"
            scratch.mkdir()
            groups = capture(folder, [run.path], RunUnits.last, scratch, {})
            held = {name: file.copy for group in groups for name, file in group.items()}
            best, last = (int(held[f"r/checkpoints/{name}.ckpt"].read_text()) for name in ("best", "last"))
            assert best >= last
    finally:
        stop.set()
        trainer.join()


def test_two_machines_do_not_work_on_one_backup(place, tmp_path, monkeypatch):
    monkeypatch.setattr(blob_backup, "WAIT_S", 0.2)
    monkeypatch.setattr("pneumonia.storage.lease.POLL_S", 0.1)
    _run(tmp_path / "two" / "s" / "r", 1)
    with backed_up(tmp_path / "one" / "s", _settings(place), "s"):
        with pytest.raises(BlobError, match=r"Another machine \(.* since .* UTC\) works on study/s"):
            _push(tmp_path / "two" / "s", place)
        _push(tmp_path / "other" / "t", place.replace("study", "other"))  # another place is free
    _push(tmp_path / "two" / "s", place)  # and so is this one afterwards


def test_second_process_of_the_same_machine_joins_in(place, tmp_path, capsys):
    folder = tmp_path / "s"
    _run(folder / "r", 1)
    with backed_up(folder, _settings(place), "s"):
        with backed_up(folder, _settings(place), "s"):
            _run(folder / "r", 2)
        assert "Another process of this machine already backs" in capsys.readouterr().err
    _push(tmp_path / "fresh" / "s", place)
    assert (tmp_path / "fresh" / "s" / "r" / "checkpoints" / "last.ckpt").read_text() == "2"


def test_who_was_overtaken_pushes_nothing_more(place, service, tmp_path, capsys):
    folder, container = tmp_path / "s", place.partition("/")[0]
    _run(folder / "r", 1)
    backup = BlobBackup(folder, Place.parse(f"{place}/s"), service.get_container_client(container), 300, RunUnits())
    backup.open()
    _let_a_minute_pass(service, f"{place}/s")  # the network was away
    with backed_up(tmp_path / "other" / "s", _settings(place), "s"):
        _run(tmp_path / "other" / "s" / "r", 3, finished=True)
    _run(folder / "r", 2)
    backup.close()
    assert "another machine has taken over the backup" in " ".join(capsys.readouterr().err.split())
    _push(tmp_path / "fresh" / "s", place)
    assert RunFolder(tmp_path / "fresh" / "s" / "r").result.is_file()


def test_pushes_happen_while_the_work_goes_on(place, service, tmp_path):
    folder = tmp_path / "s"
    container, _, prefix = place.partition("/")
    with backed_up(folder, _settings(place, every_min=0.005), "s"):
        _run(folder / "r", 1)
        client = service.get_container_client(container)
        for _ in range(100):
            names = {blob.name for blob in client.list_blobs()}
            if f"{prefix}/s/r/checkpoints/last.ckpt" in names:
                break
            time.sleep(0.1)
        else:
            raise AssertionError(f"nothing was pushed in ten seconds: {names}")


def test_of_two_search_studies_the_larger_stays(place, tmp_path):
    def study(path: Path, trials: int) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        found = optuna.create_study(storage=f"sqlite:///{path}", study_name="s", load_if_exists=True)
        found.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=trials)
        return path

    mine = study(tmp_path / "one" / "s" / "study.db", 3)
    _push(mine.parent, place)
    other = study(tmp_path / "two" / "s" / "study.db", 1)
    _push(other.parent, place)
    assert finished_trials(other) == 3
    study(other, 2)
    _push(other.parent, place)
    _push(mine.parent, place)
    assert finished_trials(mine) == 5


def test_backup_of_another_sweep_is_refused_at_the_start(place, service, tmp_path, monkeypatch, capsys, cache_dir):
    def sweep(folder: Path, *arguments: str) -> tuple[int, str]:
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        few = [
            "data.phantom.patients=60",
            "image_size=32",
            "model=simple_cnn",
            "model.width=8",
            "trainer.accelerator=cpu",
        ]
        command = ["pneumonia", "sweep", "seeds", "seed=0", *few, f"cache_dir={cache_dir}", "dry_run=false", *arguments]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0), capsys.readouterr().err

    def held() -> dict[str, str]:
        container = service.get_container_client(place.partition("/")[0])
        return {blob.name: blob.etag for blob in container.list_blobs() if not blob.name.endswith(".lease")}

    code, output = sweep(tmp_path / "mine", "max_epochs=1", f"backup.place={place}")
    assert code == 0, output
    before = held()
    code, output = sweep(tmp_path / "empty", "max_epochs=2", f"backup.place={place}")
    assert code == 2
    assert f"The backup {place}/seeds holds a sweep of other jobs" in output
    assert "max_epochs was 1 and is 2 now" in output
    assert held() == before
    assert not list((tmp_path / "empty").rglob("config.yaml"))
    assert sweep(tmp_path / "empty", "max_epochs=2")[0] == 0, "without the backup it has a folder of its own"
    code, output = sweep(tmp_path / "empty", "max_epochs=2", f"backup.place={place}")
    assert (code, held()) == (2, before), "nor may what is done there take the place of what is backed up"
    assert len(list((tmp_path / "empty").rglob("config.yaml"))) == 1


def test_refused_sweep_does_not_block_the_backup_place(place, tmp_path, monkeypatch, capsys, cache_dir):
    monkeypatch.chdir(tmp_path)
    few = ["data.phantom.patients=60", "image_size=32", "model=simple_cnn", "model.width=8", "max_epochs=1", "seed=0"]
    sweep = ["pneumonia", "sweep", "seeds", *few, f"cache_dir={cache_dir}", f"backup.place={place}", "dry_run=false"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for more, code in ((["trainer=gpu"], 2), ([], 0)):
        monkeypatch.setattr(sys, "argv", [*sweep, *more])
        with pytest.raises(SystemExit) as stop:
            main()
        assert int(stop.value.code or 0) == code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["backup.place=Bad_Name"], "'Bad_Name' can not be a container"),
        (["backup.place='runs?sig=abc'"], "The place contains a token"),
        (["backup.every_min=0"], "backup.every_min=0.0 is out of range: it must be a number of minutes above 0"),
        (["backup.places=runs"], "backup.places is not a config key"),
        (["backup.account_url='https://x.blob.core.windows.net/?sig=abc'", "backup.place=runs"], "holds a secret"),
        (
            ["backup.account_url=https://x.blob.core.windows.net/?sig=abc", "backup.place=runs"],
            "?sig=*** can't be parsed",
        ),
    ],
)
@pytest.mark.parametrize("verb", ["train", "sweep"])
def test_bad_arguments_are_refused_before_any_work(verb, arguments, message, service, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    name = ["seeds", "seed=0"] if verb == "sweep" else []
    monkeypatch.setattr(sys, "argv", ["pneumonia", verb, *name, "data.phantom.patients=12", "max_epochs=1", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    output = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in output
    assert "abc" not in output
    assert not list(tmp_path.rglob("last.ckpt"))


def test_without_an_account_it_says_so_before_any_work(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    with pytest.raises(ConfigError, match="No Azure account is configured"):
        _push(tmp_path / "s", "runs")


def test_without_a_place_nothing_of_azure_is_loaded():
    code = (
        "import sys; from pathlib import Path; import pneumonia.sweep.run_sweep\n"
        "from pneumonia.runs.backup import backed_up\n"
        "from pneumonia.config.schema import BackupConfig\n"
        "with backed_up(Path('x'), BackupConfig(place=None, every_min=5, account_url=None), 's'): pass\n"
        "assert not any(name.startswith('azure.storage') for name in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
