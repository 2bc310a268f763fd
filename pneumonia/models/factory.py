"""Build a classifier from a config, or load one from a checkpoint."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, get_type_hints

import numpy as np
import torch
from torch import nn

from pneumonia.config.convert import to_plain
from pneumonia.config.declarations import Rule, check_value, rule_of
from pneumonia.config.schema import TrainConfig
from pneumonia.config.targets import check_allowed, check_class, imported, target_of
from pneumonia.data.datamodule import XRayDataModule
from pneumonia.data.normalization import FITTED, Scaling, fit_scaling, histogram
from pneumonia.errors import CheckpointError, ConfigError, TargetError
from pneumonia.models.base import CHECKPOINT_KEY, Classifier
from pneumonia.models.components.batch_norm import has_batch_norm
from pneumonia.models.options import ClassifierOptions
from pneumonia.models.signature_checks import check_kinds
from pneumonia.system.parallel import available_cores

RETRAIN: Final = "Train the run again, with force=true."
PACKAGES: Final = ("pneumonia.models",)  # of families that any file may name
MODEL: Final = "model._target_"
# Settings of a run that its checkpoints hold too.
OF_THE_RUN = (
    *("seed", "image_size", "channels", "optimizer", "scheduler"),
    *("label_smoothing", "mixup", "ema", "swa", "tta"),
)
NEUTRAL: dict[str, Any] = {
    "mixup": 0.0,
    "label_smoothing": 0.0,
    "class_weights": "none",
    "ema": None,
    "swa": None,
    "trainer.gradient_clip_val": None,
    "trainer.accumulate_grad_batches": 1,
    "trainer.limit_train_batches": 1.0,
}


def build_classifier(model: Mapping[str, Any], options: ClassifierOptions, own: Collection[str] = ()) -> Classifier:
    """Build a classifier of the family that a config node names.

    Args:
        model: The node.
        options: Settings of every family.
        own: Targets of the user's own config, which may be in any package.

    Raises:
        TargetError: ``_target_`` names no family, or one that may not be imported.
        ConfigError: A key is not one of its own, or a value is none that it can take.
    """
    settings = dict(model)
    family = family_of(settings, own)
    del settings["_target_"]
    check_kinds(family, settings)
    torch.manual_seed(options.seed)
    classifier: Classifier = family(options, **settings)
    classifier.model_config, classifier.own_targets = dict(model), tuple(own)
    if _may_use_channels_last(classifier.network):
        classifier.network.to(memory_format=torch.channels_last)  # twice as fast on CPUs at these sizes
    classifier.follow_weights()
    return classifier


def build_model(config: TrainConfig, datamodule: XRayDataModule) -> Classifier:
    """Build the classifier of a config for the images of a data module.

    Args:
        config: From :func:`pneumonia.config.compose.compose`.
        datamodule: Gives task, image size, class counts and the range of the grey levels; its data are loaded.

    Raises:
        PneumoniaError: Bad data, or a setting that the family can't take.
    """
    datamodule.prepare_data()
    datamodule.setup("fit")
    options = replace(
        options_from_config(config, datamodule), task=datamodule.task.name, image_size=datamodule.image_size
    )
    return build_classifier(to_plain(config.model), options, own_targets(config))


def options_from_config(config: TrainConfig, data: XRayDataModule | None = None) -> ClassifierOptions:
    """Return the options of a classifier; normalisation and class weights are fitted on the training subset of ``data``."""
    weights, scaling = None, Scaling()
    if data is not None:
        rows = data.rows("train") if config.normalisation in FITTED else data.rows("train")[:0]
        scaling = fit_scaling(config.normalisation, histogram(data.images.pixels, rows))
        if config.class_weights == "balanced":
            counts = data.counts("train").astype(np.float64)
            weights = [float(value) for value in counts.sum() / (len(counts) * counts)]
    return ClassifierOptions(
        task=config.task,
        channels=config.channels,
        image_size=config.image_size,
        resize=config.data.resize,
        scaling=asdict(scaling),
        seed=config.seed,
        optimizer=to_plain(config.optimizer),
        scheduler=to_plain(config.scheduler),
        label_smoothing=config.label_smoothing,
        class_weights=weights,
        mixup=config.mixup,
        ema=config.ema,
        swa=config.swa,
        tta=config.tta,
        max_steps=config.trainer.max_steps,
    )


def family_of(model: Mapping[str, Any], own: Collection[str] = (), setting: str = MODEL) -> type[Classifier]:
    """Return the class that a config node names.

    Args:
        model: The node.
        own: Targets of the user's own config, which may be in any package.
        setting: What a message calls the target.

    Raises:
        TargetError: It is no family, or may not be imported.
    """
    target = target_of(model, setting.rpartition(".")[0])
    check_allowed(target, setting, PACKAGES, own)
    try:
        found = imported(target)
    except Exception as error:  # a module of the user's may raise anything as it is imported
        why = str(error).partition("\n")[0]
        raise TargetError(
            f"{setting}={target} names no class that can be imported ({why}). Use model=NAME with a file of conf/model, "
            "or put your module on PYTHONPATH."
        ) from error
    family = check_class(found, target, Classifier, PACKAGES, own)
    if family is None:
        raise TargetError(f"{setting}={target} is not a family: it must subclass pneumonia.models.base.Classifier.")
    return family


def own_targets(config: TrainConfig) -> tuple[str, ...]:
    """Return the targets that the user's own config names; they may be in any package."""
    return config.model._target_, config.optimizer._target_, config.scheduler._target_


