"""`pneumonia data split`: a file that training takes; bad arguments write nothing."""

import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from pneumonia.cli import main
from pneumonia.data.splits.assign import split_sha256
from pneumonia.training.train import train


def _run(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pneumonia", "data", "split", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def test_unreadable_images_are_in_no_subset(phantoms, compose, cache_dir, tmp_path, monkeypatch, capsys):
    data = tmp_path / "data"
    shutil.copytree(phantoms, data)
    broken = sorted((data / "train" / "NORMAL").iterdir())[0]
    broken.write_bytes(b"no image")
    code, out, err = _run([data, "--out", tmp_path / "splits", "--cache-dir", cache_dir], monkeypatch, capsys)
    assert code == 0
    assert broken.name in err
    split = pd.read_parquet(out.strip())
    assert broken.stem not in set(split["image_id"])
    arguments = [
        "data=folder",
        f"data.root={data}",
        f"split.file={out.strip()}",
        "max_epochs=1",
        "data.on_bad_image=skip",
    ]
    result = train(compose(*arguments, runs_dir=tmp_path / "runs"))
    assert result.data.split_sha256 == split_sha256(split)
    assert list(result.data.skipped) == [str(broken)]


def test_a_kept_split_is_what_training_on_it_uses(phantoms, compose, cache_dir, tmp_path, monkeypatch, capsys):
    arguments = [
        phantoms,
        "--method",
        "kfold",
        "--k",
        4,
        "--seed",
        9,
        "--out",
        tmp_path / "splits",
        "--cache-dir",
        cache_dir,
    ]
    code, out, err = _run(arguments, monkeypatch, capsys)
    assert code == 0
    path = Path(out.strip())
    split = pd.read_parquet(path)
    assert path.name == f"split-{split_sha256(split)[:12]}.parquet"
    assert sorted(split["fold"].unique()) == [-1, 0, 1, 2, 3]
    assert "Folds, images by class" in err
    arguments = ["data=folder", f"data.root={phantoms}", f"split.file={path}", "max_epochs=1"]
    given = train(compose(*arguments, "split=given", runs_dir=tmp_path / "runs"))
    assert given.data.split_sha256 == split_sha256(split)
    third = train(compose(*arguments, "split=kfold", "split.k=4", "split.fold=2", runs_dir=tmp_path / "runs"))
    assert third.data.val == (split["fold"] == 2).sum()


def test_classes_stand_in_the_order_of_the_task(phantoms, cache_dir, tmp_path, monkeypatch, capsys):
    arguments = [phantoms, "--method", "kfold", "--out", tmp_path, "--cache-dir", cache_dir]
    err = _run(arguments, monkeypatch, capsys)[2]
    heads = [line for line in err.splitlines() if "BACTERIA" in line]
    assert len(heads) == 2
    assert all(line.index("NORMAL") < line.index("VIRUS") < line.index("BACTERIA") for line in heads)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'SOURCE'"),
        (["one", "two"], "unexpected extra argument .two."),
        (["DATA", "--method", "kfolds"], "split=kfolds is not known.*'kfold'"),
        (["DATA", "--kk", "3"], r"No such option .--kk.*'--k'"),
        (["DATA", "split=kfold"], r"split=kfold is not an option of `pneumonia data split`\. Use --method kfold\."),
        (["DATA", "--k", "few"], "'few' is not a valid integer"),
        (["DATA", "--method", "kfold", "--k", "1000"], "needs 1000 patients or more of one class"),
        (["DATA", "--method", "random", "--no-leaky"], "SplitLeakageError"),
        (["DATA", "--out"], "Option '--out' requires an argument"),
        (["/no/such/folder"], "does not exist"),
    ],
)
def test_bad_arguments_are_refused_and_write_nothing(arguments, message, phantoms, cache_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PNEUMONIA_CACHE", str(cache_dir))
    code, out, err = _run([phantoms if word == "DATA" else word for word in arguments], monkeypatch, capsys)
    assert (code, out) == (2, "")
    assert re.search(message, err), err
    assert not list(tmp_path.iterdir())
