"""Build the contract of a run: what it was trained on, what is chosen on its validation images, and its limitations."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

import numpy as np
import pandas as pd

from pneumonia.data.images.decode import DECODER
from pneumonia.errors import RunError
from pneumonia.evaluation.result import read_evaluation
from pneumonia.export.contract import (
    Abstention,
    Calibration,
    DataInfo,
    MetricInfo,
    OodDetectorInfo,
    OperatingPoint,
    Preprocessing,
    SubsetLeak,
)
from pneumonia.metrics.calibration import apply_temperature, fit_temperature
from pneumonia.metrics.predictions import prediction_arrays
from pneumonia.metrics.thresholds import TARGET_SENSITIVITY, one_vs_rest, risk_coverage_curve, threshold_for
from pneumonia.models.options import ClassifierOptions
from pneumonia.runs.load import FinishedRun
from pneumonia.runs.result import RunResult
from pneumonia.tasks import Task

COVERAGE: Final = 0.9
INTENDED_USE: Final = (
    "Research and teaching: classification of frontal chest X-rays of the training data's kind as {classes}. "
    "Not a medical device; no output may be used to decide about a person."
)


def preprocessing(options: ClassifierOptions) -> Preprocessing:
    """Describe how an image file becomes the input of the graph."""
    fields = {"size": options.image_size, "resize": options.resize, "decoder": DECODER, "channels": options.channels}
    return Preprocessing.model_validate({**fields, "normalisation": asdict(options.fitted), "tta": options.tta})


def decision_rules(
    table: pd.DataFrame, task: Task, coverage: float, reason: str = ""
) -> tuple[Calibration, tuple[OperatingPoint, ...], Abstention]:
    """Fit the temperature, then choose thresholds and abstention on the calibrated scale.

    With three classes the temperature changes the order of the images by their scores, so thresholds of uncalibrated scores
    do not apply.

    Args:
        table: Predictions of the run's validation images; ignored with a ``reason``.
        task: Names the classes and the binary questions.
        coverage: The fraction of images with a prediction.
        reason: Why nothing can be chosen on these images; empty where it can.
    """
    if reason:
        return (
            Calibration(temperature=None, images=0, reason=reason),
            tuple(_operating_point(name, None, reason) for name in task.questions),
            Abstention(target=coverage, confidence=None, coverage=None, risk=None, reason=reason),
        )
    probability, label = prediction_arrays(table, task.classes)
    exact = probability.astype(np.float64)
    temperature = fit_temperature(exact, label)
    calibrated = apply_temperature(exact, temperature)
    points = tuple(
        _operating_point(name, threshold_for(score, positive), f"no validation image shows {name}")
        for name, (score, positive) in one_vs_rest(calibrated, label, task).items()
    )
    confidence = np.sort(calibrated.max(axis=1))[::-1]
    threshold = float(confidence[max(int(np.ceil(coverage * len(label) - 1e-9)), 1) - 1])
    predicted = int((confidence >= threshold).sum())
    risk = float(risk_coverage_curve(calibrated, label)[1][predicted - 1])
    return (
        Calibration(temperature=temperature.value, images=len(label), reason=temperature.reason or None),
        points,
        Abstention(target=coverage, confidence=threshold, coverage=predicted / len(label), risk=risk, reason=None),
    )


def decision_rules_of_run(run: FinishedRun) -> tuple[Calibration, tuple[OperatingPoint, ...]]:
    """Return the temperature and the thresholds that a bundle of the run has, so that both predict alike.

    Raises:
        RunError: The validation predictions are damaged.
    """
    reason = run.why_uncalibrated
    table = pd.DataFrame() if reason else run.validation_predictions()
    return decision_rules(table, run.task, COVERAGE, reason)[:2]


def data_info(result: RunResult) -> DataInfo:
    """Describe the images of the run by hashes and counts; names no path and no patient."""
    data, config = result.data, result.config
    return DataInfo(
        source=config.data.source,
        manifest_sha256=data.manifest_sha256,
        split_sha256=data.split_sha256,
        split=config.split.method,
        train=data.train,
        val=data.val,
        test=data.test,
        leaks=tuple(SubsetLeak(subset=leak.subset, images=leak.images, total=leak.of) for leak in data.leaks),
    )


def metric_info(run: FinishedRun) -> MetricInfo:
    """Collect validation metrics, and test metrics with intervals where the run was evaluated on its test split.

    Raises:
        RunError: That evaluation is damaged.
    """
    path, test = run.folder.evaluation("test", "json"), None
    if path.is_file():
        try:
            found = read_evaluation(path)
        except (OSError, ValueError) as error:
            raise RunError(
                f"{path} is damaged ({type(error).__name__}: {error}), so its test metrics are unknown. Evaluate the run again, "
                "or delete the file."
            ) from error
        if found.of.run_ids == [run.result.run_id] and found.of.other_data is None:
            metrics = {name: asdict(estimate) for name, estimate in found.metrics.items()}
            test = {"images": found.n, "patients": found.patients, "metrics": metrics}
    return MetricInfo.model_validate({"val": run.result.metrics["val"], "test": test})


def limitations(result: RunResult, warnings: Sequence[str], detector: OodDetectorInfo, abstention: Abstention) -> tuple[str, ...]:
    """Return warnings and measured limitations, for the contract and the page; the warnings first."""
    data, accuracy = result.data, result.metrics["val"]["accuracy"]
    sentences = [
        *warnings,
        f"Trained on {data.train} images and validated on {data.val}, with a validation accuracy of {accuracy:.1%}. "
        "Expect lower accuracy on images from other machines, hospitals, ages or views.",
    ]
    if result.config.split.method == "rotating" or any(leak.subset == "val" for leak in data.leaks):
        sentences.append(
            "The split leaks: some validation images show patients of the training images, so these values are optimistic."
        )
    sentences.append(
        f"The out-of-distribution detector flagged {detector.false_alarms} of {detector.measured_on} unseen images of this kind "
        "by mistake. It does not detect an X-ray of another disease, or a subtle change."
    )
    if abstention.coverage is not None:
        sentences.append(
            f"The model predicts for {abstention.coverage:.1%} of the validation images and abstains on the rest; of these "
            f"predictions {abstention.risk:.1%} are wrong."
        )
    return tuple(sentences)


def _operating_point(positive: str, threshold: float | None, reason: str) -> OperatingPoint:
    why = reason if threshold is None else None
    return OperatingPoint(positive=positive, sensitivity=TARGET_SENSITIVITY, threshold=threshold, reason=why)