def check_family(config: TrainConfig) -> None:
    """Refuse options that the family does not use.

    Raises:
        ConfigError: With the setting and what to do.
    """
    family = family_of(to_plain(config.model), own_targets(config))
    if family.full_batch and config.split.rules.rotates:
        raise ConfigError(
            f"split={config.split.method} changes the training split from epoch to epoch, and {family.__name__} learns "
            f"{family.training_rule}. "
            "Use split=kfold, where each fold is a run of its own."
        )
    swa, patience = config.swa, config.early_stopping.patience
    if swa is not None and patience is not None:
        raise ConfigError(
            f"swa={swa} with early_stopping.patience={patience}: the run may stop before there is a mean of weights. Use "
            "early_stopping.patience=null, or ema=0.99 in place of swa."
        )
    for key in family.unsupported_options:
        if key == "augmentation":
            value = next((f"{name}={part}" for name, part in to_plain(config.augmentation).items() if part), None)
            wrong, shown, neutral = value is not None, f"augmentation.{value}", "augmentation=none"
        else:
            value = attrgetter(key)(config)
            wrong, shown, neutral = value != NEUTRAL[key], f"{key}={value}", f"{key}={_word(NEUTRAL[key])}"
        if wrong:
            raise ConfigError(
                f"{shown} has no effect on {family.__name__}, which learns {family.training_rule}. "
                f"Use {neutral}, or another model."
            )


def check_processes(classifier: Classifier, config: TrainConfig) -> None:
    """Refuse options that several processes can not train with, or would with other results than one.

    Raises:
        ConfigError: With the setting and what to do.
    """
    devices, frozen = config.trainer.devices, getattr(config.model, "frozen_epochs", 0)
    if devices == 1:
        return
    said, why = f"trainer.devices={devices}", ""
    gpus = torch.cuda.device_count()
    if gpus and config.trainer.accelerator in {"auto", "gpu"} and devices > gpus:
        why = f"asks for more GPUs than the {gpus} that are seen here"
    elif not gpus and devices > max(2, available_cores()):
        why = f"are more processes than the {available_cores()} cores here, and each wants one"
    elif classifier.training_rule:
        why = f"is of no use to {type(classifier).__name__}, which learns {classifier.training_rule}"
    elif config.mixup:
        why = f"does not go with mixup={config.mixup}: each process would blend only its own images"
    elif frozen:
        why = f"does not go with model.frozen_epochs={frozen}: what is thawed later would not be shared"
    elif config.logger.kind == "wandb":
        why = "does not go with logger=wandb. Say logger=csv, and `pneumonia track push` afterwards"
    elif not gpus and has_batch_norm(classifier.network):
        why = (
            f"does not go with the batch normalisation of {type(classifier).__name__} on CPUs: each process would normalise by "
            "its own images alone. Take a network without it, such as model=simple_cnn"
        )
    if why:
        raise ConfigError(f"{said} {why}. Say trainer=default to train in one process.")


