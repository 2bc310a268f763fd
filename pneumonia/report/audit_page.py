"""Write the findings of a data audit as one page."""

import io
from typing import Final

import numpy as np
import pandas as pd
from PIL import Image

from pneumonia.data.audit.audit import QUANTITIES
from pneumonia.data.audit.contact_sheets import chosen
from pneumonia.data.audit.findings import KINDS, conclusion, likeness, ranged, remarks
from pneumonia.data.audit.records import Audit, Pair, Score
from pneumonia.report.formatting import sentence
from pneumonia.report.render import figures
from pneumonia.report.render.document import (
    Block,
    Document,
    Figure,
    Gallery,
    Heading,
    Items,
    Note,
    NoteKind,
    Picture,
    Table,
    Text,
    Tile,
)
from pneumonia.report.render.html import html_page
from pneumonia.system.arrays import Pixels
from pneumonia.tasks import in_class_order

SHOWN_PAIRS: Final = 40
EXAMPLES: Final = 10
KIND_OF_NOTE: Final[dict[str, NoteKind]] = {"clean": "good", "leak": "bad", "unknown": "info"}


def audit_page(found: Audit, manifest: pd.DataFrame, pixels: Pixels, source: str) -> str:
    """Return the page of an audit as HTML.

    Args:
        found: From :func:`pneumonia.data.audit.audit.audit`.
        manifest: The images that were audited.
        pixels: ``(N, S, S)``, the same images.
        source: The audited data, as the user named them.
    """
    patients = f"{found.patients:,} patients" if found.patients_known else "unknown patients"
    subtitle = (
        f"{found.images:,} images of {patients}, manifest {found.manifest_sha256[:12]}. Made by pneumonia data audit. "
        "Not a medical device."
    )
    kind, verdict = conclusion(found)
    points = remarks(found)
    blocks: list[Block] = [
        Note(verdict, KIND_OF_NOTE[kind]),
        *([Items(points)] if points else []),
        *_subsets(found),
        *_copies(found, manifest, pixels),
        *_shortcuts(found),
        *_shift(found),
        *_quantities(found),
        *_examples(manifest, pixels),
        *_skipped(found),
    ]
    return html_page(Document(f"Audit of {source}", subtitle, blocks))


def _subsets(found: Audit) -> list[Block]:
    rows = [
        [
            name or "no subset",
            *(f"{subset.classes.get(label, 0):,}" for label in found.labels),
            f"{subset.images:,}",
            f"{subset.patients:,}",
        ]
        for name, subset in found.subsets_and_all.items()
    ]
    origin = "the release's own folders" if found.subsets_from == "folders" else f"split={found.subsets_from}"
    blocks: list[Block] = [Heading("Subsets and classes")]
    if set(found.subsets) - {""}:
        blocks.append(Text(f"The subsets are those of {origin}."))
    blocks.append(Table(("subset", *found.labels, "images", "patients"), rows))
    for leak in found.leaks:
        images = " and ".join(f"{count:,} of {name} ({leak.share[name]:.0%})" for name, count in leak.images.items())
        text = (
            f"**Leak** between {' and '.join(leak.subsets)}: {leak.patients} patients in both, {leak.copies} pairs of "
            f"copies across; {images} images are concerned. For example {', '.join(leak.examples)}."
        )
        blocks.append(Note(text, "bad"))
    return blocks


def _copies(found: Audit, manifest: pd.DataFrame, pixels: Pixels) -> list[Block]:
    counts, pairs = found.duplicates, found.pairs
    total = counts.exact_pairs + counts.near_pairs
    if not total:
        return [Heading("Copies"), Text("None: no two files are byte-identical, and no two images nearly so.")]
    text = (
        f"{counts.exact_groups} groups of byte-identical files ({counts.exact_images} images, {counts.exact_pairs} "
        f"pairs), and {counts.near_pairs} pairs that are one X-ray saved twice (perceptual hash within 24 of 256 bits). "
        f"{counts.across_patients} pairs join two “patients”, {counts.across_subsets} cross subsets, "
        f"{counts.label_conflicts} have two labels. Our splits keep all of them together."
    )
    position = {name: row for row, name in enumerate(manifest["image_id"])}
    tiles = []
    for pair in pairs[:SHOWN_PAIRS]:
        ends = (
            (pair.first, pair.first_subset, pair.first_label),
            (pair.second, pair.second_subset, pair.second_label),
        )
        pictures = [_picture(pixels[position[name]], name, f"{name} ({', '.join(filter(None, about))})") for name, *about in ends]
        tiles.append(Tile(pictures, _nearness(pair)))
    blocks: list[Block] = [Heading("Copies"), Text(text), Gallery(tiles)]
    if total > SHOWN_PAIRS:
        rest = "all are" if len(pairs) == total else f"the {len(pairs):,} most serious are"
        blocks.append(Text(f"The {SHOWN_PAIRS} most serious of {total:,} pairs; {rest} in pairs.csv."))
    return blocks


