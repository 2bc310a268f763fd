"""Classifies image files with a run or a bundle: the same words and the same numbers from both."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from pneumonia.data.images.limits import UnreadableImageError, read_image_file
from pneumonia.data.sources.file_names import DICOM_SUFFIXES, IMAGE_SUFFIXES
from pneumonia.data.sources.folders import files_below
from pneumonia.errors import ConfigError, LayoutError, RunError, printable
from pneumonia.export.contract import CONTRACT
from pneumonia.system.console import announce_loading, say, track, warn

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
    """What a run or a bundle predicts for each image file, decoded and normalised as in training, in the order of the files.

    Args:
        model: A run folder or a bundle.
        images: Image files.
        explain: A folder for pictures of what each prediction is based on; a run alone can draw them.

    Yields:
        ``image`` with all of :class:`pneumonia.export.runtime.Prediction`. A run has no out-of-distribution detector and no
        coverage to reach, so it gives ``None`` for ``out_of_distribution``, ``ood_score``, ``ood_threshold``, ``abstained``
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
    from pneumonia.export.runtime import Bundle

    bundle = Bundle.load(model)
    _warn(bundle.contract.warnings, bundle.contract.caveat, images)
    files: Iterable[Path] = images if len(images) < WATCHED else track(images, len(images), "Predicting")
    for path in files:
        try:
            yield {"image": str(path), **bundle.predict(read_image_file(path)).as_dict()}
        except UnreadableImageError as error:
            yield {"image": str(path), "error": str(error)}


def _warn(warnings: Iterable[str], caveat: str, images: Iterable[Path]) -> None:
    """What must be known of every answer; that a model knows phantoms alone matters only for other images."""
    from pneumonia.data.sources.phantom_detection import is_phantom
    from pneumonia.runs.model_warnings import PHANTOMS

    for text in (*warnings, caveat):
        if text and not (text == PHANTOMS and all(map(is_phantom, images))):
            warn(text)


def _told_by_run(model: Path, images: list[Path], explain: Path | None) -> Iterator[Found]:
    from pneumonia.runs.load import load_finished_run

    run = load_finished_run(model)  # a wrong folder is found before torch is imported
    announce_loading()
    from pneumonia.evaluation.explanations import check_explainable, draw_explanations
    from pneumonia.export.contract_builder import decision_rules_of_run
    from pneumonia.export.prediction import decide
    from pneumonia.metrics.calibration import Temperature, apply_temperature
    from pneumonia.runs.model_warnings import warnings_of
    from pneumonia.runs.predictions import predict_file

    classifier = run.load_model()
    _warn(warnings_of(run.result), classifier.caveat, images)
    if explain is not None:
        check_explainable(classifier)
    classes = run.task.classes
    calibration, points = decision_rules_of_run(run)
    if calibration.temperature is None:
        say(f"The probabilities are not calibrated: {calibration.reason}.")
    answers: list[Found] = []
    drawn: list[tuple[Path, Any, str, Found]] = []
    for path in track(images, len(images), "Predicting"):
        try:
            pixels, raw = predict_file(classifier, path)
        except UnreadableImageError as error:
            answers.append({"image": str(path), "error": str(error)})
            continue
        shown, label = (
            apply_temperature(raw[None], Temperature(calibration.temperature))[0].tolist(),
            classes[int(raw.argmax())],
        )
        found: Found = {
            "image": str(path),
            "label": label,
            "probabilities": dict(zip(classes, shown, strict=True)),
            "raw": dict(zip(classes, raw.tolist(), strict=True)),
            "calibrated": calibration.temperature is not None,
            "temperature": calibration.temperature,
            "confidence": max(shown),
            "abstained": None,
            "out_of_distribution": None,
            "ood_score": None,
            "ood_threshold": None,
            "decisions": decide(points, classes, shown, calibration),
            "bundle_version": None,
            "model_version": run.version,
        }
        answers.append(found)
        if explain is not None:
            drawn.append(
                (
                    path,
                    pixels,
                    f"{printable(path.name)}: predicted {label} ({found['probabilities'][label]:.2f})",
                    found,
                )
            )
    if explain is not None and drawn:
        paths, squares, titles, predicted = (list(column) for column in zip(*drawn, strict=True))
        pictures = draw_explanations(classifier, squares, paths, titles, explain)
        for found, picture in zip(predicted, pictures, strict=True):
            found["explanation"] = str(picture)
    yield from answers
