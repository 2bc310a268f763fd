"""Decode the JPEG 2000 code of grey DICOM images, after a check of its cost.

OpenCV decodes it without blocking other threads. Pillow, which pydicom's own decoder calls, blocks the whole process.

Source: ISO/IEC 15444-1, annex A.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from pneumonia.data.images.limits import UnreadableImageError
from pneumonia.system.arrays import Ints

JPEG_2000: Final = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
CODE_START: Final = b"\xff\x4f\xff\x51"  # of the code; boxes of the JP2 format may stand before it
MOST_BOX_BYTES: Final = 4096
SIZE_HEADER: Final = struct.Struct(">HH8IHB")  # length, capabilities, sizes and offsets, components, precision
PRECISION_AT: Final = 42  # in the code: after the two markers
SIGNED: Final = 0x80
CODING, CODING_OF_COMPONENT, TILE_PART, DATA, END = 0x52, 0x53, 0x90, 0x93, 0xD9
# A code of few bytes can cost minutes: each layer, code block and tile has a cost of its own, whatever its size.
MOST_LAYERS: Final = 32  # one is usual
LEAST_CODE_BLOCK: Final = 32 * 32  # samples; 64 x 64 is usual
LEAST_TILE: Final = 128  # pixels a side; one tile is usual
MOST_SEGMENTS: Final = 10_000
BROKEN: Final = "its JPEG 2000 code is broken or cut short"

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # it reports grey codes without a colour space


@dataclass(frozen=True)
class Code:
    """A code without the boxes before it, from the first marker on."""

    raw: bytes
    width: int
    height: int
    components: int  # 1 for grey
    precision: int  # bits of a value
    signed: bool


def read_code(frame: bytes) -> Code:
    """Read the header of a code, and refuse a code that costs far more than its size suggests.

    Raises:
        UnreadableImageError: Damaged, or with more layers, smaller code blocks or smaller tiles than any radiograph has.
    """
    start = frame.find(CODE_START, 0, MOST_BOX_BYTES)
    try:
        if start < 0:
            raise UnreadableImageError("its compressed pixels are no JPEG 2000 code, or are broken or cut short")
        raw = frame[start:]
        _, _, right, bottom, left, top, tile_x, tile_y, _, _, components, depth = SIZE_HEADER.unpack_from(raw, 4)
        code = Code(raw, right - left, bottom - top, components, (depth & ~SIGNED) + 1, bool(depth & SIGNED))
        if tile_x < min(LEAST_TILE, code.width) or tile_y < min(LEAST_TILE, code.height):
            raise UnreadableImageError(
                f"its JPEG 2000 code has tiles of {tile_x}x{tile_y} pixels, which takes too long to decode"
            )
        for marker, segment in _segments(raw):
            _check_cost(marker, segment)
    except (struct.error, IndexError) as error:
        raise UnreadableImageError(BROKEN) from error
    return code


def decode_code(code: Code) -> Ints:
    """Return the values ``(H, W)`` of a grey code.

    Raises:
        UnreadableImageError: Colour, or damaged.
    """
    if code.components != 1:
        raise UnreadableImageError(f"its JPEG 2000 code has {code.components} components, and a grey image has one")
    raw = bytearray(code.raw)
    raw[PRECISION_AT] &= ~SIGNED & 0xFF  # OpenCV reads unsigned values alone; these are higher by half the range
    try:
        pixels = cv2.imdecode(np.frombuffer(raw, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.shape != (code.height, code.width):
        raise UnreadableImageError(BROKEN)
    return pixels.astype(np.int64) - (1 << (code.precision - 1) if code.signed else 0)


def _segments(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and content of each segment of the main header and of all tile-part headers."""
    place, tile_end = 2, 0
    for _ in range(MOST_SEGMENTS):
        if place + 2 > len(raw) or raw[place] != 0xFF:
            return  # the decoder reports the problem
        marker = raw[place + 1]
        if marker == END:
            return
        if marker == DATA:
            if tile_end <= place:  # the last tile part may lack its length, and reaches to the end
                return
            place = tile_end
            continue
        length = struct.unpack_from(">H", raw, place + 2)[0]
        if length < 2:
            return
        if marker == TILE_PART:
            tile_bytes = struct.unpack_from(">I", raw, place + 6)[0]
            tile_end = place + tile_bytes if tile_bytes else 0
        yield marker, raw[place + 4 : place + 2 + length]
        place += 2 + length
    raise UnreadableImageError(f"its JPEG 2000 code has more than {MOST_SEGMENTS:,} segments, which takes too long to decode")


def _check_cost(marker: int, segment: bytes) -> None:
    """Refuse a segment whose layers or code blocks cost too much."""
    if marker == CODING:
        layers, exponents = struct.unpack_from(">H", segment, 2)[0], segment[6:8]
        if layers > MOST_LAYERS:
            raise UnreadableImageError(
                f"its JPEG 2000 code has {layers} layers, and more than {MOST_LAYERS} take too long to decode"
            )
    elif marker == CODING_OF_COMPONENT:  # one byte of component, one of style, one of levels
        exponents = segment[3:5]
    else:
        return
    width, height = (1 << (2 + (exponent & 0x0F)) for exponent in (exponents[0], exponents[1]))
    if width * height < LEAST_CODE_BLOCK:
        raise UnreadableImageError(f"its JPEG 2000 code has blocks of {width}x{height}, which take too long to decode")
