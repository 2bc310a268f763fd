"""Describe a page as blocks, which the renderers draw as HTML, Markdown and PDF."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

MARKUP: Final = re.compile(r"\*\*(.+?)\*\*|`([^`]+)`")  # bold and code; all other text is plain
INTERVAL: Final = re.compile(r"\([-–−\d.,]+ to [-–−\d.,]+\)")  # kept on one line
NoteKind = Literal["good", "bad", "info"]
WIDTH: Final = re.compile(r'width="([\d.]+)pt"')


@dataclass(frozen=True)
class Heading:
    """A heading; level 2 is listed in the contents."""

    text: str
    level: Literal[2, 3] = 2


@dataclass(frozen=True)
class Text:
    """A paragraph with ``**bold**`` and ```code```."""

    text: str


@dataclass(frozen=True)
class Note:
    """A highlighted paragraph."""

    text: str
    kind: NoteKind = "info"


@dataclass(frozen=True)
class Items:
    """A list of short paragraphs, marked up like :class:`Text`."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        head: Column names.
        rows: As many cells as the head has; marked up like :class:`Text`.
        caption: Title above the table.
        words: Number of leading columns that hold text and are aligned left; the others hold numbers.
        name: Of its CSV file; a table without a name has none.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    words: int = 1
    name: str = ""


@dataclass(frozen=True)
class Figure:
    """A drawing.

    Attributes:
        name: Of its file, without the suffix.
        svg: The SVG element.
        caption: Description below it.
        alt: Content, for readers who can't see it.
    """

    name: str
    svg: str
    caption: str
    alt: str

    @property
    def width_pt(self) -> float:
        """Width of the drawing in points."""
        found = WIDTH.search(self.svg)
        return float(found[1]) if found else 0.0


@dataclass(frozen=True)
class Picture:
    """A JPEG or PNG image."""

    data: bytes
    caption: str
    alt: str = ""

    @property
    def kind(self) -> Literal["png", "jpeg"]:
        return "png" if self.data.startswith(b"\x89PNG") else "jpeg"


@dataclass(frozen=True)
class Tile:
    """Pictures that belong together, under one caption."""

    pictures: Sequence[Picture]
    caption: str = ""


@dataclass(frozen=True)
class Gallery:
    """Tiles side by side; as thumbnails without captions. They show patients: Markdown, made for publishing, omits them."""

    tiles: Sequence[Tile]
    thumbnails: bool = False


@dataclass(frozen=True)
class Code:
    """Commands to copy."""

    text: str


Block = Heading | Text | Note | Items | Table | Figure | Gallery | Code


@dataclass(frozen=True)
class Document:
    """A whole page.

    Attributes:
        title: Its name.
        subtitle: A line under it.
        blocks: The content, in order.
    """

    title: str
    subtitle: str
    blocks: Sequence[Block] = field(default_factory=tuple)


def marked(text: str) -> list[tuple[str, str]]:
    """Split text with markup into pieces, each with its kind: ``plain``, ``bold`` or ``code``."""
    pieces, last = [], 0
    for found in MARKUP.finditer(text):
        pieces += [("plain", text[last : found.start()]), ("bold", found[1]) if found[1] else ("code", found[2])]
        last = found.end()
    return [*pieces, ("plain", text[last:])]
