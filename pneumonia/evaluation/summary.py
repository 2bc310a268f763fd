"""What a person sees of an evaluation."""

from typing import Any

from pneumonia.runs.model_warnings import PHANTOMS, constant_prediction
from pneumonia.runs.result import RunResult
from pneumonia.system.console import figure, say, table, warn
from pneumonia.tasks import Task


def show_evaluation(
    report: dict[str, Any],
    task: Task,
    skipped: dict[str, str],
    results: list[RunResult],
    brief: bool = False,
) -> None:
    """The tables of an evaluation, and what they are worth.

    Args:
        report: What the JSON file holds.
        task: Gives the classes.
        skipped: Images that could not be read, with the reason.
        results: Of the runs that were evaluated: one, or the members of an ensemble.
        brief: One line instead of the tables; what must not be missed is said all the same.
    """
    if brief:
        value, range_ = _bounded(report["metrics"]["accuracy"])
        say(f"  {report['n']} images of {report['patients']} patients: accuracy {value} ({range_})")
    else:
        _show_tables(report, task, len(results))
    if report["trained_on"]:
        warn(
            f"The model was trained on {report['trained_on']} of these {report['n']} images: these scores are optimistic."
        )
    for leak in results[0].data.leaks if report["of"]["other_data"] is None else []:
        if leak.subset == report["split"]:
            warn(
                f"split={results[0].config['split']['method']} is leaky: {leak.images} of {leak.of} images show a "
                "patient that the model was trained on."
            )
    constant = constant_prediction(report["confusion"]["counts"], report["confusion"]["classes"], report["split"])
    if constant:
        warn(constant)
    other = report["of"]["other_data"]
    if other is not None and not report["phantoms"] and any(result.data.phantoms for result in results):
        warn(PHANTOMS)
    for path, reason in skipped.items():
        warn(f"left out {path}: {reason}")


def _show_tables(report: dict[str, Any], task: Task, members: int) -> None:
    other = report["of"]["other_data"]
    where = "" if other is None else f" of other data, {other}"
    title = f"{report['split']}{where}: {report['n']} images of {report['patients']} patients"
    if members > 1:
        title += f", the mean of {members} runs"
    rows = [(name, *_bounded(entry)) for name, entry in report["metrics"].items()]
    table(title, ("metric", "value", "95% interval, by patient"), rows)
    counts = report["confusion"]["counts"]
    shown = [(name, *(str(count) for count in row)) for name, row in zip(task.classes, counts, strict=True)]
    table("Confusion: true class by predicted class", ("", *task.classes), shown)
    _show_points(report)
    _show_baselines(report["baselines"])
    _show_calibration(report["calibration"])
    answered = next(point for point in report["abstention"]["points"] if point["asked"] == 0.8)
    say(
        f"Of the surest {answered['coverage']:.0%} of the images {figure(answered['risk']['value'])} are told wrong; of all "
        f"{figure(1 - report['metrics']['accuracy']['value'])}"
    )


def _bounded(entry: dict[str, float | None]) -> tuple[str, str]:
    return figure(entry["value"]), f"{figure(entry['low'])} to {figure(entry['high'])}"


def _show_points(report: dict[str, Any]) -> None:
    points = report["operating_points"]
    rows = [
        (
            point["positive"],
            f"{point['threshold']:.4f}",
            *(figure(point["metrics"][name]["value"]) for name in ("sensitivity", "specificity", "ppv", "npv")),
        )
        for point in points
        if point["metrics"] is not None
    ]
    if rows:
        columns = ("positive", "threshold", "sensitivity", "specificity", "ppv", "npv")
        table("Thresholds for a sensitivity of 0.95 on the validation split, and what they give here", columns, rows)
    for point in points:
        if point["metrics"] is None:
            say(f"No threshold for {point['positive']}: {point['reason']}")


def _show_baselines(baselines: dict[str, Any]) -> None:
    if baselines["reason"]:
        say(f"No baselines: {baselines['reason']}")
        return
    rows = []
    for kind in (kind for kind in baselines if kind != "reason"):
        metrics, gains = baselines[kind]["metrics"], baselines[kind]["gain"]
        rows += [
            (f"{kind}: {name}", *_bounded(metrics[name]), f"{figure(one['value'])} ({_range(one)})")
            for name, one in gains.items()
        ]
    columns = ("baseline", "value", "95% interval", "the model has more")
    table("What file metadata and 16 x 16 thumbnails alone give on these images", columns, rows)


def _range(one: dict[str, float | None]) -> str:
    return f"{figure(one['low'])} to {figure(one['high'])}"


def _show_calibration(found: dict[str, Any]) -> None:
    text = f"Calibration error {found['ece']:.4f} ({found['bins']} bins), Brier score {found['brier']:.4f}"
    if found["scaled"] is not None:
        mended = found["scaled"]
        text += (
            f"; with the logits divided by {found['temperature']:.3f}, as the validation split asks: {mended['ece']:.4f}, "
            f"{mended['brier']:.4f}"
        )
    say(text)
    if found["reason"]:
        say(f"No temperature: {found['reason']}")
