"""What comes in: from a request's bytes and content type to image files that are worth decoding."""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, Final

from pneumonia.data.images.decode import read_header
from pneumonia.data.images.dicom_files import MAGIC, MAGIC_AT, is_dicom
from pneumonia.data.images.limits import MAX_PIXELS, MAX_SCANS, UnreadableImageError
from pneumonia.serving.limits import Limits
from pneumonia.serving.problem import Problem

JPEG: Final = "image/jpeg"
PNG: Final = "image/png"
DICOM: Final = "application/dicom"
JSON: Final = "application/json"
SAME: Final = {"image/jpg": JPEG, "image/pjpeg": JPEG, "image/dicom": DICOM, "application/dicom+octet-stream": DICOM}
SENDABLE: Final = f"Send {JPEG}, {PNG} or {DICOM} with the bytes of one file, or {JSON} with base64."
JPEG_MAGIC: Final = b"\xff\xd8\xff"
PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
END_OF_JPEG: Final = b"\xff\xd9"
START_OF_SCAN: Final = b"\xff\xda"
TAIL: Final = 64  # bytes of padding that may follow the end of a JPEG
STRANGERS: Final = (JPEG_MAGIC, PNG_MAGIC, b"GIF8", b"%PDF", b"PK\x03\x04", b"MZ", b"\x7fELF", b"<", b"#!", b"RIFF")
FORM: Final = 'Say {"image": "BASE64"} for one image, or {"images": ["BASE64", ...]} for several.'


@dataclass(frozen=True)
class ParsedRequest:
    """Image files of a request, with the pixels that each has by its header; ``several`` where the answer is a list."""

    files: list[bytes]
    pixels: list[int]
    several: bool


def media_type(header: str) -> str:
    """The media type of a ``Content-Type`` header, without parameters, by its first name.

    Raises:
        Problem: 415, it is none that we read.
    """
    name = header.partition(";")[0].strip().lower()
    name = SAME.get(name, name)
    if name in {JPEG, PNG, DICOM, JSON}:
        return name
    said = f"Content-Type {name[:100]!r} is not one that is read here" if name else "The request has no Content-Type"
    raise Problem(415, f"{said}.", SENDABLE)


def parse_request(body: bytes, kind: str, limits: Limits) -> ParsedRequest:
    """The image files of a request, each checked by its first bytes and its header; no pixel is decoded.

    Args:
        body: The whole body.
        kind: From :func:`media_type`.
        limits: Of images and pixels.

    Raises:
        Problem: 400, 413, 415 or 422, with what is wrong.
    """
    if kind != JSON:
        return ParsedRequest([body], [check_file(body, kind, limits)], several=False)
    files, several = _from_json(body, limits)
    pixels = []
    for place, file in enumerate(files):
        try:
            pixels.append(check_file(file, None, limits))
        except Problem as refusal:
            refusal.reason = f"images[{place}]: {refusal.reason}" if several else refusal.reason
            raise
    if sum(pixels) > limits.request_pixels:
        raise Problem(
            413,
            f"The images of the request have {sum(pixels):,} pixels together, and at most {limits.request_pixels:,} are read.",
            "Send fewer images at once, or smaller ones.",
        )
    return ParsedRequest(files, pixels, several)


def check_file(raw: bytes, kind: str | None, limits: Limits) -> int:
    """The pixels of a file by its header. Refuses a file that is not what it says, or too large, before it is decoded.

    Args:
        raw: The whole file.
        kind: What it is said to be; ``None`` where nothing is said.
        limits: Of pixels.

    Raises:
        Problem: 400, 413, 415 or 422.
    """
    if not raw:
        raise Problem(400, "The body is empty (0 bytes).", SENDABLE)
    found = _kind_of(raw)
    if kind not in {None, found}:
        raise Problem(415, f"The Content-Type says {kind}, and the bytes are {found}.", "Say what the bytes are.")
    _check_whole(raw, found)
    try:
        header = read_header(raw)
    except UnreadableImageError as error:
        if f"{MAX_PIXELS:,}" in str(error):
            raise _too_large(f"The image has more than {MAX_PIXELS:,} pixels", limits) from error
        raise unreadable(error) from error
    if header.width * header.height > limits.pixels:
        raise _too_large(f"The image has {header.width}x{header.height} pixels", limits)
    return header.width * header.height


