"""Sweeps end with the right table, whatever becomes of single jobs; what is done is not done again."""

import gc
import json
import re
import shutil
import signal
import time

import pandas as pd
import pytest
from lightning import Trainer

from pneumonia.cli.sweep import run
from pneumonia.errors import ConfigError, PneumoniaError, RunError
from pneumonia.report.collect import gather
from pneumonia.runs.folder import RunFolder
from pneumonia.sweep import progress_table as board
from pneumonia.sweep import run_sweep as conduct
from pneumonia.sweep.plan import make_plan
from pneumonia.sweep.progress_table import Board
from pneumonia.sweep.state import Ledger
from pneumonia.training.train import train


def _results(workplace):
    return pd.read_csv(workplace.folder / "runs" / "trouble" / "results.csv").set_index("model.trouble")


def _stamps(workplace):
    return {path: path.stat().st_mtime_ns for path in workplace.folder.glob("runs/trouble/*/result.json")}


@pytest.mark.parametrize(
    "launcher",
    ["parallel", pytest.param("ray", marks=pytest.mark.slow), pytest.param("slurm", marks=pytest.mark.slow)],
)
def test_one_job_raises_one_is_killed_one_runs_out_of_time_and_the_others_are_right(launcher, workplace, request):
    if launcher == "slurm":
        request.getfixturevalue("slurm")
    name = workplace.sweep("fine,raise,well,kill,stall,good")
    words = [name, f"launcher={launcher}", "launcher.n_jobs=2", "launcher.timeout_min=0.2"]
    words += [] if launcher == "parallel" else ["launcher.cpus_per_job=1"]
    code, told = workplace.call(*words)
    assert code == 1, told
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
    before, _, summary = told.partition("model.trouble ┃")
    assert 'raise ArithmeticError("trouble in the second epoch")' in before, "the traceback is seen at once"
    for state in ("failed", "killed", "out of time"):
        assert re.search(rf"{state} +\d/6", before)
        assert re.search(rf"{state} +\d/6", summary)
    log = re.search(r"log: (\S+)", before)[1]
    assert "Traceback" in (workplace.folder / log).read_text()

    jobs = {job.differs["model.trouble"]: job for job in make_plan(name, workplace.words).jobs}
    alone = train({**jobs["well"].config, "runs_dir": str(workplace.folder / "alone")})
    assert results.loc["well", "val/loss"] == pytest.approx(alone["metrics"]["val"]["loss"], rel=1e-4)

    stamps = _stamps(workplace)
    assert len(stamps) == 3
    code, told = workplace.call(*words, TROUBLE="over")
    assert code == 0, told
    assert set(_results(workplace)["state"]) == {"done"}
    assert {path: stamp for path, stamp in _stamps(workplace).items() if path in stamps} == stamps, "done once"
    assert "cut after epoch 1; it goes on" in "".join(
        path.read_text() for path in workplace.folder.glob("runs/trouble/jobs/*.log")
    )


def test_in_one_process_the_others_go_on_too_and_fail_fast_stops(workplace, capsys):
    name = workplace.sweep("raise,fine")
    assert run([name, *workplace.words, "fail_fast=true"]) == 1
    assert _results(workplace)["state"].to_dict() == {"raise": "failed", "fine": "to do"}
    assert "Stopped at the first failure" in capsys.readouterr().err
    assert run([name, *workplace.words]) == 1
    assert _results(workplace)["state"].to_dict() == {"raise": "failed", "fine": "done"}


def test_a_shortened_sweep_is_marked_debug_and_recognised(workplace, capsys):
    name = workplace.sweep("fine,good")
    short = [name, *workplace.words, "trainer.limit_train_batches=1"]
    assert run(short) == 0
    results = _results(workplace)
    assert results["state"].to_dict() == {"fine": "debug", "good": "debug"}
    assert results["reason"].str.contains("shortened for debugging by trainer.limit_train_batches=1").all()
    stamps = _stamps(workplace)
    assert run(short) == 0
    assert _stamps(workplace) == stamps
    with pytest.raises(RunError, match="holds a sweep of other jobs"):
        run([name, *workplace.words])
    with pytest.raises(RunError, match=r"no finished run to report on .*shortened for debugging"):
        gather([workplace.folder / "runs"])


