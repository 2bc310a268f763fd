"""Check the header of a DICOM file before any pixel is decoded: refuse what could give wrong grey levels or cost too much."""

import io
import struct
from itertools import pairwise
from typing import Any, Final

from pydicom import dcmread
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pneumonia.data.images.dicom_files import MAGIC, MAGIC_AT, has_magic
from pneumonia.data.images.dicom_pixels import EIGHT_BITS, INVERTED, RUN_LENGTH, bit_layout
from pneumonia.data.images.jpeg2000 import JPEG_2000, read_code
from pneumonia.data.images.limits import UnreadableImageError, brief, check_scans, check_size

SHAPES: Final = {INVERTED: "INVERSE", "MONOCHROME2": "IDENTITY"}  # the only presentation that each can have
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
TWELVE_BIT_JPEG: Final = "1.2.840.10008.1.2.4.51"
META_GROUP: Final = 2
SLACK: Final = 2**16  # bytes that a run-length code may unpack to beyond its image
SQUARE: Final = 0.01  # pixels whose sides differ by less are square
SPACINGS: Final = ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
FUNCTIONAL_GROUPS: Final = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
SEQUENCES: Final = ("ModalityLUTSequence", "VOILUTSequence", "PresentationLUTSequence", *FUNCTIONAL_GROUPS)
MAX_READS: Final = 200_000  # of a file, two for an element; a radiograph has a few hundred elements
MAX_SEQUENCE: Final = 2**20  # bytes; a lookup table has 128 KiB
DECODERS: Final = "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
DECOMPRESS: Final = "decompress the file first, for example with `gdcmconv --raw IN OUT` or `dcmdjpeg IN OUT`"


