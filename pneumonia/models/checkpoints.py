"""Load a classifier from a checkpoint of a run, without executing anything in it."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from pneumonia.config.convert import to_plain
from pneumonia.config.schema import TrainConfig
from pneumonia.errors import CheckpointError, ConfigError
from pneumonia.models.base import Classifier
from pneumonia.models.factory import MODEL, build_classifier, family_of
from pneumonia.models.options import ClassifierOptions
from pneumonia.tasks import Task

HYPERPARAMETERS: Final = Classifier.CHECKPOINT_HYPER_PARAMS_KEY  # Lightning saves them
RETRAIN: Final = "Train the run again, with force=true."
SHARED: Final = (  # options that a run's config has too
    *("seed", "image_size", "channels", "optimizer", "scheduler"),
    *("label_smoothing", "mixup", "ema", "swa", "tta"),
)


def load_classifier(path: Path, task: Task | None = None, own: Collection[str] = (), tta: str | None = None) -> Classifier:
    """Load a classifier in evaluation mode, on the CPU.

    Args:
        path: A checkpoint of a run; read with ``weights_only``, so nothing in it is executed.
        task: Refuse a checkpoint of another task.
        own: Targets of the user's own config; any other must lie in this package, or be allowed by name.
        tta: Test-time augmentation to use instead of that of the training.

    Raises:
        CheckpointError: Missing, unreadable, not of a run, or of another task.
        TargetError: It names no family, or one that may not be imported.
    """
    if not path.is_file():
        raise CheckpointError(
            f"There is no checkpoint {path}. Train the run to its end (with force=true if it is finished), or name another."
        )
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        model = dict(saved[HYPERPARAMETERS])
        values, weights = dict(model.pop("options")), dict(saved["state_dict"])
    except Exception as error:
        raise CheckpointError(
            f"{path} is not a checkpoint that pneumonia wrote, or it is damaged ({type(error).__name__}). {RETRAIN}"
        ) from error
    try:
        options = ClassifierOptions.from_plain(values)
    except ConfigError as error:
        raise CheckpointError(f"{path} holds a value that no run writes: {str(error)[:400]} {RETRAIN}") from error
    if task is not None and options.task != task:
        raise CheckpointError(
            f"{path} was trained for task={options.task.name} ({options.task.title}), and task={task.name} ({task.title}) was "
            f"asked: its outputs are other classes. Use task={options.task.name}, or name another run."
        )
    family_of(model, own, f"{path}: {MODEL}")
    classifier = build_classifier(model, replace(options, own_targets=tuple(own), tta=tta or options.tta))
    try:
        classifier.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{path} holds weights of another shape than its options: {error}") from error
    broken = [name for name, weight in classifier.named_parameters() if not bool(weight.isfinite().all())]
    if broken:
        raise CheckpointError(
            f"{path}: {len(broken)} of its weights hold NaN or infinity, for example {broken[0]}, so every probability would be "
            f"undefined. {RETRAIN}"
        )
    return classifier.eval()


def check_checkpoint(classifier: Classifier, config: TrainConfig, path: Path) -> None:
    """Refuse a checkpoint of another run, as far as its options tell.

    Args:
        classifier: From :func:`load_classifier`.
        config: Of the run, as plain values.
        path: For the message.

    Raises:
        CheckpointError: With the first option that differs.
    """
    options, values = classifier.options.to_plain(), to_plain(config)
    held = {"model": options["family"], **{key: options[key] for key in SHARED}}
    wanted = {"model": config.model._target_, **{key: values[key] for key in SHARED}}
    for key, value in held.items():
        if value != wanted[key]:
            raise CheckpointError(
                f"{path} is of another run: it was trained with {key}={value}, and this run with {key}={wanted[key]}. Put the "
                "run's own checkpoint back, or train it again with force=true."
            )