def test_a_job_whose_max_time_is_over_is_resumed(workplace):
    name = workplace.sweep("fine,good")
    assert run([name, *workplace.words, "trainer.max_time=00:00:00:00"]) == 1
    results = _results(workplace)
    assert results["state"].to_dict() == {"fine": "out of time", "good": "out of time"}
    assert results["reason"].str.contains("max_time=00:00:00:00 was over after 0 of 3 epochs").all()
    assert run([name, *workplace.words]) == 0
    assert _results(workplace)["state"].to_dict() == {"fine": "done", "good": "done"}


def test_a_configuration_that_fails_in_its_first_batches_costs_no_long_work(workplace):
    name = workplace.sweep("at_once,fine")
    assert run([name, *workplace.words, "seed=0,1"]) == 1
    results = _results(workplace)
    assert results.loc["at_once", "state"].tolist() == ["failed", "failed"]
    assert results.loc["fine", "state"].tolist() == ["done", "done"]
    assert not results.loc["at_once", "run_id"].notna().any(), "no run folder was made"
    assert "as model.trouble=at_once seed=0: ArithmeticError" in results.loc["at_once", "reason"].iloc[1]


def test_a_value_that_no_job_takes_ends_the_sweep_before_any(workplace):
    with pytest.raises(ConfigError, match=r"model.activation=rellu is not known.*'relu'"):
        run(["optimizer", *workplace.words, "model.activation=rellu"])
    assert not list(workplace.folder.glob("runs/optimizer/*/config.yaml"))


def test_a_finished_sweep_is_recognised_without_any_work(workplace, capsys):
    name = workplace.sweep("fine,well")
    assert run([name, *workplace.words]) == 0
    stamps = _stamps(workplace)
    capsys.readouterr()
    assert run([name, *workplace.words]) == 0
    told = capsys.readouterr().err
    assert "2 jobs: 2 done; 0 to do" in told
    assert "Loading torch" not in told
    assert _stamps(workplace) == stamps
    assert run([name, "status", workplace.words[0], "name=trouble"]) == 0
    assert re.search(r"well +│ done", capsys.readouterr().err)


def test_what_a_job_has_held_is_let_go_before_the_next(workplace):
    alive = []

    class Count(Board):
        def ended(self, job):
            alive.append(sum(isinstance(thing, Trainer) for thing in gc.get_objects()))
            return super().ended(job)

    name = workplace.sweep("fine,well,good")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conduct, "Board", Count)
        assert run([name, *workplace.words]) == 0
    assert alive[-3:] == [0, 0, 0]


def test_what_was_deleted_is_done_again_and_force_does_all_again(workplace):
    name = workplace.sweep("fine,well")
    assert run([name, *workplace.words]) == 0
    stamps = _stamps(workplace)
    gone, kept = sorted(stamps)
    shutil.rmtree(gone.parent)
    assert run([name, *workplace.words]) == 0
    assert _stamps(workplace).keys() == stamps.keys()
    assert _stamps(workplace)[kept] == stamps[kept]
    before = _stamps(workplace)
    assert run([name, *workplace.words, "force=true"]) == 0
    assert all(_stamps(workplace)[path] > before[path] for path in before)
    assert set(_results(workplace)["state"]) == {"done"}


