"""Tables of runs hold the values of the runs' own files, whatever state the runs are in."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

from pneumonia import list_runs
from pneumonia.errors import ConfigError, RunError
from pneumonia.runs.summary import STATES, best_row
from pneumonia.system.files import write_json


@pytest.fixture
def runs(copy_run, tmp_path) -> Path:
    """Three finished runs that differ in learning rate, seed and macro F1."""
    copy_run(tmp_path / "runs" / "a" / "1", {"optimizer.lr": 0.1, "seed": 0}, f1_macro=0.5)
    copy_run(tmp_path / "runs" / "a" / "2", {"optimizer.lr": 0.01, "seed": 0}, f1_macro=0.9)
    copy_run(tmp_path / "runs" / "b" / "3", {"optimizer.lr": 0.001, "seed": 7}, f1_macro=None)
    return tmp_path / "runs"


def _ids(table: pd.DataFrame) -> list[str]:
    return list(table["run_id"])


def test_values_are_those_of_the_result_files(runs):
    table = list_runs(runs)
    assert _ids(table) == ["1", "2", "3"]
    for row in table.to_dict("records"):
        result = json.loads((Path(row["run"]) / "result.json").read_text())
        assert (row["epochs"], row["best_epoch"]) == (result["epochs"], result["best_epoch"])
        for split, values in result["metrics"].items():
            for key, value in values.items():
                found = row[f"{split}/{key}"]
                assert found == value or (value is None and pd.isna(found)), key
        assert row["cost.fit_s"] == result["cost"]["fit_s"]
        assert pd.isna(row["cost.usd"])
        assert row["optimizer.lr"] == result["config"]["optimizer"]["lr"]
    assert set(table["state"]) == {"finished"}
    assert {table[key].dtype for key in table if "/" in key or key == "cost.usd"} == {np.dtype(float)}


def test_one_condition_and_one_key_need_no_list(runs):
    table = list_runs(runs, where="optimizer.lr<0.05", keys="batch_size")
    pd.testing.assert_frame_equal(table, list_runs(runs, where=["optimizer.lr<0.05"], keys=["batch_size"]))
    assert _ids(table) == ["2", "3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"where": [3]}, "where holds 3, which is no text. Use text such as 'state=finished'"),
        ({"keys": None}, "keys holds None, which is no text"),
        ({"sort": 3}, "sort holds 3, which is no text"),
        ({"sort": ""}, "'' names no key to sort by"),
    ],
)
def test_arguments_of_other_types_are_refused(arguments, message, runs):
    with pytest.raises(ConfigError, match=message):
        list_runs(runs, **arguments)
    with pytest.raises(ConfigError, match="places holds a list, which is no path"):
        list_runs([runs])


def test_a_damaged_config_ends_in_whole_sentences(runs):
    (runs / "a" / "1" / "config.yaml").write_text("a: [1")
    (runs / "a" / "1" / "result.json").unlink()
    reason = list_runs(runs).set_index("run_id").loc["1", "reason"]
    assert re.search(r"is damaged or of another version: .*\S\. Train the run again\.$", reason), reason


def test_only_differing_keys_have_columns(runs):
    columns = list(list_runs(runs))
    assert [key for key in columns if key in {"optimizer.lr", "seed", "batch_size", "name", "model"}] == ["optimizer.lr", "seed"]
    assert "seed" not in list_runs(runs / "a")
    assert list(list_runs(runs, keys=["batch_size"])["batch_size"]) == [32, 32, 32]


def test_a_run_differs_by_the_file_of_a_group(copy_run, runs):
    sgd = {"_target_": "torch.optim.SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0001, "nesterov": True}
    copy_run(runs / "c" / "4", {"optimizer": sgd})
    table = list_runs(runs).set_index("run_id")
    assert table.loc["1", "optimizer"] == "adam"
    assert table.loc["4", "optimizer"] in {"sgd", "SGD"}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (["optimizer.lr=0.10"], ["1"]),
        (["optimizer.lr<0.05"], ["2", "3"]),
        (["optimizer.lr<=1e-2", "seed=0"], ["2"]),
        (["val/f1_macro>=0.9"], ["2"]),
        (["val/f1_macro!=0.9"], ["1", "3"]),
        (["seed!=0"], ["3"]),
        (["state=finished"], ["1", "2", "3"]),
        (["state=failed"], []),
        (["model=pseudo_resnet", "seed==7"], ["3"]),
        (["ema=null"], ["1", "2", "3"]),
        (["time>0"], ["1", "2", "3"]),
        (["usd<1"], []),
    ],
)
def test_conditions_choose_runs(runs, where, expected):
    assert _ids(list_runs(runs, where=where)) == expected


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("val/f1_macro:desc", ["2", "1", "3"]),
        ("val/f1_macro", ["1", "2", "3"]),
        ("optimizer.lr:asc", ["3", "2", "1"]),
        ("run:desc", ["3", "2", "1"]),
        ("time", ["1", "2", "3"]),
    ],
)
def test_runs_are_sorted_and_missing_values_are_last(runs, sort, expected):
    assert _ids(list_runs(runs, sort=sort)) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sort": "val/f1_marco"}, r"val/f1_marco is no column, metric or config key of these runs. Did you mean 'val/f1_macro'"),
        ({"where": ["optimzer.lr=1"]}, r"optimzer.lr is no column.*Did you mean 'optimizer.lr'"),
        ({"where": ["stat=failed"]}, r"Did you mean 'state'"),
        ({"where": ["state=finishd"]}, r"state=finishd does not exist.*Did you mean 'finished'"),
        ({"where": ["seed"]}, r"'seed' is no condition. Use key=value"),
        ({"where": ["seed<few"]}, r"seed<few compares numbers, and 'few' is none"),
        ({"sort": "seed:down"}, r"'seed:down' ends with neither :asc nor :desc"),
        ({"keys": ["sed"]}, r"sed is no column.*Did you mean 'seed'"),
    ],
)
def test_unknown_keys_and_conditions_are_refused(runs, options, message):
    with pytest.raises(ConfigError, match=message):
        list_runs(runs, **options)


def test_folders_without_runs_are_refused(tmp_path):
    with pytest.raises(RunError, match=r"There is no run in .*: a run folder holds a config.yaml"):
        list_runs(tmp_path)
    with pytest.raises(RunError, match="There is no folder"):
        list_runs(tmp_path / "none")


def test_every_state_is_found(copy_run, tmp_path):
    sweep = tmp_path / "sweep"
    copy_run(sweep / "done")
    debug = copy_run(sweep / "debug") / "result.json"
    debug.write_text(json.dumps(json.loads(debug.read_text()) | {"status": "debug", "shortened_by": ["trainer.max_steps=1"]}))
    for name in ("cut", "busy", "broken", "pruned", "done_later"):
        copy_run(sweep / name, result=name == "done_later")
    failures = {"broken": "killed", "pruned": "pruned", "done_later": "failed", "busy": "failed"}
    jobs = [{"key": name, "differs": {"seed": str(number)}} for number, name in enumerate(failures)]
    write_json(sweep / "sweep.json", {"question": "Why?", "jobs": jobs})
    for name, state in failures.items():
        write_json(sweep / "jobs" / f"{name}.json", {"run": name})
        write_json(sweep / "jobs" / f"{name}.broken.json", {"state": state, "reason": "out of\nmemory"})
    with FileLock(sweep / "busy" / "lock"):
        table = list_runs(sweep).set_index("run_id")
    assert table["state"].to_dict() == {
        **{"done": "finished", "done_later": "finished", "debug": "debug", "cut": "interrupted", "busy": "running"},
        **{"broken": "failed", "pruned": "pruned"},
    }
    assert set(table["state"]) == set(STATES)
    assert table.loc["broken", "reason"] == "killed: out of memory"
    assert "trainer.max_steps=1" in table.loc["debug", "reason"]


def test_interrupted_run_has_its_best_epoch_so_far(copy_run, tmp_path):
    folder = copy_run(tmp_path / "runs" / "cut", {"monitor": "val/accuracy"}, result=False)
    (folder / "metrics.csv").write_text("epoch,val/loss,val/accuracy\n1,0.3,0.5\n2,0.4,0.8\n3,nan,nan\n")
    (row,) = list_runs(tmp_path).to_dict("records")
    assert (row["state"], row["epochs"], row["best_epoch"]) == ("interrupted", 3, 2)
    assert (row["val/loss"], row["val/accuracy"]) == (0.4, 0.8)
    assert best_row([], "val/loss") is None


def test_columns_of_one_sweep_are_its_swept_keys(copy_run, tmp_path):
    for number in range(2):
        copy_run(tmp_path / "s" / str(number), {"optimizer.lr": 0.1 * (number + 1), "seed": 3})
        write_json(tmp_path / "s" / "jobs" / f"k{number}.json", {"run": str(number)})
    jobs = [{"key": f"k{number}", "differs": {"experiment": name, "seed": "3"}} for number, name in enumerate(("one", "two"))]
    write_json(tmp_path / "s" / "sweep.json", {"jobs": jobs})
    table = list_runs(tmp_path, where=["experiment!=three"])
    assert list(table["experiment"]) == ["one", "two"]
    assert "optimizer.lr" not in table
    assert "seed" not in table


DAMAGE = {
    "truncated": lambda text: text[:100],
    "empty": lambda text: "",
    "list": lambda text: "[]",
    "text for data": lambda text: json.dumps(json.loads(text) | {"data": "none"}),
    "text for metrics": lambda text: json.dumps(json.loads(text) | {"metrics": {"val": {"loss": "low"}}}),
    "no metrics": lambda text: json.dumps(json.loads(text) | {"metrics": {"val": None}}),
    "text for epochs": lambda text: json.dumps(json.loads(text) | {"epochs": "two"}),
    "unknown key": lambda text: text.replace('"batch_size"', '"size_of_batch"'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_result_is_a_row_with_its_reason(runs, damage):
    path = runs / "a" / "1" / "result.json"
    path.write_text(damage(path.read_text()))
    table = list_runs(runs).set_index("run_id")
    assert list(table["state"]) == ["failed", "finished", "finished"]
    assert "damaged" in table.loc["1", "reason"]
    assert str(runs) not in table.loc["1", "reason"]
    assert table.loc["1", "optimizer.lr"] == 0.1, "from config.yaml"


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"{", b"a: [1", b'"\n,,,\n1,2,3,4,5\n'])
def test_damaged_unfinished_run_is_a_row(copy_run, runs, name, content):
    folder = copy_run(runs / "z" / "4", result=False)
    (folder / name).write_bytes(content)
    table = list_runs(runs).set_index("run_id")
    assert table.loc["4", "state"] in ({"failed"} if name == "config.yaml" else {"failed", "interrupted"})
    assert len(table) == 4


def test_a_whole_run_is_listed_as_it_is(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (row,) = list_runs(tmp_path).to_dict("records")
    assert (row["state"], row["run"]) == ("finished", str(tmp_path / "run"))


def test_listing_imports_no_torch(runs):
    code = f"import sys; from pneumonia.cli import run; run(['runs', {str(runs)!r}]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
