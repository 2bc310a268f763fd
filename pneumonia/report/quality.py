"""Write the closer look at one model: errors by class, curves, calibration, thresholds, selective prediction."""

import math

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from pneumonia.evaluation.error_gallery import gallery_file, read_gallery
from pneumonia.evaluation.result import EvaluationResult
from pneumonia.metrics.bootstrap import Estimate
from pneumonia.metrics.classification import class_metric, confusion_matrix, metric_label
from pneumonia.metrics.thresholds import one_vs_rest, risk_coverage_curve
from pneumonia.report.compare import Comparison
from pneumonia.report.entries import Entry
from pneumonia.report.evaluation_page import gallery_blocks
from pneumonia.report.formatting import bounded, listed, number
from pneumonia.report.render import figures
from pneumonia.report.render.document import Block, Figure, Heading, Note, Table, Text

BASELINE_LABELS = {"metadata": "file metadata alone", "thumbnail": "16 x 16 thumbnail, linear"}
MOST_CURVES = 10  # which have distinct colours and line styles


def closer_look(comparison: Comparison, number_: int) -> list[Block]:
    """Describe the typical training of the best candidate, and selective prediction of all candidates."""
    best = comparison.candidates[0]
    entry = best.typical
    found = entry.evaluations.get(comparison.subset)
    seed = "" if entry.members > 1 else f" (seed {entry.result.seed}, the training nearest to the mean)"
    alone = f" Its values are of this one training, those above and in the model card the mean of {best.trainings}."
    blocks: list[Block] = [
        Heading(f"A closer look at {best.label}", 3),
        Text(f"Of **{best.label}**{seed}, run `{entry.result.run_id}`.{alone if best.trainings > 1 else ''}"),
        *_errors(entry, comparison.subset, number_),
        *_curves(entry, comparison.subset, number_),
    ]
    if found is None:
        text = (
            "This run was not evaluated, so that there is no calibration, threshold or baseline to show: "
            f"`pneumonia evaluate {entry.folder.path} --split {comparison.subset}`"
        )
        blocks.append(Note(text))
    else:
        blocks += [*_calibration(found, number_), *_thresholds(found, number_), *_baselines(found, number_)]
    blocks += _abstention(comparison, number_)
    gallery = gallery_file(entry.evaluation(comparison.subset))
    if gallery.is_file():
        blocks.append(Heading("Error gallery", 3))
        try:
            blocks += gallery_blocks(read_gallery(gallery))
        except (ValueError, KeyError, TypeError):
            blocks.append(Note(f"`{gallery}` is damaged. Evaluate this run again with `--gallery`."))
    return blocks


def _errors(entry: Entry, subset: str, number_: int) -> list[Block]:
    task = entry.result.task
    classes = task.classes
    recall = {task.positive[0]: "sensitivity", task.negative[0]: "specificity"} if len(classes) == 2 else {}
    probability, label = entry.predicted(subset)
    counts = confusion_matrix(probability.argmax(axis=1), label, len(classes))
    rows = []
    evaluation = entry.evaluations.get(subset)
    found = evaluation.metrics if evaluation else {}
    for k, name in enumerate(classes):
        cells = [name, f"{counts[k].sum():,}", f"{counts[k, k]:,}"]
        for metric, among in (("recall", counts[k].sum()), ("precision", counts[:, k].sum())):
            known = found.get(class_metric(metric, name)) or found.get(recall.get(name, "") if metric == "recall" else "")
            value = counts[k, k] / among if among else float("nan")
            cells.append(_cell(known) if known else number(float(value)))
        rows.append(cells)
    absent = [name for k, name in enumerate(classes) if not counts[k].any()]
    note = f"There is no image of {', '.join(absent)} here: metrics of all classes are undefined (–)."
    caption = "Images by true class (rows) and predicted class, the most probable one; shares of the row."
    title = "By class, where the most probable class is predicted; thresholds have a table of their own"
    head = ("true class", "images", "correct", "recall", "precision")
    return [
        *([Note(note)] if absent else []),
        Figure(f"confusion-{number_}", figures.confusion(counts, classes), caption, "Confusion matrix."),
        Table(head, rows, title, 1, f"classes-{number_}"),
    ]


