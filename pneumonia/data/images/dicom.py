"""Reads DICOM radiographs: checks the header before any pixel, then makes the grey levels that a viewer would show."""

import hashlib
import io
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pneumonia.data.images.dicom_pixels import EIGHT_BITS, INVERTED, RUN_LENGTH, bit_layout, grey_levels
from pneumonia.data.images.jpeg2000 import JPEG_2000, read_code
from pneumonia.data.images.limits import UnreadableImageError, check_scans, check_size, open_regular_file, quietly

MAGIC: Final = b"DICM"
MAGIC_AT: Final = 128  # bytes of preamble, which may hold anything
PREFIX: Final = "DICOM-"
HEX_DIGITS: Final = 12  # of the patient's digest: 48 bits, no chance meeting in any release
SHAPES: Final = {INVERTED: "INVERSE", "MONOCHROME2": "IDENTITY"}  # the one presentation that each can have
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
TWELVE_BIT_JPEG: Final = "1.2.840.10008.1.2.4.51"
META_GROUP: Final = 2
SLACK: Final = 2**16  # bytes that a run-length code may unpack to beyond its image
HEAD: Final = 2**20  # bytes that hold the transfer syntax and the patient, which stand in the first few thousand
SQUARE: Final = 0.01  # pixels whose sides differ by less are square
SPACINGS: Final = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
FUNCTIONAL_GROUPS: Final = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
SEQUENCES: Final = ("ModalityLUTSequence", "VOILUTSequence", "PresentationLUTSequence", *FUNCTIONAL_GROUPS)
MAX_READS: Final = 200_000  # of a file, two for an element; a radiograph has a few hundred elements
MAX_SEQUENCE: Final = 2**20  # bytes; a lookup table has 128 KiB
FIRST_TAGS: Final = {2: {0x00, 0x01, 0x02, 0x03, 0x10}, 8: {0x00, 0x01, 0x05, 0x06, 0x08, 0x12, 0x14, 0x16, 0x18, 0x20}}
FIRST_GROUPS: Final = {b"\2\0", b"\x08\0", b"\0\2", b"\0\x08"}
FIRST_VRS: Final = {b"UL", b"OB", b"UI", b"CS", b"SH", b"LO", b"DA", b"TM", b"SQ"}
MOST_FIRST_BYTES: Final = 1024  # of a first element whose type is not written beside it
DECODERS: Final = "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
DECOMPRESS: Final = "decompress the file first, for example with `gdcmconv --raw IN OUT` or `dcmdjpeg IN OUT`"


class _CountedBytes(io.BytesIO):
    """The bytes of a file, which may be read a limited number of times: each element and each item costs one or more."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise UnreadableImageError("its header has far more elements than that of a radiograph")
        return super().read(size)


def is_dicom(raw: bytes) -> bool:
    """Whether the first bytes of a file (132 or more) are those of a DICOM file, or of a bare data set without preamble."""
    return has_magic(raw) or _is_bare(raw)


def has_magic(raw: bytes) -> bool:
    """Whether a file begins with a DICOM preamble."""
    return raw[MAGIC_AT : MAGIC_AT + len(MAGIC)] == MAGIC


def _is_bare(raw: bytes) -> bool:
    """Whether a file begins with the tag of a DICOM data set, as image archives (PACS) write them without a preamble."""
    if len(raw) < MAGIC_AT or raw[:2] not in FIRST_GROUPS:
        return False
    for order in "<>":
        group, element = struct.unpack(f"{order}HH", raw[:4])
        if element in FIRST_TAGS.get(group, ()):
            length = struct.unpack("<I", raw[4:8])[0]
            implicit = order == "<" and length <= MOST_FIRST_BYTES and length % 2 == 0
            return raw[4:6] in FIRST_VRS or implicit
    return False


def is_dicom_file(path: Path) -> bool:
    """Whether a file begins as DICOM files do; one that can't be opened does not."""
    try:
        with open_regular_file(path) as file:
            return is_dicom(file.read(MAGIC_AT + len(MAGIC)))
    except OSError:
        return False


def dicom_header(raw: bytes) -> tuple[int, int, str]:
    """Width and height in pixels, and a mode such as ``DICOM MONOCHROME2``.

    Raises:
        UnreadableImageError: See :func:`read_dicom`; all but a break inside the pixels is found here.
    """
    with quietly():
        data = _checked(raw)
        return int(data.Columns), int(data.Rows), f"DICOM {data.PhotometricInterpretation}"


