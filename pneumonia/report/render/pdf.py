"""Render documents as PDF by Typst: one wheel, no LaTeX, no network."""

import re
import tempfile
from pathlib import Path
from typing import Final

from pneumonia.report.render.document import (
    INTERVAL,
    Block,
    Code,
    Document,
    Figure,
    Gallery,
    Heading,
    Items,
    Note,
    Table,
    Text,
    marked,
)

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
SIZES: Final = ((8.5, 100), (7.5, 120), (7.0, 135))  # points, and the characters that fit in a line
SMALLEST_PT: Final = 6.5
LONG: Final = 12  # rows; a longer table may break across pages
LINE_PT: Final = 495  # width of the text
SCALE: Final = 0.78  # of drawings, whose type is made for screens
COLOURS: Final = {"good": "#009E73", "bad": "#D55E00", "info": "#8a94a3"}


def pdf_bytes(document: Document) -> bytes:
    """Render a document as a PDF file, A4, with contents and page numbers."""
    import typst

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        blocks = [_block(block, number, folder) for number, block in enumerate(document.blocks)]
        plain = document.title.replace("\\", "").replace('"', "")
        head = PREAMBLE.replace("{plain}", plain).replace("{title}", _inline(document.title))
        source = head.replace("{subtitle}", _inline(document.subtitle)) + "\n\n".join(blocks)
        (folder / "report.typ").write_text(source, encoding="utf-8")
        compiled = typst.compile(folder / "report.typ", root=folder, ignore_system_fonts=True)
    if not isinstance(compiled, bytes):
        raise TypeError("typst returned several files for one PDF")
    return compiled


def _block(block: Block, number: int, folder: Path) -> str:
    match block:
        case Heading(text, level):
            return f"{'=' * (level - 1)} {_inline(text)}"
        case Text(text):
            return _inline(text)
        case Note(text, kind):
            return f'#note(rgb("{COLOURS[kind]}"))[{_inline(text)}]'
        case Items(items):
            return "\n".join(f"- {_inline(item)}" for item in items)
        case Code(text):
            return f"#raw({_string(text)}, block: true)"
        case Table():
            return _table(block)
        case Figure(_, svg, caption, alt):
            (folder / f"f{number}.svg").write_text(svg, encoding="utf-8")
            width = min(100.0, SCALE * block.width_pt / LINE_PT * 100)
            drawn = f'image("f{number}.svg", width: {width:.0f}%, alt: {_string(alt)})'
            return f"#block(breakable: false)[#{drawn}\n#text(size: 8.5pt, fill: luma(90))[{_inline(caption)}]]"
        case Gallery(tiles):
            cells = []
            for place, picture in enumerate(picture for tile in tiles for picture in tile.pictures):
                file = folder / f"g{number}-{place}.{picture.kind}"
                file.write_bytes(picture.data)
                caption = f"#text(size: 6.5pt)[{_inline(picture.caption)}]"
                cells.append(f'block(breakable: false)[#image("{file.name}", width: 100%)\n{caption}]')
            return f"#grid(columns: (1fr,) * 4, gutter: 8pt, {', '.join(cells)})"


def _inline(text: str) -> str:
    """Escape text and render its markup."""

    def piece(kind: str, text: str) -> str:
        escaped = SPECIAL.sub(r"\\\1", text).replace("\n", " ")
        return {"plain": escaped, "bold": f"#strong[{escaped}]", "code": f"#raw({_string(text)})"}[kind]

    return "".join(piece(*found) for found in marked(text))


def _string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _table(block: Table) -> str:
    """Render a table in the largest type in which its columns fit the page; an interval stays on one line."""

    def unbroken(cell: str) -> int:
        """Characters of the longest piece that is best kept on one line."""
        pieces = INTERVAL.split(cell) + INTERVAL.findall(cell) if len(cell) < 25 else []
        return max(map(len, pieces), default=25 if len(cell) >= 25 else 0)

    def cell(text: str) -> str:
        return f"[{_inline(INTERVAL.sub(lambda found: found[0].replace(' ', chr(0xA0)), text))}]"

    count = len(block.head)
    needed = [max(map(unbroken, column)) for column in zip(block.head, *block.rows, strict=True)]
    size = next((size for size, room in SIZES if sum(needed) + 2 * count <= room), SMALLEST_PT)
    breakable = str(len(block.rows) > LONG).lower()  # a short table stays on one page, under its caption
    align = ", ".join("left" if column < block.words else "right" for column in range(count))
    head = f"table.header({', '.join(f'[#strong[{_inline(name)}]]' for name in block.head)})," if any(block.head) else ""
    rows = ",\n".join(cell(text) for row in block.rows for text in row)
    caption = f"#strong[{_inline(block.caption)}]" if block.caption else ""
    above = f"#block(above: 1.2em, below: 0.5em, sticky: true)[{caption}]\n" if caption else ""
    return (
        f"#block(breakable: {breakable})[{above}#block[#set text(size: {size}pt)\n#set par(justify: false)\n"
        f"#table(columns: ({'auto, ' * count}), align: ({align},), "
        f"stroke: (x, y) => (bottom: 0.4pt + luma(200)), inset: (x: 3pt, y: 3pt), {head}\n{rows})]]"
    )