def _nearness(pair: Pair) -> str:
    pairs = {
        "labels": (pair.first_label, pair.second_label),
        "subsets": (pair.first_subset, pair.second_subset),
        "patients": (pair.first_patient, pair.second_patient),
    }
    different = [f"two {what}: **{one or 'none'} / {other or 'none'}**" for what, (one, other) in pairs.items() if one != other]
    return "; ".join(["identical" if pair.kind == "exact" else f"{pair.bits} bits apart", *different])


def _shortcuts(found: Audit) -> list[Block]:
    blocks: list[Block] = [
        Heading("Accuracy without looking at lungs"),
        Text(
            "Accuracy of models that see no lungs, on patients that they were not fitted on (five folds; images of the test "
            "split are left out). The orange mark is the largest class, the dark line the 95% interval by patient. A real model "
            "is worth its accuracy beyond these; a metadata bar far right of the mark means that the files reveal the class."
        ),
    ]
    for task, title in found.tasks.items():
        scores: dict[str, Score] = {}
        for kind, by_task in found.baselines.items():
            scores[KINDS[kind]] = by_task[task]
            if on_val := by_task[task].on_val:
                scores[f"{KINDS[kind]}, on val"] = on_val
        known = {name: score for name, score in scores.items() if score.accuracy is not None}
        blocks.append(Heading(sentence(title), 3))
        if known:
            bars = [(score.accuracy, score.low, score.high, score.largest_class) for score in known.values()]
            values, low, high, marks = zip(*bars, strict=True)
            svg = figures.bars(list(known), values, low, high, marks, "accuracy")
            rows = [
                [name, *map(ranged, score.intervals.values()), f"{score.largest_class:.3f}", f"{score.n:,}"]
                for name, score in known.items()
            ]
            head = ("model of", "accuracy", "balanced accuracy", "AUROC", "largest class", "images")
            blocks += [Figure(f"shortcuts-{task}", svg, "", "The table below, as bars."), Table(head, rows)]
        blocks += [Text(f"{name}: {score.reason}") for name, score in scores.items() if name not in known]
    return blocks


def _shift(found: Audit) -> list[Block]:
    if not found.shift:
        return []

    def cell(score: Score) -> str:
        return likeness(score) if score.auroc is None else f"{likeness(score)}: {ranged(score.intervals['auroc'])}"

    text = (
        "AUROC of a classifier that tells one subset from the other, on patients it was not fitted on: 0.5 means that no "
        "classifier can, 1.0 that it always can. Far from 0.5, a score on the one says little about the other."
    )
    rows = [[" against ".join(shift.subsets), *map(cell, shift.scores.values())] for shift in found.shift]
    return [Heading("Do the subsets look alike?"), Text(text), Table(("subsets", *KINDS.values()), rows)]


def _quantities(found: Audit) -> list[Block]:
    plots, constant = {}, []
    for quantity, by_class in found.quantities.items():
        known = {label: points for label, points in by_class.items() if points}
        values = {value for points in known.values() for value in points}
        name = QUANTITIES[quantity]
        if len(values) > 1:
            plots[name] = known
        else:
            constant.append(f"{name}: {values.pop():,.6g} throughout" if values else f"{name}: no file has it")
    text = (
        "Boxes hold the middle half with a white line at the median, whiskers 5% to 95%. A model can learn what differs by "
        "class here instead of lungs."
    )
    blocks: list[Block] = [Heading("Size, format and brightness by class"), Text(text)]
    if plots:
        blocks.append(Figure("quantities", figures.boxes(plots), "", "Box plots of each quantity by class."))
    if constant:
        blocks.append(Text(f"{'; '.join(constant)}."))
    modes = sorted({mode for row in found.modes.values() for mode in row})
    rows = [[label, *(f"{row.get(mode, 0):,}" for mode in modes)] for label, row in found.modes.items()]
    return [*blocks, Table(("class", *modes), rows, "Colour mode of the files")]


def _examples(manifest: pd.DataFrame, pixels: Pixels) -> list[Block]:
    blocks: list[Block] = [Heading("Examples by class")]
    label, ids = manifest["label"].to_numpy(), manifest["image_id"].to_numpy()
    for name in in_class_order(label):
        rows = chosen(manifest, np.flatnonzero(label == name), EXAMPLES, 0)
        tile = Tile([_picture(pixels[row], ids[row]) for row in rows])
        blocks += [Heading(name, 3), Gallery([tile], thumbnails=True)]
    return blocks


def _skipped(found: Audit) -> list[Block]:
    if not found.skipped:
        return []
    reasons = [f"{path}: {reason}" for path, reason in found.skipped.items()]
    return [Heading("Left out"), Text("These images can't be read; nothing above counts them."), Items(reasons)]


def _picture(pixels: Pixels, name: str, caption: str = "") -> Picture:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=80)
    return Picture(file.getvalue(), caption, name)
