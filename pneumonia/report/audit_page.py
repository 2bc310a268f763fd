"""The findings of an audit in words, and as one page that needs nothing else: no network, no script, no second file."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from pneumonia.data.audit.audit import QUANTITIES
from pneumonia.data.audit.contact_sheets import chosen
from pneumonia.data.audit.findings import KINDS, TASKS, conclusion, likeness, ranged, remarks, with_all
from pneumonia.report.render.document import COLOURS
from pneumonia.tasks import in_class_order

SHOWN_PAIRS: Final = 40
EXAMPLES: Final = 10
STYLE: Final = """
:root { --ink: #1d2430; --soft: #5b6573; --line: #d9dee5; --wash: #f3f5f8; --bar: #0072B2 }
* { box-sizing: border-box; print-color-adjust: exact; -webkit-print-color-adjust: exact }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff }
body { margin: 0 auto; padding: 1.5rem; max-width: 70rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .8rem; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--line); padding-bottom: .3rem }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem }
p, li { max-width: 46rem; overflow-wrap: anywhere }
code { overflow-wrap: anywhere }
.soft { color: var(--soft) }
.verdict { border-left: .4rem solid; padding: .7rem 1rem; background: var(--wash); font-size: 1.1rem; max-width: none }
.clean { border-color: #009E73 } .leak { border-color: #D55E00 } .unknown { border-color: #8a94a3 }
.wide { overflow-x: auto; margin: .5rem 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
.sheet { display: flex; flex-wrap: wrap; gap: 3px; margin: .3rem 0 1rem }
.sheet img { width: 96px; height: 96px; display: block }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(13.5rem, 1fr)); gap: .8rem }
figure { margin: 0; background: var(--wash); padding: .5rem; border-radius: .3rem; break-inside: avoid }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 4px; font-size: .75rem; line-height: 1.3; overflow-wrap: anywhere }
.two img { width: 100%; display: block; margin-bottom: .2rem }
figcaption { margin-top: .3rem }
.tag { display: inline-block; padding: 0 .4rem; border-radius: .2rem; background: #dde3ea; font-size: .75rem }
.tag.bad { background: #a63d00; color: #fff }
.score { margin: .7rem 0; max-width: 46rem; break-inside: avoid }
.bar { position: relative; height: 1rem; background: #e4e8ee; margin: .15rem 0; border-radius: .15rem }
.bar i { position: absolute; top: 0; left: 0; bottom: 0; background: var(--bar); border-radius: .15rem }
.bar s { position: absolute; top: calc(50% - 1px); height: 3px; background: #000; outline: 1px solid #fff }
.bar b { position: absolute; top: -4px; bottom: -4px; width: 3px; margin-left: -1px; background: #000; outline: 1px solid #fff }
svg { max-width: 100%; height: auto; display: block }
svg text { font: 13px system-ui, sans-serif; fill: var(--ink) }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: 1.2rem 2rem }
.plots > div { break-inside: avoid }
@media (max-width: 40rem) { body { padding: 1rem } .sheet img { width: 72px; height: 72px }
  .pairs { grid-template-columns: 1fr 1fr } .two { font-size: .68rem } table { font-size: .82rem } th, td { padding: .3rem } }
@media print { body { max-width: none; padding: 0 } h2, h3 { break-after: avoid } .wide { overflow: visible } }
"""


def page(found: dict[str, Any], manifest: pd.DataFrame, pixels: NDArray[np.uint8], source: str) -> str:
    """A whole HTML document.

    Args:
        found: From :func:`pneumonia.data.audit.audit.audit`; perhaps with ``skipped``, reasons by path.
        manifest: The images that were audited.
        pixels: ``(N, S, S)`` uint8, the same images; shown as they are.
        source: What was audited, as a person wrote it.
    """
    kind, verdict = conclusion(found)
    points = "".join(f"<li>{escape(text)}</li>" for text in remarks(found))
    patients = f"{found['patients']:,} patients" if found["patients_known"] else "unknown patients"
    sections = [
        f"<h1>Audit of {escape(source)}</h1>",
        f'<p class="verdict {kind}">{escape(verdict)}</p>',
        f"<ul>{points}</ul>" if points else "",
        f"<p>{found['images']:,} images of {patients}. The manifest's hash is "
        f"<code>{found['manifest_sha256'][:12]}</code>.</p>",
        *_subsets(found),
        *_copies(found, manifest, pixels),
        *_shortcuts(found),
        *_shift(found),
        *_quantities(found),
        *_sheets(manifest, pixels),
        *_skipped(found),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Audit of {escape(source)}</title><style>{STYLE}</style></head><body>{''.join(sections)}"
        '<p class="soft">Made by <code>pneumonia data audit</code>. Not a medical device.</p></body></html>\n'
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    cells = "".join(f'<th scope="col">{escape(str(text))}</th>' for text in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def _subsets(found: dict[str, Any]) -> list[str]:
    labels = in_class_order(label for subset in found["subsets"].values() for label in subset["classes"])
    rows = [
        (
            name or "no subset",
            *(f"{subset['classes'].get(label, 0):,}" for label in labels),
            f"{subset['images']:,}",
            f"{subset['patients']:,}",
        )
        for name, subset in with_all(found).items()
    ]
    whose = "the release's own folders" if found["subsets_from"] == "folders" else f"split={found['subsets_from']}"
    made = [
        "<h2>Subsets and classes</h2>",
        f"<p>The subsets are those of {escape(whose)}.</p>" if set(found["subsets"]) - {""} else "",
        _table(("subset", *labels, "images", "patients"), rows),
    ]
    for leak in found["leaks"]:
        images = " and ".join(
            f"{count:,} of {name} ({leak['share'][name]:.0%})" for name, count in leak["images"].items()
        )
        text = (
            f"{' and '.join(leak['subsets'])}: {leak['patients']} patients in both, {leak['copies']} pairs of copies across; "
            f"{images} images are concerned. For example {', '.join(leak['examples'])}."
        )
        made.append(f'<p><span class="tag bad">leak</span> {escape(text)}</p>')
    return made


def _copies(found: dict[str, Any], manifest: pd.DataFrame, pixels: NDArray[np.uint8]) -> list[str]:
    counts = found["duplicates"]
    total = counts["exact_pairs"] + counts["near_pairs"]
    if not total:
        return ["<h2>Copies</h2><p>None: no two files are byte-identical, and no two images nearly so.</p>"]
    made = [
        "<h2>Copies</h2>",
        f"<p>{counts['exact_groups']} groups of byte-identical files ({counts['exact_images']} images, {counts['exact_pairs']} "
        f"pairs), and {counts['near_pairs']} pairs that are one X-ray saved twice (perceptual hash within 24 of 256 bits). "
        f"{counts['across_patients']} pairs join two &ldquo;patients&rdquo;, {counts['across_subsets']} cross subsets, "
        f"{counts['label_conflicts']} have two labels. Our splits keep all of them together.</p>",
        '<div class="pairs">',
    ]
    position = {name: row for row, name in enumerate(manifest["image_id"])}
    for pair in found["pairs"][:SHOWN_PAIRS]:
        sides = "".join(
            f"<div>{_picture(pixels[position[pair[key]]], pair[key])}{_name(pair[key])}<br>"
            f'<span class="soft">{escape(", ".join(filter(None, (pair[f"{key}_subset"], pair[f"{key}_label"]))))}</span></div>'
            for key in ("first", "second")
        )
        made.append(f'<figure><div class="two">{sides}</div><figcaption>{_tags(pair)}</figcaption></figure>')
    made.append("</div>")
    if total > SHOWN_PAIRS:
        listed = len(found["pairs"])
        rest = "all are" if listed == total else f"the gravest {listed:,} are"
        made.append(f'<p class="soft">The gravest {SHOWN_PAIRS} of {total:,} pairs; {rest} in pairs.csv.</p>')
    return made


def _name(text: str) -> str:
    """A name that may be broken where a person would."""
    return escape(text).replace("_", "_<wbr>").replace("-", "-<wbr>")


def _tags(pair: dict[str, Any]) -> str:
    nearness = "identical" if pair["kind"] == "exact" else f"{pair['bits']} bits apart"
    tags = [f'<span class="tag">{nearness}</span>']
    for key in ("label", "subset", "patient"):
        one, other = pair[f"first_{key}"], pair[f"second_{key}"]
        if one != other:
            tags.append(f'<span class="tag bad">{escape(one or "no subset")} / {escape(other or "no subset")}</span>')
    return " ".join(tags)


def _shortcuts(found: dict[str, Any]) -> list[str]:
    made = [
        "<h2>What can be told without looking at lungs</h2>",
        "<p>Accuracy of models that see no lungs, on patients that they were not fitted on (five folds; images of the test split "
        "are left out). The black mark is the largest class, the thin line the 95% interval by patient. A real model is worth "
        "what it scores beyond these; a metadata bar far right of the mark means that the files betray the class.</p>",
    ]
    for task, title in TASKS.items():
        made.append(f"<h3>{title.capitalize()}</h3>")
        scores = {}
        for kind, by_task in found["baselines"].items():
            scores[kind] = by_task[task]
            made.append(_bar(KINDS[kind], by_task[task]))
            if by_task[task]["on_val"]:
                scores[f"{kind}, on val"] = by_task[task]["on_val"]
                made.append(_bar(f"{KINDS[kind]}, on val", by_task[task]["on_val"]))
        rows = [
            (name, *(ranged(score, key) for key in ("accuracy", "balanced_accuracy", "auroc")), f"{score['n']:,}")
            for name, score in scores.items()
            if score["accuracy"] is not None
        ]
        if rows:
            made.append(_table(("what a model sees", "accuracy", "balanced accuracy", "AUROC", "images"), rows))
    return made


def _bar(name: str, score: dict[str, Any]) -> str:
    """A bar from 0 to 1 with its interval, and a mark at the largest class."""
    if score["accuracy"] is None:
        return f'<div class="score">{escape(name)}: <span class="soft">{escape(score["reason"])}</span></div>'
    low, high = (score[end] if score[end] is not None else score["accuracy"] for end in ("low", "high"))
    text = f"{name}: <strong>{score['accuracy']:.3f}</strong>, largest class {score['largest_class']:.3f}"
    return (
        f'<div class="score">{text}<div class="bar"><i style="width:{100 * score["accuracy"]:.2f}%"></i>'
        f'<b style="left:{100 * score["largest_class"]:.2f}%"></b>'
        f'<s style="left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"></s></div></div>'
    )


def _shift(found: dict[str, Any]) -> list[str]:
    if not found["shift"]:
        return []

    def cell(score: dict[str, Any]) -> str:
        return likeness(score) if score["auroc"] is None else f"{likeness(score)}: {ranged(score, 'auroc')}"

    rows = [(" against ".join(entry["subsets"]), *(cell(entry[kind]) for kind in KINDS)) for entry in found["shift"]]
    return [
        "<h2>Do the subsets look alike?</h2>",
        "<p>AUROC of a classifier that tells one subset from the other, on patients it was not fitted on: 0.5 means that they "
        "can't be told apart, 1.0 that they always can. Far from 0.5, a score on the one says little about the other.</p>",
        _table(("subsets", *KINDS.values()), rows),
    ]


def _quantities(found: dict[str, Any]) -> list[str]:
    made = [
        "<h2>Size, format and brightness by class</h2>",
        "<p>Boxes hold the middle half with a white line at the median, whiskers 5% to 95%. What differs by class here, a model "
        "can learn instead of lungs.</p>",
    ]
    plots, same = [], []
    for quantity, by_class in found["quantities"].items():
        known = {label: points for label, points in by_class.items() if points}
        values = {value for points in known.values() for value in points}
        name = escape(QUANTITIES[quantity])
        if len(values) > 1:
            plots.append(f"<div><strong>{name}</strong>{_boxes(known, QUANTITIES[quantity])}</div>")
        else:
            same.append(f"{name}: {_short(values.pop())} throughout" if values else f"{name}: no file has it")
    made.append(f'<div class="plots">{"".join(plots)}</div>')
    made += [f'<p class="soft">{"; ".join(same)}.</p>'] if same else []
    modes = sorted({mode for row in found["modes"].values() for mode in row})
    rows = [(label, *(f"{row.get(mode, 0):,}" for mode in modes)) for label, row in found["modes"].items()]
    return [*made, "<h3>Colour mode of the files</h3>", _table(("class", *modes), rows)]


def _boxes(known: dict[str, list[float]], title: str) -> str:
    """Box plots of 5, 25, 50, 75 and 95% points, a row for each class, on one axis."""
    left, width, step = 92, 240, 26
    low, high = min(points[0] for points in known.values()), max(points[-1] for points in known.values())
    spread = (high - low) or 1.0
    shapes = []
    for number, (label, points) in enumerate(known.items()):
        a, b, middle, c, d = (left + width * (value - low) / spread for value in points)
        y, colour = number * step + 13, COLOURS.get(label, "#5b6573")
        shapes.append(
            f'<text x="0" y="{y + 4}">{escape(label)}</text><path d="M{a:.1f} {y}H{d:.1f}" stroke="{colour}" stroke-width="2"/>'
            f'<rect x="{b - 1:.1f}" y="{y - 7}" width="{c - b + 2:.1f}" height="14" fill="{colour}"/>'
        )
        if c - b > 6:  # else the line would hide the box
            shapes.append(f'<path d="M{middle:.1f} {y - 7}v14" stroke="#fff" stroke-width="2"/>')
    bottom = len(known) * step + 14
    shapes.append(
        f'<text x="{left}" y="{bottom}">{_short(low)}</text>'
        f'<text x="{left + width}" y="{bottom}" text-anchor="end">{_short(high)}</text>'
    )
    box = f'viewBox="0 0 {left + width + 6} {bottom + 6}" width="{left + width + 6}"'
    return f'<svg {box} role="img" aria-label="{escape(title)} by class">{"".join(shapes)}</svg>'


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _sheets(manifest: pd.DataFrame, pixels: NDArray[np.uint8]) -> list[str]:
    made = ["<h2>Examples by class</h2>"]
    label = manifest["label"].to_numpy()
    for name in in_class_order(label):
        rows = chosen(manifest, np.flatnonzero(label == name), EXAMPLES, 0)
        ids = manifest["image_id"].to_numpy()[rows]
        pictures = "".join(_picture(pixels[row], image_id) for row, image_id in zip(rows, ids, strict=True))
        made.append(f'<h3>{escape(name)}</h3><div class="sheet">{pictures}</div>')
    return made


def _skipped(found: dict[str, Any]) -> list[str]:
    if not found.get("skipped"):
        return []
    rows = "".join(f"<li>{escape(path)}: {escape(reason)}</li>" for path, reason in found["skipped"].items())
    return ["<h2>Left out</h2><p>These images can't be read; nothing above counts them.</p>", f"<ul>{rows}</ul>"]


def _picture(pixels: NDArray[np.uint8], name: str) -> str:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=80)
    coded = base64.b64encode(out.getvalue()).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{coded}" alt="{escape(name)}" title="{escape(name)}">'
