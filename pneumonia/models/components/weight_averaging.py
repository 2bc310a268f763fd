"""Averages of the weights during training, which predict in evaluation instead of the last weights."""

import math
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel


def averaged_copy(network: nn.Module, ema: float | None) -> AveragedModel:
    """Copy a network; ``update_parameters`` updates the average, first by a copy, and buffers too for a moving average.

    Args:
        network: The network that is trained.
        ema: Decay of an exponential moving average; ``None`` for the mean of all updates (stochastic weight averaging).

    Source: Polyak and Juditsky (1992) for the moving average, with the warm-up of :func:`decay_at`; Izmailov et al. (2018),
    Averaging weights leads to wider optima and better generalization.
    """
    if ema is None:
        copy = AveragedModel(network)  # statistics of batch norms are measured, see update_batch_norm
    else:
        copy = AveragedModel(network, multi_avg_fn=partial(_move, limit=ema), use_buffers=True)
    return copy.requires_grad_(False)


def decay_at(update: int, limit: float) -> float:
    """Return the decay at an update: ``min(limit, (1 + update) / (10 + update))``, so that the first weights decay soon.

    Source: TensorFlow's ``ExponentialMovingAverage``.
    """
    return min(limit, (1 + update) / (10 + update))


def first_averaged_epoch(start: float, epochs: int) -> int:
    """Return the first epoch, from 0, of stochastic weight averaging that starts after a fraction of all epochs."""
    return min(math.ceil(start * epochs), epochs - 1)


@torch.no_grad()
def update_batch_norm(averaged: AveragedModel, network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Measure the means and variances of batch norms in an averaged network, which are not the averages of the others'.

    Torch's own ``update_bn`` would measure frozen batch norms too.

    Args:
        averaged: Afterwards in evaluation mode.
        network: What it averages, in training mode; batch norms in evaluation mode there keep their statistics.
        batches: Inputs of the network.
    """
    momenta = {}
    for copy, module in zip(averaged.module.modules(), network.modules(), strict=True):
        copy.training = module.training
        if isinstance(copy, _BatchNorm) and copy.training:
            momenta[copy] = copy.momentum
            copy.reset_running_stats()
            copy.momentum = None  # the mean over all batches
    for batch in batches if momenta else ():
        averaged(batch)
    for norm, momentum in momenta.items():
        norm.momentum = momentum
    averaged.eval()


@torch.no_grad()
def _move(averages: tuple[Tensor, ...], current: tuple[Tensor, ...], count: Tensor | int, *, limit: float) -> None:
    decay = decay_at(int(count), limit)
    if torch.is_floating_point(averages[0]):
        torch._foreach_lerp_(averages, current, 1 - decay)
    else:
        torch._foreach_copy_(averages, current)
