"""Render documents as single HTML files by jinja2: no script, no request, readable on phones, on paper and in the dark."""

import base64
import re
from functools import cache
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from pneumonia.report.render.document import INTERVAL, Document, Figure, Heading, Picture, marked

WIDE_PT: Final = 330.0  # on a phone, a wider drawing scrolls sideways instead of shrinking
FOR_FILES: Final = re.compile(r' xmlns(:xlink)?="[^"]*"| version="1.1"|<metadata>.*?</metadata>\s*', re.DOTALL)


def html_page(document: Document) -> str:
    """Render a document as an HTML page; text is escaped, figures and pictures lie inside it."""
    blocks = [(type(block).__name__.lower(), block) for block in document.blocks]
    contents = [
        (number, block.text) for number, block in enumerate(document.blocks) if isinstance(block, Heading) and block.level == 2
    ]
    template = _environment().get_template("document.html.j2")
    return template.render(title=document.title, subtitle=document.subtitle, blocks=blocks, contents=contents)


@cache
def _environment() -> Environment:
    loader = PackageLoader("pneumonia.report.render")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals["wide_pt"] = WIDE_PT
    environment.filters |= {"inline": _inline, "cell": _cell, "svg": _svg, "data_uri": _data_uri}
    return environment


def _inline(text: str) -> Markup:
    """Escape text and render its markup."""
    tags = {"plain": "{}", "bold": "<strong>{}</strong>", "code": "<code>{}</code>"}
    return Markup("").join(Markup(tags[kind]).format(piece) for kind, piece in marked(text))


def _cell(text: str) -> Markup:
    """Escape the text of a table cell; an interval stays on one line, below its value if both do not fit."""
    escaped = str(_inline(text)).replace("&lt; ", "&lt;&nbsp;")
    return Markup(INTERVAL.sub(r'<span class="interval">\g<0></span>', escaped))


def _svg(figure: Figure, number: int) -> Markup:
    """Return a drawing for use inside a page: with a description, and with ids that no other drawing of the page has."""
    prefix = f"f{number}-"
    svg = FOR_FILES.sub("", figure.svg)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}\1)", svg)
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(figure.alt)}"', 1))


def _data_uri(picture: Picture) -> str:
    return f"data:image/{picture.kind};base64,{base64.b64encode(picture.data).decode()}"
