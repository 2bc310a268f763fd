"""The style of the figures of reports: colours, axes, and SVG as output."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import wraps
from itertools import cycle
from pathlib import Path
from typing import Any, Final, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

STYLE: Final = Path(__file__).with_name("pneumonia.mplstyle")
CLASS_COLOURS: Final = {"NORMAL": "#0072B2", "VIRUS": "#E69F00", "BACTERIA": "#D55E00", "PNEUMONIA": "#CC79A7"}
BLUE, RED, GREY, LINE, INK, PAPER = "#0072B2", "#D55E00", "#5b6573", "#d9dee5", "#1d2430", "#eef1f5"
WIDTH: Final = 7.2  # inches
Style = dict[str, Any]  # keyword arguments of matplotlib
CHANCE: Final[Style] = {"color": GREY, "linewidth": 0.8, "linestyle": (0, (4, 4))}
MARKER: Final[Style] = {"marker": "o", "markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.8}
P = ParamSpec("P")


def svg(draw: Callable[P, Figure]) -> Callable[P, str]:
    """Let a drawing function draw in our style and return an SVG element instead of its figure."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> str:
        file = io.StringIO()
        with mpl.rc_context(fname=STYLE):
            draw(*args, **kwargs).savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        text = file.getvalue()
        return text[text.index("<svg") :]

    return drawn


def single_axis(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of this size in inches, with one axis."""
    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def line_styles() -> Iterator[Style]:
    """Yield the colour and line style of each next curve."""
    return cycle(mpl.rcParams["axes.prop_cycle"])


def class_colours(labels: Iterable[str]) -> dict[str, str]:
    """Return a colour for each class; those of other classes than ours take turns, and a name is always beside them."""
    free = cycle(style["color"] for style in mpl.rcParams["axes.prop_cycle"] if style["color"] not in CLASS_COLOURS.values())
    return {label: CLASS_COLOURS.get(label) or next(free) for label in labels}


def legend_beside(axis: Axes) -> None:
    """Place the legend to the right of an axis."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02))


def name_rows(axis: Axes, names: Sequence[str]) -> None:
    """Name the rows of a drawing, from above to below."""
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)


def matrix_axis(side: float, names: Sequence[str], height: float = 1.0) -> tuple[Figure, Axes]:
    """Return an axis for a matrix, with names on both sides and no frame."""
    figure, axis = single_axis(side, side * height)
    axis.set_yticks(range(len(names)), names)
    axis.set_xticks(range(len(names)), names)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure, axis
