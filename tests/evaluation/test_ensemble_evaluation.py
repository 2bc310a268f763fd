"""Evaluation of several runs as one."""

import numpy as np
import pandas as pd
import pytest

from pneumonia.config.schema import DataConfig
from pneumonia.errors import RunError
from pneumonia.evaluation.evaluate import evaluate_ensemble
from pneumonia.metrics.calibration import fit_temperature
from pneumonia.metrics.predictions import prediction_arrays
from pneumonia.runs.folder import RunFolder
from pneumonia.tasks import TASKS
from pneumonia.training.train import train

TASK = TASKS["subtype"]


def test_probabilities_are_the_mean_of_the_members(seeds, values_of, options):
    alone = [values_of(path) for path in seeds[:2]]
    evaluation = evaluate_ensemble(seeds[:2], options())
    folder = RunFolder(evaluation.path.parent.parent)
    assert folder.path.parent == seeds[0].parent.parent / "ensembles"
    first, second, mean = (pd.read_parquet(RunFolder(path).evaluation("test", "parquet")) for path in (*seeds[:2], folder.path))
    columns = [f"prob_{name}" for name in TASK.classes]
    expected = (first[columns].to_numpy() + second[columns].to_numpy()) / 2
    assert mean[columns].to_numpy() == pytest.approx(expected, abs=1e-6)
    assert (mean["predicted"] == np.array(TASK.classes)[expected.argmax(axis=1)]).all()
    assert evaluation.result.n == alone[0]["n"]
    assert sorted(evaluation.result.of.run_ids) == sorted(path.name for path in seeds[:2])


def test_temperature_is_fitted_on_mean_validation_predictions(seeds, options):
    tables = [pd.read_parquet(RunFolder(path).predictions("val")) for path in seeds[:2]]
    probability = np.mean([prediction_arrays(table, TASK.classes)[0].astype(np.float64) for table in tables], axis=0)
    expected = fit_temperature(probability, prediction_arrays(tables[0], TASK.classes)[1]).value
    found = evaluate_ensemble(seeds[:2], options()).result.calibration.temperature
    assert found == pytest.approx(expected, rel=1e-3)


def test_other_data_and_tta_have_files_of_their_own(seeds, other, options):
    for more in ({}, {"tta": "flip"}, {"data": DataConfig("folder", str(other))}):
        path = evaluate_ensemble(seeds[:2], options(**more)).path
    evaluations = RunFolder(path.parent.parent).evaluations()
    assert sorted((data.partition("-")[0], tta) for data, _, tta in evaluations) == [
        ("hospital_b", ""),
        ("own", ""),
        ("own", "flip"),
    ]


def test_folds_are_calibrated_on_all_validation_images(compose, options, tmp_path):
    overrides = ("split=kfold", "split.k=3", "max_epochs=1")
    results = [train(compose(*overrides, f"split.fold={fold}", runs_dir=tmp_path)) for fold in range(3)]
    found = evaluate_ensemble([tmp_path / "train" / result.run_id for result in results], options()).result
    assert found.calibration.fitted_on.n == sum(result.data.val for result in results)
    assert found.trained_on == 0


def test_members_without_common_images_are_refused(seeds, compose, options, tmp_path):
    with pytest.raises(RunError, match=r"have different images in split=test.*split=kfold with --split test"):
        evaluate_ensemble([seeds[0], seeds[2]], options())
    with pytest.raises(RunError, match="two different finished runs or more"):
        evaluate_ensemble([seeds[0], seeds[0]], options())
    binary = train(compose("task=pneumonia", "max_epochs=1", runs_dir=tmp_path))
    with pytest.raises(RunError, match=r"differ in task \(subtype, pneumonia\)"):
        evaluate_ensemble([seeds[0], tmp_path / "train" / binary.run_id], options())
