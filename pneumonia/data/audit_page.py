"""The findings of an audit as one page that needs nothing else: no network, no script, no second file."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from pneumonia.data.audit import QUANTITIES
from pneumonia.data.sheets import chosen

COLOURS: Final = {
    "NORMAL": "#0072B2",
    "VIRUS": "#E69F00",
    "BACTERIA": "#D55E00",
    "PNEUMONIA": "#CC79A7",
}  # Okabe and Ito
MOST_PAIRS: Final = 40
EXAMPLES: Final = 10
TASKS: Final = {"subtype": "three classes", "pneumonia": "normal against pneumonia"}
KINDS: Final = {
    "metadata": "File metadata (width, height, bytes, mode)",
    "thumbnail": "Thumbnail (16 px, linear model)",
}
STYLE: Final = """
:root { --ink: #1d2430; --soft: #5b6573; --line: #d9dee5; --wash: #f5f7fa }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff }
body { margin: 0 auto; padding: 1.5rem; max-width: 70rem }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--line); padding-bottom: .3rem }
p { max-width: 46rem }
.soft { color: var(--soft) }
.verdict { border-left: .4rem solid; padding: .7rem 1rem; background: var(--wash); font-size: 1.1rem; max-width: none }
.clean { border-color: #009E73 } .leak { border-color: #D55E00 } .unknown { border-color: #8a94a3 }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
.sheet { display: flex; flex-wrap: wrap; gap: 3px; margin: .3rem 0 1rem }
.sheet img { width: 96px; height: 96px; display: block }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem }
figure { margin: 0; background: var(--wash); padding: .6rem; border-radius: .3rem; break-inside: avoid }
figure img { width: calc(50% - 3px) }
figcaption { font-size: .78rem; overflow-wrap: anywhere; line-height: 1.35 }
.tag { display: inline-block; padding: 0 .4rem; border-radius: .2rem; background: #e3e8ee; font-size: .75rem }
.tag.bad { background: #b34700; color: #fff }
svg { max-width: 100%; height: auto; display: block }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink) }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 1rem 2rem }
@media (max-width: 40rem) { body { padding: 1rem } .sheet img { width: 72px; height: 72px } }
@media print { body { max-width: none } h2 { break-after: avoid } }
"""


def page(found: dict[str, Any], manifest: pd.DataFrame, pixels: NDArray[np.uint8], source: str) -> str:
    """A whole HTML document.

    Args:
        found: From :func:`pneumonia.data.audit.audit`.
        manifest: The images that were audited.
        pixels: ``(N, S, S)`` uint8, the same images; shown as they are.
        source: What was audited, as a person wrote it.
    """
    kind, verdict = conclusion(found)
    sections = [
        f"<h1>Audit of {escape(source)}</h1>",
        f'<p class="verdict {kind}">{escape(verdict)}</p>',
        f"<p>{found['images']:,} images of {found['patients']:,} patients. The manifest's hash is "
        f"<code>{found['manifest_sha256'][:12]}</code>.</p>",
        *_parts(found),
        *_copies(found, manifest, pixels),
        *_shortcuts(found),
        *_shift(found),
        *_quantities(found),
        *_sheets(manifest, pixels),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Audit of {escape(source)}</title><style>{STYLE}</style></head><body>{''.join(sections)}"
        '<p class="soft">Made by <code>pneumonia data audit</code>. Not a medical device.</p></body></html>\n'
    )


def conclusion(found: dict[str, Any]) -> tuple[str, str]:
    """``clean``, ``leak`` or ``unknown``, and one sentence that says so."""
    named = [name for name in found["parts"] if name in {"train", "val", "test"}]
    if found["leaks"]:
        texts = [
            f"{leak['groups']} patients or X-rays stand in both {leak['parts'][0]} and {leak['parts'][1]}"
            for leak in found["leaks"]
        ]
        return "leak", f"LEAK: {'; '.join(texts)}. Scores on these parts are optimistic."
    if len(named) < 2:
        return "unknown", "The data are not divided into parts, so nothing can leak yet; name a split to audit it."
    known = "" if found["patients_known"] else " The data name no patients: only copies of images could be looked for."
    return "clean", f"No leak found between {', '.join(named[:-1])} and {named[-1]}.{known}"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    cells = "".join(f"<th>{escape(str(text))}</th>" for text in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def _parts(found: dict[str, Any]) -> list[str]:
    labels = sorted({label for part in found["parts"].values() for label in part["classes"]})
    rows = [
        (
            name or "all",
            *(f"{part['classes'].get(label, 0):,}" for label in labels),
            f"{part['images']:,}",
            f"{part['patients']:,}",
        )
        for name, part in found["parts"].items()
    ]
    origin = "the release's own folders" if found["parts_from"] == "folders" else f"split={found['parts_from']}"
    made = ["<h2>Parts and classes</h2>", f"<p>Parts are those of {escape(origin)}.</p>"]
    made.append(_table(("part", *labels, "images", "patients"), rows))
    for leak in found["leaks"]:
        one, other = leak["parts"]
        made.append(
            f"<p><span class='tag bad'>leak</span> {one} and {other}: {leak['patients']} patients in both, {leak['copies']} "
            f"pairs of copies across; {leak['images'][one]:,} images of {one} and {leak['images'][other]:,} of {other} are "
            f"concerned. For example {escape(', '.join(leak['examples']))}.</p>"
        )
    return made


def _copies(found: dict[str, Any], manifest: pd.DataFrame, pixels: NDArray[np.uint8]) -> list[str]:
    counts = found["duplicates"]
    made = [
        "<h2>Copies</h2>",
        f"<p>{counts['exact_groups']} groups of byte-identical files ({counts['exact_images']} images, {counts['exact_pairs']} "
        f"pairs), and {counts['near_pairs']} pairs that are one X-ray saved twice (perceptual hash within 24 of 256 bits). "
        f"{counts['across_patients']} pairs join two &ldquo;patients&rdquo;, {counts['across_parts']} cross parts, "
        f"{counts['label_conflicts']} have two labels. Splits keep all of them together.</p>",
    ]
    position = {name: row for row, name in enumerate(manifest["image_id"])}
    pairs = sorted(found["pairs"], key=_gravity)
    if pairs:
        made.append('<div class="pairs">')
        for pair in pairs[:MOST_PAIRS]:
            pictures = "".join(_picture(pixels[position[pair[key]]], pair[key]) for key in ("first", "second"))
            made.append(
                f"<figure>{pictures}<figcaption>{_tags(pair)}<br>{escape(pair['first'])}<br>{escape(pair['second'])}"
                "</figcaption></figure>"
            )
        made.append("</div>")
    if len(pairs) > MOST_PAIRS:
        made.append(f"<p class='soft'>The gravest {MOST_PAIRS} of {len(pairs)} pairs; all are in pairs.csv.</p>")
    return made


def _gravity(pair: dict[str, Any]) -> tuple[bool, bool, bool, int]:
    """Sorts what matters most to the front: two labels, two parts, two patients, then the nearest."""
    same = {key: pair[key][0] == pair[key][1] for key in ("labels", "parts", "patients")}
    return same["labels"], same["parts"], same["patients"], pair["bits"]


def _tags(pair: dict[str, Any]) -> str:
    nearness = "identical" if pair["kind"] == "exact" else f"{pair['bits']} bits apart"
    tags = [f"<span class='tag'>{nearness}</span>"]
    for key in ("labels", "parts", "patients"):
        one, other = pair[key]
        if one != other:
            tags.append(f"<span class='tag bad'>{escape(one)} / {escape(other)}</span>")
    return " ".join(tags)


def _shortcuts(found: dict[str, Any]) -> list[str]:
    made = [
        "<h2>What can be told without looking at lungs</h2>",
        "<p>Accuracy of models that see no lungs, on patients that they were not fitted on (five folds; whiskers: 95% by "
        "patient). The grey line is the largest class. A real model is worth what it scores beyond these; a metadata bar far "
        "right of the line means that the files betray the class.</p>",
    ]
    for task, title in TASKS.items():
        scores = {KINDS[kind]: by_task[task] for kind, by_task in found["baselines"].items() if task in by_task}
        if scores:
            made.append(f"<h3>{title}</h3>{_bars(scores)}")
    return made


def _bars(scores: dict[str, dict[str, Any]]) -> str:
    """Horizontal bars from 0 to 1 with whiskers, and a line at the largest class."""
    left, width, step = 8, 560, 46
    shapes = []
    for number, (name, score) in enumerate(scores.items()):
        y = number * step
        if "reason" in score:
            shapes.append(f'<text x="{left}" y="{y + 30}">{escape(name)}: {escape(score["reason"])}</text>')
            continue
        x = {key: left + width * score[key] for key in ("accuracy", "low", "high", "largest_class")}
        auroc = (
            f"accuracy {score['accuracy']:.3f} ({score['low']:.3f} to {score['high']:.3f}), AUROC {score['auroc']:.3f}"
        )
        shapes.append(
            f'<text x="{left}" y="{y + 14}">{escape(name)}: {auroc}</text>'
            f'<rect x="{left}" y="{y + 20}" width="{width}" height="14" fill="#eef1f5"/>'
            f'<rect x="{left}" y="{y + 20}" width="{x["accuracy"] - left:.1f}" height="14" fill="#0072B2"/>'
            f'<path d="M{x["low"]:.1f} {y + 27}H{x["high"]:.1f}" stroke="#1d2430" stroke-width="2"/>'
            f'<path d="M{x["largest_class"]:.1f} {y + 17}v20" stroke="#8a94a3" stroke-width="3"/>'
        )
    return _svg(left * 2 + width, len(scores) * step, shapes)


def _shift(found: dict[str, Any]) -> list[str]:
    if not found["shift"]:
        return []

    def cell(score: dict[str, Any]) -> str:
        return score.get("reason") or f"{score['auroc']:.3f}"

    rows = [
        (f"{' against '.join(entry['parts'])}", cell(entry["thumbnail"]), cell(entry["metadata"]))
        for entry in found["shift"]
    ]
    return [
        "<h2>Do the parts look alike?</h2>",
        "<p>AUROC of a classifier that is to tell one part from the other, on patients it was not fitted on: 0.5 means that they "
        "can't be told apart, 1.0 that they always can. Far from 0.5, a score on the one says little about the other.</p>",
        _table(("parts", "thumbnail", "metadata"), rows),
    ]


def _quantities(found: dict[str, Any]) -> list[str]:
    made = [
        "<h2>Size, format and brightness by class</h2>",
        "<p>Boxes hold the middle half, whiskers 5% to 95%. What differs by class here, a model can learn instead of lungs.</p>",
        '<div class="plots">',
    ]
    for quantity, by_class in found["quantities"].items():
        known = {label: points for label, points in by_class.items() if points}
        if known:
            made.append(f"<div><strong>{escape(QUANTITIES[quantity])}</strong>{_boxes(known)}</div>")
    made.append("</div>")
    modes = sorted({mode for row in found["modes"].values() for mode in row})
    rows = [(label, *(row.get(mode, 0) for mode in modes)) for label, row in found["modes"].items()]
    return [*made, "<h3>Colour mode of the files</h3>", _table(("class", *modes), rows)]


def _boxes(known: dict[str, list[float]]) -> str:
    """Box plots of 5, 25, 50, 75 and 95% points, a row for each class, on one axis."""
    left, width, step = 84, 230, 26
    low, high = min(points[0] for points in known.values()), max(points[-1] for points in known.values())
    spread = (high - low) or 1.0
    shapes = []
    for number, (label, points) in enumerate(known.items()):
        a, b, middle, c, d = (left + width * (value - low) / spread for value in points)
        y, colour = number * step + 13, COLOURS.get(label, "#5b6573")
        shapes.append(
            f'<text x="0" y="{y + 4}">{escape(label)}</text><path d="M{a:.1f} {y}H{d:.1f}" stroke="{colour}" stroke-width="2"/>'
            f'<rect x="{b:.1f}" y="{y - 7}" width="{max(c - b, 2):.1f}" height="14" fill="{colour}"/>'
            f'<path d="M{middle:.1f} {y - 7}v14" stroke="#fff" stroke-width="2"/>'
        )
    bottom = len(known) * step + 14
    shapes.append(
        f'<text x="{left}" y="{bottom}">{_short(low)}</text>'
        f'<text x="{left + width}" y="{bottom}" text-anchor="end">{_short(high)}</text>'
    )
    return _svg(left + width + 6, bottom + 6, shapes)


def _svg(width: int, height: int, shapes: list[str]) -> str:
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img">{"".join(shapes)}</svg>'


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _sheets(manifest: pd.DataFrame, pixels: NDArray[np.uint8]) -> list[str]:
    made = ["<h2>Examples by class</h2>"]
    label = manifest["label"].to_numpy()
    for name in sorted(set(label)):
        rows = chosen(manifest, np.flatnonzero(label == name), EXAMPLES, 0)
        ids = manifest["image_id"].to_numpy()[rows]
        pictures = "".join(_picture(pixels[row], image_id) for row, image_id in zip(rows, ids, strict=True))
        made.append(f'<h3>{escape(str(name))}</h3><div class="sheet">{pictures}</div>')
    return made


def _picture(pixels: NDArray[np.uint8], name: str) -> str:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=80)
    coded = base64.b64encode(out.getvalue()).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{coded}" alt="{escape(name, quote=True)}" title="{escape(name, quote=True)}">'
