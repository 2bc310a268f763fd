"""Decodes one image file into the grey square that every model sees.

One function for training, evaluation and prediction, so that preprocessing can not drift between them.
"""

import io
import warnings
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS: Final = 100_000_000  # a 10,000 x 10,000 radiograph; what is larger is an attack or an accident
MIN_SIDE: Final = 8  # pixels; the smallest sound X-ray of the public releases has 127
KEEP_SCALE: Final = 2  # a scaled JPEG decode keeps at least twice the asked size: 0.2 grey levels of mean error


@dataclass(frozen=True)
class Header:
    """What the first bytes of an image file say: width and height in pixels, and PIL's name of the mode."""

    width: int
    height: int
    mode: str


class UnreadableImageError(ValueError):
    """Why one image can not be used; collected by callers into a ``BrokenImagesError`` that lists all."""


def read_header(raw: bytes) -> Header:
    """Size and mode of an image without decoding it.

    Raises:
        UnreadableImageError: Empty, not an image, too small or too large.
    """
    with _open(raw) as image:
        return Header(image.width, image.height, image.mode)


def decode(raw: bytes, size: int, resize: str = "squash") -> NDArray[np.uint8]:
    """A grey square of ``(size, size)`` uint8 from the bytes of an image file.

    Colour becomes luma (ITU-R 601), transparency lies on black, palettes and CMYK go through RGB, and 16-bit depth is
    scaled by the bits in use (a 12-bit radiograph in a 16-bit file keeps its contrast). EXIF rotation is applied.

    Args:
        raw: The whole file.
        size: Pixels a side.
        resize: ``squash`` to the square, or ``pad`` with black, which keeps the aspect ratio.

    Raises:
        UnreadableImageError: The file is empty, no image, truncated, too small, too large, or of a depth without scale.
    """
    with _open(raw) as image:
        if image.format == "JPEG":
            image.draft("L", (size * KEEP_SCALE, size * KEEP_SCALE))  # decodes at 1/2, 1/4 or 1/8 where that suffices
        try:
            grey = _grey(ImageOps.exif_transpose(image))
        except UnreadableImageError:
            raise
        except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
            raise UnreadableImageError(f"broken or cut short ({error})") from error
    return _fit(grey, size, resize)


def _open(raw: bytes) -> Image.Image:
    if not raw:
        raise UnreadableImageError("empty file (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of large images; the limit below is ours
            image = Image.open(io.BytesIO(raw))
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"more than {MAX_PIXELS:,} pixels (a decompression bomb?)") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise UnreadableImageError("not an image") from error
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableImageError(f"{image.width}x{image.height} is more than {MAX_PIXELS:,} pixels")
    if min(image.width, image.height) < MIN_SIDE:
        raise UnreadableImageError(f"{image.width}x{image.height} pixels is too small to be an X-ray")
    return image


def _grey(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode in {"I;16", "I;16L", "I;16B", "I;16N", "I"}:
        return _to_8_bits(np.asarray(image, dtype=np.int64))
    if image.mode == "F":
        raise UnreadableImageError("floating-point pixels have no defined scale")
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    if image.mode not in {"L", "1"}:
        image = image.convert("RGB")
    return np.asarray(image.convert("L"), dtype=np.uint8)


def _to_8_bits(values: NDArray[np.int64]) -> NDArray[np.uint8]:
    top = int(values.max(initial=0))
    if values.min(initial=0) < 0 or top > 65535:
        raise UnreadableImageError(f"pixel values from {values.min()} to {top} are neither 8, 12 nor 16 bits deep")
    full = next(limit for limit in (255, 4095, 65535) if top <= limit)
    return np.asarray(np.rint(values * (255 / full)), dtype=np.uint8)


def _fit(grey: NDArray[np.uint8], size: int, resize: str) -> NDArray[np.uint8]:
    height, width = grey.shape
    if resize == "pad":
        scale = size / max(height, width)
        inner = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = _resize(grey, inner)
        top, left = (size - inner[1]) // 2, (size - inner[0]) // 2
        square = np.zeros((size, size), dtype=np.uint8)
        square[top : top + inner[1], left : left + inner[0]] = small
        return square
    return _resize(grey, (size, size))


def _resize(grey: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    shrinks = grey.shape[1] >= shape[0] and grey.shape[0] >= shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR  # area averages do not alias when shrinking
    return np.asarray(cv2.resize(grey, shape, interpolation=method), dtype=np.uint8)
