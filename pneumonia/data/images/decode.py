"""Decode an image file into the grey square that every model sees.

Training, evaluation and prediction share these functions, so that preprocessing can not differ between them.
"""

import io
import math
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pneumonia.data.images.dicom import dicom_header, read_dicom
from pneumonia.data.images.dicom_files import is_dicom
from pneumonia.data.images.limits import (
    MAX_PIXELS,
    UnreadableImageError,
    brief,
    check_scans,
    check_size,
    open_regular_file,
    quietly,
)
from pneumonia.data.images.tiff_tags import check_tags
from pneumonia.system.arrays import Floats, Ints, Pixels

KEEP_SCALE: Final = 1.5  # a scaled JPEG decode keeps this multiple of the requested size: 0.4 grey levels of mean error
LEAST: Final = 113  # pixels a side that every decode keeps at least, so that all sizes up to 75 px share one decode
SCALES: Final = {
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    1: cv2.IMREAD_GRAYSCALE,
}
DECODER: Final = "3"  # raise it when this file changes a pixel: caches and bundles depend on it
END_OF_JPEG: Final = b"\xff\xd9"
START_OF_SCAN: Final = b"\xff\xda"
ORIENTATION: Final = 0x0112  # the EXIF tag
FORMATS: Final = ("JPEG", "PNG", "BMP", "TIFF")  # PIL reads forty more, some through programs that it starts
READ: Final = "JPEG, PNG, BMP, TIFF or DICOM"
PROFILE: Final = "Raw profile type exif"  # where ImageMagick keeps EXIF data in a PNG, in hexadecimal


@dataclass(frozen=True)
class Header:
    """Size in pixels, and PIL's name of the mode, from the first bytes of an image file."""

    width: int
    height: int
    mode: str


@dataclass(frozen=True)
class Grey:
    """A decoded grey image, possibly at a fraction of its size."""

    pixels: Pixels  # (H, W)
    height: float  # rows inside the image: H, or up to one less where a scaled decode ends with a partial row
    width: float  # the same of columns


def read_header(raw: bytes) -> Header:
    """Read size and mode of an image without decoding it.

    Raises:
        UnreadableImageError: Empty, not an image, too small or too large.
    """
    if is_dicom(raw):
        return Header(*dicom_header(raw))
    with quietly(), _open(raw) as image:
        return Header(image.width, image.height, image.mode)


def jpeg_quantisation(path: os.PathLike[str] | str) -> float | None:
    """Return the mean step of a JPEG's luma table from its header alone; ``None`` for another format.

    Raises:
        OSError: The file can't be opened.
    """
    with quietly(), open_regular_file(str(path)) as file:
        try:
            with _identify(file, ("JPEG",)) as image:
                tables = getattr(image, "quantization", None)
                return float(np.mean(tables[0])) if tables else None
        except UnreadableImageError:
            return None


def decode(raw: bytes, size: int, resize: str = "stretch") -> Pixels:
    """Decode the bytes of an image file to a grey square ``(size, size)``: :func:`read_image`, then :func:`fit`.

    Raises:
        UnreadableImageError: See :func:`read_image`.
    """
    return fit(read_image(raw, size)[1], size, resize)


def read_image(raw: bytes, size: int = 0) -> tuple[Header, Grey]:
    """Decode an image to grey; JPEGs at the smallest scale that keeps ``KEEP_SCALE`` times ``size`` (and ``LEAST``) a side.

    Colour becomes luma (ITU-R 601), transparency is put on black, palettes and CMYK go through RGB, and 16-bit depth is
    scaled by the bits in use (a 12-bit radiograph in a 16-bit file keeps its contrast). EXIF rotation is applied.

    Raises:
        UnreadableImageError: The file is empty, no image, truncated, too small, too large, or of a depth without scale.
    """
    if is_dicom(raw):
        return Header(*dicom_header(raw)), _full_size(read_dicom(raw))
    with quietly(), _open(raw) as image:
        header = Header(image.width, image.height, image.mode)
        try:
            least = max(math.ceil(size * KEEP_SCALE), LEAST)
            return header, _scaled_jpeg(raw, image, least) or _full_size(_to_grey(_upright(image)))
        except UnreadableImageError:
            raise
        except Exception as error:  # any error that PIL or OpenCV raises on a hostile file is the file's fault
            raise UnreadableImageError(f"broken or cut short ({brief(error)})") from error


def _full_size(pixels: Pixels) -> Grey:
    return Grey(pixels, *map(float, pixels.shape))


