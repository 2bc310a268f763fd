"""Read the study's values, and find our runs with the same settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from pneumonia.report.compare import Bounded, Candidate, Comparison, estimates_on
from pneumonia.report.entries import Entry

FILE: Final = Path(__file__).with_name("study.yaml")
CHOICES: Final = ("model", "optimizer", "scheduler")  # named by the last word of their _target_


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
    where: dict[str, Any]
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


@cache
def _loaded() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return found


def protocol() -> str:
    """Return the study's protocol, in a few sentences."""
    return str(_loaded()["protocol"])


def rows() -> list[Row]:
    """Return every row of the study's tables of results."""
    return [
        Row(table["title"], table["part"], row["name"], row["where"], row["study"], row.get("note", ""))
        for table in _loaded()["tables"]
        for row in table["rows"]
    ]


def factor(key: str) -> dict[str, dict[str, float]]:
    """Return the study's values of one factor: by column, then by value as our sweeps write it."""
    found = _loaded()["factors"].get(key, {})
    return {column: {str(value): figure for value, figure in figures.items()} for column, figures in found.items()}


def matches(row: Row, entry: Entry) -> bool:
    """Return whether a run has the settings of a row."""
    if entry.members > 1:
        return False
    return all(_setting(entry.config, key) == value for key, value in row.where.items())


def _setting(config: dict[str, Any], key: str) -> Any:
    if key in CHOICES:
        return str(config[key]["_target_"]).rpartition(".")[2]
    value: Any = config
    for word in key.split("."):
        if not isinstance(value, dict) or word not in value:
            return None
        value = value[word]
    return value


def beside(comparisons: Sequence[Comparison]) -> list[Beside]:
    """Match each row of the study with our candidates of the same settings; phantoms match none."""
    found = []
    for row in rows():
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
