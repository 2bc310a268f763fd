"""Run sweeps whose jobs fail, are killed or time out; finished jobs run once, the others resume."""

import gc
import json
import re
import shutil
import signal
import time
from dataclasses import replace

import pandas as pd
import pytest
from lightning import Trainer

from pneumonia.cli.sweep import run
from pneumonia.errors import CheckpointError, ConfigError, PneumoniaError, RunError
from pneumonia.report.collect import gather
from pneumonia.runs.folder import RunFolder
from pneumonia.runs.result import read_result
from pneumonia.sweep import progress_table, run_sweep
from pneumonia.sweep.plan import make_plan
from pneumonia.sweep.progress_table import ProgressTable
from pneumonia.sweep.resume import record_plan
from pneumonia.sweep.state import SweepState
from pneumonia.training.train import train


def _results(workplace):
    return pd.read_csv(workplace.folder / "runs" / "trouble" / "results.csv").set_index("model.trouble")


def _stamps(workplace):
    return {path: path.stat().st_mtime_ns for path in workplace.folder.glob("runs/trouble/*/result.json")}


@pytest.mark.parametrize(
    "launcher",
    ["parallel", pytest.param("ray", marks=pytest.mark.slow), pytest.param("slurm", marks=pytest.mark.slow)],
)
def test_failed_killed_and_timed_out_jobs_leave_others_alone(launcher, workplace, request):
    if launcher == "slurm":
        request.getfixturevalue("slurm")
    name = workplace.sweep("fine,raise,well,kill,stall,good")
    overrides = [name, f"launcher={launcher}", "launcher.n_jobs=2", "launcher.timeout_min=0.2"]
    overrides += [] if launcher == "parallel" else ["launcher.cpus_per_job=1"]
    code, output = workplace.call(*overrides)
    assert code == 1, output
    results = _results(workplace)
    states = {
        "fine": "done",
        "raise": "failed",
        "well": "done",
        "kill": "killed",
        "stall": "out of time",
        "good": "done",
    }
    assert results["state"].to_dict() == states
    assert "ArithmeticError: trouble in the second epoch" in results.loc["raise", "reason"]
    why = {"parallel": "killed by SIGKILL", "ray": "process was killed", "slurm": "SLURM ended its task"}[launcher]
    assert why in results.loc["kill", "reason"]
    assert "launcher.timeout_min=0.2" in results.loc["stall", "reason"]
    before, _, summary = output.partition("model.trouble ┃")
    assert 'raise ArithmeticError("trouble in the second epoch")' in before, "the traceback is shown at once"
    for state in ("failed", "killed", "out of time"):
        assert re.search(rf"{state} +\d/6", before)
        assert re.search(rf"{state} +\d/6", summary)
    log = re.search(r"log: (\S+)", before)[1]
    assert "Traceback" in (workplace.folder / log).read_text()

    jobs = {job.differs["model.trouble"]: job for job in make_plan(name, workplace.overrides).jobs}
    alone = train(replace(jobs["well"].config, runs_dir=str(workplace.folder / "alone")))
    assert results.loc["well", "val/loss"] == pytest.approx(alone.metrics["val"]["loss"], rel=1e-4)

    stamps = _stamps(workplace)
    assert len(stamps) == 3
    code, output = workplace.call(*overrides, TROUBLE="over")
    assert code == 0, output
    assert set(_results(workplace)["state"]) == {"done"}
    assert {path: stamp for path, stamp in _stamps(workplace).items() if path in stamps} == stamps, "finished jobs run once"
    assert "Resuming after epoch 1" in "".join(path.read_text() for path in workplace.folder.glob("runs/trouble/jobs/*.log"))


def test_local_jobs_survive_a_failure_unless_fail_fast(workplace, capsys):
    name = workplace.sweep("raise,fine")
    assert run([name, *workplace.overrides, "fail_fast=true"]) == 1
    assert _results(workplace)["state"].to_dict() == {"raise": "failed", "fine": "to do"}
    assert "Stopped at the first failure" in capsys.readouterr().err
    assert run([name, *workplace.overrides]) == 1
    assert _results(workplace)["state"].to_dict() == {"raise": "failed", "fine": "done"}


def test_shortened_jobs_are_debug_and_run_once(workplace, capsys):
    name = workplace.sweep("fine,good")
    short = [name, *workplace.overrides, "trainer.limit_train_batches=1"]
    assert run(short) == 0
    results = _results(workplace)
    assert results["state"].to_dict() == {"fine": "debug", "good": "debug"}
    assert results["reason"].str.contains("shortened for debugging by trainer.limit_train_batches=1").all()
    stamps = _stamps(workplace)
    assert run(short) == 0
    assert _stamps(workplace) == stamps
    with pytest.raises(RunError, match="holds a sweep of other jobs"):
        run([name, *workplace.overrides])
    with pytest.raises(RunError, match=r"no finished run to report on .*shortened for debugging"):
        gather([workplace.folder / "runs"])


