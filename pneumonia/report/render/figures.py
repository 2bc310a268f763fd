"""Draw the figures of reports as SVG, in the style of ``pneumonia.mplstyle``; no meaning is carried by colour alone."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter
from numpy.typing import ArrayLike

from pneumonia.metrics.calibration import ReliabilityBin
from pneumonia.report.formatting import NO_DIFFERENCE
from pneumonia.report.render.figure_style import (
    BLUE,
    CHANCE,
    GREY,
    INK,
    LINE,
    MARKER,
    PAPER,
    RED,
    WIDTH,
    Style,
    class_colours,
    legend_beside,
    line_styles,
    matrix_axis,
    name_rows,
    single_axis,
    svg,
)

MOST_SHARES: Final = 6  # classes whose cells of a confusion matrix have room for a count and a proportion
LONG_NAME: Final = 12  # letters that fit below a cell with a proportion
OUTLIER: Final = 3.0  # interquartile ranges above the third quartile; curves are cut off beyond
VERDICTS: Final = {"better": ("+", BLUE), "worse": ("−", RED), NO_DIFFERENCE: ("=", PAPER)}
Point = tuple[float, float]
Curve = tuple[ArrayLike, ArrayLike]


@svg
def curves(series: Mapping[str, Sequence[Sequence[float]]], x_label: str, y_label: str) -> Figure:
    """Draw curves by epoch: each training thin, their mean thick.

    Args:
        series: For each name its trainings, each with a value per epoch; NaN leaves a gap.
        x_label: Of the epochs, which count from 1.
        y_label: Of the values. A curve far above all others is cut off, and the label then says so.
    """
    figure, axis = single_axis(WIDTH, 3.4)
    values = [value for runs in series.values() for run in runs for value in run if math.isfinite(value)]
    longest = max((len(run) for runs in series.values() for run in runs), default=1)
    for style, (name, runs) in zip(line_styles(), series.items(), strict=False):
        length = max((len(run) for run in runs), default=0)
        if not length:
            continue
        padded = np.full((len(runs), length), np.nan)
        for row, run in enumerate(runs):
            padded[row, : len(run)] = run
        epochs = np.arange(1, length + 1)
        if len(runs) > 1:
            axis.plot(epochs, padded.T, color=style["color"], linestyle="-", linewidth=0.7, alpha=0.45)
        known = np.isfinite(padded).any(axis=0)
        mean = np.full(length, np.nan)
        mean[known] = np.nanmean(padded[:, known], axis=0)
        axis.plot(epochs, mean, **style, linewidth=2, label=name, marker="o" if length == 1 else None, markersize=4)
    if values:
        low, high = min(values), max(values)
        first, third = np.quantile(values, [0.25, 0.75])
        limit = third + OUTLIER * max(third - first, 1e-6)
        if high > limit * 1.2:
            axis.set_ylim(low - 0.05 * (limit - low), limit)
            y_label += " (cut off above)"
    axis.set(xlabel=x_label, ylabel=y_label, xlim=(0.7, longest + 0.3))
    axis.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))
    if longest == 1:
        axis.set_xticks([1])
    legend_beside(axis)
    return figure


@svg
def intervals(
    names: Sequence[str],
    values: Sequence[float | None],
    lows: Sequence[float | None],
    highs: Sequence[float | None],
    x_label: str,
) -> Figure:
    """Draw a dot and its interval for each name, from above to below; without both bounds, the dot alone."""
    figure, axis = single_axis(WIDTH * 0.75, 0.75 + 0.3 * len(names))
    beside: Style = {"transform": axis.get_yaxis_transform(), "va": "center"}
    for row, (value, low, high) in enumerate(zip(values, lows, highs, strict=True)):
        if value is None or not math.isfinite(value):
            axis.text(0.5, row, "undefined", ha="center", color=GREY, **beside)
            continue
        if low is not None and high is not None and math.isfinite(low + high):
            axis.plot([low, high], [row, row], color=BLUE, linestyle="-", linewidth=2.2)
        axis.plot(value, row, color=BLUE, **MARKER)
        axis.text(1.015, row, f"{value:.3f}", **beside)
    finite = [value for value in (*values, *lows, *highs) if value is not None and math.isfinite(value)]
    if finite:
        margin = max((max(finite) - min(finite)) * 0.06, 0.004)
        axis.set_xlim(min(finite) - margin, max(finite) + margin)
    axis.grid(axis="x")
    axis.set_xlabel(x_label)
    name_rows(axis, names)
    return figure


@svg
def roc_and_precision_recall(
    roc: Mapping[str, tuple[ArrayLike, ArrayLike, Point | None]],
    precision: Mapping[str, tuple[ArrayLike, ArrayLike, Point | None]],
    prevalence: Mapping[str, float],
) -> Figure:
    """Draw ROC and precision-recall curves side by side.

    Args:
        roc: For each name false positive rates and sensitivities, and the point of the chosen threshold.
        precision: For each name sensitivities and precisions, and the point of the chosen threshold.
        prevalence: For each name the proportion of positives, which is chance in the second drawing.
    """
    figure = Figure(figsize=(WIDTH, 3.3))
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], **CHANCE)
    for axis, found in ((left, roc), (right, precision)):
        for style, (name, (x, y, point)) in zip(line_styles(), found.items(), strict=False):
            axis.plot(x, y, **style, label=name)
            if point is not None:
                axis.plot(*point, color=style["color"], **MARKER)
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axis.grid()
    for style, name in zip(line_styles(), precision, strict=False):
        right.axhline(prevalence[name], **CHANCE | {"color": style["color"]})
    left.set(xlabel="false positive rate", ylabel="sensitivity")
    right.set(xlabel="sensitivity (recall)", ylabel="precision")
    legend_beside(right)
    figure.subplots_adjust(wspace=0.3)
    return figure


@svg
def reliability(before: Sequence[ReliabilityBin], after: Sequence[ReliabilityBin] | None) -> Figure:
    """Draw a reliability diagram.

    Args:
        before: Uncalibrated.
        after: The same after temperature scaling; ``None`` without a temperature.
    """
    figure, axis = single_axis(WIDTH * 0.62, 3.6)
    axis.plot([0, 1], [0, 1], **CHANCE)
    total, width = sum(one.n for one in before) or 1, 0.026
    arms = [("uncalibrated", before, -0.5, "o")] + ([("calibrated", after, 0.5, "s")] if after else [])
    for style, (name, bins, side, marker) in zip(line_styles(), arms, strict=False):
        x = [one.confidence for one in bins]
        axis.plot(x, [one.accuracy for one in bins], **style, marker=marker, markersize=4.5, label=name)
        shift = side * width if len(arms) > 1 else 0
        heights = [0.25 * one.n / total for one in bins]
        axis.bar([value + shift for value in x], heights, width, color=style["color"], alpha=0.3, linewidth=0)
    axis.set(xlim=(-0.02, 1.02), ylim=(0, 1.02), aspect="equal", xlabel="confidence", ylabel="proportion correct")
    axis.legend(loc="upper left")
    return figure


@svg
def risk_coverage(found: Mapping[str, Curve]) -> Figure:
    """Draw the error rate of the most confident predictions against coverage, a curve for each name."""
    figure, axis = single_axis(WIDTH * 0.75, 3.0)
    for style, (name, (coverage, risk)) in zip(line_styles(), found.items(), strict=False):
        axis.plot(coverage, risk, **style, label=name)
    axis.set(xlim=(0, 1.02), xlabel="coverage, the most confident first", ylabel="error rate (selective risk)")
    axis.set_ylim(bottom=0)
    axis.grid()
    legend_beside(axis)
    return figure


@svg
def confusion(counts: ArrayLike, classes: Sequence[str]) -> Figure:
    """Draw counts ``(K, K)`` of true class by predicted class; the shade is the proportion of the row.

    Of many classes, the cells hold their counts alone, and none where that is 0.
    """
    cells = np.asarray(counts, dtype=float)
    total = cells.sum(axis=1, keepdims=True)
    share = np.divide(cells, total, out=np.zeros_like(cells), where=total > 0)
    many = len(classes) > MOST_SHARES
    names = [name.lower() for name in classes]
    figure, axis = matrix_axis(min(1.05 * len(classes) + 0.9, WIDTH), names, 0.85)
    axis.imshow(share, cmap=LinearSegmentedColormap.from_list("share", ["#ffffff", BLUE]), vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(share):
        text = f"{cells[row, column]:.0f}\n{value:.0%}" if total[row] else "–"
        if many:
            text = "–" if not total[row] else f"{cells[row, column]:.0f}" if cells[row, column] else ""
        size = 7 if many else None
        axis.text(column, row, text, ha="center", va="center", color="white" if value > 0.55 else INK, size=size)
    if many or max(map(len, names)) > LONG_NAME:
        axis.set_xticks(range(len(names)), names, rotation=90)
    if many:
        axis.hlines(np.arange(len(names) - 1) + 0.5, -0.5, len(names) - 0.5, color=LINE, linewidth=0.4)
        axis.vlines(np.arange(len(names) - 1) + 0.5, -0.5, len(names) - 0.5, color=LINE, linewidth=0.4)
    axis.set(xlabel="predicted class", ylabel="true class")
    return figure


@svg
def pairwise(names: Sequence[str], verdicts: Sequence[Sequence[str]]) -> Figure:
    """Draw a grid of verdicts, each on its row against its column, by sign and colour."""
    count = len(names)
    figure, axis = matrix_axis(0.45 * count + 1.6, names, (0.4 * count + 1.0) / (0.45 * count + 1.6))
    for row, of_row in enumerate(verdicts):
        for column, verdict in enumerate(of_row):
            sign, colour = VERDICTS.get(verdict, ("", "#ffffff"))
            cell = Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, facecolor=colour, edgecolor=LINE, linewidth=0.6)
            axis.add_patch(cell)
            ink = INK if sign in {"=", ""} else "white"
            axis.text(column, row, sign, ha="center", va="center", color=ink, size=11.5)
    axis.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5))
    axis.set_xticks(range(count), names, rotation=35, ha="left")
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    return figure


@svg
def scatter(names: Sequence[str], x: Sequence[float], y: Sequence[float], x_label: str, y_label: str) -> Figure:
    """Draw a dot for each name, the first axis logarithmic; names stand beside the drawing, without overlap."""
    figure, axis = single_axis(WIDTH * 0.8, 3.2)
    taken: list[float] = []
    step = (max(y) - min(y)) * 0.055 or 0.01
    for place in np.argsort(y)[::-1]:
        height = float(y[place])
        while any(abs(height - other) < step for other in taken):
            height -= step / 3
        taken.append(height)
        axis.plot(x[place], y[place], color=BLUE, **MARKER)
        axis.annotate(
            names[place],
            (x[place], y[place]),
            (1.02, height),
            textcoords=("axes fraction", "data"),
            va="center",
            size=8.5,
            arrowprops={"arrowstyle": "-", "color": LINE, "linewidth": 0.6, "shrinkB": 4},
        )
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set(xlabel=x_label, ylabel=y_label)
    axis.grid()
    return figure


@svg
def bars(
    names: Sequence[str],
    values: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    marks: Sequence[float],
    x_label: str,
) -> Figure:
    """Draw a bar from 0 to 1 for each name with its interval, and a mark to compare it with."""
    figure, axis = single_axis(WIDTH * 0.75, 0.75 + 0.36 * len(names))
    rows = np.arange(len(names))
    axis.barh(rows, values, 0.55, color=BLUE, alpha=0.75)
    axis.hlines(rows, lows, highs, color=INK, linewidth=2)
    axis.vlines(marks, rows - 0.42, rows + 0.42, color=RED, linewidth=2.5)
    for row, value in enumerate(values):
        axis.text(1.02, row, f"{value:.3f}", transform=axis.get_yaxis_transform(), va="center")
    axis.set(xlim=(0, 1), xlabel=x_label)
    axis.grid(axis="x")
    name_rows(axis, names)
    return figure


@svg
def boxes(found: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Draw box plots by class, a panel for each quantity.

    Args:
        found: For each quantity and class the points at 5, 25, 50, 75 and 95%.
    """
    lines = -(-len(found) // 2)
    classes = max((len(by_class) for by_class in found.values()), default=1)
    figure = Figure(figsize=(WIDTH * 1.1, lines * (0.85 + 0.24 * classes)))
    panels = figure.subplots(lines, 2, squeeze=False).flat
    colours = class_colours(dict.fromkeys(label for by_class in found.values() for label in by_class))
    for axis, (title, by_class) in zip(panels, found.items(), strict=False):
        for row, (label, (low, first, middle, third, high)) in enumerate(by_class.items()):
            colour = colours[label]
            axis.hlines(row, low, high, color=colour)
            axis.barh(row, third - first, 0.5, first, color=colour)
            axis.vlines(middle, row - 0.25, row + 0.25, color="white" if third > first else colour, linewidth=2)
        axis.set_title(title)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=4))
        axis.tick_params(axis="x", labelsize=8)
        name_rows(axis, list(by_class))
    for axis in list(figure.axes)[len(found) :]:
        axis.set_visible(False)
    longest = max((len(label) for label in colours), default=0)
    figure.subplots_adjust(wspace=max(0.35, 0.033 * longest), hspace=0.75)
    return figure
