"""Assemble the sections of a report."""

from collections.abc import Sequence
from datetime import date
from typing import Any

from pneumonia.metrics.classification import metric_label
from pneumonia.report.card import card, tripod
from pneumonia.report.collect import Gathered
from pneumonia.report.compare import Comparison
from pneumonia.report.factors import sweep_sections
from pneumonia.report.formatting import bounded, count, number
from pneumonia.report.quality import closer_look
from pneumonia.report.ranking import comparison_section, in_short
from pneumonia.report.render.document import Block, Document, Heading, Items, Note, Table, Text
from pneumonia.report.reproduction import reproduction_section
from pneumonia.report.study import beside, load_study

LIMITS = "Not a medical device. Nothing here was tested on patients."


def report(found: Gathered, comparisons: Sequence[Comparison], title: str, command: str) -> Document:
    """Return the whole report.

    Args:
        found: The runs.
        comparisons: Of them.
        title: Of the report.
        command: That made it.
    """
    runs = sum(entry.members == 1 for entry in found.entries)
    subtitle = (
        f"{count(runs, 'finished run')}, {count(len(comparisons), 'comparison')}, {date.today().isoformat()}. {LIMITS}"
    )
    blocks: list[Block] = [
        Heading("In short"),
        *_phantoms(found),
        Items([f"{comparison.title}. {in_short(comparison)}{_leaky(comparison)}" for comparison in comparisons]),
        *_compared(found, comparisons),
    ]
    for number_, comparison in enumerate(comparisons, 1):
        blocks += comparison_section(comparison, number_)
        blocks += closer_look(comparison, number_)
    blocks += sweep_sections(found.by_sweep, found.questions)
    blocks += _study(comparisons)
    main = main_comparison(comparisons)
    blocks += card(main)
    blocks += tripod(main)
    blocks += reproduction_section(found.entries, command)
    return Document(title, subtitle, blocks)


def main_comparison(comparisons: Sequence[Comparison]) -> Comparison:
    """Return the comparison whose best model the card describes: own data first, test before validation, honest before leaky."""
    return min(
        comparisons,
        key=lambda one: (
            bool(one.other_data),
            one.subset != "test",
            bool(one.leaks),
            one.task != "subtype",
            -len(one.candidates),
        ),
    )


def _phantoms(found: Gathered) -> list[Block]:
    if any(entry.result.data.phantoms for entry in found.entries):
        text = (
            "Some of these runs were trained on drawn phantoms: they show that everything works, and say "
            "nothing about medicine."
        )
        return [Note(text)]
    return []


def _leaky(comparison: Comparison) -> str:
    if not comparison.leaks:
        return ""
    why = "Some of the images may have been trained on" if comparison.other_data else "The split is leaky"
    return f" {why}: these values are optimistic."


def _compared(found: Gathered, comparisons: Sequence[Comparison]) -> list[Block]:
    """List the comparisons, why they are separate, and the runs that were left out."""
    rows = []
    for comparison in comparisons:
        seeds = sorted({entry.result.seed for one in comparison.candidates for entry in one.entries})
        rows.append(
            [
                comparison.task,
                comparison.split,
                comparison.subset,
                comparison.other_data or "own",
                f"`{comparison.manifest[:12]}`",
                f"{comparison.n:,}",
                f"{comparison.patients:,}",
                str(len(comparison.candidates)),
                str(sum(one.trainings for one in comparison.candidates)),
                ", ".join(map(str, seeds)) if len(seeds) <= 5 else f"{len(seeds)} seeds",
                comparison.leak_share or "none found",
            ]
        )
    head = (
        "task",
        "split",
        "subset",
        "measured on",
        "trained on",
        "images",
        "patients",
        "configurations",
        "trainings",
        "seeds",
        "leaky images",
    )
    blocks: list[Block] = [
        Heading("What was compared"),
        Table(
            head,
            rows,
            "One comparison a row; only runs of one task, one set of images and one split are compared",
            5,
            "compared",
        ),
    ]
    if len(comparisons) > 1:
        blocks.append(
            Note(
                f"These runs differ in {_why_apart(comparisons)}, so they are compared within "
                f"{count(len(comparisons), 'separate group')} and never across them."
            )
        )
    half = [
        f"{one.label}: {count(one.trainings, 'training')} evaluated on the test split, others of the same "
        "configuration not"
        for comparison in comparisons
        if comparison.subset == "test"
        for one in comparison.candidates
        if any(
            one.entries[0].configuration == other.entries[0].configuration
            for rest in comparisons
            if rest.subset == "val" and rest.other_data == comparison.other_data
            for other in rest.candidates
        )
    ]
    if half:
        blocks += [
            Note("Some configurations are evaluated in part: run `pneumonia evaluate` on all of them."),
            Items(half),
        ]
    if found.left_out:
        rows = [[place, reason] for place, reason in found.left_out]
        blocks.append(Table(("run", "why"), rows, f"Left out: {count(len(rows), 'run')}", 2, "left-out"))
    if found.copies:
        example = found.copies[0]
        text = (
            f"{count(len(found.copies), 'run')} are in several folders and count once, for example "
            f"`{example[0]}`, as `{example[1]}`."
        )
        blocks.append(Note(text))
    return blocks


def _why_apart(comparisons: Sequence[Comparison]) -> str:
    what: dict[str, set[Any]] = {
        "task": {one.task for one in comparisons},
        "images or labels": {(one.manifest, one.other_data) for one in comparisons},
        "split": {one.split for one in comparisons},
        "the subset on which they were measured": {one.subset for one in comparisons},
    }
    return ", ".join(name for name, values in what.items() if len(values) > 1) or "the images of that subset"


def _study(comparisons: Sequence[Comparison]) -> list[Block]:
    """Compare the study's values with ours: one table for each of its tables, one column for each of our splits."""
    tables: dict[str, dict[tuple[str, str, str, str], dict[str, str]]] = {}
    notes: list[str] = []
    for one in beside(comparisons):
        column = f"ours, split={one.comparison.split}, {one.subset}"
        for metric, theirs in one.row.study.items():
            value = theirs if isinstance(theirs, str) else number(theirs)
            key = one.row.name, one.candidate.label, metric_label(metric), value
            estimate = one.estimates.get(metric)
            tables.setdefault(one.row.table, {}).setdefault(key, {})[column] = bounded(*estimate) if estimate else "–"
        if one.row.note:
            notes.append(f"{one.row.name}: {one.row.note}.")
    if not tables:
        return []
    blocks: list[Block] = [Heading("The study's values beside ours"), Text(load_study().protocol)]
    for place, (title, rows) in enumerate(tables.items(), 1):
        columns = sorted({column for cells in rows.values() for column in cells})
        shown = [[*key, *(cells.get(column, "–") for column in columns)] for key, cells in rows.items()]
        head = ("the study's model", "our configuration", "metric", "the study", *columns)
        blocks.append(Table(head, shown, f"{title}; ours with 95% intervals", 3, f"study-{place}"))
    return [*blocks, Items(list(dict.fromkeys(notes)))] if notes else blocks
