"""The drawings of a report, numbers in, SVG out: one style, colours that colour-blind people tell apart, no colour alone."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE: Final = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#5b6573",
    "#9a6a00",
    "#6a3d9a",
    "#000000",
)
STROKES: Final = (
    "-",
    "--",
    "-.",
    ":",
    (0, (5, 1)),
    (0, (3, 1, 1, 1)),
    (0, (1, 1)),
    (0, (7, 3)),
    (0, (4, 2, 1, 2, 1, 2)),
    (0, (9, 2)),
)
INK: Final = "#1d2430"
SOFT: Final = "#5b6573"
LINE: Final = "#d9dee5"
WIDTH: Final = 7.2  # inches
TALL: Final = 3.4
TEXT: Final = 9.5
ROBUST: Final = 3.0  # times the range of the middle of all curves, above which one is cut off
VERDICTS: Final = {"better": ("+", "#0072B2"), "worse": ("−", "#D55E00"), "can't be told apart": ("=", "#eef1f5")}
Point = tuple[float, float]


def _figure(width: float, height: float, across: int = 1) -> tuple["Figure", list["Axes"]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axes = [figure.add_subplot(1, across, number + 1) for number in range(across)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(SOFT)
        axis.tick_params(colors=INK, labelsize=TEXT - 0.5, width=0.6)
        axis.xaxis.label.set(color=INK, size=TEXT)
        axis.yaxis.label.set(color=INK, size=TEXT)
    return figure, axes


def _svg(figure: "Figure") -> str:
    import matplotlib as mpl

    drawn = io.StringIO()
    # Paths instead of text: the same picture in a browser and in the PDF, whatever fonts there are.
    with mpl.rc_context({"svg.hashsalt": "pneumonia", "svg.fonttype": "path"}):
        figure.savefig(
            drawn, format="svg", bbox_inches="tight", pad_inches=0.05, metadata={"Date": None, "Creator": None}
        )
    text = drawn.getvalue()
    return text[text.index("<svg") :]


def curves(series: Mapping[str, Sequence[Sequence[float]]], x_label: str, y_label: str) -> str:
    """Curves by epoch: each training thin, their mean thick, named at its end.

    Args:
        series: For each name its trainings, each with a value an epoch; NaN leaves a gap.
        x_label: Of the epochs, which count from 1.
        y_label: Of the values. Where one curve leaves all others far below, it is cut off, and this says so.
    """
    figure, (axis,) = _figure(WIDTH, TALL)
    everything = [value for runs in series.values() for run in runs for value in run if math.isfinite(value)]
    longest = max((len(run) for runs in series.values() for run in runs), default=1)
    for number, (name, runs) in enumerate(series.items()):
        colour, stroke = PALETTE[number % len(PALETTE)], STROKES[number % len(STROKES)]
        length = max((len(run) for run in runs), default=0)
        if not length:
            continue
        padded = np.full((len(runs), length), np.nan)
        for row, run in enumerate(runs):
            padded[row, : len(run)] = run
        epochs = np.arange(1, length + 1)
        if len(runs) > 1:
            axis.plot(epochs, padded.T, color=colour, linewidth=0.7, alpha=0.45)
        known = np.isfinite(padded).any(axis=0)
        mean = np.full(length, np.nan)
        mean[known] = np.nanmean(padded[:, known], axis=0)
        axis.plot(
            epochs,
            mean,
            color=colour,
            linestyle=stroke,
            linewidth=2,
            label=name,
            marker="o" if length == 1 else None,
            markersize=4,
        )
    if everything:
        low, high = min(everything), max(everything)
        quarter, three = np.quantile(everything, [0.25, 0.75])
        limit = three + ROBUST * max(three - quarter, 1e-6)
        if high > limit * 1.2:
            axis.set_ylim(low - 0.05 * (limit - low), limit)
            y_label += " (cut off above)"
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.set_xlim(0.7, longest + 0.3)
    _whole_ticks(axis, longest)
    _legend_beside(axis)
    return _svg(figure)


def _whole_ticks(axis: "Axes", last: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))
    if last == 1:
        axis.set_xticks([1])


def _legend_beside(axis: "Axes") -> None:
    if axis.get_legend_handles_labels()[0]:
        axis.legend(
            loc="upper left",
            bbox_to_anchor=(1.01, 1.02),
            frameon=False,
            fontsize=TEXT - 0.5,
            handlelength=2.6,
            labelcolor=INK,
        )


def intervals(
    names: Sequence[str],
    values: Sequence[float | None],
    lows: Sequence[float | None],
    highs: Sequence[float | None],
    x_label: str,
) -> str:
    """A dot and its interval a name, from above to below; a missing bound leaves the dot alone.

    Args:
        names: What the rows are called.
        values: Figures, as long as ``names``.
        lows: Their lower bounds.
        highs: Their upper bounds.
        x_label: What they are.
    """
    figure, (axis,) = _figure(WIDTH * 0.75, 0.75 + 0.3 * len(names))
    known = [_finite(value) for value in (*values, *lows, *highs)]
    finite = [value for value in known if value is not None]
    for row, (value, low, high) in enumerate(zip(values, lows, highs, strict=True)):
        middle, left, right = _finite(value), _finite(low), _finite(high)
        if middle is None:
            axis.text(
                0.5,
                row,
                "undefined",
                transform=axis.get_yaxis_transform(),
                va="center",
                ha="center",
                color=SOFT,
                size=TEXT - 1,
            )
            continue
        if left is not None and right is not None:
            axis.plot([left, right], [row, row], color=PALETTE[0], linewidth=2.2, solid_capstyle="butt")
        axis.plot(middle, row, "o", color=PALETTE[0], markersize=6, markeredgecolor="white", markeredgewidth=0.8)
        axis.text(
            1.015, row, f"{middle:.3f}", transform=axis.get_yaxis_transform(), va="center", color=INK, size=TEXT - 0.5
        )
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color=LINE, linewidth=0.6)
    axis.set_axisbelow(True)
    if finite:
        margin = max((max(finite) - min(finite)) * 0.06, 0.004)
        axis.set_xlim(min(finite) - margin, max(finite) + margin)
    axis.set_xlabel(x_label)
    return _svg(figure)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def curve_pairs(
    roc: Mapping[str, tuple[ArrayLike, ArrayLike, Point | None]],
    precision: Mapping[str, tuple[ArrayLike, ArrayLike, Point | None]],
    share: Mapping[str, float],
) -> str:
    """ROC and precision-recall curves side by side.

    Args:
        roc: For each name false positive rates and sensitivities, and the point of the chosen threshold.
        precision: For each name sensitivities and precisions, and the point of the chosen threshold.
        share: For each name the share of positives, which is chance in the second drawing.
    """
    figure, (left, right) = _figure(WIDTH, 3.3, across=2)
    left.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=(0, (4, 4)))
    for axis, found in ((left, roc), (right, precision)):
        for number, (name, (x, y, point)) in enumerate(found.items()):
            axis.plot(x, y, color=PALETTE[number], linestyle=STROKES[number], linewidth=1.6, label=name)
            if point is not None:
                axis.plot(*point, "o", color=PALETTE[number], markersize=6, markeredgecolor="white")
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axis.grid(color=LINE, linewidth=0.5)
        axis.set_axisbelow(True)
    for number, name in enumerate(precision):
        right.axhline(share[name], color=PALETTE[number], linewidth=0.8, linestyle=(0, (4, 4)))
    left.set(xlabel="false positive rate", ylabel="sensitivity")
    right.set(xlabel="sensitivity (recall)", ylabel="precision")
    _legend_beside(right)
    figure.subplots_adjust(wspace=0.3)
    return _svg(figure)


def reliability(before: Sequence[Mapping[str, float]], after: Sequence[Mapping[str, float]] | None) -> str:
    """How often answers of some confidence are right.

    Args:
        before: Bins with ``confidence``, ``accuracy`` and ``n``.
        after: The same after temperature scaling; ``None`` where there is none.
    """
    figure, (axis,) = _figure(WIDTH * 0.62, 3.6)
    axis.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=(0, (4, 4)))
    total = sum(found["n"] for found in before) or 1
    arms = [("uncalibrated", before, 0, "o")] + ([("calibrated", after, 1, "s")] if after else [])
    for name, bins, number, marker in arms:
        x, y = [found["confidence"] for found in bins], [found["accuracy"] for found in bins]
        axis.plot(
            x,
            y,
            color=PALETTE[number],
            linestyle=STROKES[number],
            linewidth=1.4,
            marker=marker,
            markersize=4.5,
            label=name,
        )
        width = 0.026
        shift = (number - 0.5) * width if len(arms) > 1 else 0
        heights = [0.25 * found["n"] / total for found in bins]
        axis.bar([(value + shift) for value in x], heights, width=width, color=PALETTE[number], alpha=0.3, linewidth=0)
    axis.set(xlim=(-0.02, 1.02), ylim=(0, 1.02), aspect="equal", xlabel="confidence", ylabel="share correct")
    axis.legend(loc="upper left", frameon=False, fontsize=TEXT - 0.5, handlelength=2.6)
    return _svg(figure)


def risk_coverage(found: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> str:
    """Share of wrong answers by share of answers given, a curve a name: coverages and risks."""
    figure, (axis,) = _figure(WIDTH * 0.75, 3.0)
    for number, (name, (coverage, risk)) in enumerate(found.items()):
        axis.plot(
            coverage,
            risk,
            color=PALETTE[number % len(PALETTE)],
            linestyle=STROKES[number % len(STROKES)],
            linewidth=1.6,
            label=name,
        )
    axis.set(xlim=(0, 1.02), xlabel="share of images answered, the surest first", ylabel="share of answers wrong")
    axis.set_ylim(bottom=0)
    axis.grid(color=LINE, linewidth=0.5)
    axis.set_axisbelow(True)
    _legend_beside(axis)
    return _svg(figure)


def confusion(counts: ArrayLike, classes: Sequence[str]) -> str:
    """Counts ``(K, K)`` of true class by told class; the shade is the share of the row."""
    from matplotlib.colors import LinearSegmentedColormap

    cells = np.asarray(counts, dtype=float)
    total = cells.sum(axis=1, keepdims=True)
    share = np.divide(cells, total, out=np.zeros_like(cells), where=total > 0)
    side = 1.05 * len(classes) + 0.9
    figure, (axis,) = _figure(side, side * 0.85)
    axis.imshow(
        share, cmap=LinearSegmentedColormap.from_list("share", ["#ffffff", "#0072B2"]), vmin=0, vmax=1, aspect="auto"
    )
    for row in range(len(classes)):
        for column in range(len(classes)):
            colour = "white" if share[row, column] > 0.55 else INK
            text = f"{cells[row, column]:.0f}\n{share[row, column]:.0%}" if total[row] else "–"
            axis.text(column, row, text, ha="center", va="center", color=colour, size=TEXT)
    axis.set_xticks(range(len(classes)), [name.lower() for name in classes])
    axis.set_yticks(range(len(classes)), [name.lower() for name in classes])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set(xlabel="predicted class", ylabel="true class")
    return _svg(figure)


def pairwise(names: Sequence[str], verdicts: Sequence[Sequence[str]]) -> str:
    """A grid of verdicts, each on its row against its column; sign and colour say the same."""
    count = len(names)
    figure, (axis,) = _figure(0.45 * count + 1.6, 0.4 * count + 1.0)
    for row in range(count):
        for column in range(count):
            sign, colour = VERDICTS.get(verdicts[row][column], ("", "#ffffff"))
            axis.add_patch(_square(column, row, colour))
            ink = INK if sign in {"=", ""} else "white"
            axis.text(column, row, sign, ha="center", va="center", color=ink, size=TEXT + 2)
    axis.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5))
    axis.set_yticks(range(count), names)
    axis.set_xticks(range(count), names, rotation=35, ha="left")
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return _svg(figure)


def _square(x: float, y: float, colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.47, y - 0.47), 0.94, 0.94, facecolor=colour, edgecolor=LINE, linewidth=0.6)


def scatter(names: Sequence[str], x: Sequence[float], y: Sequence[float], x_label: str, y_label: str) -> str:
    """What each costs against what it reaches; the first axis is logarithmic, names stand beside their dots."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure, (axis,) = _figure(WIDTH * 0.8, 3.2)
    order = np.argsort(y)[::-1]
    taken: list[float] = []
    step = (max(y) - min(y)) * 0.055 or 0.01
    for place in order:
        height = float(y[place])
        while any(abs(height - other) < step for other in taken):
            height -= step / 3
        taken.append(height)
        axis.plot(x[place], y[place], "o", color=PALETTE[0], markersize=6, markeredgecolor="white")
        axis.annotate(
            names[place],
            (x[place], y[place]),
            (1.02, height),
            textcoords=("axes fraction", "data"),
            va="center",
            size=TEXT - 1,
            color=INK,
            arrowprops={"arrowstyle": "-", "color": LINE, "linewidth": 0.6, "shrinkB": 4},
        )
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set(xlabel=x_label, ylabel=y_label)
    axis.grid(color=LINE, linewidth=0.5)
    axis.set_axisbelow(True)
    return _svg(figure)
