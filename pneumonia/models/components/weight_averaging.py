"""Averages of the weights during training (EMA, SWA), used in evaluation."""

import math
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel


def averaged_copy(network: nn.Module, ema: float | None) -> AveragedModel:
    """Create the averaged copy of a network for ``update_parameters``; the first update copies, with buffers.

    Args:
        network: What is trained.
        ema: Decay of an exponential moving average; ``None`` for the plain mean of all updates (stochastic weight averaging).

    Source: Polyak and Juditsky (1992) for the moving average, with the warm-up of :func:`decay_at`; Izmailov et al. (2018),
    Averaging weights leads to wider optima and better generalization.
    """
    if ema is None:
        copy = AveragedModel(network)  # batch norm's statistics are measured anew, see remeasure
    else:
        copy = AveragedModel(network, multi_avg_fn=partial(_move, most=ema), use_buffers=True)
    return copy.requires_grad_(False)


def decay_at(update: int, most: float) -> float:
    """Return the decay of an update by its number; small at first, as a warm-up.

    ``min(most, (1 + update) / (10 + update))``, the rule of TensorFlow's ``ExponentialMovingAverage``.
    """
    return min(most, (1 + update) / (10 + update))


def first_averaged_epoch(start: float, epochs: int) -> int:
    """Return the first epoch of stochastic weight averaging, which starts after a fraction ``start`` of all epochs."""
    return min(math.ceil(start * epochs), epochs - 1)


@torch.no_grad()
def remeasure(averaged: AveragedModel, network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Recompute batch norm statistics of the averaged network.

    Torch's own ``update_bn`` would measure frozen batch norms too.

    Args:
        averaged: Afterwards in evaluation mode.
        network: What it averages, in training mode; batch norms that are in evaluation mode there keep their statistics.
        batches: Inputs of the network.
    """
    momenta = {}
    for copy, module in zip(averaged.module.modules(), network.modules(), strict=True):
        copy.training = module.training
        if isinstance(copy, _BatchNorm) and copy.training:
            momenta[copy] = copy.momentum
            copy.reset_running_stats()
            copy.momentum = None  # the plain mean over all batches
    for batch in batches if momenta else ():
        averaged(batch)
    for norm, momentum in momenta.items():
        norm.momentum = momentum
    averaged.eval()


@torch.no_grad()
def _move(averages: tuple[Tensor, ...], current: tuple[Tensor, ...], count: Tensor | int, *, most: float) -> None:
    decay = decay_at(int(count), most)
    if torch.is_floating_point(averages[0]):
        torch._foreach_lerp_(averages, current, 1 - decay)
    else:
        torch._foreach_copy_(averages, current)
