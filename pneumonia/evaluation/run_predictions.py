"""Predict the images of an evaluation with one run, and the validation images on which it is calibrated."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import torch

from pneumonia.config.schema import DataConfig
from pneumonia.data.datamodule import XRayDataModule
from pneumonia.data.decoded_images import DecodedImages
from pneumonia.data.run_data_cache import RunDataCache
from pneumonia.data.splits.files import row_by_row
from pneumonia.errors import PneumoniaError, RunError, SplitError, some
from pneumonia.models.base import Classifier
from pneumonia.runs.load import FinishedRun
from pneumonia.runs.predictions import predict_subset

BATCH_SIZE = 64


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of an evaluation.

    Attributes:
        subset: ``train``, ``val`` or ``test``.
        data: Other data than the run's own; ``None`` for its own.
        cache_dir: Folder of decoded images.
        tta: Test-time augmentation, for example ``flip``; ``None`` for that of the training.
        error_gallery: Also draw the error gallery.
        brief: Print one line instead of tables.
    """

    subset: str = "test"
    data: DataConfig | None = None
    cache_dir: Path = Path("cache")
    tta: str | None = None
    error_gallery: bool = False
    brief: bool = False


@dataclass
class EvaluationCache:
    """Images, and predictions of baselines, that the evaluations of one process share."""

    data_cache: RunDataCache = field(default_factory=RunDataCache)
    baselines: dict[str, pd.DataFrame] = field(default_factory=dict)


@dataclass(frozen=True)
class RunPredictions:
    """Predictions of one run.

    Attributes:
        run: The run.
        classifier: Its model, with the test-time augmentation of the evaluation.
        data: The evaluated data.
        manifest_sha256: Hash of their images and labels.
        table: Predictions of the evaluated subset.
        validation: Predictions of the run's own validation images; ``None`` for the reason in ``why_uncalibrated``.
        trained_on: Ids of the images that the run was trained on.
        own_data: The run's own data; ``None`` for the reason in ``why_no_own_data``.
        is_own: Whether the evaluated data are the run's own.
        tta_changed: Whether the test-time augmentation differs from that of the training.
    """

    run: FinishedRun
    classifier: Classifier
    data: XRayDataModule
    manifest_sha256: str
    table: pd.DataFrame
    validation: pd.DataFrame | None
    why_uncalibrated: str
    trained_on: set[str]
    own_data: XRayDataModule | None
    why_no_own_data: str
    is_own: bool
    tta_changed: bool


def predict_run(run: FinishedRun, options: EvaluateOptions, cache: EvaluationCache) -> RunPredictions:
    """Predict one subset with a run.

    Raises:
        RunError: The run's own data have changed since the training.
        SplitError: The subset holds no image.
        CheckpointError, LayoutError, BrokenImagesError: See :func:`pneumonia.evaluation.evaluate.evaluate`.
    """
    data_node = run.config.data
    if options.data is not None:
        data_node = replace(options.data, resize=data_node.resize)  # as in training
    images = cache.data_cache.images(data_node, run.config.image_size, options.cache_dir, run.task)
    is_own = images.sha256 == run.result.data.manifest_sha256
    if options.data is None and not is_own:
        raise RunError(
            f"The data of {run.folder.path} have changed since it was trained: other images, labels or folders. Its split no "
            "longer shows which images the model has not seen. Name the data to evaluate: --data DIR"
        )
    trained_split = run.split()
    split = row_by_row(trained_split, images.manifest) if is_own else _split_by_folders(images, options.subset)
    data = XRayDataModule.from_images(images, split, run.task, batch_size=BATCH_SIZE)
    if not len(data.positions(options.subset)):
        counts = ", ".join(f"{subset} {count}" for subset, count in split["subset"].value_counts().items())
        raise SplitError(f"The data hold no image of the subset '{options.subset}' (they hold {counts}). Use another split.")
    classifier = run.load_model(options.tta).to("cuda" if torch.cuda.is_available() else "cpu")
    tta_changed = classifier.options.tta != run.config.tta
    table = predict_subset(classifier, data, options.subset)
    own_data, why_no_own_data = (data, "") if is_own else _own_data(run, trained_split, options, cache)
    validation, why_uncalibrated = _validation(run, classifier, own_data, why_no_own_data, tta_changed)
    subsets = ["train", "val"] if run.config.split.method == "rotating" else ["train"]
    trained_on = set(trained_split.loc[trained_split["subset"].isin(subsets), "image_id"])
    return RunPredictions(
        run,
        classifier,
        data,
        images.sha256,
        table,
        validation,
        why_uncalibrated,
        trained_on,
        own_data,
        why_no_own_data,
        is_own,
        tta_changed,
    )


def _own_data(
    run: FinishedRun, split: pd.DataFrame, options: EvaluateOptions, cache: EvaluationCache
) -> tuple[XRayDataModule | None, str]:
    """Load the own data of a run that is evaluated on other data, or return why that is not possible."""
    data_node = run.config.data
    if data_node.source == "azure":
        return None, "the run's own images are in Azure, from where an evaluation of other data does not fetch them"
    try:
        images = cache.data_cache.images(data_node, run.config.image_size, options.cache_dir, run.task)
    except PneumoniaError as error:
        return None, f"the run's own images can't be read ({some(str(error).splitlines(), 1)})"
    if images.sha256 != run.result.data.manifest_sha256:
        return None, f"the run's own images or labels in {data_node.root} have changed since it was trained"
    return XRayDataModule.from_images(images, row_by_row(split, images.manifest), run.task, batch_size=BATCH_SIZE), ""


def _validation(
    run: FinishedRun, classifier: Classifier, own_data: XRayDataModule | None, why_no_own_data: str, tta_changed: bool
) -> tuple[pd.DataFrame | None, str]:
    """Read or repeat the predictions of the run's own validation images, or return why that is not possible."""
    if run.config.split.method == "rotating":
        return None, run.why_uncalibrated
    if not tta_changed:
        try:
            return run.validation_predictions(), ""
        except RunError:
            pass  # missing or damaged: predicted again below, by the same checkpoint
    if own_data is None:
        why = "were not made with this test-time augmentation" if tta_changed else "are not in the run folder"
        return None, f"{why_no_own_data}, and predictions of its validation images {why}"
    return predict_subset(classifier, own_data, "val"), ""


def _split_by_folders(images: DecodedImages, subset: str) -> pd.DataFrame:
    """Divide other data by their folders; without such folders all images belong to ``subset``."""
    source = images.manifest["source_split"]
    return pd.DataFrame({"image_id": images.manifest["image_id"], "subset": source.where(source != "", subset), "fold": -1})
