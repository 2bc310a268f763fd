"""Prepare a run: load its data and build its classifier."""

from dataclasses import dataclass
from pathlib import Path

import torch
from lightning import seed_everything
from lightning.pytorch.callbacks import Callback

from pneumonia.config.convert import to_plain
from pneumonia.config.names import CLASS_MEANS
from pneumonia.config.nodes import TrainerConfig
from pneumonia.config.schema import TrainConfig
from pneumonia.config.trainer_limits import LIMITS, shortening
from pneumonia.data.datamodule import XRayDataModule
from pneumonia.data.run_data_cache import RunDataCache
from pneumonia.data.splits.files import check_split_file
from pneumonia.errors import ConfigError, some
from pneumonia.models.base import Classifier
from pneumonia.models.config_checks import check_family, check_processes
from pneumonia.models.factory import build_classifier, options_from_config, own_targets
from pneumonia.models.initial_weights import load_initial_weights
from pneumonia.models.optimization import build_optimizer, build_schedule
from pneumonia.system.console import quiet
from pneumonia.system.device import check_device, device_of
from pneumonia.system.memory import keep_freed_memory
from pneumonia.training.config_callbacks import build_callbacks
from pneumonia.training.continuation import Continuation, continuation_of
from pneumonia.training.loggers.tracking import check_tracking
from pneumonia.training.throughput import reset_peak_memory


@dataclass(frozen=True)
class PreparedRun:
    """What a run needs before its first step.

    Attributes:
        classifier: With its first weights.
        data: Loaded.
        callbacks: Of the config.
        continuation: Of ``ckpt_path``.
        initial_weights: A message about ``init_from``; empty without it.
    """

    classifier: Classifier
    data: XRayDataModule
    callbacks: list[Callback]
    continuation: Continuation | None
    initial_weights: str


def prepare_run(config: TrainConfig, data_cache: RunDataCache) -> PreparedRun:
    """Load and check all that a run needs before its first step.

    Args:
        config: From :func:`pneumonia.config.compose.compose`.
        data_cache: Holds what earlier runs of this process have loaded.

    Raises:
        PneumoniaError: Bad data, or a setting that the data or the family can't take.
    """
    quiet()
    keep_freed_memory()
    seed_everything(config.seed, verbose=False)
    reset_peak_memory()
    classifier, callbacks, continuation, initial = prepare_without_data(config)
    data = build_datamodule(config, data_cache)
    data.prepare_data()
    data.setup("fit")
    _check_limits(config, data)
    _check_interval(config, data)
    check_monitor(config, data)
    return PreparedRun(classifier, data, callbacks, continuation, initial)


def prepare_without_data(config: TrainConfig) -> tuple[Classifier, list[Callback], Continuation | None, str]:
    """Check and build all that a run needs beside its data.

    Returns:
        The attributes of :class:`PreparedRun` but ``data``.

    Raises:
        PneumoniaError: A setting that the family can't take, a bad callback, or a file that is missing or does not fit.
    """
    classifier = checked_classifier(config)
    callbacks = build_callbacks(config, config.monitor or classifier.default_monitor)
    continuation = continuation_of(config)
    init_from = config.init_from
    initial = "" if init_from is None else load_initial_weights(classifier, init_from, own_targets(config))
    if config.split.file is not None:
        check_split_file(Path(config.split.file))
    return classifier, callbacks, continuation, initial


def checked_classifier(config: TrainConfig) -> Classifier:
    """Build the classifier of a config, before any data are read.

    Raises:
        PneumoniaError: The family, optimizer, schedule or logger does not support an option; with what to do.
    """
    check_tracking(config.logger)
    check_device(config.trainer)
    check_family(config)
    classifier = build_classifier(to_plain(config.model), options_from_config(config))
    check_processes(classifier, config)
    if config.batch_size == 1 and not classifier.full_batch:
        classifier.check_single_images()
    own = own_targets(config)
    optimizer = build_optimizer(classifier.parameter_groups(), classifier.optimizer_config(), own)
    build_schedule(optimizer, classifier.options.scheduler, 1, 1, own)
    if device_of(config.trainer).type == "cuda":  # its convolutions are fastest with it; not safe for all on CPUs
        classifier.network.to(memory_format=torch.channels_last)
    return classifier


