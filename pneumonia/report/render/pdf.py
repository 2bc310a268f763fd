"""A document as PDF, by Typst: one wheel, no LaTeX, no network."""

import re
import tempfile
from pathlib import Path
from typing import Final

from pneumonia.report.render.document import Block, Code, Document, Figure, Gallery, Heading, Items, Note, Table, Text
from pneumonia.report.render.html import MARKS, RANGE, width_of

SPECIAL: Final = re.compile(r"([\\#$*_`<>@\[\]~'\"/=+-])")
PREAMBLE: Final = """
#set document(title: "{plain}", date: none)
#set page(paper: "a4", margin: (x: 1.8cm, top: 2cm, bottom: 1.8cm), numbering: "1 / 1", header: context [
  #if counter(page).get().first() > 1 [#text(size: 8pt, fill: luma(110))[{title}]]
])
#set text(font: "Libertinus Serif", size: 10pt, lang: "en")
#set par(justify: false, leading: 0.6em)
#show raw: set text(font: "DejaVu Sans Mono", size: 0.82em)
#show heading.where(level: 1): it => block(sticky: true, above: 1.6em, below: 0.7em, text(size: 13pt, it.body))
#show heading.where(level: 2): it => block(sticky: true, above: 1.3em, below: 0.6em, text(size: 11pt, it.body))
#let note(colour, body) = block(width: 100%, inset: 8pt, fill: luma(246), stroke: (left: 3pt + colour), body)
#text(size: 18pt, weight: "bold")[{title}]
#v(-0.4em)
#text(fill: luma(90))[{subtitle}]
#outline(title: none, depth: 1)
"""
SIZES: Final = ((8.5, 100), (7.5, 120), (7.0, 135))  # points, and characters that a line of the page then holds
SMALLEST: Final = 6.5
LONG: Final = 12  # rows, above which a table may go over pages
LINE_PT: Final = 495  # points of a line of the page
SHRUNK: Final = 0.78  # of a drawing, whose type is made for the screen
COLOURS: Final = {"good": "#009E73", "bad": "#D55E00", "info": "#8a94a3"}


def pdf(document: Document) -> bytes:
    """The bytes of a PDF file, A4, with contents and page numbers."""
    import typst

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        parts = [_block(block, number, folder) for number, block in enumerate(document.blocks)]
        plain = document.title.replace("\\", "").replace('"', "")
        head = PREAMBLE.replace("{plain}", plain).replace("{title}", inline(document.title))
        source = head.replace("{subtitle}", inline(document.subtitle)) + "\n\n".join(parts)
        (folder / "report.typ").write_text(source, encoding="utf-8")
        compiled = typst.compile(folder / "report.typ", root=folder, ignore_system_fonts=True)
    if not isinstance(compiled, bytes):
        raise TypeError("typst gave several files for one PDF")
    return compiled


def _block(block: Block, number: int, folder: Path) -> str:
    match block:
        case Heading(text, level):
            return f"{'=' * (level - 1)} {inline(text)}"
        case Text(text):
            return inline(text)
        case Note(text, kind):
            return f'#note(rgb("{COLOURS[kind]}"))[{inline(text)}]'
        case Items(items):
            return "\n".join(f"- {inline(item)}" for item in items)
        case Code(text):
            return f"#raw({_string(text)}, block: true)"
        case Table():
            return _table(block)
        case Figure(_, svg, caption, alt):
            (folder / f"f{number}.svg").write_text(svg, encoding="utf-8")
            width = min(100.0, SHRUNK * width_of(svg) / LINE_PT * 100)
            drawn = f'image("f{number}.svg", width: {width:.0f}%, alt: {_string(alt)})'
            return f"#block(breakable: false)[#{drawn}\n#text(size: 8.5pt, fill: luma(90))[{inline(caption)}]]"
        case Gallery(pictures):
            cells = []
            for place, picture in enumerate(pictures):
                ending = "png" if picture.data.startswith(b"\x89PNG") else "jpg"
                (folder / f"g{number}-{place}.{ending}").write_bytes(picture.data)
                cells.append(
                    f'block(breakable: false)[#image("g{number}-{place}.{ending}", width: 100%)\n#text(size: '
                    f"6.5pt)[{inline(picture.caption)}]]"
                )
            return f"#grid(columns: (1fr,) * 4, gutter: 8pt, {', '.join(cells)})"


def inline(text: str) -> str:
    """Text with its bold and code marks, all else escaped."""
    kept = []
    last = 0
    for found in MARKS.finditer(text):
        kept.append(_escaped(text[last : found.start()]))
        kept.append(f"#strong[{_escaped(found[1])}]" if found[1] else f"#raw({_string(found[2])})")
        last = found.end()
    kept.append(_escaped(text[last:]))
    return "".join(kept)


def _escaped(text: str) -> str:
    return SPECIAL.sub(r"\\\1", text).replace("\n", " ")


def _string(text: str) -> str:
    kept = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{kept}"'


def _unbreakable(cell: str) -> int:
    """Characters of the longest piece of a cell that is best kept on one line."""
    return max((len(piece) for piece in RANGE.split(cell) + RANGE.findall(cell)), default=0) if len(cell) < 25 else 25


def _kept_together(cell: str) -> str:
    """A cell in which an interval stays on one line."""
    spaced = RANGE.sub(lambda found: found[0].replace(" ", "\u00a0"), cell)
    return inline(spaced)


def _table(block: Table) -> str:
    """A table in the largest type in which its columns fit the page."""
    count = len(block.head)
    needed = [max(map(_unbreakable, column)) for column in zip(block.head, *block.rows, strict=True)]
    size = next((size for size, room in SIZES if sum(needed) + 2 * count <= room), SMALLEST)
    broken = str(len(block.rows) > LONG).lower()  # a short table stays on one page, under its caption
    columns = ", ".join(["auto"] * count)
    align = ", ".join("left" if column < block.words else "right" for column in range(count))
    head = f"table.header({', '.join(f'[#strong[{inline(cell)}]]' for cell in block.head)})," if any(block.head) else ""
    rows = ",\n".join(f"[{_kept_together(cell)}]" for row in block.rows for cell in row)
    caption = (
        f"#block(above: 1.2em, below: 0.5em, sticky: true)[#strong[{inline(block.caption)}]]\n" if block.caption else ""
    )
    return (
        f"#block(breakable: {broken})[{caption}#block[#set text(size: {size}pt)\n#set par(justify: false)\n"
        f"#table(columns: ({columns},), align: ({align},), "
        f"stroke: (x, y) => (bottom: 0.4pt + luma(200)), inset: (x: 3pt, y: 3pt), {head}\n{rows})]]"
    )
