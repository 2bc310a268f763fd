"""What a page consists of, said once and drawn three times: as HTML, as Markdown, as PDF."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

COLOURS: Final = {  # Okabe and Ito (2008): told apart by people who are colour-blind; names stand beside them anyway
    "NORMAL": "#0072B2",
    "VIRUS": "#E69F00",
    "BACTERIA": "#D55E00",
    "PNEUMONIA": "#CC79A7",
}


@dataclass(frozen=True)
class Heading:
    """The begin of a section; ``level`` 2 stands in the contents, 3 under it."""

    text: str
    level: Literal[2, 3] = 2


@dataclass(frozen=True)
class Text:
    """A paragraph, in which ``**bold**`` and ```code``` are understood and all else is plain."""

    text: str


@dataclass(frozen=True)
class Note:
    """A paragraph that must not be missed."""

    text: str
    kind: Literal["good", "bad", "info"] = "info"


@dataclass(frozen=True)
class Items:
    """A list of short paragraphs, marked up like :class:`Text`."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """Rows under a head.

    Attributes:
        head: Column names.
        rows: As many cells as the head has; marked up like :class:`Text`.
        caption: What it shows, above it.
        words: The first so many columns hold words and stand left; the others hold figures and stand right.
        name: Of its CSV file; without one it has none.
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
        name: Of its file, without the ending.
        svg: The drawing itself.
        caption: What it shows, below it.
        alt: What it says, for those who can't see it.
    """

    name: str
    svg: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Picture:
    """A JPEG or PNG image with a few words."""

    data: bytes
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Small pictures side by side. They show patients' X-rays: Markdown, which is for publishing, leaves them out."""

    pictures: Sequence[Picture]


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
        subtitle: One line under it.
        blocks: What follows, in order.
    """

    title: str
    subtitle: str
    blocks: Sequence[Block] = field(default_factory=tuple)
