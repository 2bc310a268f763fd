"""Parse a request: from its bytes and content type to image files that are worth decoding."""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pneumonia.data.images.decode import read_header
from pneumonia.data.images.dicom_files import MAGIC, MAGIC_AT, is_dicom
from pneumonia.data.images.limits import MAX_PIXELS, MAX_SCANS, UnreadableImageError
from pneumonia.serving.limits import Limits
from pneumonia.serving.problem import Problem

JPEG: Final = "image/jpeg"
PNG: Final = "image/png"
DICOM: Final = "application/dicom"
JSON: Final = "application/json"
ALIASES: Final = {"image/jpg": JPEG, "image/pjpeg": JPEG, "image/dicom": DICOM, "application/dicom+octet-stream": DICOM}
SEND_FILE: Final = f"Send {JPEG}, {PNG} or {DICOM} with the bytes of one file, or {JSON} with base64."
SEND_JSON: Final = 'Send {"image": "BASE64"} for one image, or {"images": ["BASE64", ...]} for several.'
SEND_SMALLER: Final = "Send it at a smaller size."
JPEG_MAGIC: Final = b"\xff\xd8\xff"
PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
END_OF_JPEG: Final = b"\xff\xd9"
START_OF_SCAN: Final = b"\xff\xda"
PADDING: Final = 64  # bytes that may follow the end of a JPEG
FOREIGN_MAGIC: Final = (JPEG_MAGIC, PNG_MAGIC, b"GIF8", b"%PDF", b"PK\x03\x04", b"MZ", b"\x7fELF", b"<", b"#!", b"RIFF")


Image = bytes | NDArray[np.uint8]  # an image file, or a decoded grey square (size, size)


@dataclass(frozen=True)
class ParsedRequest:
    """Images of a request, the pixels of each (of a file by its header), and whether the response is a list."""

    images: Sequence[Image]
    pixels: list[int]
    is_list: bool


def media_type(header: str) -> str:
    """Return the media type of a ``Content-Type`` header, without parameters and aliases.

    Raises:
        Problem: 415, it is not supported.
    """
    name = header.partition(";")[0].strip().lower()
    name = ALIASES.get(name, name)
    if name in {JPEG, PNG, DICOM, JSON}:
        return name
    raise Problem(
        415, f"Content-Type {name[:100]!r} is not supported." if name else "The request has no Content-Type.", SEND_FILE
    )


def parse_request(body: bytes, kind: str, limits: Limits) -> ParsedRequest:
    """Check each image file of a body of this media type by its first bytes and its header; decode no pixel.

    Raises:
        Problem: 400, 413, 415 or 422.
    """
    if kind != JSON:
        return ParsedRequest([body], [check_file(body, kind, limits)], is_list=False)
    files, is_list = _from_json(body, limits)
    return ParsedRequest(files, check_files(files, limits, is_list), is_list)


def check_files(files: Sequence[bytes], limits: Limits, is_list: bool = True) -> list[int]:
    """Return the pixels of each file of a request; see :func:`check_file`.

    Raises:
        Problem: With the number of the image in a list.
    """
    pixels = []
    for number, file in enumerate(files):
        try:
            pixels.append(check_file(file, None, limits))
        except Problem as problem:
            problem.reason = f"images[{number}]: {problem.reason}" if is_list else problem.reason
            raise
    check_pixels(sum(pixels), limits)
    return pixels


def check_pixels(pixels: int, limits: Limits) -> None:
    """Refuse a request whose images have too many pixels together.

    Raises:
        Problem: 413.
    """
    if pixels > limits.request_pixels:
        raise Problem(
            413,
            f"The images of the request have {pixels:,} pixels together; the limit is {limits.request_pixels:,}.",
            "Send fewer images in a request, or smaller ones.",
        )


def check_count(images: int, limits: Limits) -> None:
    """Refuse a request of too many images.

    Raises:
        Problem: 413.
    """
    if images > limits.images:
        raise Problem(413, f"{images} images in one request; the limit is {limits.images}.", "Send fewer at once.")


def check_file(raw: bytes, kind: str | None, limits: Limits) -> int:
    """Return the pixels of a file by its header; refuse a file of another type or of too many pixels before it is decoded.

    Without a declared media type (``kind``), any of the three is accepted.

    Raises:
        Problem: 400, 413, 415 or 422.
    """
    if not raw:
        raise Problem(400, "The body is empty (0 bytes).", SEND_FILE)
    found = _detect_type(raw)
    if kind not in {None, found}:
        raise Problem(415, f"The Content-Type is {kind}, and the bytes are {found}.", "Declare the type of the bytes.")
    defect = _defect(raw, found)
    if defect is not None:
        raise unreadable(UnreadableImageError(defect))
    try:
        header = read_header(raw)
    except UnreadableImageError as error:
        if f"{MAX_PIXELS:,}" in str(error):
            raise _too_large(f"The image has more than {MAX_PIXELS:,} pixels", limits) from error
        raise unreadable(error) from error
    if header.width * header.height > limits.pixels:
        raise _too_large(f"The image has {header.width}x{header.height} pixels", limits)
    return header.width * header.height


