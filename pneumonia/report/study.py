"""Read the study's values, and find our runs with the same settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import yaml

from pneumonia.config.convert import class_name
from pneumonia.config.nodes import TargetNode
from pneumonia.config.schema import TaskConfig, TrainConfig
from pneumonia.report.compare import Bounded, Candidate, Comparison, estimates_on
from pneumonia.report.entries import Entry

FILE: Final = Path(__file__).with_name("study.yaml")


@dataclass(frozen=True)
class Row:
    """One row of one of the study's tables.

    Attributes:
        table: The table's title.
        subset: Which of our subsets stands beside it.
        name: What the study calls the model.
        where: Settings of our runs that stand beside it.
        study: The study's values by metric; text where it gives text.
        note: How the two differ.
    """

    table: str
    subset: str
    name: str
    where: dict[str, object]
    study: dict[str, float | str]
    note: str


@dataclass(frozen=True)
class Beside:
    """A row with one of our candidates.

    Attributes:
        row: The study's.
        comparison: That the candidate belongs to.
        candidate: Ours.
        subset: Where ours was measured: as the study's where it can be.
        estimates: Ours, by metric, on that subset.
    """

    row: Row
    comparison: Comparison
    candidate: Candidate
    subset: str
    estimates: dict[str, Bounded]


@dataclass(frozen=True)
class Study:
    """The values that the study reports.

    Attributes:
        protocol: How it was done, in a few sentences.
        rows: Every row of its tables of results.
        factors: Its values of one factor: by swept key, by column, then by value as our sweeps write it.
    """

    protocol: str
    rows: Sequence[Row]
    factors: dict[str, dict[str, dict[str, float]]]


@cache
def load_study() -> Study:
    """Read ``study.yaml``."""
    found = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    rows = [
        Row(table["title"], table["part"], row["name"], row["where"], row["study"], row.get("note", ""))
        for table in found["tables"]
        for row in table["rows"]
    ]
    factors = {
        key: {column: {str(value): number for value, number in numbers.items()} for column, numbers in columns.items()}
        for key, columns in found["factors"].items()
    }
    return Study(found["protocol"], rows, factors)


def matches(row: Row, entry: Entry) -> bool:
    """Return whether a run has the settings of a row."""
    if entry.members > 1:
        return False
    return all(_setting(entry.config, key) == value for key, value in row.where.items())


def _setting(config: TrainConfig, key: str) -> object:
    """Return a value of a config, the class of a choice or the name of the task; ``None`` if the chosen node has no such key."""
    value: object = config
    for name in key.split("."):
        value = getattr(value, name, None)
    if isinstance(value, TaskConfig):
        return value.name
    return class_name(value) if isinstance(value, TargetNode) else value


def beside(comparisons: Sequence[Comparison]) -> list[Beside]:
    """Match each row of the study with our candidates of the same settings; phantoms match none."""
    found = []
    for row in load_study().rows:
        for comparison in comparisons:
            if comparison.other_data or (row.subset == "test" and comparison.subset != "test"):
                continue
            for candidate in comparison.candidates:
                entry = candidate.typical
                if entry.tta or not matches(row, entry) or entry.result.data.phantoms:
                    continue
                subset, estimates = comparison.subset, candidate.estimates
                if row.subset != subset and all(row.subset in one.tables for one in candidate.entries):
                    subset, estimates = row.subset, estimates_on(candidate.entries, row.subset)
                found.append(Beside(row, comparison, candidate, subset, estimates))
    return found
