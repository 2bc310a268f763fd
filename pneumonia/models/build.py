"""From a config node or a checkpoint to a classifier of the family that it names."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class
from torch import nn

from pneumonia.errors import CheckpointError, ConfigError
from pneumonia.models.base import CHECKPOINT_KEY, Classifier, Setup
from pneumonia.models.batch_norm import has_batch_norm
from pneumonia.models.kinds import check_kinds
from pneumonia.parallel import available_cores

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


def build_classifier(model: Mapping[str, Any], setup: Setup) -> Classifier:
    """The family that a config node names, with its keys.

    Raises:
        ConfigError: ``_target_`` is no family of ours, a key is not one of its own, or a value is none that it can take.
    """
    settings = dict(model)
    family = family_of(settings)
    del settings["_target_"]
    check_kinds(family, settings)
    torch.manual_seed(setup.seed)
    classifier: Classifier = family(setup, **settings)
    classifier.model_config = dict(model)
    if _may_use_channels_last(classifier.network):
        classifier.network.to(memory_format=torch.channels_last)  # twice as fast on CPUs at these sizes
    classifier.follow_weights()
    return classifier


def family_of(model: Mapping[str, Any]) -> type[Classifier]:
    """The class that a config node names.

    Raises:
        ConfigError: It is no family of ours.
    """
    target = str(model.get("_target_") or "")
    if not target:
        raise ConfigError(
            "The model's YAML file has no _target_, so that no one knows its class. Begin it with "
            "`_target_: package.module.Class`."
        )
    try:
        family = get_class(target)
    except Exception as error:
        why = str(error.__cause__ or error).partition("\n")[0]
        raise ConfigError(
            f"model._target_={target} names no class that can be imported ({why}). Use model=NAME with a file of conf/model, "
            "or put your module on PYTHONPATH."
        ) from error
    if not issubclass(family, Classifier):  # also keeps a hostile checkpoint from calling anything else
        raise ConfigError(
            f"model._target_={target} is not a family: it must subclass pneumonia.models.base.Classifier."
        )
    return family


def check_family(config: Mapping[str, Any]) -> None:
    """Refuses settings of a run that its family would not heed.

    Raises:
        ConfigError: With the setting and what to do.
    """
    family = family_of(config["model"])
    if family.whole_part and config["split"]["method"] == "rotating":
        raise ConfigError(
            f"split=rotating changes the training part from epoch to epoch, and {family.__name__} learns {family.own_rule}. "
            "Use split=kfold, where each fold is a run of its own."
        )
    swa, patience = config["swa"], config["early_stopping"]["patience"]
    if swa is not None and patience is not None:
        raise ConfigError(
            f"swa={swa} with early_stopping.patience={patience}: the run may stop before there is a mean of weights. Say "
            "early_stopping.patience=null, or ema=0.99 in place of swa."
        )
    for key in family.refuses:
        if key == "augmentation":
            value = next((f"{name}={part}" for name, part in config[key].items() if part), None)
            wrong, shown, neutral = value is not None, f"augmentation.{value}", "augmentation=none"
        else:
            value = _lookup(config, key)
            wrong, shown, neutral = value != NEUTRAL[key], f"{key}={value}", f"{key}={_word(NEUTRAL[key])}"
        if wrong:
            raise ConfigError(
                f"{shown} is nothing that {family.__name__} heeds: it learns {family.own_rule}. "
                f"Say {neutral}, or take another model."
            )


def check_processes(classifier: Classifier, config: Mapping[str, Any]) -> None:
    """Refuses what several processes that train one network together can't do, or would do otherwise than one.

    Raises:
        ConfigError: With the setting and what to do.
    """
    devices = config["trainer"]["devices"]
    if devices == 1:
        return
    said, why = f"trainer.devices={devices}", ""
    gpus = torch.cuda.device_count()
    if gpus and config["trainer"]["accelerator"] in {"auto", "gpu"} and devices > gpus:
        why = f"asks for more GPUs than the {gpus} that are seen here"
    elif not gpus and devices > max(2, available_cores()):
        why = f"are more processes than the {available_cores()} cores here, and each wants one"
    elif classifier.own_rule:
        why = f"is of no use to {type(classifier).__name__}, which learns {classifier.own_rule}"
    elif config["mixup"]:
        why = f"does not go with mixup={config['mixup']}: each process would blend only its own images"
    elif config["model"].get("frozen_epochs"):
        why = f"does not go with model.frozen_epochs={config['model']['frozen_epochs']}: what is thawed later would not be shared"
    elif config["logger"]["kind"] == "wandb":
        why = "does not go with logger=wandb. Say logger=csv, and `pneumonia track push` afterwards"
    elif not gpus and has_batch_norm(classifier.network):
        why = (
            f"does not go with the batch normalisation of {type(classifier).__name__} on CPUs: each process would normalise by "
            "its own images alone. Take a network without it, such as model=simple_cnn"
        )
    if why:
        raise ConfigError(f"{said} {why}. Say trainer=default to train in one process.")


def _lookup(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value


def _word(value: Any) -> str:
    return "null" if value is None else str(value)


def _may_use_channels_last(network: nn.Module) -> bool:
    """Whether every convolution has a multiple of 16 channels.

    With others, torch 2.15 on CPUs writes past its buffers in a channels-last backward pass when the batch size varies,
    as it does at the end of an epoch ("double free or corruption"); seen at 8 and 12 channels.
    """
    return all(layer.out_channels % 16 == 0 for layer in network.modules() if isinstance(layer, nn.Conv2d))


def load_classifier(path: Path, task: str | None = None) -> Classifier:
    """A classifier as it was saved, in evaluation mode, on the CPU.

    Args:
        path: A checkpoint of ours; read with ``weights_only``, so nothing in it is executed.
        task: Refuse a checkpoint of another task.

    Raises:
        CheckpointError: Missing, unreadable, not ours, or of another task.
    """
    if not path.is_file():
        raise CheckpointError(
            f"There is no checkpoint {path}. Train the run to its end (with force=true where it says that it is finished), or "
            "name another."
        )
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        own = saved[CHECKPOINT_KEY]
        known = {item.name for item in fields(Setup)}
        setup = Setup(**{key: value for key, value in own["setup"].items() if key in known})
        model = dict(own["model"])
    except Exception as error:
        raise CheckpointError(
            f"{path} is not a checkpoint that pneumonia wrote, or it is damaged ({type(error).__name__}). Train the run again, "
            "with force=true."
        ) from error
    if task is not None and setup.task != task:
        raise CheckpointError(
            f"{path} was trained for task={setup.task}, and task={task} was asked: its outputs are other classes. "
            f"Say task={setup.task}, or name another run."
        )
    classifier = build_classifier(family_of(model).as_restored(model), setup)
    classifier.model_config = model
    try:
        classifier.load_state_dict(saved["state_dict"])
    except RuntimeError as error:
        raise CheckpointError(f"{path} holds weights of another shape than its settings say: {error}") from error
    return classifier.eval()


def check_checkpoint(classifier: Classifier, config: dict[str, Any], path: Path) -> None:
    """Refuses a checkpoint that another run has written, as far as its settings tell.

    Args:
        classifier: From :func:`load_classifier`.
        config: Of the run, whose checkpoint it should be.
        path: For the message.

    Raises:
        CheckpointError: With the first setting that differs.
    """
    setup = asdict(classifier.setup_values)
    family = str(classifier.model_config.get("_target_"))
    held = {"model": family, **{key: setup[key] for key in OF_THE_RUN}}
    wanted = {"model": str(config["model"]["_target_"]), **{key: config[key] for key in OF_THE_RUN}}
    for key, value in held.items():
        if value != wanted[key]:
            raise CheckpointError(
                f"{path} is of another run: it was trained with {key}={value}, and this run with {key}={wanted[key]}. Put the "
                "run's own checkpoint back, or train it again with force=true."
            )
