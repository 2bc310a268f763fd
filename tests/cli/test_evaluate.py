"""`pneumonia evaluate`: its arguments, several runs in one call, and damaged runs."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from pneumonia.cli import main
from pneumonia.runs.folder import RunFolder
from pneumonia.runs.identity import is_evaluated
from pneumonia.runs.result import read_result


@pytest.fixture
def command(monkeypatch, capsys):
    """Call `pneumonia evaluate` and return exit code and standard error."""

    def call(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["pneumonia", "evaluate", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, capsys.readouterr().err

    return call


@pytest.fixture
def runs(finished, tmp_path) -> Path:
    """A folder of two finished runs, a and b."""
    for name in ("a", "b"):
        shutil.copytree(finished, tmp_path / "runs" / name)
        shutil.rmtree(tmp_path / "runs" / name / "evaluation", ignore_errors=True)
    return tmp_path / "runs"


def test_several_runs_are_evaluated_until_trained_again(runs, cache_dir, command):
    shutil.copytree(runs / "a", runs / "interrupted")
    (runs / "interrupted" / "result.json").unlink()
    code, err = command(runs, "split=test", f"cache_dir={cache_dir}", "force=true")
    assert code == 0
    assert "1 run did not finish and is left out" in err
    folder = RunFolder(runs / "a")
    result = read_result(folder)
    assert is_evaluated(folder, result, "test", None)
    assert not is_evaluated(folder, result, "test", "flip")
    assert "2 of 2 runs are evaluated on test already" in command(runs, "split=test", f"cache_dir={cache_dir}")[1]
    os.utime(folder.result, (2_000_000_000, 2_000_000_000))
    assert not is_evaluated(folder, result, "test", None)


def test_failed_evaluation_does_not_stop_the_others(runs, cache_dir, command):
    (runs / "a" / "checkpoints" / "best.ckpt").unlink()
    code, err = command(runs, "split=test", f"cache_dir={cache_dir}")
    assert code == 1
    assert "CheckpointError" in err
    assert "1 run could not be evaluated" in err
    assert RunFolder(runs / "b").evaluation("test", "json").is_file()


@pytest.mark.parametrize(
    ("content", "reason"),
    [('{"status": "comp', "JSONDecodeError"), ("[]", "TypeError"), ('{"status": "completed"}', "it lacks")],
)
def test_damaged_run_is_left_out_but_stops_an_ensemble(content, reason, runs, cache_dir, command):
    (runs / "a" / "result.json").write_text(content)
    code, err = command(runs, "split=test", f"cache_dir={cache_dir}")
    assert code == 1
    assert reason in err
    assert "Delete it and run the same `pneumonia train` again" in err
    assert "1 run could not be evaluated" in err
    code, err = command(f"ensemble={runs}", f"cache_dir={cache_dir}")
    assert code == 2
    assert "result.json is damaged" in err
    assert "Loading torch" not in err


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda result: result.update(config={}), "it lacks config.name, config.task"),
        (lambda result: result.update(data={}), "it lacks data.manifest_sha256, data.split_sha256"),
        (lambda result: result.update(config=3), "is damaged: TypeError"),
        (lambda result: result["config"].update(task="nope"), "config.task=nope; tasks are subtype, pneumonia"),
    ],
    ids=["no config", "no hashes", "a number", "no such task"],
)
def test_incomplete_result_is_refused_before_torch_is_loaded(edit, message, runs, command):
    result = json.loads((runs / "a" / "result.json").read_text())
    edit(result)
    (runs / "a" / "result.json").write_text(json.dumps(result))
    code, err = command(f"run={runs / 'a'}")
    assert code == 2
    assert message in err
    assert "Loading torch" not in err


def test_unfinished_member_of_an_ensemble_is_refused(runs, command):
    (runs / "a" / "result.json").unlink()
    code, err = command(f"ensemble={runs / 'b'},{runs / 'a'}")
    assert code == 2
    assert f"The run in {runs / 'a'} did not finish" in err


def test_empty_folder_of_runs_is_refused(command, tmp_path):
    code, err = command(tmp_path)
    assert code == 2
    assert "There is no finished run in" in err


def test_command_line_knows_all_test_time_augmentations():
    from pneumonia.cli.evaluate import VIEWS
    from pneumonia.models.components.test_time_augmentation import VIEWS as KNOWN

    assert tuple(KNOWN) == VIEWS


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Say what to evaluate"),
        (["run=a", "ensemble=b,c"], "One of the three"),
        (["run=nowhere"], "no run folder nowhere"),
        (["nowhere"], "There is no folder nowhere"),
        (["ensemble=nowhere,there"], "There is no folder nowhere"),
        (["run=a", "tta=spin"], "tta=spin is not known; choose one of none, flip, shift"),
        (["run=a", "split=all"], "split=all is not known; choose one of train, val, test"),
        (["run=a", "cases=maybe"], "cases=maybe is not known"),
        (["run=a", "data=azure"], "data=azure can't be evaluated"),
        (["run=a", "colour=red"], "colour=red is not understood"),
        (["ensembel=a,b"], "Did you mean 'ensemble'?"),
        (["run=a", "--split", "test"], "--split is not understood; say run=..., ensemble=..., split=..."),
        (["run=a", "split=tset"], "choose one of train, val, test. Did you mean 'test'?"),
        (["run=a", "split="], "split has no value. Say split=test, or leave it out."),
        (["run="], "run has no value. Say run=DIR"),
        (["ensemble="], "ensemble has no value. Say ensemble=DIR,DIR"),
        (["ensemble=,"], "ensemble has no value"),
        (["run=a", "run=b"], "run stands twice, as a and b"),
        (["run=a", "data.on_bad_image=skip"], "data.on_bad_image goes with other data"),
        (["run=a", "data=folder"], "data.root has no value, and data=folder needs one"),
        (["run=a", "data.root=nowhere"], "data.root=nowhere does not exist"),
        (["run=a", "force=yes"], "force=yes is not known; choose one of true, false"),
    ],
)
def test_bad_arguments_are_refused_before_torch_is_loaded(words, message, command):
    code, err = command(*words)
    assert code == 2
    assert message in err
    assert "Loading torch" not in err
