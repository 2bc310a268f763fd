"""`pneumonia predict`: classifies image files with a finished run."""

import argparse
import json
from pathlib import Path
from typing import Any

from pneumonia.console import announce_loading


def run(arguments: list[str]) -> int:
    """Prints the probabilities of each image, as a table or as JSON.

    Raises:
        PneumoniaError: With the name of what is wrong; all broken images at once.
    """
    parser = argparse.ArgumentParser(
        "pneumonia predict", description="Probabilities by class of chest X-ray image files. Not a medical device."
    )
    parser.add_argument(
        "model", metavar="RUN", type=Path, help="a run folder, as `pneumonia train` names it at its end"
    )
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="JPEG, PNG, BMP, TIFF or DICOM files")
    parser.add_argument("--json", action="store_true", help="a JSON list on standard output")
    parser.add_argument(
        "--explain",
        metavar="DIR",
        type=Path,
        help="also draw into DIR what each image was told by: weights x image for linear families, Grad-CAM for "
        "convolutional ones",
    )
    options = parser.parse_args(arguments)
    answers = predict(options.model, options.images, options.explain)
    if options.json:
        print(json.dumps(answers, indent=2))
        return 0
    width = max(len(answer["image"]) for answer in answers)
    for answer in answers:
        shares = "  ".join(f"{name} {share:.4f}" for name, share in answer["probabilities"].items())
        print(f"{answer['image']:<{width}}  {answer['label']:<9}  {shares}", answer.get("explanation", ""), sep="  ")
    return 0


def predict(model: Path, images: list[Path], explain: Path | None = None) -> list[dict[str, Any]]:
    """Probabilities by class of each image, decoded and normalised as in training.

    Args:
        model: A run folder.
        images: Image files.
        explain: A folder for pictures of what each pixel added; they are drawn once all images are known to be good.

    Raises:
        ConfigError: Pictures are asked for, and there is none of the family.
        StorageError: The folder for the pictures can't be written.
        RunError, CheckpointError: The run can't be used.
        BrokenImagesError: Some images can't be read; lists all of them.
    """
    from pneumonia.runs import open_run

    folder, _, config = open_run(model)  # a wrong folder is found before torch is imported
    announce_loading()
    import torch

    from pneumonia.console import track, warn
    from pneumonia.data.images import UnreadableImageError, decode
    from pneumonia.errors import broken_images
    from pneumonia.explain import check_explainable, draw_explanations
    from pneumonia.models.build import load_classifier
    from pneumonia.predictions import classify

    classifier = load_classifier(folder.best, config["task"])
    if classifier.caveat:
        warn(classifier.caveat)
    if explain is not None:
        check_explainable(classifier)
    setup = classifier.setup_values
    decoded = []
    answers: list[dict[str, Any]] = []
    problems: dict[str, str] = {}
    for path in track(images, len(images), "Predicting"):
        try:
            pixels = decode(path.read_bytes(), setup.image_size, setup.resize)
        except (UnreadableImageError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            problems[str(path)] = str(reason)
            continue
        decoded.append(pixels)
        probability = classify(classifier, torch.from_numpy(pixels)[None, None])[0]
        shares = {name: float(value) for name, value in zip(classifier.task.classes, probability, strict=True)}
        answers.append(
            {"image": str(path), "label": max(shares, key=lambda name: shares[name]), "probabilities": shares}
        )
    if problems:
        raise broken_images(problems, "Nothing was predicted. Leave them out.")
    if explain is not None:
        titles = [
            f"{path.name}: told as {answer['label']} ({answer['probabilities'][answer['label']]:.2f})"
            for path, answer in zip(images, answers, strict=True)
        ]
        for answer, path in zip(answers, draw_explanations(classifier, decoded, images, titles, explain), strict=True):
            answer["explanation"] = str(path)
    return answers