class CountedBytes(io.BytesIO):
    """The bytes of a file with a limited number of reads: each element and each item costs one or more."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise UnreadableImageError("its header has far more elements than that of a radiograph")
        return super().read(size)


def checked_dataset(raw: bytes) -> Any:
    """Return the pydicom dataset of a file whose pixels can be decoded.

    Raises:
        UnreadableImageError: See :func:`pneumonia.data.images.dicom.read_dicom`.
    """
    try:
        if transfer_syntax(raw) == DEFLATED:
            raise UnreadableImageError(
                "deflated DICOM, which may unpack to any size. Save it with an uncompressed transfer syntax"
            )
        data = dcmread(CountedBytes(raw), force=not has_magic(raw))
        _check_syntax(data)
        _check_kind(data)
        check_size(int(data.get("Columns", 0) or 0), int(data.get("Rows", 0) or 0))
        _check_compression(data)
        _check_presentation(data)
        bit_layout(data)
    except UnreadableImageError:
        raise
    except NotImplementedError as error:
        reason = f"its transfer syntax can't be decoded ({brief(error)}). To read it, {DECOMPRESS}"
        raise UnreadableImageError(reason) from error
    except Exception as error:  # pydicom raises errors of any type
        raise UnreadableImageError(f"broken DICOM ({brief(error)})") from error
    return data


def transfer_syntax(raw: bytes) -> Any:
    """Return the transfer syntax from the file header alone, before anything can be inflated."""
    file = io.BytesIO(raw)
    file.seek(MAGIC_AT + len(MAGIC) if has_magic(raw) else 0)
    meta = read_dataset(file, False, True, stop_when=lambda tag, *_: tag.group != META_GROUP)
    return meta.get("TransferSyntaxUID")


def _check_syntax(data: Any) -> None:
    """Refuse a file that does not declare its encoding, except a bare, uncompressed data set."""
    if data.file_meta.get("TransferSyntaxUID"):
        return
    if "PixelData" in data and data["PixelData"].is_undefined_length:
        raise UnreadableImageError(
            "a DICOM data set without a file header, whose pixels are compressed in an undeclared way. Export it as a DICOM "
            "file (PS3.10)"
        )
    implicit, little = data.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _check_kind(data: Any) -> None:
    """Refuse anything but a single grey image."""
    if "FloatPixelData" in data or "DoubleFloatPixelData" in data:
        raise UnreadableImageError("floating-point pixels have no defined scale")
    if not data.get("PixelData"):
        raise UnreadableImageError("a DICOM file without pixels")
    samples, kind = int(data.get("SamplesPerPixel", 1) or 0), str(data.get("PhotometricInterpretation", ""))
    if samples != 1 or kind not in SHAPES:
        shown = kind or "no photometric interpretation"
        raise UnreadableImageError(f"colour or unknown DICOM ({shown}), not a radiograph. Export it in grey, as MONOCHROME2")
    frames = int(data.get("NumberOfFrames", 1) or 1)
    if frames != 1:
        raise UnreadableImageError(f"{frames} frames in one DICOM file. Export the frame that is meant as a file of its own")
    # A sequence of undefined length is parsed already, within the limit of reads.
    lengths = {name: getattr(data.get_item(name), "length", 0) for name in SEQUENCES if name in data}
    large = [name for name, length in lengths.items() if length > MAX_SEQUENCE]
    if large:
        raise UnreadableImageError(f"its {large[0]} has far more bytes than a radiograph needs")
    shape = str(data.get("PresentationLUTShape") or SHAPES[kind])
    if shape != SHAPES[kind] or data.get("PresentationLUTSequence"):
        found = "a table" if data.get("PresentationLUTSequence") else shape
        raise UnreadableImageError(
            f"its photometric interpretation is {kind} and its presentation LUT {found}: whether low values are black or "
            "white is not certain. Export it with a presentation LUT that fits"
        )
    groups = [item for name in FUNCTIONAL_GROUPS for item in data.get(name) or ()]
    if any("PixelValueTransformationSequence" in item or "FrameVOILUTSequence" in item for item in groups):
        raise UnreadableImageError(
            "its rescale or window is in functional groups, which are not read. Export it as a classic, single-frame image"
        )


def _check_presentation(data: Any) -> None:
    """Refuse pixels that are not square, and an incomplete rescale or window."""
    for name in SPACINGS:
        sides = data.get(name)
        if sides and abs(float(sides[0]) / float(sides[1]) - 1) > SQUARE:
            raise UnreadableImageError(
                f"its pixels are not square ({name} {sides[0]} by {sides[1]}), so shapes would be wrong. Export it with "
                "square pixels"
            )
    if data.get("RescaleSlope") is not None and not float(data.RescaleSlope):
        raise UnreadableImageError("its RescaleSlope is 0, which makes all pixels equal")
    for names in (("RescaleSlope", "RescaleIntercept"), ("WindowCenter", "WindowWidth")):
        present = [name for name in names if data.get(name) is not None]
        if len(present) == 1 and not (names[0] == "RescaleSlope" and data.get("ModalityLUTSequence")):
            absent = next(name for name in names if name not in present)
            raise UnreadableImageError(f"it has {present[0]} without {absent}, so its grey levels are not certain")


def _check_compression(data: Any) -> None:
    """Refuse a compression without an installed decoder, and compressed pixels of another size than the header's."""
    syntax = data.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return
    decoder, bits = get_decoder(syntax), data.get("BitsStored")
    if not decoder.is_available:
        raise UnreadableImageError(f"compressed as {syntax.name}, and no decoder is installed: {DECODERS}, or {DECOMPRESS}")
    if syntax == TWELVE_BIT_JPEG and bits != EIGHT_BITS and set(decoder.available_plugins) == {"pillow"}:
        raise UnreadableImageError(
            f"compressed as {syntax.name} with {bits} bits, and the installed decoder reads 8: {DECODERS}, or {DECOMPRESS}"
        )
    frame = get_frame(data.PixelData, 0, number_of_frames=1)
    columns, rows = int(data.Columns), int(data.Rows)
    if syntax == RUN_LENGTH:
        limit = columns * rows * max(1, int(data.BitsAllocated) // 8) + SLACK
        if _unpacked_size(frame, limit) > limit:
            raise UnreadableImageError("its run-length code unpacks to more than its size (a decompression bomb?)")
        return
    size: tuple[int, int] | None
    if syntax in JPEG_2000:
        code = read_code(frame)
        size = code.width, code.height
    else:
        size = _jpeg_size(frame)
    if size is not None and size != (columns, rows):
        raise UnreadableImageError(f"its compressed pixels are {size[0]}x{size[1]}, its header says {columns}x{rows}")
    check_scans(frame.count(b"\xff\xda") if frame[:2] == b"\xff\xd8" else 1, columns, rows)


def _jpeg_size(frame: bytes) -> tuple[int, int] | None:
    """Return width and height from a JPEG or JPEG-LS code, or ``None`` if it has none."""
    place = 2
    while frame[:2] == b"\xff\xd8" and place + 9 <= len(frame) and frame[place] == 0xFF:
        marker, length = frame[place + 1], int.from_bytes(frame[place + 2 : place + 4], "big")
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}):
            height, width = struct.unpack(">2H", frame[place + 5 : place + 9])
            return width, height
        place += 1 if marker == 0xFF else 2 + length
    return None


def _unpacked_size(frame: bytes, limit: int) -> int:
    """Return the bytes that a run-length code (PS3.5, annex G) unpacks to; the count stops after ``limit``."""
    starts = struct.unpack("<16L", frame[:64])
    total = 0
    for start, end in pairwise((*starts[1 : 1 + min(starts[0], 15)], len(frame))):
        place = start
        while place < min(end, len(frame)) and total <= limit:
            code = frame[place]
            if code < 128:
                total, place = total + code + 1, place + code + 2
            else:
                total, place = total + (257 - code if code > 128 else 0), place + (2 if code > 128 else 1)
    return total
