"""Test-time augmentation: average the probabilities of several views of an X-ray."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

SHIFT: Final = 32  # views are shifted by this fraction of the side


def identity(image: Tensor) -> list[Tensor]:
    """Return the image alone."""
    return [image]


def flip(image: Tensor) -> list[Tensor]:
    """Return the image and its mirror image; for models that were trained with flips."""
    return [image, image.flip(-1)]


def shift(image: Tensor) -> list[Tensor]:
    """Return the image, and shifted by 1/32 of its side (at least a pixel) in each direction, the border repeated."""
    step = max(1, image.shape[-1] // SHIFT)
    height, width = image.shape[-2:]
    padded = nn.functional.pad(image.float(), (step,) * 4, mode="replicate")
    offsets = [(step, step), (0, step), (2 * step, step), (step, 0), (step, 2 * step)]
    return [padded[..., y : y + height, x : x + width] for y, x in offsets]


VIEWS: Final[dict[str, Callable[[Tensor], list[Tensor]]]] = {"none": identity, "flip": flip, "shift": shift}


def mean_of_views(logits: list[Tensor]) -> Tensor:
    """Return logits whose softmax is the mean of the softmaxes of several logits ``(B, K)``."""
    if len(logits) == 1:
        return logits[0]
    log_probability = torch.stack([view.float().log_softmax(dim=1) for view in logits])
    return log_probability.logsumexp(dim=0) - torch.log(torch.tensor(float(len(logits))))