def test_job_out_of_max_time_resumes(workplace):
    name = workplace.sweep("fine,good")
    assert run([name, *workplace.overrides, "trainer.max_time=00:00:00:00"]) == 1
    results = _results(workplace)
    assert results["state"].to_dict() == {"fine": "out of time", "good": "out of time"}
    assert results["reason"].str.contains("max_time=00:00:00:00 was over after 0 of 3 epochs").all()
    assert run([name, *workplace.overrides]) == 0
    assert _results(workplace)["state"].to_dict() == {"fine": "done", "good": "done"}


def test_dry_run_failure_skips_all_jobs_of_the_configuration(workplace):
    name = workplace.sweep("at_once,fine")
    assert run([name, *workplace.overrides, "seed=0,1"]) == 1
    results = _results(workplace)
    assert results.loc["at_once", "state"].tolist() == ["failed", "failed"]
    assert results.loc["fine", "state"].tolist() == ["done", "done"]
    assert not results.loc["at_once", "run_id"].notna().any(), "no run folder was made"
    assert "as model.trouble=at_once seed=0: ArithmeticError" in results.loc["at_once", "reason"].iloc[1]


def test_invalid_value_is_refused_before_any_job(workplace):
    with pytest.raises(ConfigError, match=r"model.activation=rellu is not known.*'relu'"):
        run(["optimizer", *workplace.overrides, "model.activation=rellu"])
    assert not list(workplace.folder.glob("runs/optimizer/*/config.yaml"))


@pytest.mark.parametrize("search", [[], ["search.trials=2"]])
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tune=lr"], r"tune=lr trains no run, and each job of a sweep trains one\. Use `pneumonia train tune=lr`"),
        (["tune=lr,batch_size"], "tune=(lr trains no run|lr,batch_size)"),
        (["init_from=nofile"], "init_from=nofile: there is no checkpoint nofile"),
        (["ckpt_path=nofile"], "There is no file ckpt_path=nofile"),
        (["split=given", "split.file=nofile"], "There is no split file nofile"),
        (["+callbacks.mine._target_=lightning.pytorch.callbacks.Timer", "+callbacks.mine.interval=9"], "callbacks.mine: "),
    ],
)
def test_what_fails_in_every_job_is_refused_before_any(overrides, message, search, workplace):
    with pytest.raises(PneumoniaError, match=message):
        run([workplace.sweep("fine,well"), *workplace.overrides, *overrides, *search])
    assert not (workplace.folder / "runs").exists()


def test_checkpoints_can_be_swept_over(workplace):
    files = [workplace.folder / name for name in ("a.ckpt", "b.ckpt")]
    name = workplace.sweep("fine")
    plan = make_plan(name, [*workplace.overrides, f"init_from={files[0]},{files[1]}"])
    assert len({job.key for job in plan.jobs}) == 2
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*a\.ckpt"):
        run_sweep.run_sweep(plan)


