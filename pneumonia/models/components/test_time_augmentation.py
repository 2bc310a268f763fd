"""Test-time augmentation: average the probabilities of several views of an image."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn


def views_none(image: Tensor) -> list[Tensor]:
    """Return the image alone."""
    return [image]


def views_flip(image: Tensor) -> list[Tensor]:
    """Return the image and its mirror image; for models trained with flips."""
    return [image, image.flip(-1)]


def views_shift(image: Tensor) -> list[Tensor]:
    """Return the image, and shifted by 1/32 of its side (at least a pixel) in each direction, with repeated border."""
    step = max(1, image.shape[-1] // 32)
    height, width = image.shape[-2:]
    wide = nn.functional.pad(image.float(), (step,) * 4, mode="replicate")
    places = [(step, step), (0, step), (2 * step, step), (step, 0), (step, 2 * step)]
    return [wide[..., y : y + height, x : x + width] for y, x in places]


VIEWS: Final[dict[str, Callable[[Tensor], list[Tensor]]]] = {
    "none": views_none,
    "flip": views_flip,
    "shift": views_shift,
}


def mean_of_views(logits: list[Tensor]) -> Tensor:
    """Return the logarithm of the mean softmax of several logits ``(B, K)``."""
    if len(logits) == 1:
        return logits[0]
    shares = torch.stack([view.float().log_softmax(dim=1) for view in logits])
    return shares.logsumexp(dim=0) - torch.log(torch.tensor(float(len(logits))))
