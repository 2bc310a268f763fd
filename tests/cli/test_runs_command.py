"""`pneumonia runs`: the table on a terminal and in a pipe, JSON, CSV, and bad input."""

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pneumonia.cli import run
from pneumonia.errors import ConfigError, RunError


@pytest.fixture
def runs(finished, tmp_path) -> Path:
    """Two finished runs and a damaged one."""
    for number, (lr, f1) in enumerate(((0.1, 0.25), (0.01, 0.75), (0.5, 0.1)), start=1):
        folder = tmp_path / "runs" / "a" / str(number)
        folder.mkdir(parents=True)
        held = json.loads((finished / "result.json").read_text())
        held["config"]["optimizer"]["lr"] = lr
        held["metrics"]["val"]["f1_macro"] = f1
        for name in ("config.yaml", "metrics.csv"):
            (folder / name).write_bytes((finished / name).read_bytes())
        (folder / "result.json").write_text(json.dumps(held) if number < 3 else "{")
    return tmp_path / "runs"


def _printed(capsys, *arguments: str) -> str:
    assert run(["runs", *arguments]) == 0
    return capsys.readouterr().out


def test_a_pipe_gets_plain_lines(runs, capsys):
    header, *rows = _printed(capsys, str(runs), "--sort", "val/f1_macro:desc").splitlines()
    assert header.split()[:4] == ["run", "optimizer.lr", "state", "epochs"]
    assert [row.split()[:3] for row in rows] == [
        [str(runs / "a" / "2"), "0.01", "finished"],
        [str(runs / "a" / "1"), "0.1", "finished"],
        [str(runs / "a" / "3"), "0.001", "failed"],
    ]
    assert "0.7500" in rows[0]
    assert "result.json is damaged" in rows[2]


def test_json_holds_the_values_of_the_results(runs, capsys):
    found = json.loads(_printed(capsys, str(runs), "--json", "--where", "state=finished", "--where", "optimizer.lr<0.05"))
    result = json.loads((runs / "a" / "2" / "result.json").read_text())
    (row,) = found
    assert row["val/f1_macro"] == 0.75
    assert row["val/loss"] == result["metrics"]["val"]["loss"]
    assert row["cost.fit_s"] == result["cost"]["fit_s"]
    assert row["optimizer.lr"] == 0.01
    assert row["cost.usd"] is None


def test_csv_goes_to_a_file_or_to_stdout(runs, tmp_path, capsys):
    text = _printed(capsys, str(runs), "--csv", "-")
    assert _printed(capsys, str(runs), "--csv", str(tmp_path / "runs.csv")) == ""
    assert (tmp_path / "runs.csv").read_text() == text
    assert _printed(capsys, str(runs), "--csv", str(tmp_path / "runs.csv")) == ""  # a table of runs may be replaced
    rows = list(csv.DictReader(io.StringIO(text)))
    history = list(csv.DictReader((runs / "a" / "3" / "metrics.csv").read_text().splitlines()))
    best = min(history, key=lambda row: float(row["val/loss"]))  # all that is left of a damaged run
    assert [(row["run_id"], row["optimizer.lr"], row["val/f1_macro"]) for row in rows] == [
        ("1", "0.1", "0.25"),
        ("2", "0.01", "0.75"),
        ("3", "0.001", best["val/f1_macro"]),
    ]


def test_a_condition_without_matches_is_no_error(runs, capsys):
    assert run(["runs", str(runs), "--where", "seed=99"]) == 0
    captured = capsys.readouterr()
    assert captured.out.split()[0] == "run"
    assert "0 of 3 runs match" in captured.err
    assert json.loads(_printed(capsys, str(runs), "--where", "seed=99", "--json")) == []


