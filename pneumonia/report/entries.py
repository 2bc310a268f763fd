"""Read and check what a report needs of a finished run, or of an ensemble: predictions and evaluations."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from pneumonia.config.convert import identity
from pneumonia.config.schema import TrainConfig
from pneumonia.errors import RunError, some
from pneumonia.evaluation.result import EvaluationResult, read_evaluation
from pneumonia.metrics.predictions import prediction_arrays
from pneumonia.runs.ensembles import Member, read_members
from pneumonia.runs.folder import OWN, RunFolder, read_metrics
from pneumonia.runs.load import read_split
from pneumonia.runs.prediction_tables import read_predictions
from pneumonia.runs.result import RunResult
from pneumonia.system.arrays import Floats, Ints, Objects
from pneumonia.system.files import digest

REPEATED: Final = ("seed", "split.fold")  # may differ among the trainings of one configuration
EVALUATED: Final = ("test", "val")
Evaluated = tuple[dict[str, pd.DataFrame], dict[str, EvaluationResult]]  # predictions and evaluations, by subset


@dataclass(frozen=True)
class JoinedRun(Member):
    """A member of an ensemble in a report: also its family, and the overrides in which it differs in its sweep."""

    family: str
    differs: dict[str, str]


@dataclass(frozen=True)
class Entry:
    """A finished run, or an ensemble of several.

    Attributes:
        folder: Of the run.
        result: What its ``result.json`` holds.
        differs: Overrides in which it differs from the others of its sweep, without seed and fold.
        sweep: Name of the folder it lies in.
        epochs: Rows of its ``metrics.csv``.
        tables: Predictions by subset, sorted by image.
        evaluations: Results of ``pneumonia evaluate``, by subset.
        joined: Members of an ensemble; none for a run.
        data: Where it was evaluated: ``own`` for the run's own data, else the name of other data.
        tta: Test-time augmentation, if it is not that of the training.
        others: The same run evaluated on other data or with other TTA, one entry each.
    """

    folder: RunFolder
    result: RunResult
    differs: dict[str, str]
    sweep: str
    epochs: list[dict[str, str]]
    tables: dict[str, pd.DataFrame]
    evaluations: dict[str, EvaluationResult]
    joined: tuple[JoinedRun, ...] = ()
    data: str = OWN
    tta: str = ""
    others: "tuple[Entry, ...]" = ()

    @property
    def everywhere(self) -> "tuple[Entry, ...]":
        """The entry, and those of the same run on other data or with other TTA."""
        return self, *self.others

    def evaluation(self, subset: str) -> Path:
        """Return the JSON file of its evaluation on a subset."""
        return self.folder.evaluation(subset, "json", self.data, self.tta)

    def other_sha256(self, subset: str) -> str | None:
        """Of the other data on which it was evaluated; ``None`` for its own."""
        return self.evaluations[subset].of.other_sha256 if self.data != OWN else None

    def predicted(self, subset: str) -> tuple[Floats, Ints]:
        """Return probabilities ``(N, K)`` and class indices ``(N,)`` of a subset."""
        probability, label = prediction_arrays(self.tables[subset], self.result.task.classes)
        return probability.astype(np.float64), label

    def patients(self, subset: str) -> Objects:
        """Return the patient ``(N,)`` of each image of a subset."""
        return self.tables[subset]["patient_id"].to_numpy(dtype=object)

    @property
    def members(self) -> int:
        """Number of averaged runs; 1 for a single run."""
        return max(1, len(self.joined))

    @property
    def config(self) -> TrainConfig:
        return self.result.config

    @property
    def family(self) -> str:
        """``PseudoResNet``, or ``densenet121`` for a backbone."""
        return str(getattr(self.config.model, "name", None) or self.result.family)

    @property
    def configuration(self) -> str:
        """Equal for runs that differ in seed and fold only."""
        if self.members > 1:
            return self.folder.path.name + (f"-{self.tta}" if self.tta else "")
        views = [self.tta] if self.tta else []
        kept = identity(self.config)
        kept["split"] = {key: value for key, value in asdict(self.config.split).items() if key not in {"fold", "file"}}
        del kept["seed"]
        return digest([kept, self.result.data.manifest_sha256, *views])[:12]


def by_configuration(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Group the trainings of each configuration."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.configuration, []).append(entry)
    return found


def read_entry(folder: RunFolder, result: RunResult, differs: Mapping[str, str]) -> Entry:
    """Read the predictions and evaluations of a finished run.

    ``differs`` holds the overrides in which it differs from the other jobs of its sweep.

    Raises:
        RunError: A file is damaged or belongs to another run.
    """
    found = _evaluated(folder, result, [result.run_id], str(folder.path))
    tables, evaluations = found.pop((OWN, ""), ({}, {}))
    if "val" not in tables and folder.predictions("val").is_file():
        remedy = f"`pneumonia evaluate {folder.path} --split val` predicts these images again."
        tables["val"] = _sorted(read_predictions(folder.predictions("val"), result.task, remedy))
    if not tables and not found:
        raise RunError(f"it holds no predictions. `pneumonia evaluate {folder.path} --split test` makes some.")
    kept = {key: value for key, value in differs.items() if key not in REPEATED}
    entry = Entry(folder, result, kept, folder.path.parent.name, read_metrics(folder), tables, evaluations)
    return _with_others(entry, found, folder)


def read_ensemble(path: Path, known: Mapping[str, Entry]) -> Entry:
    """Read an ensemble: several runs that were evaluated as one.

    Args:
        path: Of ``ensemble.json``.
        known: Runs that can be reported on, by ``run_id``.

    Raises:
        RunError: It is damaged, was interrupted, or none of its members is known.
    """
    folder = RunFolder(path.parent)
    members = read_members(path)
    if not members:
        raise RunError(f"{path} is damaged. `pneumonia evaluate RUN... --ensemble` with its members writes it again.")
    first = next((known[member.run_id] for member in members if member.run_id in known), None)
    if first is None:
        raise RunError("none of the ensemble's members is among these runs. Name their folders too.")
    again = " ".join([*(member.run for member in members), "--ensemble"])
    found = _evaluated(folder, first.result, [member.run_id for member in members], again)
    if not found:
        raise RunError(f"its evaluation was interrupted. `pneumonia evaluate {again}` evaluates it again.")
    tables, evaluations = found.pop((OWN, ""), ({}, {}))
    joined = []
    for member in members:
        entry = known.get(member.run_id)
        family = entry.family if entry else member.model.rpartition(".")[2]
        joined.append(JoinedRun(**vars(member), family=family, differs=entry.differs if entry else {}))
    families = " + ".join(sorted({member.family for member in joined}))
    label = {"ensemble": f"{len(joined)} x {families}"}
    result = replace(first.result, run_id=folder.path.name)
    entry = Entry(folder, result, label, "ensembles", [], tables, evaluations, tuple(joined))
    return _with_others(entry, found, first.folder)


def _with_others(entry: Entry, found: Mapping[tuple[str, str], Evaluated], trained: RunFolder) -> Entry:
    """Add to an entry those of the same run on other data or with other TTA; ``trained`` is the folder with its split."""
    made = []
    for (data, tta), (tables, evaluations) in found.items():
        differs = entry.differs | ({"tta": tta} if tta else {})
        made.append(replace(entry, differs=differs, tables=tables, evaluations=evaluations, data=data, tta=tta))
    for one in (entry, *made):
        if one.data == OWN:
            _check_images(trained, entry.result, one.tables)
    return replace(entry, others=tuple(made))


def _evaluated(folder: RunFolder, result: RunResult, run_ids: list[str], again: str) -> dict[tuple[str, str], Evaluated]:
    """Read predictions and evaluations by data and TTA, each by subset."""
    evaluated: dict[tuple[str, str], Evaluated] = {}
    for (data, subset, tta), path in folder.evaluations().items():
        if subset not in EVALUATED:
            continue
        options = f"--split {subset}" + (f" --tta {tta}" if tta else "") + (" --data DIR" if data != OWN else "")
        remedy = f"`pneumonia evaluate {again} {options}` evaluates it again."
        try:
            found = read_evaluation(path)
        except ValueError as error:
            raise RunError(f"{path} is damaged or older than this version: {error}. {remedy}") from error
        if sorted(found.of.run_ids) != sorted(run_ids):
            raise RunError(f"{path} is of another run ({some(found.of.run_ids)}). {remedy}")
        if (data == OWN) != (found.of.other_sha256 is None):
            raise RunError(f"{path} was renamed: its name and its content name different data. {remedy}")
        table = _sorted(read_predictions(path.with_suffix(".parquet"), result.task, remedy))
        tables, evaluations = evaluated.setdefault((data, tta), ({}, {}))
        tables[subset], evaluations[subset] = table, found
    return evaluated


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
    return table.sort_values("image_id", ignore_index=True)


def _check_images(folder: RunFolder, result: RunResult, tables: dict[str, pd.DataFrame]) -> None:
    """Refuse predictions of other images than those of the run's own split."""
    split = read_split(folder, result)
    rotating = result.config.split.method == "rotating"
    for subset, table in tables.items():
        subsets = ["train", "val"] if rotating and subset == "val" else [subset]
        found, known = set(table["image_id"]), set(split.loc[split["subset"].isin(subsets), "image_id"])
        unknown, missing = sorted(found - known), [] if rotating else sorted(known - found)
        if unknown or missing or len(found) != len(table):
            example = f", for example {some(unknown or missing, 1)}" if unknown or missing else ""
            raise RunError(
                f"its predictions do not match the {subset} subset of its split: {len(unknown)} images are not in it, "
                f"{len(missing)} are missing, {len(table) - len(found)} are duplicated{example}"
            )
