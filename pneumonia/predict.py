"""Classifies image files with a run or a bundle: the same words and the same numbers from both."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from pneumonia.bundle.contract import CONTRACT
from pneumonia.console import announce_loading, say, track, warn
from pneumonia.data.folders import files_below
from pneumonia.data.names import DICOM_SUFFIXES, IMAGE_SUFFIXES
from pneumonia.data.readable import UnreadableImageError, read_image_file
from pneumonia.errors import ConfigError, LayoutError, RunError, printable

WATCHED: Final = 10  # files from which on a bundle shows how far it is; the first ones are done before one could look
Found = dict[str, Any]


def image_files(places: Iterable[Path]) -> list[Path]:
    """Files as they are named, and in the place of a folder every image below it.

    Raises:
        LayoutError: A folder holds no image, or can't be read.
    """
    files: list[Path] = []
    for place in places:
        if not place.is_dir():
            files.append(place)
            continue
        suffixes = {*IMAGE_SUFFIXES, *DICOM_SUFFIXES}
        inside = [path for path in files_below(place) if path.suffix.lower() in suffixes]
        if not inside:
            raise LayoutError(f"{place} holds no image file. Name image files, or a folder with some.")
        files += inside
    return files


def told(model: Path, images: list[Path], explain: Path | None = None) -> Iterator[Found]:
    """What a run or a bundle says of each image file, decoded and normalised as in training.

    Args:
        model: A run folder or a bundle.
        images: Image files.
        explain: A folder for pictures of what each image was told by; a run alone can draw them.

    Yields:
        ``image`` with ``label``, ``probabilities`` (calibrated where ``calibrated``), ``raw``, ``temperature`` and
        ``model_version``; of a bundle with all of :class:`pneumonia.bundle.answers.Answer`; ``explanation``, where pictures
        are drawn. Of a file that can't be read ``image`` and ``error``.

    Raises:
        ConfigError: Pictures are asked for, and there is none of the model.
        StorageError: The folder for the pictures can't be written.
        RunError, CheckpointError, BundleError: The model can't be used.
    """
    if not (model / CONTRACT).is_file():
        if model.is_dir() and not (model / "config.yaml").is_file():
            raise RunError(
                f"{model} is neither a run folder (it holds no config.yaml) nor a bundle (no {CONTRACT}). Name the folder that "
                "`pneumonia train` or `pneumonia export` printed."
            )
        yield from _told_by_run(model, images, explain)
        return
    if explain is not None:
        raise ConfigError(
            f"{model} is a bundle, and --explain draws what a network computes inside. Name the run that it was made of."
        )
    from pneumonia.bundle.answers import Bundle

    bundle = Bundle.load(model)
    if bundle.contract.caveat:
        warn(bundle.contract.caveat)
    files: Iterable[Path] = images if len(images) < WATCHED else track(images, len(images), "Predicting")
    for path in files:
        try:
            yield {"image": str(path), **bundle.answer(read_image_file(path)).as_dict()}
        except UnreadableImageError as error:
            yield {"image": str(path), "error": str(error)}


def _told_by_run(model: Path, images: list[Path], explain: Path | None) -> Iterator[Found]:
    from pneumonia.runs import open_run

    folder, result, config = open_run(model)  # a wrong folder is found before torch is imported
    announce_loading()
    import numpy as np
    import torch

    from pneumonia.bundle.promises import run_temperature
    from pneumonia.calibration import scaled
    from pneumonia.data.images import decode
    from pneumonia.explain import check_explainable, draw_explanations
    from pneumonia.models.build import load_classifier
    from pneumonia.predictions import classify

    classifier = load_classifier(folder.best, config["task"])
    if classifier.caveat:
        warn(classifier.caveat)
    if explain is not None:
        check_explainable(classifier)
    setup, classes = classifier.setup_values, classifier.task.classes
    temperature = run_temperature(folder, result, classifier.task)
    if temperature.value is None:
        say(f"The probabilities are not calibrated: {temperature.reason}.")
    drawn: list[tuple[Path, Any, str, Found]] = []
    for path in track(images, len(images), "Predicting"):
        try:
            pixels = decode(read_image_file(path), setup.image_size, setup.resize)
        except UnreadableImageError as error:
            yield {"image": str(path), "error": str(error)}
            continue
        raw = classify(classifier, torch.from_numpy(pixels)[None, None]).astype(np.float64)
        shown, label = scaled(raw, temperature)[0].tolist(), classes[int(raw[0].argmax())]
        found: Found = {
            "image": str(path),
            "label": label,
            "probabilities": dict(zip(classes, shown, strict=True)),
            "raw": dict(zip(classes, raw[0].tolist(), strict=True)),
            "calibrated": temperature.value is not None,
            "temperature": temperature.value,
            "model_version": f"{result['name']}/{result['run_id']}",
        }
        if explain is None:
            yield found
        else:
            drawn.append(
                (path, pixels, f"{printable(path.name)}: told as {label} ({found['probabilities'][label]:.2f})", found)
            )
    if explain is not None and drawn:
        paths, squares, titles, answers = (list(column) for column in zip(*drawn, strict=True))
        pictures = draw_explanations(classifier, squares, paths, titles, explain)
        for found, picture in zip(answers, pictures, strict=True):
            yield {**found, "explanation": str(picture)}
