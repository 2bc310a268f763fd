"""Read the opset of a serialized ONNX model without the onnx package, which a server need not have."""

from collections.abc import Iterator
from typing import Final

OPSET_IMPORT: Final = 8  # fields of onnx.proto: ModelProto.opset_import, OperatorSetIdProto.domain and .version
DOMAIN: Final = 1
VERSION: Final = 2


def opset_of(raw: bytes) -> int | None:
    """Return the version of the standard operators of a model; ``None`` where the bytes are no model."""
    try:
        for field, value in _fields(raw):
            if field == OPSET_IMPORT and isinstance(value, bytes):
                entry = dict(_fields(value))
                if entry.get(DOMAIN, b"") in {b"", b"ai.onnx"}:
                    version = entry.get(VERSION)
                    return version if isinstance(version, int) else None
    except (IndexError, ValueError):
        return None
    return None


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field of a protobuf message.

    Source: Protocol Buffers, Encoding (protobuf.dev/programming-guides/encoding).
    """
    position = 0
    while position < len(raw):
        key, position = _varint(raw, position)
        wire_type = key & 7
        if wire_type == 0:
            number, position = _varint(raw, position)
            yield key >> 3, number
            continue
        length = {1: 8, 5: 4}.get(wire_type)
        if wire_type == 2:
            length, position = _varint(raw, position)
        if length is None or position + length > len(raw):
            raise ValueError("no protobuf message")
        yield key >> 3, raw[position : position + length]
        position += length


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    while shift <= 63:
        byte = raw[position]
        number |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if not byte & 128:
            return number, position
    raise ValueError("no protobuf message")
