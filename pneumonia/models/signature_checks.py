"""Holds the values of a config node against the annotations of the constructor that they are for."""

from collections.abc import Mapping, Sequence
from inspect import signature
from sys import float_info
from types import NoneType, UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

from pneumonia.errors import ConfigError, nearest

LARGEST: Final = float_info.max  # a comparison with it also refuses NaN, and whole numbers that no float holds
KINDS: Final = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a word",
    NoneType: "null",
}


def check_kinds(family: type[Any], settings: Mapping[str, Any]) -> None:
    """Holds each setting against what the constructor says of it.

    Raises:
        ConfigError: A setting that it does not have, or a value of another kind.
    """
    constructor: Any = family.__init__
    hints = get_type_hints(constructor)
    known = [name for name, one in signature(constructor).parameters.items() if one.kind is one.KEYWORD_ONLY]
    for name, value in settings.items():
        if name not in known:
            raise ConfigError(
                f"model.{name} is no setting of {family.__name__}; it has {', '.join(known) or 'none'}.{nearest(name, known)}"
            )
        if name in hints and not is_kind(value, hints[name]):
            raise ConfigError(f"model.{name}={value} is of the wrong kind: it must be {kind_words(hints[name])}.")


def is_kind(value: Any, hint: Any) -> bool:
    """Whether a plain value is what an annotation says; whole numbers are numbers, true and false are not."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in {Union, UnionType}:
        return any(is_kind(value, one) for one in inner)
    if hint is Any:
        return True
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is not None and issubclass(origin, Sequence):
        return (
            isinstance(value, Sequence) and not isinstance(value, str) and all(is_kind(one, inner[0]) for one in value)
        )
    return isinstance(value, origin or hint)


def kind_words(hint: Any) -> str:
    """An annotation in words: ``a whole number or null``."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in {Union, UnionType}:
        return " or ".join(kind_words(one) for one in inner)
    if origin is not None and issubclass(origin, Sequence):
        return f"a list, each item {kind_words(inner[0])}"
    return KINDS.get(hint, str(hint))
