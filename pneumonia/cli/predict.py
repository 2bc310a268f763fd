"""`pneumonia predict`: classifies image files with a finished run or a bundle."""

import argparse
import csv
import json
from pathlib import Path
from typing import Any, Final

from pneumonia.errors import ConfigError, broken_images, printable
from pneumonia.system.console import say

PLAIN = (
    *("calibrated", "temperature", "confidence", "abstained", "out_of_distribution", "ood_score", "ood_threshold"),
    *("bundle_version", "model_version", "error"),
)
GROUPS: Final = {"probabilities": "prob", "raw": "raw", "decisions": "decision"}  # a column for each name in them
NO_LABEL: Final = "-"
BEGINS: Final = b"image,label,"  # how every table of answers begins


def run(arguments: list[str]) -> int:
    """Prints the probabilities of each image, as a table or as JSON, or writes them as CSV.

    Raises:
        BrokenImagesError: Some images can't be read: lists all of them, once the others are told.
        PneumoniaError: With the name of what is wrong.
    """
    parser = argparse.ArgumentParser(
        "pneumonia predict", description="Probabilities by class of chest X-ray image files. Not a medical device."
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="a run folder, or a bundle of `pneumonia export`")
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", type=Path, help="JPEG, PNG, BMP, TIFF or DICOM files, and folders of them"
    )
    parser.add_argument("--json", action="store_true", help="a JSON list on standard output")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="one row an image, written whole or not at all")
    parser.add_argument(
        "--explain",
        metavar="DIR",
        type=Path,
        help="also draw into DIR what each image was told by: weights x image for linear families, Grad-CAM for "
        "convolutional ones; RUN alone can",
    )
    options = parser.parse_args(arguments)
    from pneumonia.export.predict import image_files, told
    from pneumonia.system.files import replacing

    files = image_files(options.images)
    if options.csv is not None:
        check_csv(options.csv, files)
    if options.csv is None:
        answers = list(told(options.model, files, options.explain))
    else:
        with replacing(options.csv) as part:
            part.touch()  # a place that can't be written is found before the work, not after it
            answers = list(told(options.model, files, options.explain))
            _write(answers, part)
        say(f"Answers: {options.csv}")
    if options.json:
        print(json.dumps(answers, indent=2))
    elif options.csv is None:
        _print([answer for answer in answers if "error" not in answer])
    problems = {answer["image"]: answer["error"] for answer in answers if "error" in answer}
    if problems:
        others = (
            "Nothing was predicted" if all("error" in answer for answer in answers) else "All others were predicted"
        )
        raise broken_images(problems, f"{others}. Leave them out, or mend them.")
    return 0


def check_csv(path: Path, images: list[Path]) -> None:
    """Refuses a place for the table that holds something else, before any work is done.

    Raises:
        ConfigError: It is a folder or a device, lies in no folder, is one of the images, or a file that is no table of ours.
    """
    if path.is_dir():
        raise ConfigError(f"--csv {path} is a folder; name a file, for example --csv {path}/answers.csv.")
    if not path.parent.is_dir():
        raise ConfigError(f"--csv {path}: there is no folder {path.parent}. Make it, or check the path.")
    if not path.exists():
        return
    if not path.is_file():
        raise ConfigError(
            f"--csv {path} is no regular file, and would be replaced by one. --json prints to standard output."
        )
    if any(path.samefile(image) for image in images if image.exists()):
        raise ConfigError(f"--csv {path} is one of the images, and would be overwritten. Name another file.")
    with path.open("rb") as file:
        begins = file.read(len(BEGINS))
    if begins not in {b"", BEGINS}:
        raise ConfigError(f"--csv {path} holds something else than answers, and is not overwritten. Name another file.")


def predict(model: Path, images: list[Path], explain: Path | None = None) -> list[dict[str, Any]]:
    """The answers of :func:`pneumonia.export.predict.told` in a list."""
    from pneumonia.export.predict import told

    return list(told(model, images, explain))


def _print(answers: list[dict[str, Any]]) -> None:
    names = [printable(answer["image"]) for answer in answers]
    width = max(map(len, names), default=0)
    for name, answer in zip(names, answers, strict=True):
        shares = "  ".join(f"{label} {share:.4f}" for label, share in answer["probabilities"].items())
        marks = [
            word
            for key, word in (("out_of_distribution", "NOT LIKE AN X-RAY"), ("abstained", "UNSURE"))
            if answer.get(key)
        ]
        rest = [*marks, *([answer["explanation"]] if "explanation" in answer else [])]
        print(f"{name:<{width}}  {answer['label'] or NO_LABEL:<9}  {shares}", *map(printable, rest), sep="  ")


def _write(answers: list[dict[str, Any]], path: Path) -> None:
    """The rows of a CSV file: image, label, ``prob_<class>``, ``raw_<class>``, ``decision_<question>``, then the other fields.

    What is null in JSON is empty here.
    """
    first = next((answer for answer in answers if "raw" in answer), {})
    groups = {kind: list(first.get(key, ())) for key, kind in GROUPS.items()}
    columns = [f"{kind}_{name}" for kind, names in groups.items() for name in names]
    # A name that is not valid text is written with an escape sequence: the table stays UTF-8.
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "label", *columns, *PLAIN])
        for answer in answers:
            shares = [answer.get(key, {}).get(name, "") for key, kind in GROUPS.items() for name in groups[kind]]
            rows.writerow([answer["image"], answer.get("label", ""), *shares, *(answer.get(key, "") for key in PLAIN)])
