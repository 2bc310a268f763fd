"""`pneumonia predict`: classify image files with a finished run or a bundle."""

import csv
import json
from pathlib import Path
from typing import Any, Final

import click

from pneumonia.cli.parsing import FOLDER, PATH, Verb
from pneumonia.errors import ConfigError, broken_images, printable
from pneumonia.system.console import say

PLAIN = (
    *("calibrated", "temperature", "confidence", "abstained", "out_of_distribution", "ood_score", "ood_threshold"),
    *("bundle_version", "model_version", "error"),
)
GROUPS: Final = {"probabilities": "prob", "raw": "raw", "decisions": "decision"}  # a column for each name in them
NO_LABEL: Final = "-"
HEADER: Final = b"image,label,"  # first bytes of every table of predictions


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
        answers = list(predict_files(model, files, explain))
    else:
        check_csv(table, files)
        with replacing(table) as part:
            part.touch()  # fails before the work, not after it, where the file can't be written
            answers = list(predict_files(model, files, explain))
            _write(answers, part)
        say(f"Written: {table}")
    if as_json:
        print(json.dumps(answers, indent=2))
    elif table is None:
        _print([answer for answer in answers if "error" not in answer])
    problems = {answer["image"]: answer["error"] for answer in answers if "error" in answer}
    if problems:
        failed = all("error" in answer for answer in answers)
        others = "Nothing was predicted" if failed else "All others were predicted"
        raise broken_images(problems, f"{others}. Leave these images out, or repair them.")


def check_csv(path: Path, images: list[Path]) -> None:
    """Refuse to overwrite anything but a table of predictions.

    Raises:
        ConfigError: ``path`` is a folder, a device, one of the images or another file, or its folder does not exist.
    """
    if path.is_dir():
        raise ConfigError(f"--csv {path} is a folder; name a file, for example --csv {path}/predictions.csv.")
    if not path.parent.is_dir():
        raise ConfigError(f"--csv {path}: there is no folder {path.parent}. Create it, or check the path.")
    if not path.exists():
        return
    if not path.is_file():
        raise ConfigError(
            f"--csv {path} is not a regular file, and would be replaced by one. --json prints to standard output."
        )
    if any(path.samefile(image) for image in images if image.exists()):
        raise ConfigError(f"--csv {path} is one of the images, and would be overwritten. Name another file.")
    with path.open("rb") as file:
        head = file.read(len(HEADER))
    if head not in {b"", HEADER}:
        raise ConfigError(f"--csv {path} does not hold predictions, and is not overwritten. Name another file.")


def _print(answers: list[dict[str, Any]]) -> None:
    names = [printable(answer["image"]) for answer in answers]
    width = max(map(len, names), default=0)
    for name, answer in zip(names, answers, strict=True):
        values = "  ".join(f"{label} {value:.4f}" for label, value in answer["probabilities"].items())
        marks = [
            word
            for key, word in (("out_of_distribution", "NOT LIKE AN X-RAY"), ("abstained", "UNSURE"))
            if answer.get(key)
        ]
        rest = [*marks, *([answer["explanation"]] if "explanation" in answer else [])]
        print(f"{name:<{width}}  {answer['label'] or NO_LABEL:<9}  {values}", *map(printable, rest), sep="  ")


def _write(answers: list[dict[str, Any]], path: Path) -> None:
    """Write image, label, ``prob_<class>``, ``raw_<class>``, ``decision_<question>``, then the other fields; null is empty."""
    first = next((answer for answer in answers if "raw" in answer), {})
    groups = {kind: list(first.get(key, ())) for key, kind in GROUPS.items()}
    columns = [f"{kind}_{name}" for kind, names in groups.items() for name in names]
    # A name that is not valid text is written with escape sequences, so that the table stays UTF-8.
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "label", *columns, *PLAIN])
        for answer in answers:
            values = [answer.get(key, {}).get(name, "") for key, kind in GROUPS.items() for name in groups[kind]]
            rows.writerow([answer["image"], answer.get("label", ""), *values, *(answer.get(key, "") for key in PLAIN)])
