"""A model that always predicts one class, or knows phantoms alone, is named wherever it is used."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from pneumonia.cli import main
from pneumonia.data.sources.phantom_detection import MARK, is_phantom, mostly_phantoms
from pneumonia.export.export import ExportOptions, export
from pneumonia.export.runtime import Bundle
from pneumonia.runs.folder import RunFolder
from pneumonia.runs.load import load_finished_run
from pneumonia.runs.model_warnings import PHANTOMS, constant_prediction, warnings_of
from pneumonia.runs.result import Confusion
from pneumonia.system.console import CONSOLE
from pneumonia.training.train import train

CLASSES = ("NORMAL", "PNEUMONIA")


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pneumonia", *map(str, arguments)])
        monkeypatch.setattr(CONSOLE, "_width", 10_000)
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def constant(compose, tmp_path_factory) -> Path:
    """A run that predicts one class whatever it is shown, because its learning rate was far too high."""
    runs = tmp_path_factory.mktemp("constant")
    overrides = ("model=mlp", "model.hidden=[]", "optimizer=sgd", "optimizer.lr=1000", "max_epochs=1", "task=pneumonia")
    result = train(compose("split=official", *overrides, runs_dir=runs))
    assert sum(map(bool, np.sum(result.confusion.counts, axis=0))) == 1, "the fixture predicts one class"
    return runs / result.name / result.run_id


@pytest.fixture(scope="module")
def real(phantoms, tmp_path_factory) -> Path:
    """Other images than a run's own, in no folder of phantoms, in the Kaggle layout."""
    folder = tmp_path_factory.mktemp("real") / "xrays"
    for number, film in enumerate(sorted(phantoms.rglob("*.jpeg"))):
        other = folder / film.relative_to(phantoms)
        other.parent.mkdir(parents=True, exist_ok=True)
        pixels = cv2.imread(str(film), cv2.IMREAD_GRAYSCALE)
        if number:
            cv2.imwrite(str(other), pixels[:, ::-1])
    return folder


@pytest.mark.parametrize(
    ("counts", "warned"),
    [
        ([[0, 25], [0, 75]], "PNEUMONIA for 100.0% of the 100 validation images, and 75.0% of them show it"),
        ([[25, 0], [75, 0]], "NORMAL for 100.0% of the 100 validation images, and 25.0% of them show it"),
        ([[0, 3], [0, 97]], "PNEUMONIA for 100.0% .* 97.0% of them"),
        ([[1, 24], [0, 75]], "PNEUMONIA for 99.0% .* 75.0% of them"),
        ([[2, 23], [0, 75]], ""),
        ([[1, 9], [0, 90]], ""),
        ([[20, 5], [5, 70]], ""),
        ([[0, 0], [0, 50]], ""),
        ([[0, 0], [0, 0]], ""),
        ([[0, 1], [0, 1]], "PNEUMONIA for 100.0%"),
    ],
)
def test_one_class_for_nearly_all_images_is_a_warning(counts, warned):
    text = constant_prediction(counts, CLASSES, "validation")
    if not warned:
        assert text == ""
        return
    assert pd.Series([text]).str.contains(warned)[0], text
    assert "class_weights=balanced" in text


def test_paths_tell_phantoms_from_other_images(phantoms, real, tmp_path):
    assert is_phantom(phantoms)
    assert is_phantom(next(phantoms.rglob("*.jpeg")))
    assert not is_phantom(real)
    assert not is_phantom(phantoms.parent / "lock")
    (tmp_path / "link").symlink_to(phantoms)
    assert is_phantom(tmp_path / "link")


def test_phantoms_are_known_by_manifest_copy_and_content(call, compose, phantoms, cache_dir, tmp_path, capsys):
    copied = Path(shutil.copytree(phantoms, tmp_path / "copied"))
    unmarked = Path(shutil.copytree(phantoms, tmp_path / "unmarked", ignore=shutil.ignore_patterns(MARK)))
    manifest = tmp_path / "ph.parquet"
    assert call("data", "import", phantoms, "--out", manifest, "--cache-dir", cache_dir)[0] == 0
    assert is_phantom(copied)
    assert is_phantom(next(copied.rglob("*.jpeg")))
    assert not is_phantom(tmp_path)
    for root in (manifest, copied, unmarked):
        overrides = (
            "model=mlp",
            "max_epochs=1",
            "split=official",
            "data=folder",
            f"data.root={root}",
            f"name={root.stem}",
        )
        result = train(compose(*overrides, runs_dir=tmp_path / "runs"))
        assert result.data.phantoms is True, root
        assert PHANTOMS in warnings_of(result)
        assert PHANTOMS in " ".join(capsys.readouterr().err.split())
    arguments = (tmp_path / "runs" / "copied" / result.run_id, "--cache-dir", cache_dir, "--no-gallery")
    _, _, err = call("evaluate", *arguments, "--data", unmarked)
    assert PHANTOMS not in " ".join(err.split())


