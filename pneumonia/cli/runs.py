"""`pneumonia runs`: a table of runs, with what differs between them."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import CompletionItem

from pneumonia.cli.csv_file import check_csv
from pneumonia.cli.parsing import PATH, Verb
from pneumonia.config.names import MONITORS
from pneumonia.errors import ConfigError, printable
from pneumonia.report.formatting import count, seconds

if TYPE_CHECKING:
    from pneumonia.runs.summary import RunSummary

STYLES: Final = {"finished": "green", "debug": "yellow", "running": "cyan", "interrupted": "yellow", "failed": "red"}
METRICS: Final = ("val/loss", "val/accuracy", "val/f1_macro")
TITLES: Final = {"cost.fit_s": "time", "cost.usd": "USD"}
HEADER: Final = "run,run_id,"  # of every table of runs
MOST_KEYS: Final = 4  # with a column each; more share one


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Complete columns, metrics and config keys; of ``--where`` the states too."""
    from pneumonia.config.keys import choice_keys, config_keys
    from pneumonia.runs.summary import STATES
    from pneumonia.runs.table import COLUMNS

    states = [f"state={state}" for state in STATES] if param.name == "where" else []
    known = [*states, *COLUMNS, *MONITORS, *config_keys(), *choice_keys()]
    return [CompletionItem(one) for one in dict.fromkeys(known) if one.startswith(incomplete)]


@click.command(
    cls=Verb,
    examples=[
        "pneumonia runs",
        "pneumonia runs runs/optimizer --sort val/f1_macro:desc",
        "pneumonia runs --where state=finished --where 'optimizer.lr<0.01' --csv runs.csv",
    ],
)
@click.argument("places", metavar="[DIR...]", nargs=-1, type=PATH)
@click.option("--sort", metavar="KEY[:desc]", shell_complete=_complete, help="Column, metric or config key to sort by.")
@click.option(
    "--where",
    metavar="KEY=VALUE",
    multiple=True,
    shell_complete=_complete,
    help="Show runs with this value; also !=, and for numbers <, <=, >, >=. Repeatable: all must hold.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list with every metric and cost.")
@click.option("--csv", "table", metavar="FILE|-", help="Write these columns as CSV; - is stdout.")
def command(places: tuple[Path, ...], sort: str | None, where: tuple[str, ...], as_json: bool, table: str | None) -> None:
    """List every run at or below some folders: what differs between them, state, best epoch, metrics and cost.

    DIR is a run folder, or a folder of runs.  [default: runs]

    KEY is a column of the table, a metric such as val/f1_macro, or a config key such as optimizer.lr. A run is finished, debug
    (shortened for debugging), running, interrupted (train it again to resume it), pruned by a search, or failed. Damaged runs are
    listed as failed, with the reason. Metrics are those of the best epoch so far.
    """
    if table == "" or (as_json and table == "-"):
        raise ConfigError("--csv takes a file, or - for stdout, where --json prints too. Name a file, or leave one out.")
    if table not in {None, "-"}:
        check_csv(Path(str(table)), HEADER, "runs")
    from pneumonia.runs.table import as_rows, choose, columns_of, differing_keys, read_runs, unmatched

    runs = read_runs(places or (Path("runs"),))
    chosen = choose(runs, where, sort)
    keys = differing_keys(chosen)
    columns = columns_of(chosen, [*keys, *_named(chosen, sort, where)])
    if table is not None:
        _write_csv(as_rows(chosen, columns), columns, table)
    if as_json:
        print(json.dumps(as_rows(chosen, columns), indent=2))
    elif table is None:
        _print(chosen, keys, _named(chosen, sort, where))
    if len(chosen) < len(runs):
        from pneumonia.system.console import say, warn

        say(f"{len(chosen)} of {count(len(runs), 'run')} match.")
        for text in unmatched(runs, where):
            warn(text)