@pytest.mark.parametrize("launcher", ["parallel", pytest.param("ray", marks=pytest.mark.slow)])
def test_config_dir_reaches_jobs_reruns_and_status(launcher, workplace, capsys):
    folder = workplace.folder / "own"
    folder.mkdir()
    (workplace.folder / "model").rename(folder / "model")
    own = ["--config-dir", "own", f"launcher={launcher}", "launcher.n_jobs=2", "model=troubled", "seed=0,1", "max_epochs=2"]
    own += ["data.phantom.patients=60", "image_size=32", "model.trouble=kill,fine"]
    code, output = workplace.call("seeds", *own)
    assert code == 1, output
    results = pd.read_csv(workplace.folder / "runs" / "seeds" / "results.csv")
    assert results.groupby("model.trouble")["state"].agg(set).to_dict() == {"kill": {"killed"}, "fine": {"done"}}
    code, output = workplace.call("seeds", *own, TROUBLE="over")
    assert code == 0, output
    assert run(["seeds", "status", "-cd", str(folder), f"runs_dir={workplace.folder / 'runs'}"]) == 0
    assert capsys.readouterr().err.count("done") == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seeds", "--config-dir"], "--config-dir needs a folder"),
        (["seeds", "--config-dir", "a", "--config-dir=b"], "--config-dir is given twice"),
        (["--config-dir", "a"], "Name the sweep first"),
        (["seeds", "--config-dir", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_bad_config_dirs_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        run(arguments)


def test_finished_sweep_runs_nothing_and_loads_no_torch(workplace, capsys):
    name = workplace.sweep("fine,well")
    assert run([name, *workplace.overrides]) == 0
    stamps = _stamps(workplace)
    capsys.readouterr()
    assert run([name, *workplace.overrides]) == 0
    output = capsys.readouterr().err
    assert "2 jobs: 2 done; 0 to do" in output
    assert "Loading torch" not in output
    assert _stamps(workplace) == stamps
    assert run([name, "status", workplace.overrides[0], "name=trouble"]) == 0
    assert re.search(r"well +│ done", capsys.readouterr().err)


def test_trainer_is_freed_after_each_job(workplace):
    alive = []

    class Count(ProgressTable):
        def print_end(self, job):
            alive.append(sum(isinstance(thing, Trainer) for thing in gc.get_objects()))
            return super().print_end(job)

    name = workplace.sweep("fine,well,good")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_sweep, "ProgressTable", Count)
        assert run([name, *workplace.overrides]) == 0
    assert alive[-3:] == [0, 0, 0]


def test_deleted_runs_are_repeated_and_force_repeats_all(workplace):
    name = workplace.sweep("fine,well")
    assert run([name, *workplace.overrides]) == 0
    stamps = _stamps(workplace)
    gone, kept = sorted(stamps)
    shutil.rmtree(gone.parent)
    assert run([name, *workplace.overrides]) == 0
    assert _stamps(workplace).keys() == stamps.keys()
    assert _stamps(workplace)[kept] == stamps[kept]
    before = _stamps(workplace)
    assert run([name, *workplace.overrides, "force=true"]) == 0
    assert all(_stamps(workplace)[path] > before[path] for path in before)
    assert set(_results(workplace)["state"]) == {"done"}


def test_results_table_has_metrics_and_cost(workplace):
    name = workplace.sweep("fine,well")
    assert run([name, *workplace.overrides]) == 0
    for _, row in _results(workplace).iterrows():
        result = read_result(RunFolder(workplace.folder / "runs" / "trouble" / row["run_id"]))
        assert row["val/accuracy"] == pytest.approx(result.metrics["val"]["accuracy"])
        assert row["cost.images_per_s"] == pytest.approx(result.cost.images_per_s)
        assert row["cost.peak_memory_mib"] > 100


def test_folder_refuses_another_sweep_but_accepts_an_extension(workplace):
    assert run([workplace.sweep("fine"), *workplace.overrides]) == 0
    with pytest.raises(RunError, match=r"sweep of other jobs: 1 of its 1 .*max_epochs was 3 and is 2 now.*name=trouble_2"):
        run([workplace.sweep("fine"), *workplace.overrides, "max_epochs=2"])
    stamps = _stamps(workplace)
    assert run([workplace.sweep("fine,well"), *workplace.overrides]) == 0
    (workplace.folder / "runs" / "trouble" / "results.csv").unlink()
    assert run([workplace.sweep("well"), *workplace.overrides]) == 0, "a part of it"
    assert _results(workplace)["state"].to_dict() == {"fine": "done", "well": "done"}
    assert stamps.items() <= _stamps(workplace).items()
    assert len(_stamps(workplace)) == 2


def test_two_processes_share_a_sweep(workplace):
    name = workplace.sweep("fine,well,good,sound")
    both = [workplace.start(name, "max_epochs=12", "dry_run=false") for _ in range(2)]
    for process in both:
        output = process.communicate(timeout=240)[1]
        assert process.returncode == 0, output
    assert set(_results(workplace)["state"]) == {"done"}
    for path in workplace.folder.glob("runs/trouble/jobs/*.log"):
        assert path.read_text().count("Training ") == 1


def test_damaged_plan_file_is_refused(workplace):
    name = workplace.sweep("fine")
    assert run([name, *workplace.overrides]) == 0
    (workplace.folder / "runs" / "trouble" / "sweep.json").write_text(json.dumps({"jobs": [{}]}))
    for damage in ({"jobs": [{}]}, {"jobs": []}, []):
        (workplace.folder / "runs" / "trouble" / "sweep.json").write_text(json.dumps(damage))
        with pytest.raises(RunError, match=r"is damaged .* Delete it and run the sweep again: finished runs are kept"):
            run([name, *workplace.overrides])


def test_damaged_result_fails_its_job_alone(workplace):
    name = workplace.sweep("fine,well")
    assert run([name, *workplace.overrides]) == 0
    damaged, _ = sorted(_stamps(workplace))
    damaged.write_text("{")
    assert run([name, *workplace.overrides]) == 1
    results = _results(workplace).set_index("run_id")
    assert results.loc[damaged.parent.name, "state"] == "failed"
    assert "result.json is damaged" in results.loc[damaged.parent.name, "reason"]
    assert sorted(results["state"]) == ["done", "failed"]
    (log,) = [path for path in workplace.folder.glob("runs/trouble/jobs/*.log") if "is damaged" in path.read_text()]
    damaged.unlink()
    assert run([name, *workplace.overrides]) == 0, log


def test_unreadable_images_are_refused_before_any_job(workplace, tmp_path):
    (tmp_path / "xrays" / "NORMAL").mkdir(parents=True)
    (tmp_path / "xrays" / "NORMAL" / "a.jpeg").write_bytes(b"no image")
    name = workplace.sweep("fine,well")
    with pytest.raises(PneumoniaError, match=r"a\.jpeg"):
        run([name, *workplace.overrides, "data=folder", f"data.root={tmp_path / 'xrays'}"])
    assert not list(workplace.folder.glob("runs/trouble/jobs/*.log"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["statu"], "statu is neither an override.*Did you mean 'status'"),
        (["launcher=parallel", "launcher.gpus=[7]"], r"launcher.gpus=\[7\]: this machine has .*not 7"),
    ],
)
def test_unknown_arguments_are_refused(overrides, message, workplace):
    with pytest.raises(ConfigError, match=message):
        run([workplace.sweep("fine"), *workplace.overrides, *overrides])


