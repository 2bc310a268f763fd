"""Declare beside a config field which values it takes, and check a value against its declaration."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field
from sys import float_info
from types import NoneType, UnionType
from typing import Any, Final, Union, get_args, get_origin

from pneumonia.errors import ConfigError, nearest

LARGEST: Final = float_info.max  # comparing with it also refuses NaN, and integers that no float can hold
TYPE_NAMES: Final = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "text (in quotes if it looks like anything else)",
    NoneType: "null",
}
OUT_OF_RANGE: Final = "{key}={value} is out of range: it must be {wanted}."
UNKNOWN: Final = "{key}={value} is not known; choose one of {wanted}."
WRONG_TYPE: Final = "{key}={value} has the wrong type: it must be {wanted}."
READ_AS_BOOL: Final = " YAML reads NO and OFF as false, YES and ON as true: put them in quotes."
EMPTY: Final = "{key} is empty, which would mean the current folder. Set {key}=PATH, or leave it out."


@dataclass(frozen=True)
class Rule:
    """The values that a field takes beside what its type says.

    Attributes:
        accepts: Whether a value of the right type is allowed.
        wanted: What the value must be, for the message.
        message: Format of the message, with ``key``, ``value`` and ``wanted``.
        choices: All allowed values, if they can be listed.
    """

    accepts: Callable[[Any], bool]
    wanted: str
    message: str = OUT_OF_RANGE
    choices: tuple[Any, ...] = ()


def setting(
    rule: Rule | None = None,
    *,
    default: Any = MISSING,
    default_factory: Any = MISSING,
    affects_result: bool = True,
    added_later: bool = False,
) -> Any:
    """Declare a config field.

    Args:
        rule: Which values it takes.
        default: For a field that its YAML file may leave out.
        default_factory: For a node that its YAML file may leave out.
        affects_result: Whether it is part of a run's identity.
        added_later: Whether its default is left out of the identity, so that runs from before the key keep theirs.
    """
    metadata = {"rule": rule, "affects_result": affects_result, "added_later": added_later}
    return field(default=default, default_factory=default_factory, metadata=metadata)


def ranged(
    what: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    **options: Any,
) -> Any:
    """Declare a number within bounds; ``what`` names it for the message, such as ``a number of pixels``."""

    def accepts(value: float) -> bool:
        return (
            (at_least is None or value >= at_least)
            and (above is None or value > above)
            and (at_most is None or value <= at_most)
            and (below is None or value < below)
        )

    upper = "" if at_most is None else f" to {at_most}"
    upper = upper if below is None else f" to less than {below}"
    if above is not None:
        bounds = f" above {above}" + (f", at most {at_most}" if at_most is not None else "")
        bounds += f" and below {below}" if below is not None else ""
    else:
        bounds = f" from {at_least}{upper}" if upper else f" of {at_least} or more"
    return setting(Rule(accepts, what + bounds), **options)


def one_of(*choices: Any, **options: Any) -> Any:
    """Declare a field that takes one of some values."""
    return setting(Rule(choices.__contains__, ", ".join(map(str, choices)), UNKNOWN, choices), **options)


def path(**options: Any) -> Any:
    """Declare a path, which must not be empty."""
    return setting(Rule(bool, "a path", EMPTY), **options)


def rule_of(item: Field[Any]) -> Rule | None:
    """Return the rule of a dataclass field, if it declares one."""
    rule: Rule | None = item.metadata.get("rule")
    return rule


def check_value(key: str, value: Any, hint: Any, rule: Rule | None = None) -> None:
    """Refuse a value of the wrong type, or one that its rule does not accept.

    Raises:
        ConfigError: With the key, the value and what it must be.
    """
    has_type = is_type(value, hint)
    if has_type and (value is None or rule is None or rule.accepts(value)):
        return
    if rule is None or (not has_type and rule.message == EMPTY):
        wanted = type_text(hint)
        why = READ_AS_BOOL if not has_type and _holds_bool(value) and TYPE_NAMES[str] in wanted else ""
        raise ConfigError(WRONG_TYPE.format(key=key, value=shown(value), wanted=wanted) + why)
    wanted, null = rule.wanted, is_type(None, hint)
    if null:
        wanted = f"{wanted}, or null" if rule.choices else f"null, or {wanted}"
    message = rule.message.format(key=key, value=shown(value), wanted=wanted)
    raise ConfigError(message + (nearest(str(value), rule.choices) if rule.choices else ""))


def _holds_bool(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_bool, (*value.keys(), *value.values())))
    return any(map(_holds_bool, value)) if isinstance(value, list) else isinstance(value, bool)


def is_type(value: Any, hint: Any) -> bool:
    """Return whether a plain value has an annotated type; integers are floats, booleans are no numbers."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in {Union, UnionType}:
        return any(is_type(value, one) for one in inner)
    if hint is Any:
        return True
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is not None and issubclass(origin, Sequence):
        return isinstance(value, Sequence) and not isinstance(value, str) and all(is_type(one, inner[0]) for one in value)
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(is_type(key, inner[0]) and is_type(one, inner[1]) for key, one in value.items())
    return isinstance(value, origin or hint)


def type_text(hint: Any) -> str:
    """Return an annotation as text: ``a whole number or null``."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in {Union, UnionType}:
        return " or ".join(type_text(one) for one in inner)
    if origin is dict:
        return "keys and values" + (f", each value {type_text(inner[1])}" if get_origin(inner[1]) else "")
    if origin is not None and issubclass(origin, Sequence):
        return f"a list, each item {type_text(inner[0])}"
    return TYPE_NAMES.get(hint, str(hint))


def shown(value: object) -> str:
    """Return a value as it is written in YAML: ``null``, ``true``, ``0.1``, ``[0, 1]``."""
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{shown(key)}: {shown(one)}' for key, one in value.items())}}}"
    return str(value).lower() if isinstance(value, bool) else str(value)
