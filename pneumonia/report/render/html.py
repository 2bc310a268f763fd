"""A document as one HTML file: works offline, on a phone, on paper; no script, no second file, no request."""

import base64
import re
from collections.abc import Iterable
from html import escape
from typing import Final

from pneumonia.report.render.document import Block, Code, Document, Figure, Gallery, Heading, Items, Note, Table, Text

STYLE: Final = """
:root { --ink: #1d2430; --soft: #5b6573; --line: #d9dee5; --wash: #f3f5f8; --accent: #0072B2 }
* { box-sizing: border-box; print-color-adjust: exact; -webkit-print-color-adjust: exact }
html { scroll-padding-top: 1rem }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: #fff; margin: 0 auto; max-width: 84rem;
  padding: 1.5rem }
a { color: var(--accent) }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 3rem 0 .6rem; border-bottom: 1px solid var(--line);
  padding-bottom: .3rem; overflow-wrap: anywhere }
main > h2:first-child { margin-top: 0 }
h3 { font-size: 1.02rem; margin: 1.8rem 0 .4rem; overflow-wrap: anywhere }
p, li { max-width: 48rem; overflow-wrap: anywhere }
code { font: .88em ui-monospace, monospace; overflow-wrap: anywhere }
pre { background: var(--wash); padding: .8rem 1rem; overflow-x: auto; border-radius: .3rem }
.soft { color: var(--soft); margin-top: 0 }
.note { border-left: .35rem solid #8a94a3; background: var(--wash); padding: .6rem 1rem; max-width: 50rem }
.note.bad { border-color: #D55E00 } .note.good { border-color: #009E73 }
.page { display: grid; grid-template-columns: 13rem minmax(0, 1fr); gap: 2rem }
nav { font-size: .85rem; line-height: 1.4 }
nav ol { list-style: none; margin: 0; padding: 0 } nav li { margin: .45rem 0 } nav a { text-decoration: none }
@media (min-width: 64rem) { nav { position: sticky; top: 1rem; align-self: start; max-height: 95vh;
  overflow-y: auto } nav summary { display: none } }
.wide { overflow-x: auto; margin: .6rem 0 1.2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .86rem }
.caption { font-weight: 600; margin: 1.2rem 0 .2rem; font-size: .92rem }
th, td { padding: .3rem .5rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top }
thead th { border-bottom: 2px solid var(--soft); font-weight: 600 }
th.word, td.word { text-align: left }
td.word { max-width: 26rem; overflow-wrap: break-word }
td.word:not(:first-child) { min-width: 7rem }
.range { white-space: nowrap; color: var(--soft) }
th:first-child, td:first-child { padding-left: 0 }
tbody tr:hover { background: var(--wash) }
figure { margin: 1rem 0 1.6rem; break-inside: avoid }
figure svg { display: block; max-width: 100%; height: auto } figure .wide { margin: 0 }
figcaption { font-size: .88rem; color: var(--soft); max-width: 46rem; margin-top: .4rem }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .9rem; margin: .6rem 0 1.4rem }
.gallery figure { margin: 0; background: var(--wash); padding: .5rem; border-radius: .3rem }
.gallery img { width: 100%; display: block } .gallery figcaption { font-size: .78rem; line-height: 1.35;
  overflow-wrap: anywhere }
@media (max-width: 63.99rem) { .page { display: block } nav { border: 1px solid var(--line); border-radius: .3rem;
  padding: .5rem .9rem; margin: 1rem 0 }
  nav summary { cursor: pointer; font-weight: 600 } }
@media (max-width: 40rem) { body { padding: 1rem } h1 { font-size: 1.4rem }
  table { font-size: .8rem } th, td { padding: .3rem .45rem }
  figure .broad svg { min-width: 25rem }
  .gallery { grid-template-columns: 1fr 1fr; gap: .5rem } }
@media print { body { max-width: none; padding: 0;
  font-size: 10.5pt } nav { display: none } .page { display: block } .wide { overflow: visible } figure svg { max-height: 11cm }
  table { font-size: 7.5pt } th, td { padding: .15rem .3rem } h2, h3 { break-after: avoid } tr { break-inside: avoid }
  pre { white-space: pre-wrap } }
"""
BROAD: Final = 330.0  # points; a broader drawing is moved sideways on a phone, not shrunk
RANGE: Final = re.compile(r"\([-–−\d.,]+ to [-–−\d.,]+\)")
MARKS: Final = re.compile(r"\*\*(.+?)\*\*|`([^`]+)`")


