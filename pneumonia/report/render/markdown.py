"""A document as Markdown with its figures beside it. Galleries stay out: Markdown is for publishing, X-rays are not."""

import re
from pathlib import Path

from pneumonia.report.render.document import Block, Code, Document, Figure, Gallery, Heading, Items, Note, Table, Text
from pneumonia.report.render.html import MARKS
from pneumonia.system.files import replacing

SPECIAL = re.compile(r"([\\<>\[\]*_`|#])")


def write_markdown(document: Document, folder: Path, file: str = "report.md") -> None:
    """Writes the text, and each figure into ``figures/`` beside it.

    Raises:
        StorageError: The folder can't be written.
    """
    for block in document.blocks:
        if isinstance(block, Figure):
            with replacing(folder / "figures" / f"{block.name}.svg") as part:
                part.write_text(block.svg, encoding="utf-8")
    blocks = "\n\n".join(_block(block) for block in document.blocks)
    with replacing(folder / file) as part:
        part.write_text(f"# {inline(document.title)}\n\n{inline(document.subtitle)}\n\n{blocks}\n", encoding="utf-8")


def _block(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {inline(text)}"
        case Text(text):
            return inline(text)
        case Note(text, _):
            return f"> {inline(text)}"
        case Items(items):
            return "\n".join(f"- {inline(item)}" for item in items)
        case Code(text):
            return f"```\n{text.replace('```', '` ` `')}\n```"
        case Table():
            return _table(block)
        case Figure(name, _, caption, alt):
            return f"![{inline(alt)}](figures/{name}.svg)\n\n*{inline(caption)}*"
        case Gallery():
            return "*The images themselves are in the HTML report only.*"


def inline(text: str) -> str:
    """Text with its bold and code marks, all else escaped."""
    kept = []
    last = 0
    for found in MARKS.finditer(text):
        kept.append(_escaped(text[last : found.start()]))
        kept.append(f"**{_escaped(found[1])}**" if found[1] else f"`{found[2]}`")
        last = found.end()
    kept.append(_escaped(text[last:]))
    return "".join(kept).replace("\n", " ")


def _escaped(text: str) -> str:
    return SPECIAL.sub(r"\\\1", text)


def _table(block: Table) -> str:
    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    head = line([inline(cell) or " " for cell in block.head])
    rule = line([":--" if column < block.words else "--:" for column in range(len(block.head))])
    rows = [
        line([inline(cell).replace("|", "\\|") if "`" in cell else inline(cell) for cell in row]) for row in block.rows
    ]
    caption = f"**{inline(block.caption)}**\n\n" if block.caption else ""
    return caption + "\n".join([head, rule, *rows])
