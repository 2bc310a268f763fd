"""Mixup: train on convex combinations of two images and their targets."""

import numpy as np
import torch
from torch import Tensor, nn


def mixup(image: Tensor, label: Tensor, classes: int, alpha: float, seed: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mix each image with another of its batch, with one weight drawn from Beta(alpha, alpha).

    Args:
        image: ``(B, 1, H, W)``, any number type.
        label: ``(B,)`` class numbers.
        classes: K.
        alpha: Above 0; the smaller, the nearer the blends are to one of the two images.
        seed: What the proportion and the partners are drawn from, so that a resumed run draws them again.

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
