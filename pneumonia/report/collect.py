"""What there is to report on: finished runs with their tables, and what had to be left out, with the reason."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from pneumonia.config import identity
from pneumonia.console import track
from pneumonia.errors import PneumoniaError, RunError, some
from pneumonia.labels import TASKS
from pneumonia.runs import RunFolder, find_runs, read_metrics
from pneumonia.scores import PREFIX
from pneumonia.storage.local import digest, read_json

CHANCES: Final = ("seed", "split.fold")  # what may differ among the trainings of one configuration
PARTS: Final = ("test", "val")


@dataclass(frozen=True)
class Entry:
    """A finished run, or the evaluation of several together.

    Attributes:
        folder: Of the run.
        result: What its ``result.json`` holds.
        differs: What tells it from the others of its sweep, without seed and fold.
        sweep: Name of the folder it lies in.
        epochs: Rows of its ``metrics.csv``.
        tables: Predictions by part, sorted by image.
        evaluations: What ``pneumonia evaluate`` found, by part.
        members: Runs that an ensemble consists of; 1 for a run.
    """

    folder: RunFolder
    result: dict[str, Any]
    differs: dict[str, str]
    sweep: str
    epochs: list[dict[str, str]]
    tables: dict[str, pd.DataFrame]
    evaluations: dict[str, dict[str, Any]]
    members: int = 1

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.result["config"])

    @property
    def family(self) -> str:
        """``PseudoResNet``, or ``densenet121`` for a backbone."""
        model = self.result["model"]
        return str(model.get("name") or model["_target_"].rpartition(".")[2])

    @property
    def configuration(self) -> str:
        """Equal for runs that differ in chance alone: the seed, the fold."""
        if self.members > 1:
            return self.folder.path.name
        kept = identity(self.config)
        kept["split"] = {key: value for key, value in kept["split"].items() if key != "fold"}
        del kept["seed"]
        return digest([kept, self.result["data"]["manifest_sha256"]])[:12]


@dataclass
class Gathered:
    """Everything found.

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
    """Every run at or below some places.

    Raises:
        RunError: A place is missing, or none of the runs can be reported on; with the reasons.
    """
    found = Gathered()
    folders = find_runs(list(places))
    seen: dict[str, int] = {}
    sweeps: dict[Path, dict[str, dict[str, Any]]] = {}
    for folder in track(folders, len(folders), "Reading runs"):
        parent = folder.path.parent
        if parent not in sweeps:
            sweeps[parent] = _jobs(parent, found)
        try:
            result = folder.finished()
            if result is None:
                found.left_out.append((str(folder.path), _unfinished(folder, sweeps[parent])))
                continue
            entry = _entry(folder, result, sweeps[parent].get(folder.path.name, {}))
        except (PneumoniaError, KeyError, TypeError, ValueError, OSError) as error:
            ours = isinstance(error, PneumoniaError)
            reason = str(error) if ours else f"its files are damaged ({type(error).__name__}: {error})"
            found.left_out.append((str(folder.path), reason))
            continue
        if entry.sweep in found.questions:
            found.by_sweep.setdefault(entry.sweep, []).append(entry)
        known = seen.get(result["run_id"])
        if known is not None and len(entry.evaluations) <= len(found.entries[known].evaluations):
            found.copies.append((str(folder.path), str(found.entries[known].folder.path)))
        elif known is not None:  # the copy that was evaluated says more
            found.copies.append((str(found.entries[known].folder.path), str(folder.path)))
            found.entries[known] = entry
        else:
            seen[result["run_id"]] = len(found.entries)
            found.entries.append(entry)
    for place in places:
        for path in sorted(place.rglob("ensemble.json")):
            _add_ensemble(path, found)
    if not found.entries:
        why = some((f"{path}: {reason}" for path, reason in found.left_out), 3) or "there is no run folder"
        raise RunError(f"There is no finished run to report on in {some(places)} ({why}). `pneumonia train` makes one.")
    return found


def _jobs(folder: Path, found: Gathered) -> dict[str, dict[str, Any]]:
    """The jobs of a sweep by the name of their run; those without a run are noted."""
    plan = read_json(folder / "sweep.json")
    if plan:
        found.questions[folder.name] = str(plan.get("question", folder.name))
    jobs = {}
    for job in plan.get("jobs", []):
        note = read_json(folder / "jobs" / f"{job['key']}.json")
        broken = read_json(folder / "jobs" / f"{job['key']}.broken.json")
        about = {"differs": job["differs"], "broken": broken}
        if note:
            jobs[str(note["run"])] = about
        else:
            label = " ".join(f"{key}={value}" for key, value in job["differs"].items())
            reason = f"{broken['state']}: {broken['reason']}" if broken else "this job of the sweep was not begun"
            found.left_out.append((f"{folder.name}: {label}", reason))
    return jobs


