"""Check the tags of a TIFF file or of EXIF data before a library reads them into memory.

Each tag names an offset and a length, so thousands of tags can name the same megabytes, and one tag millions of numbers.
"""

import struct
from typing import Final

from pneumonia.data.images.limits import UnreadableImageError

SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
NUMBERS: Final = {3, 4, 8, 9, 11, 12, 13, 16, 17, 18}  # types that become one Python object a value
DIRECTORIES: Final = {0x014A, 0x8769, 0x8825, 0xA005}  # tags that point to further tags
MAX_DIRECTORIES: Final = 16
MAX_VALUES: Final = 200_000  # of one tag: a strip for each row of any radiograph, several times over


def check_tags(raw: bytes) -> None:
    """Refuse a TIFF file or EXIF data whose tags would take far more memory than their bytes; ignore other data.

    Raises:
        UnreadableImageError: The tags claim more bytes than there are, or one of them too many values.
    """
    raw = raw.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(raw[:2])
    if order is None:
        return
    big = raw[2:4] in {b"+\0", b"\0+"}
    count_form, entry_form, next_form = ("Q", "HHQ", "Q") if big else ("H", "HHL", "L")
    start, inline = (8, 8) if big else (4, 4)  # offset of the first pointer; bytes of a value inside its entry
    claimed, pending, seen = 0, [_number(raw, order + next_form, start)], set[int]()
    while pending:
        place = pending.pop()
        if place is None or place in seen or len(seen) >= MAX_DIRECTORIES:
            continue
        seen.add(place)
        count = _number(raw, order + count_form, place) or 0
        width = struct.calcsize("<" + entry_form) + inline
        begin = place + struct.calcsize(count_form)
        for at in range(begin, min(begin + count * width, len(raw) - width + 1), width):
            tag, kind, values = struct.unpack_from(order + entry_form, raw, at)
            size = SIZES.get(kind, 1) * values
            if kind in NUMBERS and values > MAX_VALUES:
                raise UnreadableImageError(f"its tag {tag} claims {values:,} values, as no radiograph needs")
            claimed += size if inline < size <= len(raw) else 0
            if claimed > len(raw):
                raise UnreadableImageError("its tags claim more bytes than the file has (a decompression bomb?)")
            if tag in DIRECTORIES and size <= inline:
                pending.append(_number(raw, order + next_form, at + width - inline))


def _number(raw: bytes, form: str, place: int) -> int | None:
    size = struct.calcsize(form)
    return struct.unpack_from(form, raw, place)[0] if 0 <= place <= len(raw) - size else None
