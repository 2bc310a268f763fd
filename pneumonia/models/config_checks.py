"""Refuse configs with options that have no effect on their family, or that several processes can't train."""

from operator import attrgetter
from typing import Final

import torch

from pneumonia.config.convert import to_plain
from pneumonia.config.declarations import shown
from pneumonia.config.schema import TrainConfig
from pneumonia.errors import ConfigError
from pneumonia.models.base import Classifier
from pneumonia.models.components.batch_norm import has_batch_norm
from pneumonia.models.factory import family_of, own_targets
from pneumonia.system.device import process_count
from pneumonia.system.parallel import available_cores

NEUTRAL: Final[dict[str, float | str | None]] = {
    "mixup": 0.0,
    "label_smoothing": 0.0,
    "class_weights": "none",
    "ema": None,
    "swa": None,
    "trainer.gradient_clip_val": None,
    "trainer.accumulate_grad_batches": 1,
    "trainer.limit_train_batches": 1.0,
    "trainer.overfit_batches": None,
}


def check_family(config: TrainConfig) -> None:
    """Refuse options that have no effect on the family.

    Raises:
        ConfigError: With the option and what to do.
    """
    family = family_of(to_plain(config.model), own_targets(config))
    if family.full_batch and config.split.rules.rotates:
        raise ConfigError(
            f"split={config.split.method} changes the training subset from epoch to epoch, and {family.__name__} learns "
            f"{family.training_rule}. Use split=kfold, where each fold is a run of its own."
        )
    swa, stopping = config.swa, config.early_stopping_keys()
    if swa is not None and stopping:
        raise ConfigError(
            f"swa={swa} with {stopping[0]}: the run may stop before weights are averaged. Leave {stopping[0]} out, or use "
            "ema=0.99 instead of swa."
        )
    for key in family.unsupported_options:
        if key == "augmentation":
            value = next((f"{name}={part}" for name, part in to_plain(config.augmentation).items() if part), None)
            wrong, option, neutral = value is not None, f"augmentation.{value}", "augmentation=none"
        else:
            value = attrgetter(key)(config)
            wrong, option, neutral = value != NEUTRAL[key], f"{key}={value}", f"{key}={shown(NEUTRAL[key])}"
        if wrong:
            raise ConfigError(
                f"{option} has no effect on {family.__name__}: it learns {family.training_rule}. Use {neutral}, or another model."
            )


def check_processes(classifier: Classifier, config: TrainConfig) -> None:
    """Refuse what several processes that train one network together can't do, or would do differently.

    Raises:
        ConfigError: With the option and what to do.
    """
    devices, frozen = process_count(config.trainer), getattr(config.model, "frozen_epochs", 0)
    if devices == 1:
        return
    gpus, family, why = torch.cuda.device_count(), type(classifier).__name__, ""
    if gpus and config.trainer.accelerator in {"auto", "gpu"} and devices > gpus:
        why = f"needs more GPUs than the {gpus} of this machine"
    elif not gpus and devices > max(2, available_cores()):
        why = f"needs more cores than the {available_cores()} of this machine"
    elif classifier.training_rule:
        why = f"does not help {family}, which learns {classifier.training_rule}"
    elif config.mixup:
        why = f"can't be combined with mixup={config.mixup}: each process would blend only its own images"
    elif frozen:
        why = f"can't be combined with model.frozen_epochs={frozen}: layers that are unfrozen later would not be shared"
    elif trackers := config.logger.trackers:
        why = f"can't be combined with logger={trackers[0]}. Use logger=csv, and `pneumonia track push` afterwards"
    elif not gpus and has_batch_norm(classifier.network):
        why = (
            f"can't be combined with the batch normalisation of {family} on CPUs: each process would normalise by its own "
            "images alone. Use a network without it, such as model=simple_cnn"
        )
    if why:
        raise ConfigError(f"trainer.devices={config.trainer.devices} {why}. Use trainer=default to train in one process.")
