"""Augment one image at a time with albumentations: the reference of :mod:`pneumonia.data.augmentation.torch_pipeline`."""

import os
import warnings
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise it asks the network for updates on import

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from pneumonia.config.schema import AugmentationConfig
from pneumonia.system.arrays import Ints, Pixels

SEED_DISTANCE = 0x9E3779B9  # between the seeds of two steps; 2**32 over the golden ratio
cv2.setNumThreads(0)  # small images: threads are slower, and unsafe to fork


def build_pipeline(strengths: AugmentationConfig) -> A.Compose | None:
    """Build the pipeline of an augmentation file; ``None`` if all strengths are 0.

    Raises:
        UserWarning: albumentations ignores an argument, which it only warns of.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        steps = _steps(strengths)
        return A.Compose(steps) if steps else None


def augment_images(pipeline: A.Compose, images: Pixels, seeds: NDArray[np.uint32]) -> Pixels:
    """Change each image of ``(B, H, W)`` by a draw that depends on its seed ``(B,)`` alone."""
    out = np.empty_like(images)
    for number, seed in enumerate(seeds):
        for place, step in enumerate(pipeline.transforms):
            # The pipeline itself gives all steps one seed: flipped images would always be darkened too.
            step.set_random_seed((int(seed) + place * SEED_DISTANCE) % 2**32)
        out[number] = pipeline(image=images[number][..., None])["image"][..., 0]
    return out


def image_seeds(seed: int, epoch: int, rows: Ints) -> NDArray[np.uint32]:
    """Return a seed for each image in each epoch of a run: ``(B,)`` from rows ``(B,)``."""
    return np.array([np.random.SeedSequence([seed, epoch, int(row)]).generate_state(1)[0] for row in rows], np.uint32)


def _steps(strengths: AugmentationConfig) -> list[Any]:
    steps: list[Any] = []
    if strengths.flip:
        steps.append(A.HorizontalFlip(p=strengths.flip))
    if strengths.rotate_deg or strengths.shift or strengths.zoom:
        steps.append(
            A.Affine(
                rotate=(-strengths.rotate_deg, strengths.rotate_deg),
                translate_percent=(-strengths.shift, strengths.shift),
                scale=(1 - strengths.zoom, 1 + strengths.zoom),
                interpolation=cv2.INTER_LINEAR,
                border_mode=cv2.BORDER_CONSTANT,
                fill=0,
                p=1.0,
            )
        )
    if strengths.brightness or strengths.contrast:
        steps.append(
            A.ColorJitter(
                brightness=(1 - strengths.brightness, 1 + strengths.brightness),
                contrast=(1 - strengths.contrast, 1 + strengths.contrast),
                saturation=(1, 1),
                hue=(0, 0),
                p=1.0,
            )
        )
    if strengths.gamma:
        steps.append(A.RandomGamma(gamma_limit=(100 * (1 - strengths.gamma), 100 * (1 + strengths.gamma)), p=1.0))
    if strengths.noise:
        steps.append(A.GaussNoise(std_range=(0.0, strengths.noise), p=1.0))
    if strengths.blur:
        steps.append(A.GaussianBlur(blur_limit=(3, 3), p=strengths.blur))
    return steps
