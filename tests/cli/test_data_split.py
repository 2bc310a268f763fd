"""`pneumonia data split`: a file that training takes, and nothing where the words are wrong."""

import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from pneumonia.cli import main
from pneumonia.data.splits.assign import split_sha256
from pneumonia.training.train import train


def _run(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pneumonia", "data", "split", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr()
    return stop.value.code, said.out, said.err


def test_images_that_can_not_be_read_are_in_no_part_and_training_that_skips_them_fits(
    phantoms, compose, cache_dir, tmp_path, monkeypatch, capsys
):
    data = tmp_path / "data"
    shutil.copytree(phantoms, data)
    broken = sorted((data / "train" / "NORMAL").iterdir())[0]
    broken.write_bytes(b"no image")
    code, out, said = _run([data, "--out", tmp_path / "splits", "--cache-dir", cache_dir], monkeypatch, capsys)
    assert code == 0
    assert broken.name in said
    split = pd.read_parquet(out.strip())
    assert broken.stem not in set(split["image_id"])
    words = ["data=folder", f"data.root={data}", f"split.file={out.strip()}", "max_epochs=1", "data.on_bad_image=skip"]
    result = train(compose(*words, runs_dir=tmp_path / "runs"))
    assert result.data.split_sha256 == split_sha256(split)
    assert list(result.data.skipped) == [str(broken)]


def test_a_kept_split_is_what_training_on_it_uses(phantoms, compose, cache_dir, tmp_path, monkeypatch, capsys):
    words = [
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
    code, out, said = _run(words, monkeypatch, capsys)
    assert code == 0
    path = Path(out.strip())
    split = pd.read_parquet(path)
    assert path.name == f"split-{split_sha256(split)[:12]}.parquet"
    assert sorted(split["fold"].unique()) == [-1, 0, 1, 2, 3]
    assert "Folds, images by class" in said
    words = ["data=folder", f"data.root={phantoms}", f"split.file={path}", "max_epochs=1"]
    given = train(compose(*words, "split=given", runs_dir=tmp_path / "runs"))
    assert given.data.split_sha256 == split_sha256(split)
    third = train(compose(*words, "split=kfold", "split.k=4", "split.fold=2", runs_dir=tmp_path / "runs"))
    assert third.data.val == (split["fold"] == 2).sum()


def test_classes_stand_in_the_order_of_the_task(phantoms, cache_dir, tmp_path, monkeypatch, capsys):
    words = [phantoms, "--method", "kfold", "--out", tmp_path, "--cache-dir", cache_dir]
    said = _run(words, monkeypatch, capsys)[2]
    heads = [line for line in said.splitlines() if "BACTERIA" in line]
    assert len(heads) == 2
    assert all(line.index("NORMAL") < line.index("VIRUS") < line.index("BACTERIA") for line in heads)


@pytest.mark.parametrize(
    ("words", "message"),
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
def test_wrong_words_are_named_and_nothing_is_written(
    words, message, phantoms, cache_dir, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PNEUMONIA_CACHE", str(cache_dir))
    code, out, said = _run([phantoms if word == "DATA" else word for word in words], monkeypatch, capsys)
    assert (code, out) == (2, "")
    assert re.search(message, said), said
    assert not list(tmp_path.iterdir())
