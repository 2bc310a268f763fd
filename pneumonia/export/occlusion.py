"""Map where a prediction of a bundle depends on the image, by covering it patch by patch. Needs no gradient, so no torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pneumonia.data.images.limits import MAX_PIXELS
from pneumonia.export.runtime import Bundle

BATCH: Final = 32
PATCHES: Final = 5  # side by side
STRIDES: Final = 3  # per patch


@dataclass(frozen=True)
class Occlusion:
    """The occlusion map of a class.

    Attributes:
        label: The class.
        heat: ``(size, size)``: by how much its probability falls, averaged over the patches that cover a pixel; negative where
            it rises.
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
    """Return the occlusion map of an image file, ``(size, size)``; see :class:`Occlusion`.

    Args:
        bundle: Predicts.
        data: An image file.
        patch: Pixels a side of a patch, of the square that the network takes; a fifth of it by default.
        stride: Pixels between two patches; a third of the patch by default.
        label: The class; the most probable one by default.
        max_pixels: Larger images are refused by their header.

    Raises:
        UnreadableImageError: Why the file can't be read.

    Source: Zeiler and Fergus (2014), Visualizing and understanding convolutional networks. A patch has the mean grey level.
    """
    steps = occlusion_steps(bundle, bundle.decode(data, max_pixels), patch, stride, label)
    return next(found.heat for found in steps if found is not None)


def occlusion_steps(
    bundle: Bundle,
    square: NDArray[np.uint8],
    patch: int | None = None,
    stride: int | None = None,
    label: str | None = None,
) -> Iterator[Occlusion | None]:
    """Compute an occlusion map in steps, so that a caller can do something else, or stop, between two batches.

    The arguments are those of :func:`occlusion_map`, with the decoded square ``(size, size)`` instead of the file.

    Yields:
        ``None`` after each batch, then the map.
    """
    size = len(square)
    patch = min(size, max(1, patch or size // PATCHES))
    stride = max(1, stride or patch // STRIDES)
    uncovered = bundle.calibrate(bundle.probabilities(square[None]))[0]
    number = int(uncovered.argmax()) if label is None else bundle.contract.classes.index(label)
    starts = sorted({*range(0, size - patch, stride), size - patch})
    corners = [(top, left) for top in starts for left in starts]
    total, count = np.zeros((size, size)), np.zeros((size, size))
    for first in range(0, len(corners), BATCH):
        batch = [(slice(top, top + patch), slice(left, left + patch)) for top, left in corners[first : first + BATCH]]
        covered = np.repeat(square[None], len(batch), axis=0)
        for image, place in zip(covered, batch, strict=True):
            image[place] = round(float(square.mean()))
        found = bundle.calibrate(bundle.probabilities(covered))[:, number]
        for value, place in zip(found, batch, strict=True):
            total[place] += uncovered[number] - value
            count[place] += 1
        yield None
    yield Occlusion(bundle.contract.classes[number], (total / count).astype(np.float32))
