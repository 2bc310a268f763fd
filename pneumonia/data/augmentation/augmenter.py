"""Augment training images in one of two ways: whole batches in torch, or an image at a time with albumentations.

Both draw from the same distributions. A batch takes a seventh (``normal``) to a third (``clinical``) of the time; albumentations
is the reference.
"""

import numpy as np
import torch

from pneumonia.config.schema import AugmentationConfig
from pneumonia.data.augmentation.albumentations_pipeline import augment_images, build_pipeline, image_seeds
from pneumonia.data.augmentation.torch_pipeline import augment_batch, image_keys
from pneumonia.system.arrays import Ints, Pixels


class Augmenter:
    """Random changes that depend on the run's seed, the epoch and the image alone, not on the worker or the batch.

    Args:
        strengths: Strengths of an augmentation file; at least one is not 0.
        kind: ``batch`` or ``albumentations``.
    """

    def __init__(self, strengths: AugmentationConfig, kind: str = "batch") -> None:
        self.strengths = strengths
        self.pipeline = build_pipeline(strengths) if kind == "albumentations" else None

    def __call__(self, images: Pixels, seed: int, epoch: int, rows: Ints) -> Pixels:
        """Return changed copies of images ``(B, H, W)``, whose positions in their subset are ``rows`` ``(B,)``."""
        if self.pipeline is not None:
            return augment_images(self.pipeline, images, image_seeds(seed, epoch, rows))
        return np.asarray(augment_batch(torch.tensor(images), image_keys(seed, epoch, rows), self.strengths))


def augmenter(strengths: AugmentationConfig, kind: str = "batch") -> Augmenter | None:
    """Return an augmenter, or ``None`` if all strengths are 0."""
    return Augmenter(strengths, kind) if any(vars(strengths).values()) else None