def check_monitor(config: TrainConfig, data: XRayDataModule) -> None:
    """Refuse a ``monitor`` that is undefined for the validation images of an epoch.

    Raises:
        ConfigError: With the class that has no image.
    """
    monitor, trainer = config.monitor, config.trainer
    if monitor not in CLASS_MEANS:
        return
    limits = " and ".join(word for word in shortening(trainer) if "limit_train" not in word)
    epochs = config.max_epochs if data.rotate_every else 1
    for epoch in range(0, epochs, data.rotate_every or 1):
        positions = data.positions("val", epoch)[: _validated(trainer, data.val_batches(epoch), data.evaluation_size)]
        shown = set(data.labels[positions].tolist())
        missing = [name for number, name in enumerate(data.task.classes) if number not in shown]
        if missing:
            where = f" in epoch {epoch + 1}" if epoch else ""
            limited = f" with {limits}" if limits else ""
            other = f"leave {limits} out" if limits else "choose a split whose validation split holds every class"
            raise ConfigError(
                f"monitor={monitor} is undefined{where}: the validation split{limited} holds no image of {some(missing)}, "
                f"and the monitor is a mean over all classes, so no epoch is the best. Use monitor=val/loss, or {other}."
            )


def _check_limits(config: TrainConfig, data: XRayDataModule) -> None:
    """Refuse a fraction of the batches that leaves none.

    Raises:
        ConfigError: With the number of batches there are.
    """
    epochs = range(config.max_epochs if data.rotate_every else 1)
    for key, batches in zip(LIMITS, (data.train_batches, data.val_batches), strict=True):
        fewest = min(batches(epoch) for epoch in epochs)
        for name in (key, "overfit_batches"):
            limit = getattr(config.trainer, name)
            if isinstance(limit, float) and int(limit * fewest) == 0:
                raise ConfigError(
                    f"trainer.{name}={limit} of {fewest} batches leaves none. Use a number of batches, or a larger fraction."
                )


def _check_interval(config: TrainConfig, data: XRayDataModule) -> None:
    """Refuse validations within epochs that leave out their end.

    Raises:
        ConfigError: With the intervals that do not.
    """
    interval, limit = config.trainer.val_check_interval, config.trainer.limit_train_batches
    if interval == 1.0 and isinstance(interval, float):
        return
    for epoch in range(config.max_epochs if data.rotate_every else 1):
        whole = data.train_batches(epoch)
        batches = int(whole * limit) if isinstance(limit, float) else min(whole, limit)
        step = interval if isinstance(interval, int) else max(1, int(batches * interval))
        if batches % step:
            good = [number for number in range(1, batches + 1) if batches % number == 0]
            raise ConfigError(
                f"trainer.val_check_interval={interval} validates every {step} of {batches} batches, so the end of the epoch is "
                f"not validated. Use a number of batches that divides {batches}: {some(good, 8)}."
            )


def _validated(trainer: TrainerConfig, batches: int, size: int) -> int:
    """Return the maximum number of validated images of an epoch, in their order."""
    limit = int(trainer.fast_dev_run) or trainer.overfit_batches or trainer.limit_val_batches
    return (int(batches * limit) if isinstance(limit, float) else int(limit)) * size


def build_datamodule(config: TrainConfig, data_cache: RunDataCache | None = None) -> XRayDataModule:
    """Build the data module of a config, without reading any data."""
    return XRayDataModule(
        config.data,
        config.split,
        task=config.task.build(),
        image_size=config.image_size,
        batch_size=config.batch_size,
        augmentation=config.augmentation,
        augmenter=config.augmenter,
        seed=config.seed,
        num_workers=config.num_workers,
        cache_dir=config.cache_dir,
        data_cache=data_cache,
        overfit=config.trainer.overfit_batches is not None,
    )
