"""Where a bundle looks: how much a probability falls when a patch of the image is covered. Needs no gradient, so no torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pneumonia.data.images.limits import MAX_PIXELS
from pneumonia.export.runtime import Bundle

BATCH: Final = 32
ACROSS: Final = 5  # patches side by side
STEPS: Final = 3  # strides a patch


@dataclass(frozen=True)
class Occlusion:
    """A map of a class.

    Attributes:
        label: The class.
        heat: ``(size, size)``; see :func:`occlusion_map`.
    """

    label: str
    heat: NDArray[np.float32]


def occlusion_map(
    bundle: Bundle,
    data: bytes,
    patch: int | None = None,
    stride: int | None = None,
    label: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> NDArray[np.float32]:
    """What each place of an image adds to the probability of a class.

    Args:
        bundle: That answers.
        data: An image file.
        patch: Pixels a side of the cover, of the network's square; a fifth of it by default.
        stride: Pixels between two covers; a third of the patch by default.
        label: The class; the likeliest by default.
        max_pixels: More are refused before any is decoded.

    Returns:
        ``(size, size)``: by how much the probability falls, on average over the covers of a pixel; negative where it rises.

    Raises:
        UnreadableImageError: Why the file can't be read.

    Source: Zeiler and Fergus (2014), Visualizing and understanding convolutional networks. The cover has the mean grey level.
    """
    steps = occlusion_steps(bundle, bundle.square(data, max_pixels), patch, stride, label)
    return next(found.heat for found in steps if found is not None)


def occlusion_steps(
    bundle: Bundle,
    square: NDArray[np.uint8],
    patch: int | None = None,
    stride: int | None = None,
    label: str | None = None,
) -> Iterator[Occlusion | None]:
    """The steps of :func:`occlusion_map`, so that a caller can do something else, or stop, between two batches.

    Args:
        bundle: Answers.
        square: ``(size, size)``, from :meth:`Bundle.square`.
        patch: See :func:`occlusion_map`.
        stride: The same.
        label: The same.

    Yields:
        ``None`` after each batch, then the map.
    """
    size = len(square)
    patch = min(size, max(1, patch or size // ACROSS))
    stride = max(1, stride or patch // STEPS)
    plain = bundle.calibrate(bundle.probabilities(square[None]))[0]
    number = int(plain.argmax()) if label is None else bundle.contract.classes.index(label)
    starts = sorted({*range(0, size - patch, stride), size - patch})
    places = [(top, left) for top in starts for left in starts]
    total, times = np.zeros((size, size)), np.zeros((size, size))
    for first in range(0, len(places), BATCH):
        some = places[first : first + BATCH]
        covered = np.repeat(square[None], len(some), axis=0)
        for image, (top, left) in zip(covered, some, strict=True):
            image[top : top + patch, left : left + patch] = round(float(square.mean()))
        found = bundle.calibrate(bundle.probabilities(covered))[:, number]
        for value, (top, left) in zip(found, some, strict=True):
            total[top : top + patch, left : left + patch] += plain[number] - value
            times[top : top + patch, left : left + patch] += 1
        yield None
    yield Occlusion(bundle.contract.classes[number], (total / times).astype(np.float32))