def test_missing_launcher_is_refused_before_torch_is_loaded(workplace, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(workplace.folder))
    with pytest.raises(ConfigError, match="launcher=slurm needs SLURM's sinfo, which is not installed here"):
        run([workplace.sweep("fine"), *workplace.overrides, "launcher=slurm"])
    assert "Loading torch" not in capsys.readouterr().err


@pytest.mark.parametrize(("width", "missing"), [(200, set()), (70, {"MiB", "images/s", "seconds"})])
def test_narrow_terminal_drops_columns(width, missing, workplace, monkeypatch, capsys):
    name = workplace.sweep("fine")
    assert run([name, *workplace.overrides]) == 0
    monkeypatch.setattr(progress_table, "WIDTH", width)
    capsys.readouterr()
    assert run([name, *workplace.overrides]) == 0
    output = capsys.readouterr().err
    assert {column for column in ("MiB", "images/s", "seconds", "val loss") if column not in output} == missing
    assert re.search(r"│ +0\.\d{4} │", output)


def test_sweep_resumes_after_sigterm(workplace):
    name = workplace.sweep("fine,well")
    process = workplace.start(name, "max_epochs=200")
    deadline = time.monotonic() + 120
    while not list(workplace.folder.glob("runs/trouble/*/checkpoints/last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[1]
    assert process.returncode == 130, output
    assert re.search(r"Interrupted\. [01] of 2 jobs finished, kept in .*Run the same command again to resume", output)
    code, output = workplace.call(name, "max_epochs=200")
    assert code == 0, output
    assert re.search(r"2 jobs: 1 interrupted; 2 to do|1 done, 1 interrupted", output)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_status_shows_running_interrupted_and_to_do(number, workplace, capsys):
    name = workplace.sweep("fine,stall,well")
    overrides = [name, "max_epochs=2"]
    process = workplace.start(*overrides, "dry_run=false")
    jobs = make_plan(name, [*overrides[1:], *workplace.overrides]).jobs
    state = SweepState(workplace.folder / "runs" / "trouble")
    deadline = time.monotonic() + 180
    while state.status(jobs[1]).epochs < 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert run([name, "status", workplace.overrides[0]]) == 0
    output = capsys.readouterr().err
    assert re.search(r"fine +│ done .*\n.*", output), output
    assert re.search(r"stall +│ running", output), output
    assert re.search(r"well +│ to do", output), output
    assert "left in all" in output
    process.send_signal(number)
    process.communicate(timeout=120)
    assert run([name, "status", workplace.overrides[0]]) == 0
    output = capsys.readouterr().err
    assert re.search(r"stall +│ interrupted", output), output
    assert re.search(r"well +│ to do", output), output
    assert "left in all" not in output
    assert "No job is running, and 2 of 3 are not finished" in output


def test_job_interrupted_before_its_first_epoch(workplace, capsys):
    name = workplace.sweep("fine,well")
    plan = make_plan(name, workplace.overrides)
    state = SweepState(plan.folder)
    record_plan(plan, state)
    with state.lock(plan.jobs[0].key):
        state.record_start(plan.jobs[0])
        assert [state.status(job).state for job in plan.jobs] == ["running", "to do"]
    assert [state.status(job).state for job in plan.jobs] == ["interrupted", "to do"]
    (state.folder / "jobs" / f"{plan.jobs[1].key}.lock").write_text("a lock file that another host has left")
    assert state.status(plan.jobs[1]).state == "to do"
    assert run([name, "status", workplace.overrides[0]]) == 0
    assert "No job is running, and 2 of 2 are not finished" in capsys.readouterr().err
