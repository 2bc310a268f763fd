"""Classifies image files with a run or a bundle: the same words and the same numbers from both."""

import errno
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from pneumonia.bundle.contract import CONTRACT
from pneumonia.console import announce_loading, say, track, warn
from pneumonia.data.names import DICOM_SUFFIXES, IMAGE_SUFFIXES, is_junk
from pneumonia.data.readable import UnreadableImageError
from pneumonia.errors import ConfigError, LayoutError, RunError

WATCHED: Final = 10  # files from which on a bundle shows how far it is; the first ones are done before one could look
Found = dict[str, Any]


def image_files(places: Iterable[Path]) -> list[Path]:
    """Files as they are named, and in the place of a folder every image below it.

    Raises:
        LayoutError: A folder holds no image.
    """
    files: list[Path] = []
    for place in places:
        if not place.is_dir():
            files.append(place)
            continue
        suffixes = {*IMAGE_SUFFIXES, *DICOM_SUFFIXES}
        inside = [path for path in sorted(place.rglob("*")) if path.suffix.lower() in suffixes and not path.is_dir()]
        inside = [path for path in inside if not any(map(is_junk, path.relative_to(place).parts))]
        if not inside:
            raise LayoutError(f"{place} holds no image file. Name image files, or a folder with some.")
        files += inside
    return files


def told(model: Path, images: list[Path], explain: Path | None = None) -> Iterator[Found]:
    """What a run or a bundle predicts for each image file, decoded and normalised as in training, in the order of the files.

    Args:
        model: A run folder or a bundle.
        images: Image files.
        explain: A folder for pictures of what each prediction is based on; a run alone can draw them.

    Yields:
        ``image`` with all of :class:`pneumonia.bundle.answers.Answer`. A run has no out-of-distribution detector and no
        coverage to reach, so it gives ``None`` for ``out_of_distribution``, ``gate_score``, ``gate_threshold``, ``abstained``
        and ``bundle_version``; ``explanation``, where pictures are drawn. Of a file that can't be read ``image`` and
        ``error``.

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
    _warn(bundle.contract.warnings, bundle.contract.caveat, images)
    files: Iterable[Path] = images if len(images) < WATCHED else track(images, len(images), "Predicting")
    for path in files:
        try:
            yield {"image": str(path), **bundle.answer(_bytes(path)).as_dict()}
        except (UnreadableImageError, OSError) as error:
            yield _unread(path, error)


def _warn(warnings: Iterable[str], caveat: str, images: Iterable[Path]) -> None:
    """What must be known of every answer; that a model knows phantoms alone matters only for other images."""
    from pneumonia.data.phantom_folders import is_phantom
    from pneumonia.model_warnings import PHANTOMS

    for text in (*warnings, caveat):
        if text and not (text == PHANTOMS and all(map(is_phantom, images))):
            warn(text)


def _bytes(path: Path) -> bytes:
    """The content of a file; a pipe or a device, which may never end, is refused as what can't be read."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no regular file")
    return path.read_bytes()


def _unread(path: Path, error: Exception) -> Found:
    return {"image": str(path), "error": str(error.strerror if isinstance(error, OSError) else error)}


def _told_by_run(model: Path, images: list[Path], explain: Path | None) -> Iterator[Found]:
    from pneumonia.runs import open_run

    folder, result, config = open_run(model)  # a wrong folder is found before torch is imported
    announce_loading()
    import numpy as np
    import torch

    from pneumonia.bundle.answers import decide
    from pneumonia.bundle.promises import chosen_for_run
    from pneumonia.calibration import Temperature, scaled
    from pneumonia.data.images import decode
    from pneumonia.explain import check_explainable, draw_explanations
    from pneumonia.model_warnings import warnings_of
    from pneumonia.models.build import load_classifier
    from pneumonia.predictions import classify

    classifier = load_classifier(folder.best, config["task"])
    _warn(warnings_of(result), classifier.caveat, images)
    if explain is not None:
        check_explainable(classifier)
    setup, classes = classifier.setup_values, classifier.task.classes
    calibration, points = chosen_for_run(folder, result, classifier.task)
    if calibration.temperature is None:
        say(f"The probabilities are not calibrated: {calibration.reason}.")
    answers: list[Found] = []
    drawn: list[tuple[Path, Any, str, Found]] = []
    for path in track(images, len(images), "Predicting"):
        try:
            pixels = decode(_bytes(path), setup.image_size, setup.resize)
        except (UnreadableImageError, OSError) as error:
            answers.append(_unread(path, error))
            continue
        raw = classify(classifier, torch.from_numpy(pixels)[None, None]).astype(np.float64)
        shown, label = scaled(raw, Temperature(calibration.temperature))[0].tolist(), classes[int(raw[0].argmax())]
        found: Found = {
            "image": str(path),
            "label": label,
            "probabilities": dict(zip(classes, shown, strict=True)),
            "raw": dict(zip(classes, raw[0].tolist(), strict=True)),
            "calibrated": calibration.temperature is not None,
            "temperature": calibration.temperature,
            "confidence": max(shown),
            "abstained": None,
            "out_of_distribution": None,
            "gate_score": None,
            "gate_threshold": None,
            "decisions": decide(points, classes, shown, calibration),
            "bundle_version": None,
            "model_version": f"{result['name']}/{result['run_id']}",
        }
        answers.append(found)
        if explain is not None:
            drawn.append((path, pixels, f"{path.name}: predicted {label} ({found['probabilities'][label]:.2f})", found))
    if explain is not None and drawn:
        paths, squares, titles, predicted = (list(column) for column in zip(*drawn, strict=True))
        pictures = draw_explanations(classifier, squares, paths, titles, explain)
        for found, picture in zip(predicted, pictures, strict=True):
            found["explanation"] = str(picture)
    yield from answers
