"""Assemble the sections of a report."""

from collections.abc import Sequence
from datetime import date

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
from pneumonia.tasks import SUBTYPE

LIMITS = "Not a medical device. Nothing here was tested on patients."


def report(found: Gathered, comparisons: Sequence[Comparison], title: str, command: str) -> Document:
    """Return the whole report; ``command`` is the one that writes it."""
    runs = sum(entry.members == 1 for entry in found.entries)
    subtitle = f"{count(runs, 'finished run')}, {count(len(comparisons), 'comparison')}, {date.today().isoformat()}. {LIMITS}"
    blocks: list[Block] = [
        Heading("In short"),
        *_phantoms(found),
        Items([f"{comparison.title}. {in_short(comparison)}{_leaky(comparison)}" for comparison in comparisons]),
        *_compared(found, comparisons),
    ]
    for number_, comparison in enumerate(comparisons, 1):
        blocks += [*comparison_section(comparison, number_), *closer_look(comparison, number_)]
    main = main_comparison(comparisons)
    blocks += [*sweep_sections(found.by_sweep, found.questions), *_study(comparisons), *card(main), *tripod(main)]
    return Document(title, subtitle, [*blocks, *reproduction_section(found.entries, command)])


def main_comparison(comparisons: Sequence[Comparison]) -> Comparison:
    """Return the comparison whose best model the card describes: own data first, test before validation, honest before leaky."""
    return min(
        comparisons,
        key=lambda one: (
            bool(one.other_data),
            one.subset != "test",
            bool(one.leaks),
            one.task != SUBTYPE,
            -len(one.candidates),
        ),
    )


def _phantoms(found: Gathered) -> list[Block]:
    text = "Some of these runs were trained on drawn phantoms: they show that everything works, and say nothing about medicine."
    return [Note(text)] if any(entry.result.data.phantoms for entry in found.entries) else []


def _leaky(comparison: Comparison) -> str:
    if not comparison.leaks:
        return ""
    why = "Some of the images may have been trained on" if comparison.other_data else "The split is leaky"
    return f" {why}: these values are optimistic."


def _compared(found: Gathered, comparisons: Sequence[Comparison]) -> list[Block]:
    """List the comparisons, why they are separate, and the runs that were left out."""
    rows = [
        {
            "task": one.task.name,
            "split": one.split,
            "subset": one.subset,
            "measured on": one.other_data or "own",
            "trained on": f"`{one.manifest[:12]}`",
            "images": f"{one.n:,}",
            "patients": f"{one.patients:,}",
            "configurations": str(len(one.candidates)),
            "trainings": str(sum(candidate.trainings for candidate in one.candidates)),
            "seeds": _seeds(one),
            "leaky images": one.leak_share or "none found",
        }
        for one in comparisons
    ]
    caption = "One comparison a row; only runs of one task, one set of images and one split are compared"
    table = Table(tuple(rows[0]), [list(row.values()) for row in rows], caption, 5, "compared")
    blocks: list[Block] = [Heading("What was compared"), table]
    if len(comparisons) > 1:
        text = (
            f"These runs differ in {_why_apart(comparisons)}, so they are compared within "
            f"{count(len(comparisons), 'separate group')} and never across them."
        )
        blocks.append(Note(text))
    if half := _evaluated_in_part(comparisons):
        text = "Some configurations are evaluated in part: run `pneumonia evaluate` on all of them."
        blocks += [Note(text), Items(half)]
    if found.left_out:
        title = f"Left out: {count(len(found.left_out), 'run')}"
        blocks.append(Table(("run", "why"), found.left_out, title, 2, "left-out"))
    if found.copies:
        copy, place = found.copies[0]
        copies = count(len(found.copies), "run")
        blocks.append(Note(f"{copies} are in several folders and count once, for example `{copy}`, as `{place}`."))
    return blocks


def _seeds(comparison: Comparison) -> str:
    seeds = sorted({entry.result.seed for one in comparison.candidates for entry in one.entries})
    return ", ".join(map(str, seeds)) if len(seeds) <= 5 else f"{len(seeds)} seeds"


def _evaluated_in_part(comparisons: Sequence[Comparison]) -> list[str]:
    """Describe the configurations of which some trainings were evaluated on the test split and others not."""
    validated = {
        (one.other_data, candidate.entries[0].configuration)
        for one in comparisons
        if one.subset == "val"
        for candidate in one.candidates
    }
    return [
        f"{candidate.label}: {count(candidate.trainings, 'training')} evaluated on the test split, others of the same "
        "configuration not"
        for one in comparisons
        if one.subset == "test"
        for candidate in one.candidates
        if (one.other_data, candidate.entries[0].configuration) in validated
    ]


def _why_apart(comparisons: Sequence[Comparison]) -> str:
    names = ("task", "images or labels", "split", "the subset on which they were measured")
    values = zip(*((one.task, (one.manifest, one.other_data), one.split, one.subset) for one in comparisons), strict=True)
    apart = [name for name, found in zip(names, values, strict=True) if len(set(found)) > 1]
    return ", ".join(apart) or "the images of that subset"


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
