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

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["pneumonia", "evaluate", *map(str, arguments)])
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
    code, err = command(runs, "--split", "test", "--cache-dir", cache_dir, "--force")
    assert code == 0
    assert "1 run did not finish and is left out" in err
    folder = RunFolder(runs / "a")
    result = read_result(folder)
    assert is_evaluated(folder, result, "test", None)
    assert not is_evaluated(folder, result, "test", "flip")
    assert "2 of 2 runs are evaluated on test already" in command(runs, "--split", "test", "--cache-dir", cache_dir)[1]
    os.utime(folder.result, (2_000_000_000, 2_000_000_000))
    assert not is_evaluated(folder, result, "test", None)


def test_failed_evaluation_does_not_stop_the_others(runs, cache_dir, command):
    (runs / "a" / "checkpoints" / "best.ckpt").unlink()
    code, err = command(runs, "--split", "test", "--cache-dir", cache_dir)
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
    code, err = command(runs, "--split", "test", "--cache-dir", cache_dir)
    assert code == 1
    assert reason in err
    assert "Delete it and run the same `pneumonia train` again" in err
    assert "1 run could not be evaluated" in err
    code, err = command(runs, "--ensemble", "--cache-dir", cache_dir)
    assert code == 2
    assert "result.json is damaged" in err
    assert "Loading torch" not in err


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda result: result.update(config={}), "it lacks config.name, config.task"),
        (lambda result: result.update(data={}), "it lacks data.manifest_sha256, data.split_sha256"),
        (lambda result: result.update(config=3), "is damaged: TypeError"),
        (lambda result: result["config"].update(task="nope"), "task=nope is not known; choose one of subtype, pneumonia"),
    ],
    ids=["no config", "no hashes", "a number", "no such task"],
)
def test_incomplete_result_is_refused_before_torch_is_loaded(edit, message, runs, command):
    result = json.loads((runs / "a" / "result.json").read_text())
    edit(result)
    (runs / "a" / "result.json").write_text(json.dumps(result))
    code, err = command(runs / "a")
    assert code == 2
    assert message in err
    assert "Loading torch" not in err


def test_a_result_from_before_a_config_key_is_read(runs, command):
    result = json.loads((runs / "a" / "result.json").read_text())
    del result["config"]["debug"], result["config"]["trainer"]["profiler"]
    (runs / "a" / "result.json").write_text(json.dumps(result))
    assert read_result(RunFolder(runs / "a")).config.debug is None


def test_unfinished_member_of_an_ensemble_is_refused(runs, command):
    (runs / "a" / "result.json").unlink()
    code, err = command(runs / "b", runs / "a", "--ensemble")
    assert code == 2
    assert f"The run in {runs / 'a'} did not finish" in err


def test_empty_folder_of_runs_is_refused(command, tmp_path):
    code, err = command(tmp_path)
    assert code == 2
    assert "There is no finished run in" in err


def test_command_line_knows_all_test_time_augmentations():
    from pneumonia.config.names import TTA
    from pneumonia.models.components.test_time_augmentation import VIEWS as KNOWN

    assert tuple(KNOWN) == TTA


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'RUN...'"),
        ([""], "it is empty, which would mean the current folder"),
        (["nowhere"], "There is no folder nowhere"),
        (["nowhere", "there", "--ensemble"], "There is no folder nowhere"),
        (["a", "--tta", "spin"], "'--tta': 'spin' is not one of 'none', 'flip', 'shift'"),
        (["a", "--split", "tset"], "is not one of 'train', 'val', 'test'. Did you mean 'test'?"),
        (["a", "--ensembel"], "Did you mean '--ensemble'?"),
        (["a", "--split"], "Option '--split' requires an argument"),
        (["a", "--on-bad-image", "skip"], "--on-bad-image goes with other data"),
        (["a", "--data", "nowhere"], "data.root=nowhere does not exist"),
        (["run=a"], "Leave run= out: `pneumonia evaluate a`."),
        (["a", "split=test"], "split=test is not an option of `pneumonia evaluate`. Use --split test."),
        (["a", "data.root=x"], "Use --data x."),
        (["a", "data.on_bad_image=skip"], "Use --on-bad-image skip."),
        (["a", "cases=true"], "Use --gallery."),
        (["ensemble=a,b"], "Use --ensemble."),
        (["a", "colour=red"], "Its options are --split, --ensemble, --tta"),
    ],
)
def test_bad_arguments_are_refused_before_torch_is_loaded(arguments, message, command):
    code, err = command(*arguments)
    assert code == 2
    assert message in err
    assert "Loading torch" not in err
