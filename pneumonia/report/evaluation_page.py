"""Draw the error gallery of an evaluation, as a page of its own and as blocks of the report."""

from pathlib import Path

from pneumonia.evaluation.error_gallery import CONFIDENT, ErrorGallery, gallery_file, read_gallery
from pneumonia.evaluation.result import read_evaluation
from pneumonia.report.render.document import Block, Document, Gallery, Heading, Picture, Text, Tile
from pneumonia.report.render.html import html_page
from pneumonia.system.files import replacing


def write_evaluation_page(evaluation: Path) -> Path:
    """Write the HTML page of an evaluation's error gallery.

    Args:
        evaluation: JSON file of the evaluation; the gallery lies beside it.

    Returns:
        The page, beside the JSON file.

    Raises:
        StorageError: The folder can't be written.
    """
    found = read_evaluation(evaluation)
    wrong = found.n - sum(row[number] for number, row in enumerate(found.confusion.counts))
    document = Document(
        f"{evaluation.parent.parent.name}: error gallery of {evaluation.stem}",
        f"{wrong} of {found.n} images are predicted wrong. Not a medical device.",
        gallery_blocks(read_gallery(gallery_file(evaluation))),
    )
    page = evaluation.with_suffix(".html")
    with replacing(page) as part:
        part.write_text(html_page(document), encoding="utf-8")
    return page


def gallery_blocks(gallery: ErrorGallery) -> list[Block]:
    """Return the pictures of each group of images, in the order of the groups."""
    blocks: list[Block] = [Text(gallery.explanation)]
    if not any(image.group == CONFIDENT for image in gallery.images):
        blocks.append(Text("No image is predicted wrong."))
    for group in dict.fromkeys(image.group for image in gallery.images):
        tiles = [Tile([Picture(image.picture, image.caption)]) for image in gallery.images if image.group == group]
        blocks += [Heading(group, 3), Gallery(tiles)]
    return blocks
