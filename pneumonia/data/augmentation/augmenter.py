"""Which of two ways changes training images at random: whole batches in torch, or albumentations, an image at a time.

Both draw from the same distributions. A batch takes a seventh (``normal``) to a third (``clinical``) of the
time; albumentations is the reference.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from pneumonia.config.schema import AugmentationConfig
from pneumonia.data.augmentation.batch import augmented, image_keys
from pneumonia.data.augmentation.pipelines import augment, build, image_seeds


class Augmenter:
    """Random changes that depend on a run's seed, the epoch and the image alone, not on the worker or the batch.

    Args:
        strengths: Of an augmentation file; at least one is not 0.
        kind: ``batch`` or ``albumentations``.
    """

    def __init__(self, strengths: AugmentationConfig, kind: str = "batch") -> None:
        self.strengths = strengths
        self.pipeline = build(strengths) if kind == "albumentations" else None

    def __call__(self, images: NDArray[np.uint8], seed: int, epoch: int, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Changed copies ``(B, H, W)`` uint8 of images ``(B, H, W)`` uint8, whose places in their subset are ``(B,)`` rows."""
        if self.pipeline is not None:
            return augment(self.pipeline, images, image_seeds(seed, epoch, rows))
        keys = image_keys(seed, epoch, rows)
        return np.asarray(augmented(torch.tensor(images), keys, self.strengths))


def augmenter(strengths: AugmentationConfig, kind: str = "batch") -> Augmenter | None:
    """An augmenter, or ``None`` where nothing is switched on."""
    return Augmenter(strengths, kind) if any(vars(strengths).values()) else None