def test_images_are_phantoms_where_most_of_them_are(phantoms, tmp_path):
    drawn = [str(path) for path in phantoms.rglob("*.jpeg")][:3]
    assert mostly_phantoms(drawn, ["-"] * 3, tmp_path)
    assert mostly_phantoms([*drawn[:2], "/elsewhere/a.png"], ["-"] * 3, tmp_path)
    assert not mostly_phantoms([drawn[0], "/elsewhere/a.png", "/elsewhere/b.png"], ["-"] * 3, tmp_path)


def test_training_ends_with_the_warning(compose, constant, capsys):
    result = load_finished_run(constant).result
    again = train(result.config)  # finished, so only its summary is printed
    printed = " ".join(capsys.readouterr().err.split())
    assert again.run_id == result.run_id
    assert warnings_of(result)[0].startswith("The model predicts")
    assert f"Warning {warnings_of(result)[0]}" in printed


def test_predict_warns_once_and_only_on_standard_error(call, constant, real):
    files = sorted(real.rglob("*.jpeg"))[:3]
    code, out, err = call("predict", constant, *files, "--json")
    assert code == 0
    assert len(json.loads(out)) == 3
    printed = " ".join(err.split())
    first = warnings_of(load_finished_run(constant).result)[0]
    assert printed.count(first) == 1
    assert printed.count(PHANTOMS) == 1
    assert "arning" not in out


def test_phantoms_are_answered_without_the_warning_about_phantoms(call, finished, bundle_dir, phantoms, real):
    for model in (finished, bundle_dir):
        _, _, err = call("predict", model, phantoms / "test")
        assert PHANTOMS not in " ".join(err.split())
        _, _, err = call("predict", model, phantoms / "test", next(real.rglob("*.jpeg")))
        assert " ".join(err.split()).count(PHANTOMS) == 1


def test_evaluation_warns_of_one_class_and_of_other_images(call, constant, real, phantoms, cache_dir, tmp_path):
    run = Path(shutil.copytree(constant, tmp_path / "run"))
    code, _, err = call("evaluate", run, "--cache-dir", cache_dir, "--no-gallery")
    assert code == 0
    report = json.loads(RunFolder(run).evaluation("test", "json").read_text())
    printed = " ".join(err.split())
    assert f"of the {report['n']} test images" in printed
    assert PHANTOMS not in printed
    _, _, err = call("evaluate", run, "--data", real, "--cache-dir", cache_dir, "--no-gallery")
    assert " ".join(err.split()).count(PHANTOMS) == 1
    _, _, err = call("evaluate", run, "--data", phantoms, "--cache-dir", cache_dir, "--no-gallery")
    assert PHANTOMS not in " ".join(err.split())


def test_a_bundle_carries_the_warnings_of_its_run(call, constant, cache_dir, real, tmp_path):
    contract = export(ExportOptions(constant, tmp_path / "bundle", cache_dir=cache_dir))
    expected = warnings_of(load_finished_run(constant).result)
    assert list(contract.warnings) == expected
    assert contract.limitations[:2] == contract.warnings, "the page shows the limits"
    assert Bundle.load(tmp_path / "bundle").contract.warnings == contract.warnings
    _, _, err = call("predict", tmp_path / "bundle", next(real.rglob("*.jpeg")), "--json")
    printed = " ".join(err.split())
    assert all(printed.count(text) == 1 for text in expected)


def test_no_warning_about_a_model_that_uses_the_image(finished):
    result = load_finished_run(finished).result
    confusion = Confusion(list(CLASSES), [[20, 5], [5, 70]])
    assert warnings_of(replace(result, confusion=confusion, data=replace(result.data, phantoms=False))) == []
