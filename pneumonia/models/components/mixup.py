"""Mixup: train on blends of two images, with blended targets."""

import numpy as np
import torch
from torch import Tensor, nn


def mixup(image: Tensor, label: Tensor, classes: int, alpha: float, seed: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Blend each image with another of its batch, all in one proportion that is drawn from Beta(alpha, alpha).

    Args:
        image: ``(B, 1, H, W)``, any number type.
        label: ``(B,)`` class indices.
        classes: K.
        alpha: Above 0; the smaller, the nearer are the blends to one of the two images.
        seed: Of the proportion and the partners.

    Returns:
        The blends, float, and their targets ``(B, K)``, which sum to one.

    Source: Zhang et al. (2018), mixup: Beyond Empirical Risk Minimization.
    """
    rng = np.random.default_rng(seed)
    share = float(rng.beta(alpha, alpha))
    partner = torch.from_numpy(rng.permutation(len(label))).to(label.device)
    target = nn.functional.one_hot(label, classes).float()
    image = image.float()
    return share * image + (1 - share) * image[partner], share * target + (1 - share) * target[partner]
