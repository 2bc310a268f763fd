"""Build optimizers and learning-rate schedules from config nodes that name them with ``_target_``."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib import import_module
from inspect import Parameter, isfunction, signature
from typing import Any, Final

import torch
from lightning import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pneumonia.config.targets import check_allowed, check_class, imported, target_of
from pneumonia.errors import ConfigError, TargetError, nearest

PACKAGES: Final = ("torch.optim",)  # of optimizers that any file may name
SCHEDULERS: Final = "pneumonia.training.schedulers"  # imported by its name: models lie below training
PLATEAU_MONITOR: Final = "val/loss"
Schedule = dict[str, Any]  # what LightningModule.configure_optimizers returns as "lr_scheduler"


def build_optimizer(parameters: Iterable[Any], config: Mapping[str, object], own: Collection[str] = ()) -> Optimizer:
    """Build the optimizer of a config node: ``_target_`` names its class, the other keys are its arguments.

    Args:
        parameters: Parameters, or groups of them as torch takes them.
        config: The node.
        own: Targets of the user's own config, which may lie in any package.

    Raises:
        TargetError: ``_target_`` is not an optimizer, or may not be imported.
        ConfigError: The optimizer does not take an argument.
    """
    arguments: Any = dict(config)
    target = target_of(arguments, "optimizer")
    del arguments["_target_"]
    check_allowed(target, "optimizer._target_", PACKAGES, own)
    try:
        found = imported(target)
    except Exception as error:  # a user's module may raise anything when it is imported
        names = [name for name in dir(torch.optim) if name[0].isupper()]
        hint = nearest(target.rpartition(".")[2], names)
        raise TargetError(
            f"optimizer._target_={target} names no class. Use optimizer=sgd, adam, adamw, rmsprop or adagrad, or a class of "
            f"torch.optim.{hint}"
        ) from error
    factory: Callable[..., Optimizer] | None = check_class(found, target, Optimizer, PACKAGES, own)
    if factory is None:
        raise TargetError(f"optimizer._target_={target} is not an optimizer: it must subclass torch.optim.Optimizer.")
    for name, value in arguments.items():
        _check_type(name, value, signature(factory).parameters.get(name))
    try:
        return factory(parameters, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"optimizer: {target} does not take the arguments {arguments}: {error}") from error


def _check_type(name: str, value: Any, parameter: Parameter | None) -> None:
    """Refuse a value of another type than the default has; torch takes most text for true.

    Raises:
        ConfigError: With the key, the value and what it must be.
    """
    default = None if parameter is None else parameter.default
    switch = isinstance(default, bool) or (default is None and parameter is not None and "bool" in str(parameter.annotation))
    wanted = ""
    if switch and not isinstance(value, bool) and not (value is None and default is None):
        wanted = "true or false"
    elif isinstance(default, tuple):
        good = isinstance(value, list | tuple) and len(value) == len(default) and all(map(_is_number, value))
        wanted = "" if good else f"a list of {len(default)} numbers"
    elif isinstance(default, int | float) and not switch and not _is_number(value):
        wanted = "a number"
    if wanted:
        raise ConfigError(f"optimizer.{name}={value} has the wrong type: it must be {wanted}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def build_schedule(
    optimizer: Optimizer, config: Mapping[str, object], epochs: int, steps: int, own: Collection[str] = ()
) -> Schedule:
    """Build the schedule of a config node: ``_target_`` names its factory, the other keys are its arguments.

    Args:
        optimizer: The optimizer whose rate changes.
        config: The node.
        epochs: Epochs of the run.
        steps: Optimizer steps of the run.
        own: Targets of the user's own config, which may lie in any package.

    Raises:
        TargetError: ``_target_`` is not a schedule, or may not be imported.
        ConfigError: The schedule does not take an argument.
    """
    arguments: Any = dict(config)
    target = target_of(arguments, "scheduler")
    del arguments["_target_"]
    check_allowed(target, "scheduler._target_", (SCHEDULERS,), own)
    try:
        factory = imported(target)
    except Exception as error:  # a user's module may raise anything when it is imported
        raise _no_schedule(target) from error
    if target not in own and not _is_factory(factory):
        raise _no_schedule(target)
    try:
        schedule: Schedule = factory(optimizer, epochs, steps, **arguments)
    except TypeError as error:
        raise ConfigError(f"scheduler: {target} does not take the arguments {arguments}: {error}") from error
    return schedule


def _no_schedule(target: str) -> TargetError:
    names = [name for name, found in vars(import_module(SCHEDULERS)).items() if _is_factory(found)]
    return TargetError(
        f"scheduler._target_={target} is not a schedule. Use one of {SCHEDULERS}: {', '.join(names)}."
        f"{nearest(target.rpartition('.')[2], names)}"
    )


def _is_factory(found: Any) -> bool:
    return isfunction(found) and found.__module__ == SCHEDULERS and not found.__name__.startswith("_")


def optimizer_steps(trainer: Trainer, epochs: int, max_steps: int) -> int:
    """Return the optimizer steps of a whole training, the length of schedules by step.

    Args:
        trainer: Knows its data, limits and accumulation.
        epochs: Epochs of the training.
        max_steps: A limit of the run; -1 for none.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    steps = int(trainer.estimated_stepping_batches)
    if getattr(data, "rotate_every", 0):  # Lightning assumes that all epochs are as long as the current one
        limit, every = trainer.limit_train_batches, trainer.accumulate_grad_batches
        batches = (data.train_batches(epoch) for epoch in range(epochs))
        limited = (min(count, limit) if isinstance(limit, int) else int(count * limit) for count in batches)
        steps = sum(math.ceil(count / every) for count in limited)
    return min([steps, *(limit for limit in (max_steps, trainer.max_steps) if limit != -1)])


def advance_schedules(trainer: Trainer, interval: str, manual: bool) -> None:
    """Step plateau schedules at the end of an epoch and, with manual optimization, all schedules of an interval."""
    for config in trainer.lr_scheduler_configs:
        if isinstance(config.scheduler, ReduceLROnPlateau):
            if interval == "epoch" and PLATEAU_MONITOR in trainer.callback_metrics:
                config.scheduler.step(float(trainer.callback_metrics[PLATEAU_MONITOR]))
        elif config.interval == interval and manual:
            config.scheduler.step()
