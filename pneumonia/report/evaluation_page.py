"""Draw the error gallery of an evaluation, as a page of its own and as blocks of the report."""

import json
from collections.abc import Sequence
from pathlib import Path

from pneumonia.evaluation.error_gallery import SUREST, Case, cases_file, read_cases
from pneumonia.report.render.document import Block, Document, Gallery, Heading, Picture, Text
from pneumonia.report.render.html import page
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
    values = json.loads(evaluation.read_text(encoding="utf-8"))
    run, name = evaluation.parent.parent.name, evaluation.stem
    counts = values["confusion"]["counts"]
    correct = sum(row[number] for number, row in enumerate(counts))
    subtitle = f"{values['n'] - correct} of {values['n']} images are predicted wrong. Not a medical device."
    document = Document(
        f"{run}: error gallery of {name}", subtitle, gallery_blocks(*read_cases(cases_file(evaluation)))
    )
    written = evaluation.with_suffix(".html")
    with replacing(written) as part:
        part.write_text(page(document), encoding="utf-8")
    return written


def gallery_blocks(cases: Sequence[Case], how: str = "") -> list[Block]:
    """Return a gallery for each group of images, in the order of the groups.

    Args:
        cases: Images, ordered by group.
        how: Explanation of the right half of each picture.
    """
    blocks: list[Block] = [Text(how)] if how else []
    if not any(case.group == SUREST for case in cases):
        blocks.append(Text("No image is predicted wrong."))
    for group in dict.fromkeys(case.group for case in cases):
        found = [case for case in cases if case.group == group]
        blocks += [Heading(group, 3), Gallery([Picture(case.picture, case.caption) for case in found])]
    return blocks
