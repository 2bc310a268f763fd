"""Evaluate a table of predictions: metrics, calibration, thresholds, selective prediction; imports no torch."""

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pneumonia.evaluation.result import Calibrated, Calibration, FittedOn, Gain, OperatingPoint, PredictionValues
from pneumonia.metrics.bootstrap import Estimate, bootstrap_intervals, paired_bootstrap
from pneumonia.metrics.calibration import Temperature, apply_temperature, calibration_metrics, fit_temperature
from pneumonia.metrics.classification import confusion_matrix, defined, log_likelihood, weighted_metrics
from pneumonia.metrics.predictions import prediction_arrays
from pneumonia.metrics.thresholds import (
    TARGET_SENSITIVITY,
    metrics_at_threshold,
    one_vs_rest,
    selective_prediction,
    threshold_for,
)
from pneumonia.runs.result import Confusion
from pneumonia.tasks import Task

COMPARED: Final = ("accuracy", "f1_macro", "auroc")  # metrics of a model and a baseline


def evaluate_predictions(
    table: pd.DataFrame, subset: str, task: Task, validation: pd.DataFrame | None, why_uncalibrated: str = ""
) -> PredictionValues:
    """Return the values of an evaluation that depend on predictions alone.

    Temperature and thresholds are chosen on ``validation``, predictions of validation images; ``why_uncalibrated`` says why there
    are none. See :func:`pneumonia.runs.predictions.predict_subset` for the tables.
    """
    probability, label = _arrays(table, task)
    patient = table["patient_id"].to_numpy(dtype=object)
    confusion = confusion_matrix(probability.argmax(axis=1), label, len(task.classes))
    return PredictionValues(
        split=subset,
        n=len(table),
        patients=int(table["patient_id"].nunique()),
        metrics=metrics_with_intervals(table, task),
        confusion=Confusion(list(task.classes), confusion.tolist()),
        calibration=_calibration(table, task, validation, why_uncalibrated, subset),
        operating_points=_operating_points(table, task, validation, why_uncalibrated),
        abstention=selective_prediction(probability, label, patient),
    )


def metrics_with_intervals(table: pd.DataFrame, task: Task) -> dict[str, Estimate]:
    """Return all metrics of a table of predictions."""
    probability, label = _arrays(table, task)
    values = weighted_metrics(probability, label, np.ones((1, len(label))), task)
    bounds = bootstrap_intervals(probability, label, table["patient_id"].to_numpy(dtype=object), task)
    return {name: Estimate(*map(defined, (value[0], *bounds[name]))) for name, value in values.items()}


def improvement(model: pd.DataFrame, baseline: pd.DataFrame, task: Task) -> dict[str, Gain]:
    """Return the differences of a model and a baseline on the same images, with 95% intervals and p-values."""
    (first, label), (second, _) = _arrays(model, task), _arrays(baseline, task)
    differences = paired_bootstrap(first, second, label, model["patient_id"].to_numpy(dtype=object), task)
    return {name: Gain.of(differences[name]) for name in COMPARED}


def _calibration(
    table: pd.DataFrame, task: Task, validation: pd.DataFrame | None, why_uncalibrated: str, subset: str
) -> Calibration:
    """Return calibration metrics before and after the temperature that is fitted on validation images."""
    probability, label = _arrays(table, task)
    temperature, fitted_on, scaled = Temperature(None, why_uncalibrated), None, None
    if validation is not None:
        temperature = fit_temperature(*_arrays(validation, task))
        same = subset == "val" and bool(table["image_id"].isin(validation["image_id"]).all())
        fitted_on = FittedOn("val", len(validation), same)
    if temperature.value is not None:
        calibrated = apply_temperature(probability, temperature)
        loss = float(-log_likelihood(calibrated, label).mean())
        scaled = Calibrated(**vars(calibration_metrics(calibrated, label)), loss=loss)
    return Calibration(
        **vars(calibration_metrics(probability, label)),
        temperature=temperature.value,
        reason=temperature.reason or None,
        fitted_on=fitted_on,
        scaled=scaled,
    )


def _operating_points(
    table: pd.DataFrame, task: Task, validation: pd.DataFrame | None, why_uncalibrated: str
) -> list[OperatingPoint]:
    """Return for each positive class the threshold that is chosen on validation images, and its metrics here."""
    patient = table["patient_id"].to_numpy(dtype=object)
    chosen_on = {} if validation is None else one_vs_rest(*_arrays(validation, task), task)
    points = []
    for name, (score, positive) in one_vs_rest(*_arrays(table, task), task).items():
        threshold = threshold_for(*chosen_on[name]) if name in chosen_on else None
        reason = None if threshold is not None else why_uncalibrated or f"no validation image shows {name}"
        metrics = None if threshold is None else metrics_at_threshold(score, positive, threshold, patient)
        points.append(OperatingPoint(name, {"sensitivity": TARGET_SENSITIVITY}, "val", threshold, reason, metrics))
    return points


def _arrays(table: pd.DataFrame, task: Task) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return probabilities ``(N, K)`` in float64 and labels ``(N,)``."""
    probability, label = prediction_arrays(table, task.classes)
    return probability.astype(np.float64), label
