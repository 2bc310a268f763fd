"""Test-time augmentation: the same X-ray seen in several ways, whose probabilities are averaged."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn


def views_none(image: Tensor) -> list[Tensor]:
    """The image alone."""
    return [image]


def views_flip(image: Tensor) -> list[Tensor]:
    """The image and its mirror image; for models that were trained with flips."""
    return [image, image.flip(-1)]


def views_shift(image: Tensor) -> list[Tensor]:
    """The image, and shifted by a thirty-second of its side (at least a pixel) in each direction, the border repeated."""
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
    """Logits whose softmax is the mean of the softmaxes of several logits ``(B, K)``; the logarithm of that mean."""
    if len(logits) == 1:
        return logits[0]
    shares = torch.stack([view.float().log_softmax(dim=1) for view in logits])
    return shares.logsumexp(dim=0) - torch.log(torch.tensor(float(len(logits))))
