"""Predict image files with a run or a bundle, with the same fields and values from both."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from pneumonia.data.images.limits import UnreadableImageError, read_image_file
from pneumonia.data.sources.file_names import DICOM_SUFFIXES, IMAGE_SUFFIXES
from pneumonia.data.sources.folders import files_below
from pneumonia.errors import ConfigError, LayoutError, RunError, printable
from pneumonia.export.contract import CONTRACT
from pneumonia.export.prediction import PredictedFile, RunPrediction, decide
from pneumonia.system.arrays import Pixels
from pneumonia.system.console import announce_loading, say, track, warn

PROGRESS_FROM: Final = 10  # files from which on a bundle shows progress


def image_files(places: Iterable[Path]) -> list[Path]:
    """Replace each folder by the image files below it.

    Raises:
        LayoutError: A folder contains no image, or can't be read.
    """
    files: list[Path] = []
    for place in places:
        if not place.is_dir():
            files.append(place)
            continue
        suffixes = {*IMAGE_SUFFIXES, *DICOM_SUFFIXES}
        inside = [path for path in files_below(place) if path.suffix.lower() in suffixes]
        if not inside:
            raise LayoutError(f"{place} contains no image file. Name image files, or a folder with some.")
        files += inside
    return files


def predict_files(model: Path, images: list[Path], explain: Path | None = None) -> Iterator[PredictedFile]:
    """Predict image files in order, decoded and normalised as in training.

    Args:
        model: A run folder or a bundle.
        images: Image files.
        explain: A folder for explanations as pictures; needs a run.

    Raises:
        ConfigError: The model has no explanations.
        StorageError: The folder for the pictures can't be written.
        RunError, CheckpointError, BundleError: The model is not usable.
    """
    if not (model / CONTRACT).is_file():
        if model.is_dir() and not (model / "config.yaml").is_file():
            raise RunError(
                f"{model} is neither a run folder (it holds no config.yaml) nor a bundle (no {CONTRACT}). Name the folder that "
                "`pneumonia train` or `pneumonia export` printed."
            )
        yield from _predict_with_run(model, images, explain)
        return
    if explain is not None:
        raise ConfigError(f"{model} is a bundle, and --explain needs the network itself. Name the run that it was exported from.")
    from pneumonia.export.runtime import Bundle

    bundle = Bundle.load(model)
    _warn(bundle.contract.warnings, bundle.contract.caveat, images)
    files: Iterable[Path] = images if len(images) < PROGRESS_FROM else track(images, len(images), "Predicting")
    for path in files:
        try:
            yield PredictedFile(str(path), bundle.predict(read_image_file(path)))
        except UnreadableImageError as error:
            yield PredictedFile(str(path), error=str(error))


def _warn(warnings: Iterable[str], caveat: str, images: Iterable[Path]) -> None:
    """Print the warnings about a model; that it was trained on phantoms matters only for other images."""
    from pneumonia.data.sources.phantom_detection import is_phantom
    from pneumonia.runs.model_warnings import PHANTOMS

    for text in (*warnings, caveat):
        if text and not (text == PHANTOMS and all(map(is_phantom, images))):
            warn(text)


def _predict_with_run(model: Path, images: list[Path], explain: Path | None) -> Iterator[PredictedFile]:
    from pneumonia.runs.load import load_finished_run

    run = load_finished_run(model)  # refuse a wrong folder before torch is imported
    announce_loading()
    from pneumonia.evaluation.explanations import check_explainable, draw_explanations
    from pneumonia.export.contract_builder import decision_rules_of_run
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
    predictions: list[PredictedFile] = []
    squares: list[Pixels] = []
    titles: list[str] = []
    for path in track(images, len(images), "Predicting"):
        try:
            pixels, raw = predict_file(classifier, path)
        except UnreadableImageError as error:
            predictions.append(PredictedFile(str(path), error=str(error)))
            continue
        shown = apply_temperature(raw[None], Temperature(calibration.temperature))[0].tolist()
        found = RunPrediction(
            label=classes[int(raw.argmax())],
            probabilities=dict(zip(classes, shown, strict=True)),
            raw=dict(zip(classes, raw.tolist(), strict=True)),
            calibrated=calibration.temperature is not None,
            temperature=calibration.temperature,
            confidence=max(shown),
            decisions=decide(points, classes, shown, calibration),
            model_version=run.version,
        )
        predictions.append(PredictedFile(str(path), found))
        if explain is not None:
            squares.append(pixels)
            titles.append(f"{printable(path.name)}: predicted {found.label} ({found.probabilities[found.label]:.2f})")
    if explain is not None and squares:
        readable = [Path(one.image) for one in predictions if one.prediction]
        pictures = iter(draw_explanations(classifier, squares, readable, titles, explain))
        predictions = [replace(one, explanation=str(next(pictures))) if one.prediction else one for one in predictions]
    yield from predictions
