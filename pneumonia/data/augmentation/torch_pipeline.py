"""Augment whole batches in torch, on any device, as :mod:`pneumonia.data.augmentation.albumentations_pipeline` does.

Each image has a key, and a counter generates its draws from the key: they depend neither on the batch nor on the device, and
need no state. Every step rounds to whole grey levels, as in albumentations.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from pneumonia.config.schema import AugmentationConfig
from pneumonia.system.arrays import Ints

COLUMNS: Final = 16  # of a table of draws; noise continues the count from there
FLIP, ANGLE, SCALE_X, SCALE_Y, SHIFT_X, SHIFT_Y, BRIGHTNESS, CONTRAST, ORDER, GAMMA, NOISE, BLUR, SIGMA = range(13)
SIGMAS: Final = (0.5, 3.0)  # of a blur, in pixels; albumentations' own range
WHITE: Final = 255.0


def image_keys(seed: int, epoch: int, rows: Ints) -> Tensor:
    """Return a key for each image in each epoch of a run: ``(B,)`` int64 from rows ``(B,)``."""
    key = torch.tensor(0)
    for part in (torch.tensor(seed), torch.tensor(epoch), torch.from_numpy(np.ascontiguousarray(rows))):
        key = _mixed(key ^ part)
    return key


def uniforms(keys: Tensor, first: int, count: int) -> Tensor:
    """Return numbers ``first`` to ``first + count`` of each key's sequence in [0, 1): ``(B, count)`` float32.

    SplitMix64 as a counter: Steele, Lea and Flood (2014), Fast splittable pseudorandom number generators.
    """
    steps = torch.arange(first, first + count, device=keys.device)
    return _shifted(_mixed(keys[:, None] + steps * _GOLDEN), 40).float() * 2.0**-24


def augment_batch(images: Tensor, keys: Tensor, strengths: AugmentationConfig) -> Tensor:
    """Change each image of ``(B, H, W)`` uint8 by its key; ``keys`` ``(B,)`` from :func:`image_keys`, on the same device."""
    size = images.shape[1] * images.shape[2]
    return apply_draws(images, uniforms(keys, 0, COLUMNS), strengths, lambda: _normals(keys, size))


def apply_draws(images: Tensor, draws: Tensor, strengths: AugmentationConfig, normals: Callable[[], Tensor]) -> Tensor:
    """Change each image by given draws.

    Args:
        images: ``(B, H, W)`` uint8.
        draws: ``(B, COLUMNS)`` of [0, 1).
        strengths: Scales of the draws.
        normals: Returns ``(B, H * W)`` standard normal numbers, for noise.

    Returns:
        ``(B, H, W)`` uint8.
    """
    if strengths.flip:
        images = torch.where((draws[:, FLIP] < strengths.flip)[:, None, None], images.flip(-1), images)
    levels = images.float()
    if strengths.rotate_deg or strengths.shift or strengths.zoom:
        levels = _rounded(_warped(levels, draws, strengths))
    if strengths.brightness or strengths.contrast:
        levels = _jittered(levels, draws, strengths)
    if strengths.gamma:
        exponent = _spread(draws[:, GAMMA], strengths.gamma) + 1
        levels = _truncated((levels / WHITE) ** exponent[:, None, None] * WHITE)
    if strengths.noise:
        spread = draws[:, NOISE] * strengths.noise * WHITE
        levels = _rounded(levels + spread[:, None, None] * normals().view_as(levels))
    if strengths.blur:
        levels = _rounded(_blurred(levels, draws, strengths.blur))
    return levels.to(torch.uint8)


def _warped(levels: Tensor, draws: Tensor, strengths: AugmentationConfig) -> Tensor:
    """Scale, rotate about the centre and shift by whole pixels; the borders become black."""
    height, width = levels.shape[-2:]
    angle = torch.deg2rad(_spread(draws[:, ANGLE], strengths.rotate_deg))
    scale_x, scale_y = (1 + _spread(draws[:, column], strengths.zoom) for column in (SCALE_X, SCALE_Y))
    shift_x = (_spread(draws[:, SHIFT_X], strengths.shift) * width).trunc()
    shift_y = (_spread(draws[:, SHIFT_Y], strengths.shift) * height).trunc()
    cos, sin = angle.cos(), angle.sin()
    # The source of each result pixel, relative to the centre: scale^-1 @ rotation^-1 @ (at - shift).
    x = (_from_centre(width, levels) - shift_x[:, None])[:, None, :]
    y = (_from_centre(height, levels) - shift_y[:, None])[:, :, None]
    grid = levels.new_empty((*levels.shape, 2))  # in units of half a side, as torch requires
    across, down = (2 / width) / scale_x, (2 / height) / scale_y
    torch.sub((cos * across)[:, None, None] * x, (sin * across)[:, None, None] * y, out=grid[..., 0])
    torch.add((sin * down)[:, None, None] * x, (cos * down)[:, None, None] * y, out=grid[..., 1])
    moved: Tensor = grid_sample(levels[:, None], grid, padding_mode="zeros", align_corners=False)
    return moved[:, 0]


def _jittered(levels: Tensor, draws: Tensor, strengths: AugmentationConfig) -> Tensor:
    """Change brightness and contrast by factors, in either order; contrast about the mean of the image."""
    bright = (1 + _spread(draws[:, BRIGHTNESS], strengths.brightness))[:, None, None]
    contrast = (1 + _spread(draws[:, CONTRAST], strengths.contrast))[:, None, None]
    first = (draws[:, ORDER] < 0.5)[:, None, None]
    one = torch.ones_like(bright)
    levels = _truncated(levels * torch.where(first, bright, one))
    mean = levels.mean(dim=(-2, -1), keepdim=True)
    levels = _truncated(levels * contrast + mean * (1 - contrast))
    return _truncated(levels * torch.where(first, one, bright))


def _blurred(levels: Tensor, draws: Tensor, probability: float) -> Tensor:
    """Blur with three by three Gaussian weights, of a random width for each image; mirrored at the borders."""
    low, high = SIGMAS
    side = torch.exp(-0.5 / (low + draws[:, SIGMA] * (high - low)) ** 2)
    side = torch.where(draws[:, BLUR] < probability, side / (1 + 2 * side), torch.zeros_like(side))[:, None, None]
    padded = torch.nn.functional.pad(levels[:, None], (1, 1, 1, 1), mode="reflect")[:, 0]
    rows = (1 - 2 * side) * padded[:, 1:-1] + side * (padded[:, :-2] + padded[:, 2:])
    return (1 - 2 * side) * rows[..., 1:-1] + side * (rows[..., :-2] + rows[..., 2:])


def _normals(keys: Tensor, count: int) -> Tensor:
    """Return standard normal numbers ``(B, count)`` by Box and Muller (1958)."""
    half = -(-count // 2)
    first, second = uniforms(keys, COLUMNS, 2 * half).chunk(2, dim=1)
    radius, turn = (-2 * (1 - first).log()).sqrt(), 2 * torch.pi * second
    return torch.cat((radius * turn.cos(), radius * turn.sin()), dim=1)[:, :count]


def _spread(draw: Tensor, width: float) -> Tensor:
    """Map [0, 1) to [-width, width)."""
    return (2 * draw - 1) * width


def _rounded(levels: Tensor) -> Tensor:
    return levels.round_().clamp_(0, WHITE)


def _truncated(levels: Tensor) -> Tensor:
    """Truncate, as a table of grey levels does; whole numbers may be slightly too small after rounding errors."""
    return levels.add_(1e-4).floor_().clamp_(0, WHITE)


def _from_centre(side: int, like: Tensor) -> Tensor:
    return torch.arange(side, device=like.device, dtype=like.dtype) - (side - 1) / 2


# SplitMix64's constants as torch's signed integers.
_GOLDEN: Final = 0x9E3779B97F4A7C15 - 2**64
_FACTORS: Final = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))


def _mixed(value: Tensor) -> Tensor:
    """Apply SplitMix64's finaliser to int64, which overflows in torch."""
    value = value + _GOLDEN
    for bits, factor in _FACTORS:
        value = (value ^ _shifted(value, bits)) * factor
    return value ^ _shifted(value, 31)


def _shifted(value: Tensor, bits: int) -> Tensor:
    """Shift to the right, with zeros from the left."""
    shifted: Tensor = (value >> bits) & (2 ** (64 - bits) - 1)
    return shifted