def _curves(entry: Entry, subset: str, number_: int) -> list[Block]:
    questions = one_vs_rest(*entry.predicted(subset), entry.result.task)
    asked = {name: pair for name, pair in questions.items() if 0 < pair[1].sum() < len(pair[1])}
    if not asked:
        return []
    left_out = len(asked) - MOST_CURVES
    asked = dict(list(asked.items())[:MOST_CURVES])
    evaluation = entry.evaluations.get(subset)
    points = {point.positive: point.metrics for point in evaluation.operating_points} if evaluation else {}
    roc, pr = {}, {}
    for name, (score, positive) in asked.items():
        fpr, tpr, _ = roc_curve(positive, score)
        precision, recall, _ = precision_recall_curve(positive, score)
        at = points.get(name) or {}
        names = ("specificity", "sensitivity", "ppv")
        specificity, sensitivity, ppv = (at[metric].value if at else None for metric in names)
        false_positive_rate = None if specificity is None else 1 - specificity
        roc[name] = (fpr, tpr, _point(false_positive_rate, sensitivity))
        pr[name] = (recall, precision, _point(sensitivity, ppv) if roc[name][2] else None)
    share = {name: float(positive.mean()) for name, (_, positive) in asked.items()}
    svg = figures.roc_and_precision_recall(roc, pr, share)
    caption = "ROC and precision–recall, each class against the rest. Dashes: chance."
    if left_out > 0:
        caption += f" The first {MOST_CURVES} of {MOST_CURVES + left_out}; the thresholds of all are in the table below."
    marked = [name for name, (*_, point) in roc.items() if point is not None]
    if marked:
        which = "" if len(marked) == len(roc) else f" (of {listed(marked)} alone)"
        caption += f" Dot{which}: the threshold for a sensitivity of 0.95 on the validation split."
    return [Figure(f"curves-{number_}", svg, caption, "Curves of sensitivity and precision over all thresholds.")]


def _point(x: float | None, y: float | None) -> figures.Point | None:
    return None if x is None or y is None else (x, y)


def _cell(estimate: Estimate) -> str:
    return bounded(estimate.value, estimate.low, estimate.high)


def _calibration(found: EvaluationResult, number_: int) -> list[Block]:
    known, scaled = found.calibration, found.calibration.scaled
    rows = [["uncalibrated", number(known.ece, 4), number(known.brier, 4), number(found.metrics["loss"].value, 4)]]
    if scaled:
        name = f"calibrated (temperature {number(known.temperature)})"
        rows.append([name, number(scaled.ece, 4), number(scaled.brier, 4), number(scaled.loss, 4)])
    svg = figures.reliability(known.reliability, scaled.reliability if scaled else None)
    caption = (
        f"Accuracy by confidence, in {known.bins} bins of equal width; a perfectly calibrated model lies on the diagonal. Bars: "
        "the proportion of images in each bin, all of them being a quarter of the height."
    )
    head = ("", f"ECE ({known.bins} bins)", "Brier score (0 to 2)", "cross-entropy")
    title = f"Calibration; the temperature is fitted on the validation split{_same_images(found)}"
    return [
        Figure(f"reliability-{number_}", svg, caption, "Reliability diagram before and after temperature scaling."),
        Table(head, rows, title, 1, f"calibration-{number_}"),
        *([Note(f"No temperature: {known.reason}.")] if known.reason else []),
    ]


def _same_images(found: EvaluationResult) -> str:
    """Return a remark if calibration and thresholds were chosen on the images on which they are measured."""
    fitted_on = found.calibration.fitted_on
    return " (these very images)" if fitted_on and fitted_on.same_images else ""


def _thresholds(found: EvaluationResult, number_: int) -> list[Block]:
    names = ("sensitivity", "specificity", "ppv", "npv", "flagged")
    rows = []
    for point in found.operating_points:
        cells = [_cell(point.metrics[name]) if point.metrics else "–" for name in names]
        rows.append([point.positive, point.reason or number(point.threshold, 4), *cells])
    caption = (
        f"Thresholds chosen on the validation split{_same_images(found)} for a sensitivity of 0.95, and their metrics here; "
        "PPV and NPV at this prevalence"
    )
    return [Table(("positive", "threshold", *map(metric_label, names)), rows, caption, 1, f"thresholds-{number_}")]


def _baselines(found: EvaluationResult, number_: int) -> list[Block]:
    if found.baselines.reason:
        return [Note(f"No baselines: {found.baselines.reason}.")]
    rows = [
        [BASELINE_LABELS[kind], metric_label(metric), _cell(baseline.metrics[metric]), _cell(gain)]
        for kind, baseline in found.baselines.by_kind().items()
        for metric, gain in baseline.gain.items()
    ]
    caption = "Baselines that see no lungs, on the same images; the model should be clearly better"
    return [Table(("baseline", "metric", "it reaches", "the model has more"), rows, caption, 2, f"baselines-{number_}")]


def _abstention(comparison: Comparison, number_: int) -> list[Block]:
    chosen = comparison.candidates[:5]
    curves = {one.label: risk_coverage_curve(*one.typical.predicted(comparison.subset)) for one in chosen}
    caption = "Error rate of the most confident predictions, if all others are left to a person (selective prediction)."
    if any(one.trainings > 1 for one in chosen):
        caption += " Of each configuration the training nearest to its mean."
    if len(comparison.candidates) > len(chosen):
        caption += f" The first {len(chosen)} of the ranking."
    return [Figure(f"abstention-{number_}", figures.risk_coverage(curves), caption, _abstention_alt(curves))]


def _abstention_alt(curves: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> str:
    # As few images as make up 80% or more, as in an evaluation.
    at = {label: risk[math.ceil(0.8 * len(risk) - 1e-9) - 1] for label, (_, risk) in curves.items() if len(risk) > 1}
    return "Error rate at 80% coverage: " + ", ".join(f"{label} {value:.3f}" for label, value in at.items())
