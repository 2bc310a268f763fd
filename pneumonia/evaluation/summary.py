"""Print the summary of an evaluation."""

from collections.abc import Mapping, Sequence

from pneumonia.evaluation.result import Baselines, Calibration, EvaluationResult, OperatingPoint
from pneumonia.metrics.bootstrap import Estimate
from pneumonia.runs.model_warnings import PHANTOMS, constant_prediction
from pneumonia.runs.result import RunResult
from pneumonia.system.class_tables import print_confusion
from pneumonia.system.console import format_value, say, table, warn
from pneumonia.tasks import Task


def print_summary(
    found: EvaluationResult,
    task: Task,
    skipped: Mapping[str, str],
    results: Sequence[RunResult],
    brief: bool = False,
) -> None:
    """Print the tables of an evaluation and warnings about its validity.

    ``skipped`` holds unreadable images with the reason, ``results`` are those of a run or of the members of an ensemble. A brief
    summary is one line instead of the tables, and the same warnings.
    """
    n, subset, other_data = found.n, found.split, found.of.other_data
    if brief:
        value, interval = _cells(found.metrics["accuracy"])
        say(f"  {n} images of {found.patients} patients: accuracy {value} ({interval})")
    else:
        _print_tables(found, task, len(results))
    if found.trained_on:
        warn(f"The model was trained on {found.trained_on} of these {n} images: these scores are optimistic.")
    for leak in results[0].data.leaks if other_data is None else []:
        if leak.subset == subset:
            warn(
                f"split={results[0].config.split.method} is leaky: {leak.images} of {leak.of} images show a "
                "patient that the model was trained on."
            )
    constant = constant_prediction(found.confusion.counts, found.confusion.classes, subset)
    if constant:
        warn(constant)
    if other_data is not None and not found.phantoms and any(result.data.phantoms for result in results):
        warn(PHANTOMS)
    for path, reason in skipped.items():
        warn(f"left out {path}: {reason}")


def _print_tables(found: EvaluationResult, task: Task, members: int) -> None:
    other_data = found.of.other_data
    source = "" if other_data is None else f" of other data, {other_data}"
    title = f"{found.split}{source}: {found.n} images of {found.patients} patients"
    if members > 1:
        title += f", the mean of {members} runs"
    rows = [(name, *_cells(entry)) for name, entry in found.metrics.items()]
    table(title, ("metric", "value", "95% interval, by patient"), rows)
    print_confusion("Confusion: true class by predicted class", task.classes, found.confusion.counts)
    _print_thresholds(found.operating_points)
    _print_baselines(found.baselines)
    _print_calibration(found.calibration)
    accuracy = found.metrics["accuracy"].value
    point = next(point for point in found.abstention.points if point.asked == 0.8)
    say(
        f"Error rate of the most confident {point.coverage:.0%} of the predictions: {format_value(point.risk.value)}; of all: "
        f"{format_value(None if accuracy is None else 1 - accuracy)}"
    )


def _print_thresholds(points: Sequence[OperatingPoint]) -> None:
    names = ("sensitivity", "specificity", "ppv", "npv")
    rows = [
        (point.positive, f"{point.threshold:.4f}", *(format_value(point.metrics[name].value) for name in names))
        for point in points
        if point.metrics is not None
    ]
    if rows:
        title = "Thresholds for a sensitivity of 0.95 on the validation split, and their metrics here"
        table(title, ("positive", "threshold", *names), rows)
    for point in points:
        if point.metrics is None:
            say(f"No threshold for {point.positive}: {point.reason}")


def _print_baselines(baselines: Baselines) -> None:
    if baselines.reason:
        say(f"No baselines: {baselines.reason}")
        return
    rows = [
        (f"{kind}: {name}", *_cells(found.metrics[name]), "{} ({})".format(*_cells(gain)))
        for kind, found in baselines.by_kind().items()
        for name, gain in found.gain.items()
    ]
    columns = ("baseline", "value", "95% interval", "improvement of the model")
    table("Baselines that see only file metadata or 16 x 16 thumbnails, on these images", columns, rows)


def _print_calibration(found: Calibration) -> None:
    text = f"Calibration error {found.ece:.4f} ({found.bins} bins), Brier score {found.brier:.4f}"
    if found.scaled is not None:
        text += (
            f"; calibrated (temperature {found.temperature:.3f}, fitted on the validation split): {found.scaled.ece:.4f}, "
            f"{found.scaled.brier:.4f}"
        )
    say(text)
    if found.reason:
        say(f"No temperature: {found.reason}")


def _cells(estimate: Estimate) -> tuple[str, str]:
    """Return value and interval."""
    if estimate.low is None or estimate.high is None:
        return format_value(estimate.value), "no interval"
    return format_value(estimate.value), f"{format_value(estimate.low)} to {format_value(estimate.high)}"
