"""What a contract says of a run: its facts, what was chosen on its validation split, its limits in sentences."""

import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from pneumonia.data.images.decode import DECODER
from pneumonia.errors import RunError
from pneumonia.export.contract import (
    AbstentionFacts,
    CalibrationFacts,
    ImageFacts,
    ModelFacts,
    OodDetectorFacts,
    OperatingPoint,
)
from pneumonia.export.ood_detector import SIDE, Fitted
from pneumonia.metrics.calibration import apply_temperature, fit_temperature
from pneumonia.metrics.predictions import prediction_arrays
from pneumonia.metrics.thresholds import TARGET_SENSITIVITY, one_vs_rest, risk_coverage_curve, threshold_for
from pneumonia.models.base import ClassifierOptions
from pneumonia.runs.load import FinishedRun
from pneumonia.runs.result import RunResult
from pneumonia.tasks import Task

COVERAGE: Final = 0.9
INTENDED: Final = (
    "Research and teaching: telling {classes} apart in frontal chest X-rays of the kind that the model was trained on. "
    "Not a medical device; no output may be used to decide about a person."
)


def model_facts(result: RunResult) -> ModelFacts:
    """Which run it is."""
    return ModelFacts(result.name, result.run_id, result.family, result.seed, result.best_epoch)


def image_facts(options: ClassifierOptions) -> ImageFacts:
    """How a file becomes what the graph takes."""
    return ImageFacts(options.image_size, options.resize, DECODER, options.channels, dict(options.scaling), options.tta)


def chosen(
    table: pd.DataFrame, task: Task, coverage: float, without: str = ""
) -> tuple[CalibrationFacts, tuple[OperatingPoint, ...], AbstentionFacts]:
    """Temperature, and thresholds and abstention on the scale that it gives.

    They are chosen anew after the temperature: of three classes, a temperature changes the order of the images by their scores.

    Args:
        table: Predictions of the run's own validation images; not looked at where nothing may be chosen on them.
        task: Gives the classes.
        coverage: The share of images that is to be answered.
        without: Why nothing may be chosen on these images; empty where it may.
    """
    if without:
        none = tuple(OperatingPoint(name, TARGET_SENSITIVITY, None, without) for name in task.questions)
        return CalibrationFacts(None, without, 0), none, AbstentionFacts(coverage, None, None, None, without)
    probability, label = prediction_arrays(table, task.classes)
    exact = probability.astype(np.float64)
    temperature = fit_temperature(exact, label)
    stated = apply_temperature(exact, temperature)
    points = []
    for name, (score, positive) in one_vs_rest(stated, label, task).items():
        threshold = threshold_for(score, positive)
        reason = None if threshold is not None else f"no validation image shows {name}"
        points.append(OperatingPoint(name, TARGET_SENSITIVITY, threshold, reason))
    confidence = np.sort(stated.max(axis=1))[::-1]
    last = max(int(np.ceil(coverage * len(label) - 1e-9)), 1) - 1
    least = float(confidence[last])
    given = int((confidence >= least).sum())
    risk = float(risk_coverage_curve(stated, label)[1][given - 1])
    abstention = AbstentionFacts(coverage, least, given / len(label), risk, None)
    return CalibrationFacts(temperature.value, temperature.reason or None, len(label)), tuple(points), abstention


def chosen_for_run(run: FinishedRun) -> tuple[CalibrationFacts, tuple[OperatingPoint, ...]]:
    """The temperature and the thresholds that a bundle of the run has, so that both answer alike.

    Raises:
        RunError: Its validation predictions are damaged.
    """
    reason = run.why_uncalibrated
    table = pd.DataFrame() if reason else run.validation_predictions()
    return chosen(table, run.task, COVERAGE, reason)[:2]


def ood_detector_facts(fitted: Fitted) -> OodDetectorFacts:
    """The out-of-distribution detector and what it costs."""
    count = len(fitted.ood_detector.prototypes)
    return OodDetectorFacts(
        fitted.ood_detector.threshold, count, SIDE, fitted.fitted_on, fitted.false_alarms, fitted.measured_on
    )


def data_facts(result: RunResult) -> dict[str, Any]:
    """What the model was trained on; hashes and counts, no path."""
    data, config = result.data, result.config
    return {
        "source": config["data"]["source"],
        "manifest_sha256": data.manifest_sha256,
        "split_sha256": data.split_sha256,
        "split": config["split"]["method"],
        "train": data.train,
        "val": data.val,
        "test": data.test,
        "leaks": [
            {"part": leak.subset, "images": leak.images, "of": leak.of} for leak in data.leaks
        ],  # no patient's name
    }


def metric_facts(run: FinishedRun) -> dict[str, Any]:
    """Validation metrics; those of the test split, with intervals, where the run was evaluated on it.

    Raises:
        RunError: That evaluation is damaged.
    """
    result, path = run.result, run.folder.evaluation("test", "json")
    if not path.is_file():
        return {"val": result.metrics["val"], "test": None}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        own = found["of"]["run_ids"] == [result.run_id] and found["of"].get("other_data") is None
        test = {"images": found["n"], "patients": found["patients"], **found["metrics"]} if own else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} is damaged ({type(error).__name__}: {error}), and a bundle states what it holds. Evaluate the run again, "
            "or delete the file."
        ) from error
    return {"val": result.metrics["val"], "test": test}


def limits(
    result: RunResult, warnings: Sequence[str], detector: OodDetectorFacts, abstention: AbstentionFacts
) -> tuple[str, ...]:
    """Warnings and measured limits, for the contract and the page; the warnings first."""
    data, config = result.data, result.config
    accuracy = result.metrics["val"]["accuracy"]
    found = [
        *warnings,
        f"Trained on {data.train} images and validated on {data.val}, with a validation accuracy of {accuracy:.1%}. "
        "Expect lower accuracy on images from other machines, hospitals, ages or views.",
    ]
    leaking = [leak for leak in data.leaks if leak.subset == "val"]
    if leaking or config["split"]["method"] == "rotating":
        found.append(
            "The split leaks: some validation images show patients of the training images, so these values are optimistic."
        )
    found.append(
        f"The out-of-distribution detector flagged {detector.false_alarms} of {detector.measured_on} unseen images of this kind "
        "by mistake. It does not detect an X-ray of another disease, or a subtle change."
    )
    if abstention.coverage is not None:
        found.append(
            f"The model predicts for {abstention.coverage:.1%} of the validation images and abstains on the rest; of these "
            f"predictions {abstention.risk:.1%} are wrong."
        )
    return tuple(found)


def intended_use(task: Task) -> str:
    """In one sentence, and what it is not."""
    return INTENDED.format(classes=", ".join(task.classes))