def _scaled_jpeg(raw: bytes, image: Image.Image, least: int) -> Grey | None:
    """Decode a JPEG's luma at 1/8, 1/4, 1/2 or 1/1, keeping ``least`` pixels a side; return ``None`` where PIL must decode.

    OpenCV decodes a quarter faster than PIL, but fills the missing end of a truncated file with grey without notice: so the
    end marker is required. Rotated files and colour spaces without luma are left to PIL.
    """
    if image.format != "JPEG" or image.mode not in {"L", "RGB"} or END_OF_JPEG not in raw[-64:]:
        return None
    if "exif" in image.info:
        _check_exif(image)
        if image.getexif().get(ORIENTATION, 1) != 1:
            return None
    times = min(image.width, image.height) // least
    scale = next(divisor for divisor in SCALES if times >= divisor or divisor == 1)
    pixels = cv2.imdecode(np.frombuffer(raw, dtype=np.uint8), SCALES[scale] | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        return None
    return Grey(np.asarray(pixels, dtype=np.uint8), image.height / scale, image.width / scale)


def _open(raw: bytes) -> Image.Image:
    """Open an image whose header is sound and within the limits, without decoding its pixels."""
    if not raw:
        raise UnreadableImageError("empty file (0 bytes)")
    if raw[:2] in {b"II", b"MM"}:
        check_tags(raw)
    image = _identify(io.BytesIO(raw), FORMATS)
    check_size(image.width, image.height)
    if image.format in {"JPEG", "MPO"}:
        check_scans(raw.count(START_OF_SCAN), image.width, image.height)
    return image


def _identify(file: BinaryIO, formats: tuple[str, ...]) -> Image.Image:
    try:
        return Image.open(file, formats=formats)
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"more than {MAX_PIXELS:,} pixels (a decompression bomb?)") from error
    except Exception as error:  # PIL's readers raise errors of any type
        raise UnreadableImageError(f"not an image that is read here ({READ})") from error


def _upright(image: Image.Image) -> Image.Image:
    """Return the first frame, rotated by its EXIF data."""
    _check_exif(image)
    image.load()
    return ImageOps.exif_transpose(image)


def _check_exif(image: Image.Image) -> None:
    exif, profile = image.info.get("exif"), image.info.get(PROFILE)
    if isinstance(exif, bytes):
        check_tags(exif)
    elif isinstance(profile, str):
        check_tags(bytes.fromhex("".join(profile.split("\n")[3:])))


def _to_grey(image: Image.Image) -> Pixels:
    if image.mode in {"I;16", "I;16L", "I;16B", "I;16N", "I"}:
        return _to_8_bits(np.asarray(image))
    if image.mode == "F":
        raise UnreadableImageError("floating-point pixels have no defined scale")
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    if image.mode not in {"L", "1"}:
        image = image.convert("RGB")
    return np.asarray(image.convert("L"), dtype=np.uint8)


def _to_8_bits(values: NDArray[Any]) -> Pixels:
    low, top = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 or top > 65535:
        raise UnreadableImageError(f"pixel values from {low} to {top} are neither 8, 12 nor 16 bits deep")
    full = next(limit for limit in (255, 4095, 65535) if top <= limit)
    table = np.rint(np.arange(top + 1) * (255 / full)).astype(np.uint8)  # a table takes a tenth of the memory
    return np.asarray(table[values], dtype=np.uint8)


def fit(grey: Grey, size: int, resize: str) -> Pixels:
    """Resize to a square ``(size, size)``: ``stretch`` it, or ``pad`` it with black, which keeps the aspect ratio."""
    if resize != "pad":
        return _resize(grey, (size, size))
    scale = size / max(grey.height, grey.width)
    width, height = max(1, round(grey.width * scale)), max(1, round(grey.height * scale))
    top, left = (size - height) // 2, (size - width) // 2
    square = np.zeros((size, size), dtype=np.uint8)
    square[top : top + height, left : left + width] = _resize(grey, (width, height))
    return square


def _resize(grey: Grey, shape: tuple[int, int]) -> Pixels:
    pixels = grey.pixels
    shrinks = pixels.shape[1] >= shape[0] and pixels.shape[0] >= shape[1]  # area means do not alias when shrinking
    if shrinks and pixels.shape != (grey.height, grey.width):
        return _area_means(grey, shape)
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, shape, interpolation=method), dtype=np.uint8)


def _area_means(grey: Grey, shape: tuple[int, int]) -> Pixels:
    """Return the means over ``(width, height)`` equal cells, which may begin and end within a pixel.

    A JPEG decoded at 1/8 may end with a row that is partly outside the image. OpenCV's area resize would stretch the rest
    to fit, which moves edges by up to a pixel of the result. The sums come from a summed-area table (Crow, 1984), which is
    linear within a pixel, so that interpolation is exact.
    """
    width, height = shape
    sums = cv2.integral(grey.pixels)
    top, down = _edges(grey.height, height, grey.pixels.shape[0])
    left, right = _edges(grey.width, width, grey.pixels.shape[1])
    rows = sums[top] + (sums[top + 1] - sums[top]) * down[:, None]
    corners = rows[:, left] + (rows[:, left + 1] - rows[:, left]) * right
    cells = corners[1:, 1:] - corners[1:, :-1] - corners[:-1, 1:] + corners[:-1, :-1]
    return np.rint(cells * (width * height / (grey.width * grey.height))).astype(np.uint8)


@lru_cache(maxsize=4096)
def _edges(extent: float, count: int, pixels: int) -> tuple[Ints, Floats]:
    """Return the pixel in which each of ``count`` + 1 edges lies, and its distance into that pixel."""
    edges = np.linspace(0, extent, count + 1)
    whole = np.minimum(edges.astype(np.int64), pixels - 1)
    return whole, edges - whole