def read_dicom(raw: bytes) -> NDArray[np.uint8]:
    """The grey levels of a DICOM file as it is meant to be shown: ``(H, W)`` uint8, 0 black.

    Modality LUT or rescale first, then the VOI LUT or window (the first, where there are several), then MONOCHROME1 is
    inverted. Without a window, files of up to 8 bits stay as they are, and deeper ones are stretched from their lowest to
    their highest value, as viewers do: what a file declares as 16 bits often holds 12. Padding is black, and has no part
    in that stretch.

    Args:
        raw: The whole file.

    Raises:
        UnreadableImageError: Damaged, without pixels, several frames, colour, a compression that can't be read here,
            too small, too large, a header that contradicts itself, or a window that means nothing.

    Source: DICOM PS3.3, C.7.5.1.1.2 (padding), C.7.6.3.1.2 (photometric interpretation), C.11.1 (modality), C.11.2 (values
    of interest); PS3.5, 8.1.1 (bits).
    """
    with quietly():
        data = _checked(raw)
        try:
            return grey_levels(data)
        except UnreadableImageError:
            raise
        except Exception as error:  # pydicom and its decoders raise whatever they stumble over
            raise UnreadableImageError(f"broken or cut short ({_brief(error)}){_advice(data)}") from error


def dicom_patient(path: Path) -> str | None:
    """A pseudonym of the patient: a digest of PatientID, or ``None`` where the file names no one or can't be read.

    The PatientID itself never leaves the file, since manifests are shared more freely than radiographs.
    """
    from pydicom.filereader import read_partial
    from pydicom.tag import Tag

    tag = Tag("PatientID")
    with quietly():
        try:
            with open_regular_file(path) as file:
                head = file.read(HEAD)
            if not is_dicom(head) or _syntax(head) == DEFLATED:
                return None
            data = read_partial(_CountedBytes(head), lambda found, *_: found > tag, specific_tags=[tag], force=True)
            patient = str(data.get("PatientID") or "").strip()
        except Exception:  # whoever decodes the file says what is wrong with it
            return None
    return (
        PREFIX + hashlib.sha256(patient.encode(errors="surrogateescape")).hexdigest()[:HEX_DIGITS] if patient else None
    )


def _checked(raw: bytes) -> Any:
    """The dataset of a file whose pixels can be decoded."""
    from pydicom import dcmread

    try:
        if _syntax(raw) == DEFLATED:
            raise UnreadableImageError(
                "deflated DICOM, which may unpack to any size. Save it with an uncompressed transfer syntax"
            )
        data = dcmread(_CountedBytes(raw), force=not has_magic(raw))
        _check_syntax(data)
        _check_kind(data)
        check_size(int(data.get("Columns", 0) or 0), int(data.get("Rows", 0) or 0))
        _check_decoder(data)
        _check_presentation(data)
        bit_layout(data)
    except UnreadableImageError:
        raise
    except NotImplementedError as error:
        raise UnreadableImageError(
            f"its transfer syntax can't be decoded ({_brief(error)}). To read it, {DECOMPRESS}"
        ) from error
    except Exception as error:  # pydicom raises whatever it stumbles over
        raise UnreadableImageError(f"broken DICOM ({_brief(error)})") from error
    return data


def _syntax(raw: bytes) -> Any:
    """The transfer syntax, read from the file's own header alone, before anything can be inflated."""
    from pydicom.filereader import read_dataset

    file = io.BytesIO(raw)
    file.seek(MAGIC_AT + len(MAGIC) if has_magic(raw) else 0)
    meta = read_dataset(file, False, True, stop_when=lambda tag, *_: tag.group != META_GROUP)
    return meta.get("TransferSyntaxUID")


