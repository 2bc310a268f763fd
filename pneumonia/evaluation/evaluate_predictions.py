"""Evaluate a table of predictions: metrics, calibration, thresholds, selective prediction; imports no torch."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from pneumonia.metrics.bootstrap import bootstrap_intervals, paired_bootstrap
from pneumonia.metrics.calibration import Temperature, apply_temperature, calibration_metrics, fit_temperature
from pneumonia.metrics.classification import confusion_matrix, log_likelihood, nan_to_none, weighted_metrics
from pneumonia.metrics.predictions import prediction_arrays
from pneumonia.metrics.thresholds import (
    TARGET_SENSITIVITY,
    metrics_at_threshold,
    one_vs_rest,
    selective_prediction,
    threshold_for,
)
from pneumonia.tasks import Task

COMPARED = ("accuracy", "f1_macro", "auroc")  # of a model and a baseline
Found = dict[str, Any]


def assess(table: pd.DataFrame, subset: str, task: Task, fitting: pd.DataFrame | None, without: str = "") -> Found:
    """Everything that ``evaluation/<subset>.json`` says of the predictions themselves.

    Args:
        table: One row an image; see :func:`pneumonia.training.predictions.predict_subset`.
        subset: Its name.
        task: Gives the classes.
        fitting: Predictions of validation images, on which temperature and thresholds are chosen; ``None`` where there are none.
        without: Why there are none.

    Returns:
        Plain values: ``split``, ``n``, ``patients``, ``metrics`` (each with ``value``, ``low`` and ``high``, 95% by patient),
        ``confusion``, ``calibration`` (as it is, and ``scaled`` by the temperature), ``operating_points``, ``abstention``. What
        is undefined is ``None``.
    """
    probability, label = prediction_arrays(table, task.classes)
    exact = probability.astype(np.float64)
    patient = table["patient_id"].to_numpy(dtype=object)
    confusion = confusion_matrix(exact.argmax(axis=1), label, len(task.classes))
    return {
        "split": subset,
        "n": len(table),
        "patients": int(table["patient_id"].nunique()),
        "metrics": with_intervals(table, task),
        "confusion": {"classes": list(task.classes), "counts": confusion.tolist()},
        "calibration": _calibrated(table, task, fitting, without, subset),
        "operating_points": _operating_points(table, task, fitting, without),
        "abstention": selective_prediction(exact, label, patient),
    }


def with_intervals(table: pd.DataFrame, task: Task) -> Found:
    """Every metric of a table of predictions as ``{name: {"value", "low", "high"}}``."""
    probability, label = prediction_arrays(table, task.classes)
    exact = probability.astype(np.float64)
    values = weighted_metrics(exact, label, np.ones((1, len(label))), task)
    found = bootstrap_intervals(exact, label, table["patient_id"].to_numpy(dtype=object), task)
    return {
        name: nan_to_none({"value": float(value[0]), "low": found[name][0], "high": found[name][1]})
        for name, value in values.items()
    }


def gain(model: pd.DataFrame, baseline: pd.DataFrame, task: Task) -> Found:
    """By how much a model is better than a baseline on the same images, with 95% bounds and p."""
    (first, label), (second, _) = prediction_arrays(model, task.classes), prediction_arrays(baseline, task.classes)
    patient = model["patient_id"].to_numpy(dtype=object)
    gaps = paired_bootstrap(first.astype(np.float64), second.astype(np.float64), label, patient, task)
    return {name: nan_to_none(asdict(gaps[name])) for name in COMPARED}


def _calibrated(table: pd.DataFrame, task: Task, fitting: pd.DataFrame | None, without: str, subset: str) -> Found:
    """Calibration before and after the temperature that the validation images ask for."""
    probability, label = prediction_arrays(table, task.classes)
    exact = probability.astype(np.float64)
    temperature = Temperature(None, without)
    if fitting is not None:
        answers, truth = prediction_arrays(fitting, task.classes)
        temperature = fit_temperature(answers.astype(np.float64), truth)
    same = subset == "val" and fitting is not None and bool(table["image_id"].isin(fitting["image_id"]).all())
    found = calibration_metrics(exact, label) | {
        "temperature": temperature.value,
        "reason": temperature.reason or None,
        "fitted_on": None if fitting is None else {"part": "val", "n": len(fitting), "same_images": same},
        "scaled": None,
    }
    if temperature.value is not None:
        mended = apply_temperature(exact, temperature)
        loss = float(-log_likelihood(mended, label).mean())
        found["scaled"] = calibration_metrics(mended, label) | {"loss": loss}
    return found


def _operating_points(table: pd.DataFrame, task: Task, fitting: pd.DataFrame | None, without: str) -> list[Found]:
    """For each yes-or-no question the threshold that the validation images ask for, and what it gives here."""
    patient = table["patient_id"].to_numpy(dtype=object)
    chosen_on = {} if fitting is None else _questions(fitting, task)
    points = []
    for name, (score, positive) in _questions(table, task).items():
        point: Found = {"positive": name, "wanted": {"sensitivity": TARGET_SENSITIVITY}, "chosen_on": "val"}
        threshold = None
        if name in chosen_on:
            threshold = threshold_for(*chosen_on[name])
        if threshold is None:
            reason = without or f"no validation image shows {name}"
            points.append(point | {"threshold": None, "reason": reason, "metrics": None})
            continue
        found = metrics_at_threshold(score, positive, threshold, patient)
        points.append(point | {"threshold": threshold, "reason": None, "metrics": found})
    return points


def _questions(table: pd.DataFrame, task: Task) -> dict[str, Any]:
    probability, label = prediction_arrays(table, task.classes)
    return one_vs_rest(probability.astype(np.float64), label, task)
