"""What a table of predictions is worth: metrics, calibration, operating points, abstention; imports no torch."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from pneumonia.metrics.bootstrap import bootstrap_intervals, paired_bootstrap
from pneumonia.metrics.calibration import Temperature, calibration, fit_temperature, scaled
from pneumonia.metrics.classification import arrays, confusion_counts, log_likelihood, nullable, weighted_metrics
from pneumonia.metrics.thresholds import SENSITIVITY, abstention, at_threshold, positives, threshold_for
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
    probability, label = arrays(table, task.classes)
    exact = probability.astype(np.float64)
    patient = table["patient_id"].to_numpy(dtype=object)
    confusion = confusion_counts(exact.argmax(axis=1), label, len(task.classes))
    return {
        "split": subset,
        "n": len(table),
        "patients": int(table["patient_id"].nunique()),
        "metrics": with_intervals(table, task),
        "confusion": {"classes": list(task.classes), "counts": confusion.tolist()},
        "calibration": _calibrated(table, task, fitting, without, subset),
        "operating_points": _operating_points(table, task, fitting, without),
        "abstention": abstention(exact, label, patient),
    }


def with_intervals(table: pd.DataFrame, task: Task) -> Found:
    """Every metric of a table of predictions as ``{name: {"value", "low", "high"}}``."""
    probability, label = arrays(table, task.classes)
    exact = probability.astype(np.float64)
    values = weighted_metrics(exact, label, np.ones((1, len(label))), task)
    found = bootstrap_intervals(exact, label, table["patient_id"].to_numpy(dtype=object), task)
    return {
        name: nullable({"value": float(value[0]), "low": found[name][0], "high": found[name][1]})
        for name, value in values.items()
    }


def gain(model: pd.DataFrame, baseline: pd.DataFrame, task: Task) -> Found:
    """By how much a model is better than a baseline on the same images, with 95% bounds and p."""
    (first, label), (second, _) = arrays(model, task.classes), arrays(baseline, task.classes)
    patient = model["patient_id"].to_numpy(dtype=object)
    gaps = paired_bootstrap(first.astype(np.float64), second.astype(np.float64), label, patient, task)
    return {name: nullable(asdict(gaps[name])) for name in COMPARED}


def _calibrated(table: pd.DataFrame, task: Task, fitting: pd.DataFrame | None, without: str, subset: str) -> Found:
    """Calibration before and after the temperature that the validation images ask for."""
    probability, label = arrays(table, task.classes)
    exact = probability.astype(np.float64)
    temperature = Temperature(None, without)
    if fitting is not None:
        answers, truth = arrays(fitting, task.classes)
        temperature = fit_temperature(answers.astype(np.float64), truth)
    same = subset == "val" and fitting is not None and bool(table["image_id"].isin(fitting["image_id"]).all())
    found = calibration(exact, label) | {
        "temperature": temperature.value,
        "reason": temperature.reason or None,
        "fitted_on": None if fitting is None else {"part": "val", "n": len(fitting), "same_images": same},
        "scaled": None,
    }
    if temperature.value is not None:
        mended = scaled(exact, temperature)
        loss = float(-log_likelihood(mended, label).mean())
        found["scaled"] = calibration(mended, label) | {"loss": loss}
    return found


def _operating_points(table: pd.DataFrame, task: Task, fitting: pd.DataFrame | None, without: str) -> list[Found]:
    """For each yes-or-no question the threshold that the validation images ask for, and what it gives here."""
    patient = table["patient_id"].to_numpy(dtype=object)
    chosen_on = {} if fitting is None else _questions(fitting, task)
    points = []
    for name, (score, positive) in _questions(table, task).items():
        point: Found = {"positive": name, "wanted": {"sensitivity": SENSITIVITY}, "chosen_on": "val"}
        threshold = None
        if name in chosen_on:
            threshold = threshold_for(*chosen_on[name])
        if threshold is None:
            reason = without or f"no validation image shows {name}"
            points.append(point | {"threshold": None, "reason": reason, "metrics": None})
            continue
        found = at_threshold(score, positive, threshold, patient)
        points.append(point | {"threshold": threshold, "reason": None, "metrics": found})
    return points


def _questions(table: pd.DataFrame, task: Task) -> dict[str, Any]:
    probability, label = arrays(table, task.classes)
    return positives(probability.astype(np.float64), label, task)