def _unfinished(folder: RunFolder, jobs: dict[str, dict[str, Any]]) -> str:
    broken = jobs.get(folder.path.name, {}).get("broken")
    if broken:
        return f"{broken['state']}: {broken['reason']}"
    return f"not finished: {len(read_metrics(folder))} epochs are done"


def _entry(folder: RunFolder, result: dict[str, Any], about: dict[str, Any]) -> Entry:
    differs = {key: value for key, value in about.get("differs", {}).items() if key not in CHANCES}
    split = pd.read_parquet(folder.split(result["data"]["split_sha256"]))
    rotating = result["config"]["split"]["method"] == "rotating"
    tables, evaluations = {}, {}
    for part in PARTS:
        found = _evaluation(folder, part, result)
        if found is not None:
            evaluations[part] = found
            tables[part] = _table(folder.evaluation(part, "parquet"), result)
        elif part == "val" and folder.predictions("val").is_file():
            tables[part] = _table(folder.predictions("val"), result)
    for part, table in tables.items():
        if evaluations.get(part, {}).get("of", {}).get("other_data") is None:
            parts = ["train", "val"] if rotating and part == "val" else [part]
            _check_against(table, split.loc[split["part"].isin(parts), "image_id"], part, exact=not rotating)
    return Entry(folder, result, differs, folder.path.parent.name, read_metrics(folder), tables, evaluations)


def _evaluation(folder: RunFolder, part: str, result: dict[str, Any]) -> dict[str, Any] | None:
    path = folder.evaluation(part, "json")
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        run_ids = found["of"]["run_ids"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged or older than this version; run `pneumonia evaluate` again") from error
    if run_ids != [result["run_id"]]:
        raise RunError(f"{path} is of another run ({some(run_ids)}); run `pneumonia evaluate` again")
    return found


def _table(path: Path, result: dict[str, Any]) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path.name} can't be read ({type(error).__name__}); run `pneumonia evaluate` again") from error
    columns = [f"{PREFIX}{name}" for name in TASKS[result["task"]].classes]
    missing = [name for name in ("image_id", "patient_id", "label", *columns) if name not in table]
    if missing:
        raise RunError(f"{path.name} lacks the columns {some(missing)}; run `pneumonia evaluate` again")
    sums = table[columns].sum(axis=1).to_numpy()
    if not np.allclose(sums, 1, atol=1e-3):
        worst = float(sums[np.abs(sums - 1).argmax()])
        raise RunError(f"{path.name} holds probabilities that do not sum to one, for example {worst:.3f}")
    return table.sort_values("image_id", ignore_index=True)


def _check_against(table: pd.DataFrame, images: "pd.Series[Any]", part: str, exact: bool) -> None:
    """Refuses predictions of other images than the run's own split names."""
    told, known = set(table["image_id"]), set(images)
    strange, absent = sorted(told - known), sorted(known - told) if exact else []
    if strange or absent or len(told) != len(table):
        example = f", for example {some(strange or absent, 1)}" if strange or absent else ""
        raise RunError(
            f"its predictions do not match its images: of the part '{part}', {len(strange)} are of images that "
            "its split does "
            f"not have there, {len(absent)} are missing, {len(table) - len(told)} stand twice{example}"
        )


def _add_ensemble(path: Path, found: Gathered) -> None:
    folder = RunFolder(path.parent)
    about = read_json(path)
    known = {entry.result["run_id"]: entry for entry in found.entries}
    members = [known.get(member["run_id"]) for member in about.get("members", [])]
    first = next((member for member in members if member is not None), None)
    if first is None:
        found.left_out.append((str(folder.path), "none of the ensemble's members is among these runs"))
        return
    tables, evaluations = {}, {}
    for part in PARTS:
        if folder.evaluation(part, "json").is_file():
            evaluations[part] = json.loads(folder.evaluation(part, "json").read_text(encoding="utf-8"))
            tables[part] = _table(folder.evaluation(part, "parquet"), first.result)
    families = sorted({str(member["model"]).rpartition(".")[2] for member in about["members"]})
    label = {"ensemble": f"{len(members)} {' + '.join(families)}"}
    result = {**first.result, "run_id": folder.path.name}
    found.entries.append(Entry(folder, result, label, "ensembles", [], tables, evaluations, len(members)))