def _check_syntax(data: Any) -> None:
    """Refuse a file that does not say how it is encoded, unless that can be seen: a bare, uncompressed data set."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if data.file_meta.get("TransferSyntaxUID"):
        return
    if "PixelData" in data and data["PixelData"].is_undefined_length:
        raise UnreadableImageError(
            "a DICOM data set without a file header, whose pixels are compressed in a way that it does not say. Export it "
            "as a DICOM file (PS3.10)"
        )
    implicit, little = data.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _check_kind(data: Any) -> None:
    """Refuse what is no single grey image."""
    if "FloatPixelData" in data or "DoubleFloatPixelData" in data:
        raise UnreadableImageError("floating-point pixels have no defined scale")
    if not data.get("PixelData"):
        raise UnreadableImageError("a DICOM file without pixels")
    samples, kind = int(data.get("SamplesPerPixel", 1) or 0), str(data.get("PhotometricInterpretation", ""))
    if samples != 1 or kind not in SHAPES:
        raise UnreadableImageError(
            f"colour or unknown DICOM ({kind or 'no photometric interpretation'}), not a radiograph. Export it in grey, as "
            "MONOCHROME2"
        )
    frames = int(data.get("NumberOfFrames", 1) or 1)
    if frames != 1:
        raise UnreadableImageError(
            f"{frames} frames in one DICOM file, and which one is meant is not said. Export the frame as a file of its own"
        )
    # One of no stated length is parsed already, within the limit of reads.
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
    held = [item for name in FUNCTIONAL_GROUPS for item in data.get(name) or ()]
    if any("PixelValueTransformationSequence" in item or "FrameVOILUTSequence" in item for item in held):
        raise UnreadableImageError(
            "its rescale or window lies in functional groups, which are not read. Export it as a classic, single-frame image"
        )


def _check_presentation(data: Any) -> None:
    """Refuse pixels that are not square, and half a rescale or window."""
    for name in ("PixelAspectRatio", *SPACINGS):
        sides = data.get(name)
        if sides and abs(float(sides[0]) / float(sides[1]) - 1) > SQUARE:
            raise UnreadableImageError(
                f"its pixels are not square ({name} {sides[0]} by {sides[1]}), so shapes would be wrong. Export it with "
                "square pixels"
            )
    if data.get("RescaleSlope") is not None and not float(data.RescaleSlope):
        raise UnreadableImageError("its RescaleSlope is 0, which makes all pixels alike")
    for one, other in (("RescaleSlope", "RescaleIntercept"), ("WindowCenter", "WindowWidth")):
        has = [data.get(name) is not None for name in (one, other)]
        if has[0] != has[1] and not (one == "RescaleSlope" and data.get("ModalityLUTSequence")):
            names = (one, other) if has[0] else (other, one)
            raise UnreadableImageError(f"it has {names[0]} without {names[1]}, so its grey levels are not certain")


def _check_decoder(data: Any) -> None:
    """Refuse a compression without a decoder here, and a compressed image of another size than the header says."""
    from pydicom.encaps import get_frame
    from pydicom.pixels.decoders.base import get_decoder

    syntax = data.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return
    decoder = get_decoder(syntax)
    if not decoder.is_available:
        raise UnreadableImageError(
            f"compressed as {syntax.name}, and no decoder is installed: {DECODERS}, or {DECOMPRESS}"
        )
    deep_jpeg = syntax == TWELVE_BIT_JPEG and data.get("BitsStored") != EIGHT_BITS
    if deep_jpeg and set(decoder.available_plugins) == {"pillow"}:
        raise UnreadableImageError(
            f"compressed as {syntax.name} with {data.get('BitsStored')} bits, and the installed decoder reads 8: {DECODERS}, "
            f"or {DECOMPRESS}"
        )
    frame = get_frame(data.PixelData, 0, number_of_frames=1)
    columns, rows = int(data.Columns), int(data.Rows)
    if syntax == RUN_LENGTH:
        raw_bytes = columns * rows * max(1, int(data.BitsAllocated) // 8)
        if _unpacked(frame, raw_bytes + SLACK) > raw_bytes + SLACK:
            raise UnreadableImageError("its run-length code unpacks to more than its size (a decompression bomb?)")
        return
    if syntax in JPEG_2000:
        code = read_code(frame)
        size: tuple[int, int] | None = code.width, code.height
    else:
        size = _jpeg_size(frame)
    if size is not None and size != (columns, rows):
        raise UnreadableImageError(f"its compressed pixels say {size[0]}x{size[1]}, its header says {columns}x{rows}")
    check_scans(frame.count(b"\xff\xda") if frame[:2] == b"\xff\xd8" else 1, columns, rows)


def _jpeg_size(frame: bytes) -> tuple[int, int] | None:
    """Width and height that a JPEG or JPEG-LS code says itself; ``None`` where it says none."""
    place = 2
    while frame[:2] == b"\xff\xd8" and place + 9 <= len(frame) and frame[place] == 0xFF:
        marker, length = frame[place + 1], int.from_bytes(frame[place + 2 : place + 4], "big")
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}):
            height, width = struct.unpack(">2H", frame[place + 5 : place + 9])
            return width, height
        place += 1 if marker == 0xFF else 2 + length
    return None


def _unpacked(frame: bytes, limit: int) -> int:
    """Bytes that a run-length code (PS3.5, annex G) unpacks to; counted no further than just past ``limit``."""
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


def _advice(data: Any) -> str:
    """What to do about compressed pixels that no installed decoder reads."""
    syntax = data.file_meta.TransferSyntaxUID
    return f". If a viewer shows it, {DECOMPRESS}" if syntax.is_encapsulated else ""


def _brief(error: Exception) -> str:
    return " ".join((str(error).strip() or type(error).__name__).split())[:200]
