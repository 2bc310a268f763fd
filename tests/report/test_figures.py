"""Drawings: always the same, well-formed, and robust to what runs give."""

from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from pneumonia.metrics.calibration import ReliabilityBin
from pneumonia.report.render import figures
from pneumonia.report.render.figure_style import STYLE

NAN = float("nan")
BINS = [ReliabilityBin(low=0.9, high=1.0, n=5, confidence=0.95, accuracy=0.8)]


def _drawn():
    return {
        "curves": lambda: figures.curves({"a": [[0.9, NAN, 0.5], [0.8]], "b": [[]]}, "epoch", "loss"),
        "one epoch": lambda: figures.curves({"a": [[0.9]]}, "epoch", "loss"),
        "nothing": lambda: figures.curves({}, "epoch", "loss"),
        "intervals": lambda: figures.intervals(["a", "b", "c"], [0.5, NAN, 1.0], [0.4, NAN, None], [0.6, None, NAN], "F1"),
        "pairs of curves": lambda: figures.roc_and_precision_recall(
            {"X": ([0, 1], [0, 1], (0.5, 0.5))}, {"X": ([0, 1], [1, 0.5], None)}, {"X": 0.5}
        ),
        "reliability": lambda: figures.reliability(BINS, None),
        "reliability twice": lambda: figures.reliability(BINS, BINS),
        "risk": lambda: figures.risk_coverage({f"model {n}": ([0.5, 1], [0, 0.1 * n]) for n in range(12)}),
        "confusion": lambda: figures.confusion([[3, 1], [0, 0]], ["NORMAL", "VIRUS"]),
        "pairwise": lambda: figures.pairwise(["a", "b"], [["", "better"], ["worse", ""]]),
        "bars": lambda: figures.bars(["a", "b"], [0.5, 1.0], [0.4, 1.0], [0.6, 1.0], [0.3, 0.4], "accuracy"),
        "boxes": lambda: figures.boxes({"bytes": {"NORMAL": [1, 2, 3, 4, 5], "X": [2, 2, 2, 2, 2]}}),
        "scatter": lambda: figures.scatter(["a", "b", "c"], [1.0, 30.0, 30.0], [0.5, 0.5, 0.5], "s", "F1"),
    }


@pytest.mark.parametrize("name", _drawn())
def test_figure_is_well_formed_and_deterministic(name):
    svg = _drawn()[name]()
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert svg == _drawn()[name]()
    assert "nan" not in svg.lower().replace("dominant", "")


def test_outlying_curve_is_cut_off():
    calm = {"a": [[0.5, 0.4, 0.35, 0.3]], "b": [[0.6, 0.5, 0.45, 0.4]]}
    wild = calm | {"c": [[0.5, 90.0, 400.0, 1000.0]]}
    drawn = [figures.curves.__wrapped__(series, "epoch", "loss").axes[0] for series in (calm, wild)]
    assert [axis.get_ylabel() for axis in drawn] == ["loss", "loss (cut off above)"]
    assert drawn[1].get_ylim()[1] < 1000


def test_signs_colours_and_line_styles_are_unique():
    signs = [sign for sign, _ in figures.VERDICTS.values()]
    assert len(set(signs)) == len(signs)
    with mpl.rc_context(fname=STYLE):
        styles = [tuple(style.values()) for style in mpl.rcParams["axes.prop_cycle"]]
    for values in zip(*styles, strict=True):
        assert len(set(values)) == len(styles)