def _word(value: Any) -> str:
    return "null" if value is None else str(value)


def _may_use_channels_last(network: nn.Module) -> bool:
    """Return whether every convolution has a multiple of 16 channels.

    With others, torch 2.15 on CPUs writes past its buffers in a channels-last backward pass when the batch size varies,
    as it does at the end of an epoch ("double free or corruption"); seen at 8 and 12 channels.
    """
    return all(layer.out_channels % 16 == 0 for layer in network.modules() if isinstance(layer, nn.Conv2d))


def load_classifier(path: Path, task: str | None = None, own: Collection[str] = ()) -> Classifier:
    """Load a classifier in evaluation mode on the CPU.

    Args:
        path: A checkpoint of ours; read with ``weights_only``, so nothing in it is executed.
        task: Refuse a checkpoint of another task.
        own: Targets of the user's own config; any other must lie in this package, or be allowed by name.

    Raises:
        CheckpointError: Missing, unreadable, not ours, or of another task.
        TargetError: It names no family, or one that may not be imported.
    """
    if not path.is_file():
        raise CheckpointError(
            f"There is no checkpoint {path}. Train the run to its end (with force=true where it says that it is finished), or "
            "name another."
        )
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        held = saved[CHECKPOINT_KEY]
        known = {item.name for item in fields(ClassifierOptions)}
        options = ClassifierOptions(**{key: value for key, value in held["options"].items() if key in known})
        model, weights = dict(held["model"]), dict(saved["state_dict"])
    except Exception as error:
        raise CheckpointError(
            f"{path} is not a checkpoint that pneumonia wrote, or it is damaged ({type(error).__name__}). {RETRAIN}"
        ) from error
    if task is not None and options.task != task:
        raise CheckpointError(
            f"{path} was trained for task={options.task}, and task={task} was asked: its outputs are other classes. "
            f"Say task={options.task}, or name another run."
        )
    _check_options(options, path)
    family = family_of(model, own, f"{path}: {MODEL}")
    classifier = build_classifier(family.as_restored(model), options, own)
    classifier.model_config = model
    try:
        classifier.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{path} holds weights of another shape than its settings say: {error}") from error
    broken = [name for name, weight in classifier.named_parameters() if not bool(weight.isfinite().all())]
    if broken:
        raise CheckpointError(
            f"{path}: {len(broken)} of its weights hold NaN or infinity, for example {broken[0]}, so every probability would be "
            f"undefined. {RETRAIN}"
        )
    return classifier.eval()


def _check_options(options: ClassifierOptions, path: Path) -> None:
    """Refuse options that no run writes into a checkpoint."""
    rules = {item.name: rule_of(item) for item in fields(TrainConfig)}
    values, hints = dict(vars(options)), get_type_hints(ClassifierOptions)
    if isinstance(options.scaling, dict):
        values |= {f"scaling.{name}": options.scaling.get(name) for name in ("shift", "scale")}
    rules["scaling.scale"] = Rule(lambda scale: scale > 0, "above 0")
    del rules["class_weights"]  # the options hold the weights themselves, the config their name
    for name, value in values.items():
        try:
            check_value(name, value, hints.get(name, float), rules.get(name))
        except ConfigError as error:
            raise CheckpointError(f"{path} holds a value that no run writes: {str(error)[:400]} {RETRAIN}") from error


def check_checkpoint(classifier: Classifier, config: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint of another run, as far as its options show.

    Args:
        classifier: From :func:`load_classifier`.
        config: Of the run, whose checkpoint it should be.
        path: For the message.

    Raises:
        CheckpointError: With the first setting that differs.
    """
    options = asdict(classifier.options)
    family = str(classifier.model_config.get("_target_"))
    keys = [
        key for key in OF_THE_RUN if not (key == "optimizer" and classifier.training_rule)
    ]  # it replaces the optimizer
    held = {"model": family, **{key: options[key] for key in keys}}
    wanted = {"model": str(config["model"]["_target_"]), **{key: config[key] for key in OF_THE_RUN}}
    for key, value in held.items():
        if value != wanted[key]:
            raise CheckpointError(
                f"{path} is of another run: it was trained with {key}={value}, and this run with {key}={wanted[key]}. Put the "
                "run's own checkpoint back, or train it again with force=true."
            )
