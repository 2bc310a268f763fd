"""`pneumonia report RUN... --out DIR`: compare runs, in pages and data."""

import shlex
from pathlib import Path

import click

from pneumonia.cli.parsing import FOLDER, PATH, Verb, given
from pneumonia.config.names import MONITORS


@click.command(
    cls=Verb,
    examples=[
        "pneumonia evaluate runs/optimizer --split test",
        "pneumonia report runs/optimizer --out report",
    ],
)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=PATH)
@click.option("--out", metavar="DIR", type=FOLDER, default=Path("report"), help="Folder of the report.")
@click.option(
    "--metric",
    type=click.Choice([name.removeprefix("val/") for name in MONITORS]),
    default="f1_macro",
    help="Metric to rank and test by.",
)
@click.option("--title", default="Which differences are real", help="Title of the report.")
def command(runs: tuple[Path, ...], out: Path, metric: str, title: str) -> None:
    """Compare finished runs: index.html, report.pdf, report.md, and the tables as CSV and JSON.

    RUN is a run folder, or a folder of runs such as runs/optimizer. The report ranks configurations with 95% intervals, tests
    which differences are significant, and shows the curves of each sweep, errors, calibration and a model card. Runs of
    different tasks, images or splits are kept apart. Run `pneumonia evaluate RUN...` first, so that the values are those of the
    test split.
    """
    from pneumonia.report.write import ReportRequest, write_report
    from pneumonia.system.console import say

    write_report(ReportRequest(list(runs), out, metric, title, shlex.join(["pneumonia", "report", *given()])))
    say(f"Written: [bold]{out / 'index.html'}[/], report.pdf and report.md beside it, the tables in {out / 'tables'}")