def unreadable(error: UnreadableImageError, where: str = "") -> Problem:
    """The refusal of a file that can't be decoded."""
    if f"{MAX_PIXELS:,}" in str(error):
        return Problem(413, f"{where}The image can't be read: {error}.", "Send it at a smaller size.")
    return Problem(
        422, f"{where}The image can't be read: {error}.", "Open it in a viewer, and save or export it again."
    )


def _too_large(what: str, limits: Limits) -> Problem:
    return Problem(413, f"{what}, and at most {limits.pixels:,} are read.", "Send it at a smaller size.")


def _kind_of(raw: bytes) -> str:
    """What a file is by its first bytes.

    Raises:
        Problem: 415, it is none of the three, or two things at once.
    """
    if is_dicom(raw):
        stranger = next((magic for magic in STRANGERS if raw.startswith(magic)), None)
        if stranger is not None:
            raise Problem(
                415,
                f"The file begins as DICOM at byte {MAGIC_AT} ({MAGIC.decode()}) and as something else at byte 0 ({stranger!r}).",
                "Empty the preamble of the DICOM file: what is two files at once is not read.",
            )
        return DICOM
    if raw.startswith(JPEG_MAGIC):
        return JPEG
    if raw.startswith(PNG_MAGIC):
        return PNG
    raise Problem(415, f"The bytes are no JPEG, PNG or DICOM file; they begin with {raw[:8]!r}.", SENDABLE)


def _check_whole(raw: bytes, kind: str) -> None:
    """Refuses files that are cut short, have another file behind them, or cost far more than their size.

    Raises:
        Problem: 422.
    """
    problem = None
    if kind == JPEG:
        if END_OF_JPEG not in raw[-TAIL:]:
            problem = "the JPEG is cut short, or something was appended to it"
        elif raw.count(START_OF_SCAN) > MAX_SCANS:
            problem = f"the JPEG has more than {MAX_SCANS} scans"
    elif kind == PNG:
        problem = _png_problem(raw)
    if problem is not None:
        raise unreadable(UnreadableImageError(problem))


def _png_problem(raw: bytes) -> str | None:
    """What is wrong with the row of chunks of a PNG; their content is left to the decoder."""
    place = len(PNG_MAGIC)
    while place + 12 <= len(raw):
        length, name = int.from_bytes(raw[place : place + 4], "big"), raw[place + 4 : place + 8]
        place += 12 + length
        if name == b"IEND":
            return None if place == len(raw) else "something was appended to the PNG after its end"
    return "the PNG is cut short"


def _from_json(body: bytes, limits: Limits) -> tuple[list[bytes], bool]:
    """The files, and whether a list was asked."""
    if not body:
        raise Problem(400, "The body is empty (0 bytes).", SENDABLE)
    try:
        said: Any = json.loads(body, object_pairs_hook=_without_repeated_keys)
    except (ValueError, RecursionError) as error:
        detail = "too deeply nested" if isinstance(error, RecursionError) else str(error)[:100]
        raise Problem(400, f"The body is not JSON ({detail}).", FORM) from None
    if not isinstance(said, dict) or len(said) != 1 or not said.keys() <= {"image", "images"}:
        raise Problem(422, "The JSON is not an object with the one key 'image' or 'images'.", FORM)
    if "image" in said:
        return [_from_base64(said["image"], "The image")], False
    texts = said["images"]
    if not isinstance(texts, list) or not texts:
        raise Problem(422, "'images' is not a list of at least one image.", FORM)
    if len(texts) > limits.images:
        raise Problem(
            413, f"{len(texts)} images in one request, and at most {limits.images} are read.", "Send fewer at once."
        )
    return [_from_base64(text, f"images[{place}]") for place, text in enumerate(texts)], True


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise Problem(422, "The JSON has one key twice, and which value is meant is not certain.", FORM)
    return dict(pairs)


def _from_base64(text: Any, which: str) -> bytes:
    if not isinstance(text, str):
        raise Problem(422, f"{which} is no text.", FORM)
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):  # ValueError: letters beyond ASCII
        raise Problem(
            422, f"{which} is not base64 (RFC 4648, without line breaks or 'data:').", "base64 -w0 FILE writes it."
        ) from None
    if not raw:
        raise Problem(422, f"{which} is empty (0 bytes).", FORM)
    return raw