def test_values_there_are_follow_a_condition_without_matches(runs, capsys):
    for options in ([], ["--json"], ["--csv", "-"]):
        assert run(["runs", str(runs), "--where", "model=pseudo_restnet", "--where", "state=finished", *options]) == 0
        err = capsys.readouterr().err
        assert "No run has model=pseudo_restnet: model is pseudo_resnet. Did you mean 'pseudo_resnet'?" in err
        assert "state=finished:" not in err
    assert run(["runs", str(runs), "--where", "optimizer.lr>1"]) == 0
    assert "No run has optimizer.lr>1: optimizer.lr is 0.001, 0.01, 0.1." in capsys.readouterr().err


def test_many_differing_keys_share_a_column_in_a_pipe(runs, capsys):
    for number in (1, 2):
        path = runs / "a" / str(number) / "result.json"
        held = json.loads(path.read_text())
        held["config"] |= {"seed": number, "batch_size": number + 8, "image_size": number + 16, "max_epochs": number + 2}
        path.write_text(json.dumps(held))
    header, first, *_ = _printed(capsys, str(runs / "a")).splitlines()
    assert header.split()[-2:] == ["differs", "reason"]
    assert "seed" not in header
    assert " optimizer.lr=0.1 " in first
    assert " seed=1 " in first


def test_the_default_folder_is_runs(runs, capsys, monkeypatch):
    monkeypatch.chdir(runs.parent)
    assert _printed(capsys).splitlines()[1].startswith("runs/a/1 ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sort", "val/f1_macr"], "Did you mean 'val/f1_macro'"),
        (["--where", "optimiser.lr=0.1"], "Did you mean 'optimizer.lr'"),
        (["--where", "state=done"], "state=done does not exist; states are finished, debug"),
        (["--sort", ""], "'' names no key to sort by"),
        (["--sort", ":desc"], "':desc' names no key to sort by"),
        (["--where", ""], "'' is no condition"),
        (["--csv", "-", "--json"], "where --json prints too"),
        (["--srot", "seed"], "No such option '--srot'.*--sort"),
        (["optimizer=sgd"], "optimizer=sgd is not an option of `pneumonia runs`"),
    ],
)
def test_bad_options_are_refused(runs, arguments, message):
    with pytest.raises(ConfigError, match=message):
        run(["runs", str(runs), *arguments])


@pytest.mark.parametrize("name", ["a/1/metrics.csv", "a/1/result.json"])
def test_a_table_overwrites_no_other_file(runs, name):
    before = (runs / name).read_bytes()
    with pytest.raises(ConfigError, match="does not hold runs, and is not overwritten"):
        run(["runs", str(runs), "--csv", str(runs / name)])
    assert (runs / name).read_bytes() == before


def test_a_table_needs_a_folder_that_exists(runs, tmp_path):
    with pytest.raises(ConfigError, match=r"there is no folder .*none\. Create it"):
        run(["runs", str(runs), "--csv", str(tmp_path / "none" / "runs.csv")])
    assert not (tmp_path / "none").exists()


def test_exit_code_of_a_missing_folder_is_two(tmp_path):
    with pytest.raises(RunError, match="There is no run in"):
        run(["runs", str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-m", "pneumonia", "runs"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("RunError: There is no folder runs. Name run folders")


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_terminal_gets_a_table_of_its_width(runs, width):
    main, side = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(width), "TERM": "xterm", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "pneumonia", "runs", "runs"]
    with subprocess.Popen(command, stdout=side, stderr=subprocess.PIPE, cwd=runs.parent, env=environment) as process:
        os.close(side)
        text = b""
        while True:
            try:
                block = os.read(main, 65536)
            except OSError:  # the other end is closed
                break
            if not block:
                break
            text += block
    os.close(main)
    assert process.returncode == 0
    lines = _without_styles(text.decode()).splitlines()
    reason = lines.pop()
    assert reason.startswith("failed  runs/a/3: result.json is damaged"), "below the table, in one line"
    assert max(map(len, lines)) <= width
    assert any("val/f1_macro" in line for line in lines)
    assert any("0.7500" in line for line in lines)
    assert any("best_epoch" in line for line in lines) == (width == 200)


def _without_styles(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)
