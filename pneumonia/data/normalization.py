"""Normalise grey levels: fit shift and scale on the training split; the checkpoint keeps them."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from pneumonia.errors import ConfigError
from pneumonia.system.arrays import Ints, Pixels

LEVELS: Final = 256
NO_COUNTS: Final[Ints] = np.zeros(LEVELS, dtype=np.int64)  # for methods that fit nothing
FITTED: Final = ("minmax", "zscore", "robust")  # to all training images
IMAGENET_MEAN: Final = (0.485 + 0.456 + 0.406) / 3  # of the three channels, as fractions of the full range
IMAGENET_STD: Final = (0.229 + 0.224 + 0.225) / 3


@dataclass(frozen=True)
class Scaling:
    """``(grey - shift) / scale`` for grey levels from 0 to 255."""

    method: str = "minus_one_one"
    shift: float = 127.5
    scale: float = 127.5


def histogram(pixels: Pixels, rows: Ints, block: int = 512) -> Ints:
    """Count the grey levels, ``(256,)``, of the images ``rows`` of ``pixels`` ``(N, H, W)``, ``block`` images at a time."""
    counts = np.zeros(LEVELS, dtype=np.int64)
    for start in range(0, len(rows), block):
        counts += np.bincount(pixels[rows[start : start + block]].ravel(), minlength=LEVELS)
    return counts


def fit_scaling(method: str, counts: Ints) -> Scaling:
    """Fit a scaling to counted grey levels; exact, since there are only 256 of them.

    - ``minus_one_one``: to [-1, 1] from the full range, as in the study; nothing is fitted.
    - ``minmax``: the darkest level to 0, the brightest to 1.
    - ``zscore``: mean 0, standard deviation 1 (of the population).
    - ``imagenet``: by ImageNet's mean and deviation, averaged over its colours, for pretrained weights; nothing is fitted.
    - ``robust``: median 0, interquartile range 1 (quartiles interpolate linearly, Hyndman and Fan (1996), type 7).

    Args:
        method: One of :data:`pneumonia.config.names.NORMALISATIONS`.
        counts: ``(256,)`` from :func:`histogram`, of the training split alone.

    Raises:
        ConfigError: The images are so flat that the method would divide by zero.
    """
    if method == "minus_one_one":
        return Scaling()
    if method == "imagenet":
        return Scaling(method, 255 * IMAGENET_MEAN, 255 * IMAGENET_STD)
    levels = np.arange(LEVELS)
    total = int(counts.sum())
    seen = np.flatnonzero(counts)
    if method == "minmax":
        shift, scale = float(seen[0]), float(seen[-1] - seen[0])
    elif method == "zscore":
        shift = float(counts @ levels / total)
        scale = float(np.sqrt(counts @ (levels - shift) ** 2 / total))
    else:
        low, shift, high = (_quantile(counts, fraction) for fraction in (0.25, 0.5, 0.75))
        scale = high - low
    if not scale > 0:
        raise ConfigError(
            f"normalisation={method} can't be fitted: the training images have no spread to divide by (grey levels "
            f"{seen[0]} to {seen[-1]}, most of them equal). Use normalisation=minus_one_one, or check the images."
        )
    return Scaling(method, shift, scale)


def _quantile(counts: Ints, fraction: float) -> float:
    """Return what ``numpy.quantile`` gives for all values, without holding them."""
    place = fraction * (int(counts.sum()) - 1)
    upto = np.cumsum(counts)
    low = int(np.searchsorted(upto, np.floor(place), side="right"))
    high = int(np.searchsorted(upto, np.ceil(place), side="right"))
    return float(low + (high - low) * (place - np.floor(place)))