def unreadable(error: UnreadableImageError, prefix: str = "") -> Problem:
    """Return the problem of a file that can't be decoded."""
    reason = f"{prefix}The image can't be read: {error}."
    if f"{MAX_PIXELS:,}" in str(error):
        return Problem(413, reason, SEND_SMALLER)
    return Problem(422, reason, "Open it in a viewer, and save or export it again.")


def _too_large(size: str, limits: Limits) -> Problem:
    return Problem(413, f"{size}; the limit is {limits.pixels:,}.", SEND_SMALLER)


def _detect_type(raw: bytes) -> str:
    """Return the media type of a file by its first bytes."""
    if is_dicom(raw):
        foreign = next((magic for magic in FOREIGN_MAGIC if raw.startswith(magic)), None)
        if foreign is not None:
            raise Problem(
                415,
                f"The file begins as DICOM at byte {MAGIC_AT} ({MAGIC.decode()}) and as something else at byte 0 ({foreign!r}).",
                "Clear the preamble of the DICOM file: a file of two types is not supported.",
            )
        return DICOM
    if raw.startswith(JPEG_MAGIC):
        return JPEG
    if raw.startswith(PNG_MAGIC):
        return PNG
    raise Problem(415, f"The bytes are no JPEG, PNG or DICOM file; they begin with {raw[:8]!r}.", SEND_FILE)


def _defect(raw: bytes, kind: str) -> str | None:
    """Return why a file is cut short, is followed by another file, or costs far more than its size; ``None`` if it is sound."""
    if kind == JPEG and END_OF_JPEG not in raw[-PADDING:]:
        return "the JPEG is cut short, or something was appended to it"
    if kind == JPEG and raw.count(START_OF_SCAN) > MAX_SCANS:
        return f"the JPEG has more than {MAX_SCANS} scans"
    if kind != PNG:
        return None
    position = len(PNG_MAGIC)
    while position + 12 <= len(raw):  # chunk by chunk: length, name, content, checksum
        name = raw[position + 4 : position + 8]
        position += 12 + int.from_bytes(raw[position : position + 4], "big")
        if name == b"IEND":
            return None if position == len(raw) else "something was appended to the PNG after its end"
    return "the PNG is cut short"


def _from_json(body: bytes, limits: Limits) -> tuple[list[bytes], bool]:
    """Return the files, and whether they were sent as a list."""
    content = load_json(body, SEND_FILE, SEND_JSON)
    if not isinstance(content, dict) or len(content) != 1 or not content.keys() <= {"image", "images"}:
        raise Problem(422, "The JSON is not an object with the one key 'image' or 'images'.", SEND_JSON)
    if "image" in content:
        return [from_base64(content["image"], "The image", SEND_JSON)], False
    texts = content["images"]
    if not isinstance(texts, list) or not texts:
        raise Problem(422, "'images' is not a list of at least one image.", SEND_JSON)
    check_count(len(texts), limits)
    return [from_base64(text, f"images[{number}]", SEND_JSON) for number, text in enumerate(texts)], True


def load_json(body: bytes, send: str, send_json: str) -> Any:
    """Return the content of a JSON body; ``send`` is the remedy for an empty one, ``send_json`` for any other.

    Raises:
        Problem: 400 or 422.
    """
    if not body:
        raise Problem(400, "The body is empty (0 bytes).", send)
    try:
        return json.loads(body, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        detail = "too deeply nested" if isinstance(error, RecursionError) else str(error)[:100]
        raise Problem(400, f"The body is not JSON ({detail}).", send_json) from None


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) < len(pairs):
        raise Problem(422, "The JSON has one key twice, so its value is ambiguous.", "Send each key once.")
    return dict(pairs)


def from_base64(text: object, name: str, remedy: str) -> bytes:
    """Decode an image file of a JSON body.

    Raises:
        Problem: 422, it is no base64 or empty.
    """
    if not isinstance(text, str):
        raise Problem(422, f"{name} is not a string.", remedy)
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):  # ValueError: letters beyond ASCII
        raise Problem(
            422,
            f"{name} is not base64 (RFC 4648, without line breaks or 'data:').",
            "`base64 -w0 FILE` encodes a file.",
        ) from None
    if not raw:
        raise Problem(422, f"{name} is empty (0 bytes).", remedy)
    return raw
