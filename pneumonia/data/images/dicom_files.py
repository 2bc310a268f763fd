"""Recognise DICOM files by their first bytes."""

import struct
from pathlib import Path
from typing import Final

from pneumonia.data.images.limits import open_regular_file

MAGIC: Final = b"DICM"
MAGIC_AT: Final = 128  # bytes of preamble, which may hold anything
FIRST_TAGS: Final = {2: {0x00, 0x01, 0x02, 0x03, 0x10}, 8: {0x00, 0x01, 0x05, 0x06, 0x08, 0x12, 0x14, 0x16, 0x18, 0x20}}
FIRST_GROUPS: Final = {b"\2\0", b"\x08\0", b"\0\2", b"\0\x08"}
FIRST_VRS: Final = {b"UL", b"OB", b"UI", b"CS", b"SH", b"LO", b"DA", b"TM", b"SQ"}
MOST_FIRST_BYTES: Final = 1024  # of a first element in the implicit encoding, which does not name its type


def is_dicom(raw: bytes) -> bool:
    """Return whether the first 132 or more bytes are those of a DICOM file, or of a bare data set without preamble."""
    return has_magic(raw) or _is_bare(raw)


def has_magic(raw: bytes) -> bool:
    """Return whether a file begins with a DICOM preamble."""
    return raw[MAGIC_AT : MAGIC_AT + len(MAGIC)] == MAGIC


def is_dicom_file(path: Path) -> bool:
    """Return whether a file begins as DICOM files do; ``False`` if it can't be opened."""
    try:
        with open_regular_file(path) as file:
            return is_dicom(file.read(MAGIC_AT + len(MAGIC)))
    except OSError:
        return False


def _is_bare(raw: bytes) -> bool:
    """Return whether a file begins with the tag of a DICOM data set, as image archives (PACS) write them without preamble."""
    if len(raw) < MAGIC_AT or raw[:2] not in FIRST_GROUPS:
        return False
    for order in "<>":
        group, element = struct.unpack(f"{order}HH", raw[:4])
        if element in FIRST_TAGS.get(group, ()):
            length = struct.unpack("<I", raw[4:8])[0]
            implicit = order == "<" and length <= MOST_FIRST_BYTES and length % 2 == 0
            return raw[4:6] in FIRST_VRS or implicit
    return False
