"""Collect the finished runs of a report, and the reasons why others are left out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pneumonia.errors import PneumoniaError, RunError, some
from pneumonia.report.entries import Entry, read_ensemble, read_entry
from pneumonia.report.formatting import count
from pneumonia.runs.ensembles import read_members
from pneumonia.runs.folder import RunFolder, read_metrics
from pneumonia.runs.listing import Failure, PlannedJob, find_runs, read_sweep, sweep_jobs
from pneumonia.runs.result import RunResult, read_result
from pneumonia.system.console import track

Jobs = dict[str, tuple[PlannedJob, Failure | None]]  # of a sweep, by run folder


@dataclass
class Gathered:
    """The runs of a report.

    Attributes:
        entries: What can be reported on.
        left_out: Place and reason of what can't.
        copies: Places of runs that stand elsewhere too, and where.
        questions: What each sweep asks, by its folder's name.
        by_sweep: The runs of each sweep, those too that stand in another as well.
    """

    entries: list[Entry] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    copies: list[tuple[str, str]] = field(default_factory=list)
    questions: dict[str, str] = field(default_factory=dict)
    by_sweep: dict[str, list[Entry]] = field(default_factory=dict)


def gather(places: Sequence[Path]) -> Gathered:
    """Collect every run at or below some folders.

    Raises:
        RunError: A place is missing, or none of the runs can be reported on; with the reasons.
    """
    found = Gathered()
    folders = find_runs(places)
    seen: dict[str, int] = {}
    sweeps: dict[Path, Jobs] = {}
    for folder in track(folders, len(folders), "Reading runs"):
        parent = folder.path.parent
        if parent not in sweeps:
            sweeps[parent] = _jobs(parent, found)
        job, failure = sweeps[parent].get(folder.path.name, (None, None))
        try:
            result = read_result(folder)
            if result is None or not result.completed:
                found.left_out.append((str(folder.path), _unfinished(folder, result, failure)))
                continue
            entry = read_entry(folder, result, job.differs if job else {})
        except (PneumoniaError, KeyError, TypeError, ValueError, OSError) as error:
            found.left_out.append((str(folder.path), _reason(error)))
            continue
        if entry.sweep in found.questions:
            found.by_sweep.setdefault(entry.sweep, []).append(entry)
        known = seen.get(result.run_id)
        if known is not None and _evaluations(entry) <= _evaluations(found.entries[known]):
            found.copies.append((str(folder.path), str(found.entries[known].folder.path)))
        elif known is not None:  # the copy that was evaluated says more
            found.copies.append((str(found.entries[known].folder.path), str(folder.path)))
            found.entries[known] = entry
        else:
            seen[result.run_id] = len(found.entries)
            found.entries.append(entry)
    _add_ensembles(places, folders, found)
    if not found.entries:
        why = some((f"{path}: {reason}" for path, reason in found.left_out), 3) or "there is no run folder"
        raise RunError(f"There is no finished run to report on in {some(places)} ({why}). `pneumonia train` makes one.")
    return found


def _add_ensembles(places: Sequence[Path], folders: Sequence[RunFolder], found: Gathered) -> None:
    """Add the ensembles at or below the folders, and those beside the sweeps that consist of these runs only."""
    known = {entry.result.run_id: entry for entry in found.entries}
    named = {path.resolve(): path for place in places for path in sorted(place.rglob("ensemble.json"))}
    beside = {parent: None for parent in (folder.path.parent.parent / "ensembles" for folder in folders)}
    for path in (path for parent in beside for path in sorted(parent.glob("*/ensemble.json"))):
        members = read_members(path)
        if members and all(member.run_id in known for member in members):
            named.setdefault(path.resolve(), path)
    for path in named.values():
        try:
            found.entries.append(read_ensemble(path, known))
        except (PneumoniaError, KeyError, TypeError, ValueError, OSError) as error:
            found.left_out.append((str(path.parent), _reason(error)))


def _evaluations(entry: Entry) -> int:
    return sum(len(one.evaluations) for one in entry.everywhere)


def _reason(error: Exception) -> str:
    ours = isinstance(error, PneumoniaError)
    return str(error) if ours else f"its files are damaged ({type(error).__name__}: {error})"


def _jobs(folder: Path, found: Gathered) -> Jobs:
    """Return the jobs of a sweep by run folder; note those without a run as left out."""
    plan, jobs = read_sweep(folder), {}
    if plan is None:
        return {}
    found.questions[folder.name] = plan.question or folder.name
    for job, started, failure in sweep_jobs(folder, plan):
        if started and started.run:
            jobs[started.run] = job, failure
        else:
            reason = f"this job of the sweep was {'interrupted' if started else 'not started'}"
            reason = f"{failure.state}: {failure.reason}" if failure else reason
            found.left_out.append((f"{folder.name}: {job.label}", reason))
    return jobs


def _unfinished(folder: RunFolder, result: RunResult | None, failure: Failure | None) -> str:
    if failure:
        return f"{failure.state}: {failure.reason}"
    if result is not None:
        return f"it {result.shortened}"
    try:
        epochs = len(read_metrics(folder))
    except RunError as error:
        return str(error)
    return f"not finished: {count(epochs, 'epoch')} done; the same `pneumonia train` resumes it"
