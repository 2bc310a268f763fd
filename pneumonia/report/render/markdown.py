"""Render documents as Markdown with figures beside it. Galleries are omitted: Markdown is for publishing, X-rays are not."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pneumonia.report.render.document import (
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
from pneumonia.system.files import replacing

SPECIAL: Final = re.compile(r"([\\<>\[\]*_`|#])")


def write_markdown(document: Document, folder: Path, file: str = "report.md") -> None:
    """Write the text, and each figure into ``figures/`` beside it.

    Raises:
        StorageError: The folder can't be written.
    """
    for block in document.blocks:
        if isinstance(block, Figure):
            with replacing(folder / "figures" / f"{block.name}.svg") as part:
                part.write_text(block.svg, encoding="utf-8")
    blocks = "\n\n".join(_block(block) for block in document.blocks)
    with replacing(folder / file) as part:
        part.write_text(f"# {_inline(document.title)}\n\n{_inline(document.subtitle)}\n\n{blocks}\n", encoding="utf-8")


def _block(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_inline(text)}"
        case Text(text):
            return _inline(text)
        case Note(text, _):
            return f"> {_inline(text)}"
        case Items(items):
            return "\n".join(f"- {_inline(item)}" for item in items)
        case Code(text):
            return f"```\n{text.replace('```', '` ` `')}\n```"
        case Table():
            return _table(block)
        case Figure(name, _, caption, alt):
            return f"![{_inline(alt)}](figures/{name}.svg)\n\n*{_inline(caption)}*"
        case Gallery():
            return "*The images themselves are in the HTML report only.*"


def _inline(text: str) -> str:
    """Escape text and render its markup, on one line."""

    def piece(kind: str, text: str) -> str:
        escaped = SPECIAL.sub(r"\\\1", text)
        return {"plain": escaped, "bold": f"**{escaped}**", "code": f"`{text}`"}[kind]

    return "".join(piece(*found) for found in marked(text)).replace("\n", " ")


def _table(block: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    head = line([_inline(cell) or " " for cell in block.head])
    rule = line([":--" if column < block.words else "--:" for column in range(len(block.head))])
    rows = [line([_inline(cell).replace("|", "\\|") if "`" in cell else _inline(cell) for cell in row]) for row in block.rows]
    caption = f"**{_inline(block.caption)}**\n\n" if block.caption else ""
    return caption + "\n".join([head, rule, *rows])