def _named(runs: "Sequence[RunSummary]", sort: str | None, where: Sequence[str]) -> list[str]:
    """Return the keys that options name, which get a column too."""
    from pneumonia.runs.conditions import parse_condition, parse_order

    keys = [parse_order(sort).key] if sort else []
    keys += [parse_condition(text).key for text in where]
    return list(dict.fromkeys(key for key in keys if any(key in run.settings for run in runs)))


def _write_csv(rows: list[dict[str, object]], columns: Sequence[str], file: str) -> None:
    from pneumonia.runs.conditions import value_text
    from pneumonia.system.console import say
    from pneumonia.system.files import replacing

    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value_text(value) for key, value in row.items()} for row in rows)
    if file == "-":
        print(printable(text.getvalue(), lines=True), end="")
        return
    with replacing(Path(file)) as part:
        part.write_text(text.getvalue(), encoding="utf-8", errors="backslashreplace")
    say(f"Written: {file}")


def _print(runs: "Sequence[RunSummary]", keys: list[str], named: list[str]) -> None:
    """Print the table: fitted to a terminal, and as plain text elsewhere."""
    monitors = dict.fromkeys((*METRICS, *(run.monitor for run in runs)))
    metrics = [key for key in monitors if any(key in run.metrics for run in runs)]
    shown = list(dict.fromkeys((*keys, *named)))
    rows = [_cells(run, shown, metrics) for run in runs]
    prices = ["USD"] if any(row["USD"] for row in rows) else []
    values = ["epochs", "best_epoch", *metrics, "time", *prices]
    if sys.stdout.isatty():
        _print_fitted(rows, shown, values)
    else:
        few = len(shown) <= MOST_KEYS
        columns = ["run", *(shown if few else []), "state", *values, *([] if few else ["differs"])]
        widths = {name: max(map(len, (name, *(row[name] for row in rows)))) for name in columns if name != "differs"}
        columns += ["reason"] if any(row["reason"] for row in rows) else []
        for row in [{name: name for name in columns}, *rows]:
            print("  ".join(row[name].ljust(widths.get(name, 0)) for name in columns).rstrip())


def _print_fitted(rows: list[dict[str, str]], keys: Sequence[str], values: Sequence[str]) -> None:
    """Print a table that fits the terminal, followed by the reasons of failures."""
    from rich.console import Console
    from rich.markup import escape

    from pneumonia.system.console import fitting_table

    console, reasons = Console(), []
    marked = [{name: escape(cell) for name, cell in row.items()} for row in rows]
    for row in marked:
        style = STYLES.get(row["state"], "default")
        row["state"] = f"[{style}]{row['state']}[/]"
        reasons += [f"{row['state']}  {row['run']}: {row['reason']}"] if row["reason"] else []
    columns = ["run", *(keys if len(keys) <= MOST_KEYS else ["differs"]), "state", *values]
    optional = ["best_epoch", "val/accuracy", "USD", "time", "epochs"]
    console.print(fitting_table(console, "", columns, marked, values, optional))
    for line in reasons:
        console.print(line, highlight=False, soft_wrap=True)


def _cells(run: "RunSummary", keys: Sequence[str], metrics: Sequence[str]) -> dict[str, str]:
    """Return the text of each column; empty where there is no value."""
    from pneumonia.runs.conditions import value_text

    cost = run.cost
    total = run.settings.get("max_epochs")
    cells = {key: value_text(run.settings[key]) if key in run.settings else "" for key in keys}
    cells["differs"] = " ".join(f"{key}={cell}" for key, cell in cells.items() if cell)
    cells |= {"run": str(run.folder.path), "state": run.state, "reason": run.reason}
    cells |= {"epochs": f"{run.epochs}/{total}" if total else str(run.epochs), "best_epoch": str(run.best_epoch or "")}
    cells |= {key: _number(run.metrics.get(key), 4) for key in metrics}
    cells |= {"time": seconds(cost.fit_s) if cost else "", "USD": _number(cost.usd if cost else None, 4)}
    return {name: printable(cell) for name, cell in cells.items()}


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
