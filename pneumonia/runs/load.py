"""Load a finished run: its result, metrics, split, model and predictions."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from pneumonia.config.schema import TrainConfig
from pneumonia.data.images.limits import UnreadableImageError
from pneumonia.errors import ConfigError, RunError, broken_images
from pneumonia.metrics.calibration import Temperature, apply_temperature, fit_temperature
from pneumonia.metrics.predictions import PROBABILITY_PREFIX, predicted_classes, prediction_arrays
from pneumonia.runs.folder import RunFolder
from pneumonia.runs.prediction_tables import read_predictions
from pneumonia.runs.result import RunResult, read_result
from pneumonia.system.arguments import paths
from pneumonia.tasks import Task

if TYPE_CHECKING:
    from pneumonia.models.base import Classifier

RETRAIN: Final = "Train the run again, with force=true."


@dataclass(frozen=True)
class FinishedRun:
    """A run whose training ended as its config says."""

    folder: RunFolder
    result: RunResult

    @property
    def config(self) -> TrainConfig:
        return self.result.config

    @property
    def task(self) -> Task:
        return self.result.task

    @property
    def version(self) -> str:
        """``<name>/<run_id>``, as predictions name their model."""
        return f"{self.result.name}/{self.result.run_id}"

    def history(self) -> pd.DataFrame:
        """Return ``metrics.csv``: one row per epoch, indexed by ``epoch`` from 1."""
        return pd.read_csv(self.folder.metrics, index_col="epoch")

    def split(self) -> pd.DataFrame:
        """Return the split of the training: ``image_id``, ``subset``, ``fold``.

        Raises:
            RunError: Its file is missing or damaged.
            ManifestError: It was changed since the training.
        """
        from pneumonia.data.splits.files import as_trained  # imports scikit-learn

        sha256 = self.result.data.split_sha256
        return as_trained(read_split(self.folder, self.result), sha256, self.folder.split(sha256))

    def load_model(self, tta: str | None = None) -> "Classifier":
        """Load the best checkpoint, in evaluation mode, on the CPU.

        Args:
            tta: Test-time augmentation to use instead of that of the training.

        Raises:
            CheckpointError: It is missing, damaged, or of another run.
            TargetError: It names a class that is not allowed.
        """
        from pneumonia.models.checkpoints import check_checkpoint, load_classifier  # imports torch

        classifier = load_classifier(self.folder.best, self.task, tta=tta)
        check_checkpoint(classifier, self.config if tta is None else replace(self.config, tta=tta), self.folder.best)
        return classifier

    def validation_predictions(self) -> pd.DataFrame:
        """Return the predictions of the best epoch for the validation images.

        Raises:
            RunError: Their file is missing or damaged.
        """
        return read_predictions(self.folder.predictions("val"), self.task, RETRAIN)

    @property
    def why_uncalibrated(self) -> str:
        """Why neither temperature nor thresholds can be chosen on the validation predictions; empty where they can."""
        if self.config.split.method == "rotating":
            return "split=rotating has trained on its validation images, so nothing can be chosen on them"
        return "" if self.folder.predictions("val").is_file() else "the run folder holds no predictions/val.parquet"

    def temperature(self) -> Temperature:
        """Fit the temperature on the validation predictions.

        Raises:
            RunError: They are damaged.
        """
        if self.why_uncalibrated:
            return Temperature(None, self.why_uncalibrated)
        probability, label = prediction_arrays(self.validation_predictions(), self.task.classes)
        return fit_temperature(probability.astype(np.float64), label)

    def predict(self, images: str | PathLike[str] | Iterable[str | PathLike[str]]) -> pd.DataFrame:
        """Predict image files, decoded and normalized as in training.

        Args:
            images: A file, or several.

        Returns:
            One row per file: ``image``, ``predicted``, ``prob_<class>`` (calibrated where :meth:`temperature` is defined) and
            ``raw_<class>`` (uncalibrated).

        Raises:
            BrokenImagesError: Lists the files that cannot be read.
            ConfigError: ``images`` holds something else than paths.
            CheckpointError, TargetError: See :meth:`load_model`.
        """
        from pneumonia.runs.predictions import predict_file  # imports torch

        files = paths("images", images)
        classifier, classes = self.load_model(), self.task.classes
        names, raw, problems = [], [], {}
        for path in files:
            try:
                raw.append(predict_file(classifier, path)[1])
                names.append(str(path))
            except UnreadableImageError as error:
                problems[str(path)] = str(error)
        if problems:
            raise broken_images(problems, "Leave them out, or repair them.")
        probability = np.array(raw).reshape(-1, len(classes))
        calibrated = apply_temperature(probability, self.temperature())
        columns = {f"{PROBABILITY_PREFIX}{name}": calibrated[:, k] for k, name in enumerate(classes)}
        columns |= {f"raw_{name}": probability[:, k] for k, name in enumerate(classes)}
        return pd.DataFrame({"image": names, "predicted": predicted_classes(probability, classes), **columns})


def load_finished_run(path: str | PathLike[str]) -> FinishedRun:
    """Load a finished run from its folder; imports no torch.

    Raises:
        RunError: The folder is missing, is no run folder, or its training did not end as its config says.
        ConfigError: ``path`` is no path.
    """
    if not isinstance(path, str | PathLike):
        raise ConfigError(f"path={path!r} is no path. Use the folder that `pneumonia train` printed.")
    path = Path(path)
    if not path.is_dir():
        what = f"{path} is a file, not a run folder" if path.exists() else f"There is no run folder {path}"
        raise RunError(f"{what}. `pneumonia train` prints the folder of its run.")
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise RunError(f"{path} is not a run folder: {_what_instead(path)}")
    result = read_result(folder)
    if result is None:
        raise RunError(f"The run in {path} did not finish. Run the same `pneumonia train` again to resume it.")
    if not result.completed:
        raise RunError(f"The run in {path} {result.shortened}. Train it without, or name another run.")
    return FinishedRun(folder, result)


def read_split(folder: RunFolder, result: RunResult) -> pd.DataFrame:
    """Read the split of a run: ``image_id``, ``subset``, ``fold``.

    Raises:
        RunError: Its file is missing or damaged.
    """
    path = folder.split(result.data.split_sha256)
    try:
        return pd.read_parquet(path, columns=["image_id", "subset", "fold"])
    except (OSError, ValueError) as error:
        what = "is damaged" if path.is_file() else "is missing"
        raise RunError(f"{path} {what}, which holds the split of the training. {RETRAIN}") from error


def _what_instead(path: Path) -> str:
    """Return what a folder without a config is, and what to name instead."""
    if (path / "ensemble.json").is_file():
        return "it is an evaluation of several runs. Repeat `pneumonia evaluate RUN... --ensemble` with them."
    inside = next(path.glob("*/config.yaml"), None)
    if inside is not None:
        return f"it is a folder of runs. Name one of them, for example {inside.parent}."
    return "it holds no config.yaml. Name the folder that `pneumonia train` printed."