def page(document: Document) -> str:
    """A whole HTML document."""
    body: list[str] = []
    contents: list[str] = []
    for number, block in enumerate(document.blocks):
        if isinstance(block, Heading):
            anchor = f"s{number}"
            if block.level == 2:
                contents.append(f'<li><a href="#{anchor}">{escape(block.text)}</a></li>')
            body.append(f'<h{block.level} id="{anchor}">{escape(block.text)}</h{block.level}>')
        else:
            body.append(_block(block, number))
    nav = (
        '<nav aria-label="Contents"><details '
        f"open><summary>Contents</summary><ol>{''.join(contents)}</ol></details></nav>"
    )
    main = f"<main>{''.join(body)}</main>"
    if contents:
        main = f'<div class="page">{nav}{main}</div>'
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(document.title)}</title><style>{STYLE}</style></head><body>"
        f'<header><h1>{escape(document.title)}</h1><p class="soft">{escape(document.subtitle)}</p></header>'
        f"{main}</body></html>\n"
    )


def _block(block: Block, number: int) -> str:
    match block:
        case Text(text):
            return f"<p>{inline(text)}</p>"
        case Note(text, kind):
            return f'<p class="note {kind}">{inline(text)}</p>'
        case Items(items):
            return "<ul>" + "".join(f"<li>{inline(item)}</li>" for item in items) + "</ul>"
        case Code(text):
            return f"<pre><code>{escape(text)}</code></pre>"
        case Table():
            return _table(block, number)
        case Figure(_, svg, caption, alt):
            drawn = svg.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1)
            shown = _own_ids(drawn, f"f{number}-")
            broad = " broad" if width_of(svg) > BROAD else ""
            return f'<figure><div class="wide{broad}">{shown}</div><figcaption>{inline(caption)}</figcaption></figure>'
        case Gallery(pictures):
            shown = "".join(
                f'<figure><img src="{data_uri(picture.data)}" alt="{escape(picture.caption)}" loading="lazy">'
                f"<figcaption>{inline(picture.caption)}</figcaption></figure>"
                for picture in pictures
            )
            return f'<div class="gallery">{shown}</div>'
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"


def inline(text: str) -> str:
    """Escaped text with its bold and code marks."""
    return MARKS.sub(
        lambda found: f"<strong>{found[1]}</strong>" if found[1] else f"<code>{found[2]}</code>", escape(text)
    )


def width_of(svg: str) -> float:
    """The width of a drawing in points."""
    found = re.search(r'width="([\d.]+)pt"', svg)
    return float(found[1]) if found else 0.0


def data_uri(picture: bytes) -> str:
    """A JPEG or PNG image inside the page."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _table(block: Table, number: int) -> str:
    def cells(tag: str, values: Iterable[str]) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        shown = [inline(value) if tag == "th" else _kept_together(inline(value)) for value in values]
        return "".join(
            f"<{tag}{scope}{' class=word' if column < block.words else ''}>{value}</{tag}>"
            for column, value in enumerate(shown)
        )

    head = f"<thead><tr>{cells('th', block.head)}</tr></thead>" if any(block.head) else ""
    rows = "".join(f"<tr>{cells('td', row)}</tr>" for row in block.rows)
    caption = f'<p class="caption" id="t{number}">{inline(block.caption)}</p>' if block.caption else ""
    named = f' aria-labelledby="t{number}"' if block.caption else ""
    return f'{caption}<div class="wide"><table{named}>{head}<tbody>{rows}</tbody></table></div>'


def _kept_together(cell: str) -> str:
    """A cell in which an interval stays on one line, under its figure where both do not fit."""
    return RANGE.sub(r'<span class="range">\g<0></span>', cell)


def _own_ids(svg: str, prefix: str) -> str:
    """The drawing with ids that no other drawing of the page has."""
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}\1"', svg)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}\1)", svg)
