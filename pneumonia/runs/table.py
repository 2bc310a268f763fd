"""Tables of runs: read the runs below some folders, choose and sort them, and give their values by column."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pneumonia.config.overrides import override_value
from pneumonia.errors import ConfigError, nearest, some
from pneumonia.runs.conditions import ALIASES, Condition, in_order, number_of, parse_condition, parse_order, value_text
from pneumonia.runs.listing import PlannedJob, find_some_runs, jobs_by_run
from pneumonia.runs.result import Cost
from pneumonia.runs.summary import RunSummary, summarize
from pneumonia.system.arguments import paths, texts
from pneumonia.system.console import track

if TYPE_CHECKING:
    import pandas as pd

SILENT_S: Final = 2.0  # reading shows its progress when it takes longer
NUMERIC_COSTS: Final = tuple(f"cost.{item.name}" for item in fields(Cost) if item.type is not str)
COLUMNS: Final = ("run", "run_id", "state", "reason", "epochs", "best_epoch", "cost.fit_s", "cost.usd")


def list_runs(
    *places: str | PathLike[str], where: str | Iterable[str] = (), sort: str | None = None, keys: str | Iterable[str] = ()
) -> "pd.DataFrame":
    """Return the runs at or below some folders as a table, one row a run; damaged runs have a ``reason``.

    Args:
        places: Run folders, or folders of them; ``runs`` without any.
        where: A condition, or several that all must hold, for example ``"state=finished"`` or ``"optimizer.lr<0.01"``.
        sort: A column, metric or config key, for example ``"val/f1_macro:desc"``; by folder without it.
        keys: A config key for one more column, or several.

    Returns:
        Columns ``run`` (the folder, which :func:`pneumonia.load_run` takes), ``run_id``, the config keys in which these runs
        differ, ``state``, ``reason``, ``epochs``, ``best_epoch``, the metrics of the best epoch as ``val/NAME`` and
        ``train/NAME``, and the cost as ``cost.NAME``. What is undefined or unknown is missing (NaN or None).

    Raises:
        RunError: A folder is missing, or there is no run.
        ConfigError: A condition is malformed, a key is unknown, or an argument has another type.
    """
    import pandas as pd

    conditions, added = texts("where", where, "state=finished"), texts("keys", keys, "optimizer.lr")
    if sort is not None:
        texts("sort", [sort], "val/f1_macro:desc")
    runs = read_runs(paths("places", places or "runs"))
    chosen = choose(runs, conditions, sort)
    check_keys(runs, added)
    columns = columns_of(chosen, [*differing_keys(chosen), *added])
    numbers = [key for key in columns if key in NUMERIC_COSTS or any(key in run.metrics for run in chosen)]
    return pd.DataFrame(as_rows(chosen, columns), columns=columns).astype(dict.fromkeys(numbers, float))


def read_runs(places: Sequence[Path]) -> list[RunSummary]:
    """Summarize every run at or below some folders, in the order of their paths.

    Raises:
        RunError: A folder is missing, or there is no run.
    """
    folders = find_some_runs(places)
    jobs = {sweep: jobs_by_run(sweep) for sweep in dict.fromkeys(folder.path.parent for folder in folders)}
    none: tuple[PlannedJob | None, None] = (None, None)
    shown = track(folders, len(folders), "Reading runs", after_s=SILENT_S)
    return [summarize(folder, *jobs[folder.path.parent].get(folder.path.name, none)) for folder in shown]


def choose(runs: Sequence[RunSummary], where: Iterable[str] = (), sort: str | None = None) -> list[RunSummary]:
    """Return the runs for which all conditions hold, sorted; see :func:`list_runs`.

    Raises:
        ConfigError: A condition is malformed, or a key is unknown.
    """
    conditions = [parse_condition(text) for text in where]
    order = None if sort is None else parse_order(sort)
    check_keys(runs, [*(one.key for one in conditions), *([order.key] if order else [])])
    chosen = [run for run in runs if _holds(conditions, values_of(run))]
    return in_order(chosen, order, values_of) if order else chosen


def unmatched(runs: Sequence[RunSummary], where: Iterable[str]) -> list[str]:
    """Return a sentence with the values there are, for each condition that no run fulfils by itself."""
    found = []
    for text in where:
        condition = parse_condition(text)
        if any(condition.holds(values_of(run)) for run in runs):
            continue
        values = [values_of(run).get(condition.key) for run in runs]
        known = sorted(
            {value_text(value) for value in values if value is not None}, key=lambda value: (number_of(value) or 0, value)
        )
        close = nearest(condition.value, known) if condition.relation == "=" else ""
        found.append(f"No run has {text}: {condition.key} is {some(known)}.{close}")
    return found


def check_keys(runs: Sequence[RunSummary], keys: Iterable[str]) -> None:
    """Refuse keys that none of the runs has.

    Raises:
        ConfigError: With the nearest key.
    """
    wanted = list(keys)
    known = dict.fromkeys(key for run in runs for key in values_of(run)) if wanted else {}
    for key in wanted:
        if key not in known:
            raise ConfigError(
                f"{key} is no column, metric or config key of these runs.{nearest(key, [*known, *ALIASES])} Columns are "
                f"{', '.join(COLUMNS)}; config keys are those of `pneumonia train --cfg job`."
            )


def differing_keys(runs: Sequence[RunSummary]) -> list[str]:
    """Return the config keys in which runs differ: those of their sweep, or those that are not the packaged defaults of all."""
    known = [run for run in runs if run.settings]
    jobs = [run.job for run in known if run.job]
    one_sweep = len(jobs) == len(known) and len({run.folder.path.parent for run in known}) == 1
    keys = (key for job in jobs for key in job.differs) if one_sweep else (key for run in known for key in run.changed)
    found = dict.fromkeys(keys)
    return [key for key in found if len({override_value(run.settings.get(key, "")) for run in known}) > 1]


def columns_of(runs: Sequence[RunSummary], keys: Iterable[str] = ()) -> list[str]:
    """Return the columns of a table of runs, with some config keys after the run's folder and id."""
    metrics = sorted({key for run in runs for key in run.metrics}, key=lambda key: (not key.startswith("val/"), key))
    costs = dict.fromkeys(f"cost.{item.name}" for item in fields(Cost))
    return list(dict.fromkeys(("run", "run_id", *keys, "state", "reason", "epochs", "best_epoch", *metrics, *costs)))


def as_rows(runs: Sequence[RunSummary], columns: Iterable[str]) -> list[dict[str, object]]:
    """Return the values of runs by column; ``None`` where a run has none."""
    columns = list(columns)
    return [{column: values.get(column) for column in columns} for values in map(values_of, runs)]


def values_of(run: RunSummary) -> dict[str, object]:
    """Return every value of a run by key: its settings, the columns of :func:`list_runs`, metrics and cost."""
    values: dict[str, object] = {**run.settings, "run": str(run.folder.path), "run_id": run.folder.path.name}
    values |= {"state": run.state, "reason": run.reason, "epochs": run.epochs, "best_epoch": run.best_epoch}
    costs = {f"cost.{item.name}": getattr(run.cost, item.name, None) for item in fields(Cost)}
    return values | dict(run.metrics) | costs


def _holds(conditions: Iterable[Condition], values: Mapping[str, object]) -> bool:
    return all(one.holds(values) for one in conditions)
