"""`pneumonia report RUNS... --out DIR`: says which differences are real, in pages and data."""

import argparse
import shlex
from pathlib import Path

from pneumonia.errors import ConfigError


def run(arguments: list[str]) -> int:
    """Writes the report.

    Raises:
        PneumoniaError: With the name of what is wrong; nothing is written then.
    """
    parser = argparse.ArgumentParser(
        "pneumonia report",
        description="Compares finished runs: a ranking with 95% intervals, which differences are real, curves "
        "of each sweep, errors, "
        "calibration, the study's figures beside ours, a model card. Runs of different tasks, images or splits "
        "are kept apart. "
        "`pneumonia evaluate RUNS...` comes before it, so that the figures are those of the test split.",
    )
    parser.add_argument(
        "runs", metavar="RUNS", nargs="+", type=Path, help="run folders, or folders of them such as runs/optimizer"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path("report"),
        help="where it goes (report): index.html, report.pdf, report.md, tables/",
    )
    parser.add_argument(
        "--metric",
        default="f1_macro",
        choices=("f1_macro", "accuracy", "auroc", "loss", "recall_macro"),
        help="by which is ranked and tested (f1_macro)",
    )
    parser.add_argument("--title", default="Which differences are real")
    options = parser.parse_args(arguments)
    for place in options.runs:
        key, found, value = str(place).partition("=")
        if found and key in {"out", "metric", "title"} and not place.exists():
            raise ConfigError(f"{place} is not understood. Say --{key} {value}")
    from pneumonia.report.write import Wanted, write_report
    from pneumonia.system.console import say

    command = shlex.join(["pneumonia", "report", *arguments])
    write_report(Wanted(options.runs, options.out, options.metric, options.title, command))
    say(
        f"Written: [bold]{options.out / 'index.html'}[/], report.pdf and report.md beside it, the tables in "
        f"{options.out / 'tables'}"
    )
    return 0