def test_results_hold_metrics_and_cost_of_each_run(workplace):
    name = workplace.sweep("fine,well")
    assert run([name, *workplace.words]) == 0
    for _, row in _results(workplace).iterrows():
        result = RunFolder(workplace.folder / "runs" / "trouble" / row["run_id"]).finished()
        assert row["val/accuracy"] == pytest.approx(result["metrics"]["val"]["accuracy"])
        assert row["cost.images_per_s"] == pytest.approx(result["cost"]["images_per_s"])
        assert row["cost.peak_memory_mib"] > 100


def test_another_sweep_does_not_move_into_the_folder_of_one_but_a_larger_one_extends_it(workplace):
    assert run([workplace.sweep("fine"), *workplace.words]) == 0
    with pytest.raises(
        RunError, match=r"sweep of other jobs: 1 of its 1 .*max_epochs was 3 and is 2 now.*name=trouble_2"
    ):
        run([workplace.sweep("fine"), *workplace.words, "max_epochs=2"])
    stamps = _stamps(workplace)
    assert run([workplace.sweep("fine,well"), *workplace.words]) == 0
    (workplace.folder / "runs" / "trouble" / "results.csv").unlink()
    assert run([workplace.sweep("well"), *workplace.words]) == 0, "a part of it"
    assert _results(workplace)["state"].to_dict() == {"fine": "done", "well": "done"}
    assert stamps.items() <= _stamps(workplace).items()
    assert len(_stamps(workplace)) == 2


def test_two_processes_share_one_sweep_and_train_no_run_twice(workplace):
    name = workplace.sweep("fine,well,good,sound")
    both = [workplace.start(name, "max_epochs=12", "rehearse=false") for _ in range(2)]
    for process in both:
        told = process.communicate(timeout=240)[1]
        assert process.returncode == 0, told
    assert set(_results(workplace)["state"]) == {"done"}
    for path in workplace.folder.glob("runs/trouble/jobs/*.log"):
        assert path.read_text().count("Training ") == 1


def test_a_damaged_plan_file_says_what_to_do(workplace):
    name = workplace.sweep("fine")
    assert run([name, *workplace.words]) == 0
    (workplace.folder / "runs" / "trouble" / "sweep.json").write_text(json.dumps({"jobs": [{}]}))
    for damage in ({"jobs": [{}]}, {"jobs": []}, []):
        (workplace.folder / "runs" / "trouble" / "sweep.json").write_text(json.dumps(damage))
        with pytest.raises(RunError, match=r"is damaged .* Delete it and run the sweep again: finished runs are kept"):
            run([name, *workplace.words])


def test_a_damaged_result_costs_its_own_job_alone(workplace):
    name = workplace.sweep("fine,well")
    assert run([name, *workplace.words]) == 0
    damaged, _ = sorted(_stamps(workplace))
    damaged.write_text("{")
    assert run([name, *workplace.words]) == 1
    results = _results(workplace).set_index("run_id")
    assert results.loc[damaged.parent.name, "state"] == "failed"
    assert "result.json is damaged" in results.loc[damaged.parent.name, "reason"]
    assert sorted(results["state"]) == ["done", "failed"]
    (log,) = [path for path in workplace.folder.glob("runs/trouble/jobs/*.log") if "is damaged" in path.read_text()]
    damaged.unlink()
    assert run([name, *workplace.words]) == 0, log


def test_what_no_job_could_read_ends_the_sweep_before_any(workplace, tmp_path):
    (tmp_path / "xrays" / "NORMAL").mkdir(parents=True)
    (tmp_path / "xrays" / "NORMAL" / "a.jpeg").write_bytes(b"no image")
    name = workplace.sweep("fine,well")
    with pytest.raises(PneumoniaError, match=r"a\.jpeg"):
        run([name, *workplace.words, "data=folder", f"data.root={tmp_path / 'xrays'}"])
    assert not list(workplace.folder.glob("runs/trouble/jobs/*.log"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["statu"], "statu is not understood.*Did you mean 'status'"),
        (["launcher=parallel", "launcher.gpus=[7]"], r"launcher.gpus=\[7\]: this machine has .*not 7"),
    ],
)
def test_words_that_lead_nowhere_are_named(words, message, workplace):
    with pytest.raises(ConfigError, match=message):
        run([workplace.sweep("fine"), *workplace.words, *words])


