"""Learning-rate schedules, named by ``_target_`` in ``conf/scheduler``.

Each factory takes the optimizer, the epochs of the run and its optimizer steps, and returns Lightning's ``lr_scheduler``
dictionary, so that schedules by epoch and by step are exchanged by the config alone.
"""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from pneumonia.models.optimization import PLATEAU_MONITOR, Schedule


def constant(optimizer: Optimizer, epochs: int, steps: int) -> Schedule:
    """Keep ``lr``."""
    return _by_epoch(LambdaLR(optimizer, lambda epoch: 1.0))


def step(optimizer: Optimizer, epochs: int, steps: int, *, drop: float, every: float) -> Schedule:
    """Decay in steps, ``lr * drop ** ((1 + epoch) / every)``; the exponent is not rounded, as in the study."""
    return _by_epoch(LambdaLR(optimizer, lambda epoch: drop ** ((1 + epoch) / every)))


def exponential(optimizer: Optimizer, epochs: int, steps: int, *, rate: float) -> Schedule:
    """Decay exponentially, ``lr * exp(-rate * epoch)``."""
    return _by_epoch(LambdaLR(optimizer, lambda epoch: math.exp(-rate * epoch)))


def cosine(optimizer: Optimizer, epochs: int, steps: int) -> Schedule:
    """Anneal by a cosine, ``lr * (1 + cos(pi * epoch / epochs)) / 2``. Source: Loshchilov and Hutter (2017), SGDR."""
    return _by_epoch(LambdaLR(optimizer, lambda epoch: 0.5 * (1 + math.cos(math.pi * epoch / epochs))))


def one_cycle(optimizer: Optimizer, epochs: int, steps: int, *, warmup: float) -> Schedule:
    """Raise to ``lr`` and lower again, by step. Source: Smith and Topin (2018), Super-Convergence."""
    defaults = optimizer.defaults
    cycle_momentum = bool(defaults.get("momentum")) or "betas" in defaults  # only where the optimizer has momentum
    peak = [float(group["lr"]) for group in optimizer.param_groups]
    scheduler = OneCycleLR(optimizer, peak, total_steps=max(steps, 1), pct_start=warmup, cycle_momentum=cycle_momentum)
    return {"scheduler": scheduler, "interval": "step", "name": "lr"}


def plateau(optimizer: Optimizer, epochs: int, steps: int, *, factor: float, patience: int, least: float) -> Schedule:
    """Multiply by ``factor`` after more than ``patience`` epochs without a relative fall of ``val/loss`` by 1e-4.

    The rate never falls below ``least * lr``.
    """
    floors = [least * float(group["lr"]) for group in optimizer.param_groups]
    scheduler = ReduceLROnPlateau(optimizer, factor=factor, patience=patience, threshold=1e-4, min_lr=floors, eps=0.0)
    return {"scheduler": scheduler, "interval": "epoch", "name": "lr", "monitor": PLATEAU_MONITOR}


def _by_epoch(scheduler: LRScheduler) -> Schedule:
    return {"scheduler": scheduler, "interval": "epoch", "name": "lr"}
