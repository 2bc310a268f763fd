"""Reads the opset out of a serialised ONNX model without the package onnx, which a server need not have."""

from collections.abc import Iterator
from typing import Final

OPSET_IMPORT: Final = 8  # fields of onnx.proto: ModelProto.opset_import, OperatorSetIdProto.domain and .version
DOMAIN: Final = 1
VERSION: Final = 2


def opset_of(raw: bytes) -> int | None:
    """The version of the standard operators that a model asks for; ``None`` where the bytes are no model."""
    try:
        for field, value in _fields(raw):
            if field == OPSET_IMPORT and isinstance(value, bytes):
                held = dict(_fields(value))
                if held.get(DOMAIN, b"") in {b"", b"ai.onnx"}:
                    version = held.get(VERSION)
                    return version if isinstance(version, int) else None
    except (IndexError, ValueError):
        return None
    return None


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of the fields of a protobuf message.

    Source: Protocol Buffers, Encoding (protobuf.dev/programming-guides/encoding).
    """
    place = 0
    while place < len(raw):
        key, place = _varint(raw, place)
        kind = key & 7
        if kind == 0:
            number, place = _varint(raw, place)
            yield key >> 3, number
            continue
        length = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            length, place = _varint(raw, place)
        if length is None or place + length > len(raw):
            raise ValueError("no protobuf message")
        yield key >> 3, raw[place : place + length]
        place += length


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = raw[place]
        number |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if not byte & 128:
            return number, place
        if shift > 63:
            raise ValueError("no protobuf message")
