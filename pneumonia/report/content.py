"""The report from begin to end, as blocks."""

from collections.abc import Sequence
from datetime import date
from typing import Any

from pneumonia.report.card import again, card, tripod
from pneumonia.report.collect import Gathered
from pneumonia.report.compare import Comparison
from pneumonia.report.document import Block, Document, Heading, Items, Note, Table, Text
from pneumonia.report.factors import sweep_sections
from pneumonia.report.quality import looks
from pneumonia.report.ranking import comparison_section, in_short
from pneumonia.report.study import beside, protocol
from pneumonia.report.words import bounded, count, name_of, number

LIMITS = "Not a medical device. Nothing here was tested on patients."


def report(found: Gathered, comparisons: Sequence[Comparison], title: str, command: str) -> Document:
    """Every section, in the order in which a reader asks.

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
        blocks += looks(comparison, number_)
    blocks += sweep_sections(found.entries, found.questions)
    blocks += _study(comparisons, found)
    main = main_comparison(comparisons)
    blocks += card(main)
    blocks += tripod(main, comparisons)
    blocks += again(found.entries, command)
    return Document(title, subtitle, blocks)


def main_comparison(comparisons: Sequence[Comparison]) -> Comparison:
    """The comparison whose best model the card describes: test before validation, honest before leaky, three classes first."""
    return min(
        comparisons,
        key=lambda one: (one.part != "test", bool(one.leaks), one.task != "subtype", -len(one.candidates)),
    )


def _phantoms(found: Gathered) -> list[Block]:
    if any(entry.config["data"]["source"] == "phantom" for entry in found.entries):
        text = (
            "Some of these runs were trained on drawn phantoms: they show that everything works, and say "
            "nothing about medicine."
        )
        return [Note(text)]
    return []


def _leaky(comparison: Comparison) -> str:
    return " The split is leaky: these figures are optimistic." if comparison.leaks else ""


def _compared(found: Gathered, comparisons: Sequence[Comparison]) -> list[Block]:
    """What was compared with what, why the rest was kept apart, and what was left out."""
    rows = []
    for comparison in comparisons:
        seeds = sorted({entry.result["seed"] for one in comparison.candidates for entry in one.entries})
        rows.append(
            [
                comparison.task,
                comparison.split + (f", {comparison.other_data}" if comparison.other_data else ""),
                comparison.part,
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
        "part",
        "data",
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
            4,
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
        f"{one.label}: {count(one.trainings, 'training')} evaluated on the test part, others of the same "
        "configuration not"
        for comparison in comparisons
        if comparison.part == "test"
        for one in comparison.candidates
        if any(
            one.entries[0].configuration == other.entries[0].configuration
            for rest in comparisons
            if rest.part == "val"
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
            f"{count(len(found.copies), 'run')} stood in several places and count once, for example "
            f"`{example[0]}`, as `{example[1]}`."
        )
        blocks.append(Note(text))
    return blocks


def _why_apart(comparisons: Sequence[Comparison]) -> str:
    what: dict[str, set[Any]] = {
        "task": {one.task for one in comparisons},
        "images or labels": {(one.manifest, one.other_data) for one in comparisons},
        "split": {one.split for one in comparisons},
        "the part on which they were measured": {one.part for one in comparisons},
    }
    return ", ".join(name for name, values in what.items() if len(values) > 1) or "the images of that part"


def _study(comparisons: Sequence[Comparison], found: Gathered) -> list[Block]:
    """The study's figures next to ours, wherever there are any."""
    rows = []
    notes: list[str] = []
    for one in beside(comparisons):
        for metric, theirs in one.row.study.items():
            estimate = one.candidate.estimates.get(metric)
            rows.append(
                [
                    one.row.table,
                    one.row.name,
                    name_of(metric),
                    theirs if isinstance(theirs, str) else number(theirs),
                    bounded(*estimate) if estimate else "–",
                    f"{one.comparison.split}, {one.comparison.part}",
                    one.candidate.label,
                ]
            )
        if one.row.note:
            notes.append(f"{one.row.name}: {one.row.note}.")
    if not rows:
        return []
    head = ("table of the study", "model", "metric", "the study", "ours", "our split and part", "our configuration")
    return [
        Heading("The study's figures beside ours"),
        Text(protocol()),
        Table(head, rows, "Ours with 95% intervals by patient and seed; the study gives none", 3, "study"),
        *([Items(list(dict.fromkeys(notes)))] if notes else []),
    ]
