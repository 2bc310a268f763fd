"""Optimisers by class, and scheduler factories that return Lightning's whole dict.

Every factory takes the optimiser, the epochs of the run and its optimiser steps, so that schedules by epoch and by step
swap from config alone.
"""

import math
from collections.abc import Callable, Collection, Iterable
from inspect import Parameter, signature
from typing import Any, Final

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from pneumonia.config.targets import check_allowed, check_class, imported, target_of
from pneumonia.errors import ConfigError, TargetError, nearest

PACKAGES: Final = ("torch.optim",)  # of optimisers that any file may name
PLATEAU_MONITOR: Final = "val/loss"
Schedule = dict[str, Any]  # what LightningModule.configure_optimizers returns as "lr_scheduler"


def build_optimizer(parameters: Iterable[Any], config: dict[str, Any], own: Collection[str] = ()) -> Optimizer:
    """The optimiser of a config node: ``_target_`` names its class, the other keys are its arguments.

    Args:
        parameters: Parameters, or groups of them as torch takes them.
        config: The node.
        own: Targets of the user's own config, which may lie in any package.

    Raises:
        TargetError: ``_target_`` is no optimiser, or may not be imported.
        ConfigError: An argument is not one of its own.
    """
    settings = dict(config)
    target = target_of(settings, "optimizer")
    del settings["_target_"]
    check_allowed(target, "optimizer._target_", PACKAGES, own)
    try:
        found = imported(target)
    except Exception as error:  # a module of the user's may raise anything as it is imported
        names = [name for name in dir(torch.optim) if name[0].isupper()]
        hint = nearest(target.rpartition(".")[2], names)
        raise TargetError(
            f"optimizer._target_={target} names no class. Use optimizer=sgd, adam, adamw, rmsprop or adagrad, or a class of "
            f"torch.optim.{hint}"
        ) from error
    kind = check_class(found, target, Optimizer, PACKAGES, own)
    if kind is None:
        raise TargetError(f"optimizer._target_={target} is not an optimiser: it must subclass torch.optim.Optimizer.")
    for name, value in settings.items():
        _check_kind(name, value, signature(kind).parameters.get(name))
    factory: Callable[..., Optimizer] = kind
    try:
        return factory(parameters, **settings)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"optimizer: {target} refuses its settings {settings}: {error}") from error


def _check_kind(name: str, value: Any, parameter: Parameter | None) -> None:
    """Refuses a value of another kind than the default has; torch takes most words for true.

    Raises:
        ConfigError: With the key, the value and what it must be.
    """
    default = None if parameter is None else parameter.default
    switch = isinstance(default, bool) or (
        default is None and parameter is not None and "bool" in str(parameter.annotation)
    )
    if switch and not isinstance(value, bool) and not (value is None and default is None):
        raise ConfigError(f"optimizer.{name}={value} is of the wrong kind: it must be true or false.")
    if isinstance(default, tuple):
        good = isinstance(value, list | tuple) and len(value) == len(default) and all(map(_is_number, value))
        if not good:
            raise ConfigError(
                f"optimizer.{name}={value} is of the wrong kind: it must be a list of {len(default)} numbers."
            )
    elif isinstance(default, int | float) and not switch and not _is_number(value):
        raise ConfigError(f"optimizer.{name}={value} is of the wrong kind: it must be a number.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def build_schedule(optimizer: Optimizer, config: dict[str, Any], epochs: int, steps: int) -> Schedule:
    """The schedule of a config node: ``_target_`` names a factory of this module.

    Raises:
        ConfigError: ``_target_`` is none of these factories, or an argument is not one of its own.
    """
    settings = dict(config)
    name = str(settings.pop("_target_", "")).removeprefix(f"{__name__}.")
    factories: dict[str, Callable[..., Schedule]] = {
        factory.__name__: factory for factory in (constant, step, exponential, cosine, one_cycle, plateau)
    }
    if name not in factories:
        raise ConfigError(f"scheduler._target_={name} is not known; choose one of {', '.join(factories)}.")
    try:
        return factories[name](optimizer, epochs, steps, **settings)
    except TypeError as error:
        raise ConfigError(f"scheduler: {name} refuses its settings {settings}: {error}") from error


def constant(optimizer: Optimizer, epochs: int, steps: int) -> Schedule:
    """``lr``, always."""
    return _by_epoch(LambdaLR(optimizer, lambda epoch: 1.0))


def step(optimizer: Optimizer, epochs: int, steps: int, *, drop: float, every: float) -> Schedule:
    """The study's step decay, ``lr * drop ** ((1 + epoch) / every)``; without rounding, as the study wrote it."""
    return _by_epoch(LambdaLR(optimizer, lambda epoch: drop ** ((1 + epoch) / every)))


def exponential(optimizer: Optimizer, epochs: int, steps: int, *, rate: float) -> Schedule:
    """The study's exponential decay, ``lr * exp(-rate * epoch)``."""
    return _by_epoch(LambdaLR(optimizer, lambda epoch: math.exp(-rate * epoch)))


def cosine(optimizer: Optimizer, epochs: int, steps: int) -> Schedule:
    """Cosine annealing, ``lr * (1 + cos(pi * epoch / epochs)) / 2``. Source: Loshchilov and Hutter (2017), SGDR."""
    return _by_epoch(LambdaLR(optimizer, lambda epoch: 0.5 * (1 + math.cos(math.pi * epoch / epochs))))


def one_cycle(optimizer: Optimizer, epochs: int, steps: int, *, warmup: float) -> Schedule:
    """One cycle up to ``lr`` and down, by step. Source: Smith and Topin (2018), Super-Convergence."""
    settings = optimizer.defaults
    cycles = bool(settings.get("momentum")) or "betas" in settings  # momentum runs against the rate, where there is one
    peak = [float(group["lr"]) for group in optimizer.param_groups]
    scheduler = OneCycleLR(optimizer, peak, total_steps=max(steps, 1), pct_start=warmup, cycle_momentum=cycles)
    return {"scheduler": scheduler, "interval": "step", "name": "lr"}


def plateau(optimizer: Optimizer, epochs: int, steps: int, *, factor: float, patience: int, least: float) -> Schedule:
    """``lr`` times ``factor`` whenever ``val/loss`` has not fallen by a ten-thousandth for more than ``patience`` epochs.

    Never below ``least`` times ``lr``.
    """
    floors = [least * float(group["lr"]) for group in optimizer.param_groups]
    scheduler = ReduceLROnPlateau(optimizer, factor=factor, patience=patience, threshold=1e-4, min_lr=floors, eps=0.0)
    return {"scheduler": scheduler, "interval": "epoch", "name": "lr", "monitor": PLATEAU_MONITOR}


def _by_epoch(scheduler: LRScheduler) -> Schedule:
    return {"scheduler": scheduler, "interval": "epoch", "name": "lr"}
