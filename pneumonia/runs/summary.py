"""Summarize a run for tables of runs: state, settings, best epoch, metrics and cost. A damaged run has a summary too."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from pneumonia.config.convert import dotted, to_plain
from pneumonia.config.overrides import changed_settings, group_choices
from pneumonia.config.schema import TrainConfig
from pneumonia.errors import PneumoniaError
from pneumonia.metrics.classification import lower_is_better
from pneumonia.runs.folder import RunFolder, read_config, read_metrics
from pneumonia.runs.listing import Failure, PlannedJob
from pneumonia.runs.result import Cost, RunResult, read_result
from pneumonia.system.files import is_locked

State = Literal["finished", "debug", "running", "interrupted", "pruned", "failed"]
STATES: Final[tuple[State, ...]] = ("finished", "debug", "running", "interrupted", "pruned", "failed")
DEFAULT_MONITOR: Final = "val/loss"
WHERE_KEPT: Final = ("name", "runs_dir", "backup", "usd_per_hour")  # say where a run is kept and what it cost
DAMAGE: Final = (PneumoniaError, ValueError, KeyError, TypeError, AttributeError, OSError)  # of files that anyone may have edited


@dataclass(frozen=True)
class RunSummary:
    """One row of a table of runs.

    Attributes:
        folder: Of the run.
        state: ``failed`` is a run that a sweep recorded as failed, or whose files are damaged; ``interrupted`` has no process.
        reason: Why it failed, or what shortened a run of state ``debug``.
        settings: Dotted config keys, the chosen file of each group, and the overrides of the sweep around the run.
        changed: The keys among them that may tell runs apart: groups, and keys that are not the packaged ones.
        job: The job of the sweep around it.
        epochs: Finished epochs.
        best_epoch: Counted from 1.
        metrics: Values of the best epoch by ``stage/name``; ``None`` where undefined.
        cost: Of a finished run.
    """

    folder: RunFolder
    state: State
    reason: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    job: PlannedJob | None = None
    epochs: int = 0
    best_epoch: int | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    cost: Cost | None = None

    @property
    def monitor(self) -> str:
        """The metric that chose its best epoch."""
        return str(self.settings.get("monitor") or DEFAULT_MONITOR)


def summarize(folder: RunFolder, job: PlannedJob | None = None, failure: Failure | None = None) -> RunSummary:
    """Summarize a run.

    Args:
        folder: Of the run.
        job: Its job in the sweep around it; see :func:`pneumonia.runs.listing.jobs_by_run`.
        failure: Of this job.
    """
    damage = ""
    try:
        result = read_result(folder)
        if result is not None:
            return _of_result(folder, result, job)
    except DAMAGE as error:
        damage = _reason(folder, error)
    try:
        config = read_config(folder)
        settings, changed = _settings(config, job)
    except DAMAGE as error:
        config, settings, changed = None, {}, ()
        damage = damage or _reason(folder, error)
    try:
        rows = read_metrics(folder)
    except DAMAGE as error:
        rows = []
        damage = damage or _reason(folder, error)
    state, reason = _unfinished(folder, failure, damage)
    best = best_row(rows, (config.monitor if config else None) or DEFAULT_MONITOR) or {}
    epoch = _number(best.get("epoch"))
    metrics = {key: _number(value) for key, value in best.items() if "/" in str(key)}
    best_epoch = None if epoch is None else int(epoch)
    return RunSummary(folder, state, reason, settings, changed, job, len(rows), best_epoch, metrics)


def best_row(rows: Sequence[dict[str, str]], monitor: str) -> dict[str, str] | None:
    """Return the row of ``metrics.csv`` with the best value of a metric; ``None`` without rows."""
    sign = 1 if lower_is_better(monitor.rpartition("/")[2]) else -1

    def rank(row: dict[str, str]) -> float:
        value = _number(row.get(monitor))
        return math.inf if value is None else sign * value

    return min(rows, key=rank, default=None)


def _of_result(folder: RunFolder, result: RunResult, job: PlannedJob | None) -> RunSummary:
    """Summarize a run with a result.

    Raises:
        ValueError, TypeError, AttributeError: A value of the result is no number.
    """
    metrics = {f"{split}/{key}": value for split, values in result.metrics.items() for key, value in values.items()}
    metrics = {key: None if value is None or math.isnan(value) else float(value) for key, value in metrics.items()}
    for value in (result.epochs, result.best_epoch, result.cost.fit_s, result.cost.usd or 0):
        math.isfinite(value)
    settings, changed = _settings(result.config, job)
    state: State = "finished" if result.completed else "debug"
    reason = "" if result.completed else f"it {result.shortened}"
    return RunSummary(folder, state, reason, settings, changed, job, result.epochs, result.best_epoch, metrics, result.cost)


def _settings(config: TrainConfig, job: PlannedJob | None) -> tuple[dict[str, object], tuple[str, ...]]:
    """Return the settings of a run, and the keys among them that may tell runs apart."""
    plain = to_plain(config)
    choices = group_choices(plain)
    chosen = {group: choice or _class_name(plain[group]) for group, choice in choices.items()} | {"task": config.task.name}
    changed = [key for key in changed_settings(plain, choices) if key.partition(".")[0] not in WHERE_KEPT]
    swept = {key: value for key, value in job.differs.items() if key not in chosen} if job else {}
    return {**swept, **dotted(plain), **chosen}, (*choices, *changed)


def _class_name(node: Mapping[str, object]) -> str:
    return str(node.get("_target_", "own")).rpartition(".")[2]


def _unfinished(folder: RunFolder, failure: Failure | None, damage: str) -> tuple[State, str]:
    try:
        if is_locked(folder.path / "lock"):
            return "running", ""
    except OSError:  # somebody else's folder, whose locks can't be tried
        pass
    if failure is not None:
        reason = " ".join(failure.reason.split())
        return ("pruned", reason) if failure.state == "pruned" else ("failed", f"{failure.state}: {reason}")
    return ("failed", damage) if damage else ("interrupted", "")


def _reason(folder: RunFolder, error: Exception) -> str:
    text = str(error) if isinstance(error, PneumoniaError) else f"its files are damaged ({type(error).__name__}: {error})"
    return " ".join(text.replace(f"{folder.path}/", "").split())


def _number(text: str | None) -> float | None:
    """Return the finite value of a cell; ``None`` without one."""
    try:
        value = float(text or "")
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