def test_a_launcher_that_is_not_there_is_named_before_torch_is_loaded(workplace, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(workplace.folder))
    with pytest.raises(ConfigError, match="launcher=slurm needs SLURM's sinfo, and it is not there"):
        run([workplace.sweep("fine"), *workplace.words, "launcher=slurm"])
    assert "Loading torch" not in capsys.readouterr().err


@pytest.mark.parametrize(("width", "missing"), [(200, set()), (70, {"MiB", "images/s", "seconds"})])
def test_a_narrow_terminal_loses_columns_instead_of_figures(width, missing, workplace, monkeypatch, capsys):
    name = workplace.sweep("fine")
    assert run([name, *workplace.words]) == 0
    monkeypatch.setattr(board, "WIDTH", width)
    capsys.readouterr()
    assert run([name, *workplace.words]) == 0
    told = capsys.readouterr().err
    assert {column for column in ("MiB", "images/s", "seconds", "val loss") if column not in told} == missing
    assert re.search(r"│ +0\.\d{4} │", told)


def test_sigterm_keeps_the_finished_epochs_and_the_next_call_goes_on(workplace):
    name = workplace.sweep("fine,well")
    process = workplace.start(name, "max_epochs=200")
    deadline = time.monotonic() + 120
    while not list(workplace.folder.glob("runs/trouble/*/checkpoints/last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130, told
    assert re.search(r"Stopped\. [01] of 2 jobs done, kept in .*Run the same command again to go on", told)
    code, told = workplace.call(name, "max_epochs=200")
    assert code == 0, told
    assert re.search(r"2 jobs: 1 interrupted; 2 to do|1 done, 1 interrupted", told)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_status_tells_interrupted_running_and_to_do_apart(number, workplace, capsys):
    name = workplace.sweep("fine,stall,well")
    words = [name, "max_epochs=2"]
    process = workplace.start(*words, "rehearse=false")
    jobs = make_plan(name, [*words[1:], *workplace.words]).jobs
    ledger = Ledger(workplace.folder / "runs" / "trouble")
    deadline = time.monotonic() + 180
    while ledger.standing(jobs[1]).epochs < 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert run([name, "status", workplace.words[0]]) == 0
    told = capsys.readouterr().err
    assert re.search(r"fine +│ done .*\n.*", told), told
    assert re.search(r"stall +│ running", told), told
    assert re.search(r"well +│ to do", told), told
    assert "left in all" in told
    process.send_signal(number)
    process.communicate(timeout=120)
    assert run([name, "status", workplace.words[0]]) == 0
    told = capsys.readouterr().err
    assert re.search(r"stall +│ interrupted", told), told
    assert re.search(r"well +│ to do", told), told
    assert "left in all" not in told
    assert "No job is running, and 2 of 3 are not done" in told


def test_a_job_interrupted_before_its_first_epoch_is_no_job_to_do(workplace, capsys):
    name = workplace.sweep("fine,well")
    plan = make_plan(name, workplace.words)
    ledger = Ledger(plan.folder)
    ledger.adopt(plan)
    with ledger.claim(plan.jobs[0].key):
        ledger.started(plan.jobs[0])
        assert [ledger.standing(job).state for job in plan.jobs] == ["running", "to do"]
    assert [ledger.standing(job).state for job in plan.jobs] == ["interrupted", "to do"]
    (ledger.folder / "jobs" / f"{plan.jobs[1].key}.lock").write_text("a lock file that another host has left")
    assert ledger.standing(plan.jobs[1]).state == "to do"
    assert run([name, "status", workplace.words[0]]) == 0
    assert "No job is running, and 2 of 2 are not done" in capsys.readouterr().err
