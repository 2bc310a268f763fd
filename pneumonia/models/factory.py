"""Build the classifier of a config for the images of a data module."""

from collections.abc import Collection
from dataclasses import replace
from inspect import signature
from typing import Any, Final, get_type_hints

import torch

from pneumonia.config.convert import to_plain
from pneumonia.config.declarations import check_value
from pneumonia.config.schema import TrainConfig
from pneumonia.config.targets import check_allowed, check_class, imported, target_of
from pneumonia.data.datamodule import XRayDataModule
from pneumonia.data.normalization import FITTED, NO_COUNTS, fit_scaling
from pneumonia.errors import ConfigError, TargetError, nearest
from pneumonia.models.base import Classifier
from pneumonia.models.options import BALANCED, ClassifierOptions, Plain, fit_options

PACKAGES: Final = ("pneumonia.models",)  # of families that any file may name
MODEL: Final = "model._target_"


def build_model(config: TrainConfig, datamodule: XRayDataModule) -> Classifier:
    """Build the classifier of a config for the images of a data module.

    Args:
        config: From :func:`pneumonia.config.compose.compose`.
        datamodule: Gives task, image size, class counts and the range of the grey levels; its data are loaded.

    Raises:
        PneumoniaError: Bad data, an option that the family can't take, or an argument of another type.
    """
    if not isinstance(config, TrainConfig):
        raise ConfigError(f"config has the type {type(config).__name__}. Use the TrainConfig that pneumonia.compose returns.")
    if not isinstance(datamodule, XRayDataModule):
        raise ConfigError(
            f"datamodule has the type {type(datamodule).__name__}, and a model depends on its classes and grey levels. Use "
            "XRayDataModule(config.data, config.split, ...)."
        )
    datamodule.prepare_data()
    datamodule.setup("fit")
    options = replace(options_from_config(config), task=datamodule.task, image_size=datamodule.image_size)
    return build_classifier(to_plain(config.model), fit_options(options, datamodule))


def options_from_config(config: TrainConfig) -> ClassifierOptions:
    """Return the options of a classifier, those that are fitted on the training subset by the name of their method."""
    method = config.normalisation
    return ClassifierOptions(
        task=config.task.build(),
        channels=config.channels,
        image_size=config.image_size,
        resize=config.data.resize,
        scaling=method if method in FITTED else fit_scaling(method, NO_COUNTS),
        seed=config.seed,
        optimizer=to_plain(config.optimizer),
        scheduler=to_plain(config.scheduler),
        label_smoothing=config.label_smoothing,
        class_weights=BALANCED if config.class_weights == BALANCED else None,
        mixup=config.mixup,
        ema=config.ema,
        swa=config.swa,
        tta=config.tta,
        max_steps=config.trainer.max_steps,
        own_targets=own_targets(config),
    )


def build_classifier(model: Plain, options: ClassifierOptions) -> Classifier:
    """Build the family that a config node names, with its keys as keyword arguments.

    Args:
        model: The node.
        options: The options that all families share; the seed determines the initial weights.

    Raises:
        TargetError: ``_target_`` names no family, or one that may not be imported.
        ConfigError: A key that the family does not have, or a value that it can't take.
    """
    arguments: Any = dict(model)
    family = family_of(model, options.own_targets)
    target = arguments.pop("_target_")
    _check_arguments(family, arguments)
    torch.manual_seed(options.seed)
    classifier: Classifier = family(replace(options, family=target), **arguments)
    classifier.configure_model()
    return classifier


def _check_arguments(family: type[Classifier], arguments: Plain) -> None:
    """Compare arguments with the signature of a family.

    Raises:
        ConfigError: An argument that it does not have, or a value of another type.
    """
    constructor: Any = family.__init__
    hints = get_type_hints(constructor)
    known = [name for name, one in signature(constructor).parameters.items() if one.kind is one.KEYWORD_ONLY]
    for name, value in arguments.items():
        if name not in known:
            raise ConfigError(
                f"model.{name} is not an option of {family.__name__}; it has {', '.join(known) or 'none'}.{nearest(name, known)}"
            )
        check_value(f"model.{name}", value, hints.get(name, Any))


def family_of(model: Plain, own: Collection[str] = (), setting: str = MODEL) -> type[Classifier]:
    """Import the class that a config node names.

    Args:
        model: The node.
        own: Targets of the user's own config, which may lie in any package.
        setting: Name of the target in messages.

    Raises:
        TargetError: It is not a family, or may not be imported.
    """
    target = target_of(model, setting.rpartition(".")[0])
    check_allowed(target, setting, PACKAGES, own)
    try:
        found = imported(target)
    except Exception as error:  # a user's module may raise anything when it is imported
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
    """Return the targets of the user's own config, which may lie in any package."""
    return config.model._target_, config.optimizer._target_, config.scheduler._target_
