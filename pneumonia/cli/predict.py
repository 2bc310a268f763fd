"""`pneumonia predict`: classify image files with a finished run or a bundle."""

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from pneumonia.cli.csv_file import check_csv
from pneumonia.cli.parsing import FOLDER, PATH, Verb
from pneumonia.errors import broken_images, printable
from pneumonia.system.console import say

if TYPE_CHECKING:
    from pneumonia.export.prediction import PredictedFile

PLAIN: Final = (
    *("calibrated", "temperature", "confidence", "abstained", "out_of_distribution", "ood_score", "ood_threshold"),
    *("bundle_version", "model_version"),
)
GROUPS: Final = {"probabilities": "prob", "raw": "raw", "decisions": "decision"}  # a column for each name in them
NO_LABEL: Final = "-"
HEADER: Final = "image,label,"  # of every table of predictions


@click.command(
    cls=Verb,
    examples=[
        "pneumonia predict runs/article_final/RUN_ID a.jpeg b.jpeg",
        "pneumonia predict bundle xrays/ --csv predictions.csv",
    ],
)
@click.argument("model", metavar="MODEL", type=PATH)
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.option("--csv", "table", metavar="FILE", type=PATH, help="Write a table, one row per image.")
@click.option(
    "--explain",
    metavar="DIR",
    type=FOLDER,
    help="Also draw what each prediction is based on into DIR: Grad-CAM for convolutional models, weights times image for "
    "linear ones. For runs only.",
)
def command(model: Path, images: tuple[Path, ...], as_json: bool, table: Path | None, explain: Path | None) -> None:
    """Print the class probabilities of chest X-rays. Not a medical device.

    MODEL is a run folder or a bundle of `pneumonia export`. IMAGE is a JPEG, PNG, BMP, TIFF or DICOM file, or a folder of them.
    Exit code 2 if some images can't be read: they are listed, and all others are predicted.
    """
    from pneumonia.export.predict import image_files, predict_files
    from pneumonia.system.files import replacing

    files = image_files(images)
    if table is None:
        predicted = list(predict_files(model, files, explain))
    else:
        check_csv(table, HEADER, "predictions", files)
        with replacing(table) as part:
            part.touch()  # fails before the work, not after it, where the file can't be written
            predicted = list(predict_files(model, files, explain))
            _write(predicted, part)
        say(f"Written: {table}")
    if as_json:
        print(json.dumps([one.to_json() for one in predicted], indent=2))
    elif table is None:
        _print(predicted)
    problems = {one.image: one.error for one in predicted if one.prediction is None}
    if problems:
        others = "All others were predicted" if any(one.prediction for one in predicted) else "Nothing was predicted"
        raise broken_images(problems, f"{others}. Leave these images out, or repair them.")


def _print(predicted: "list[PredictedFile]") -> None:
    found = [(printable(one.image), one.prediction, one.explanation) for one in predicted if one.prediction]
    width = max((len(name) for name, _, _ in found), default=0)
    label_width = max((len(one.label or NO_LABEL) for _, one, _ in found), default=0)
    for name, one, explanation in found:
        values = "  ".join(f"{label} {value:.4f}" for label, value in one.probabilities.items())
        marks = (one.out_of_distribution and "NOT LIKE AN X-RAY", one.abstained and "UNSURE", printable(explanation))
        print(f"{name:<{width}}  {one.label or NO_LABEL:<{label_width}}  {values}", *filter(None, marks), sep="  ")


def _write(predicted: "list[PredictedFile]", path: Path) -> None:
    """Write image, label, ``prob_<class>``, ``raw_<class>``, ``decision_<question>``, then the other fields; null is empty."""
    first = next((one.prediction for one in predicted if one.prediction), None)
    columns = [(group, name) for group in GROUPS for name in getattr(first, group, ())]
    # A name that is not valid text is written with escape sequences, so that the table stays UTF-8.
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "label", *(f"{GROUPS[group]}_{name}" for group, name in columns), *PLAIN, "error"])
        for one in predicted:
            values = [getattr(one.prediction, group)[name] if one.prediction else "" for group, name in columns]
            others = [getattr(one.prediction, field, "") for field in PLAIN]
            rows.writerow([one.image, getattr(one.prediction, "label", ""), *values, *others, one.error])
