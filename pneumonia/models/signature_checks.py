"""Convert between config nodes and the arguments of a constructor, and check them against its annotations."""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, get_type_hints

from pneumonia.config.declarations import check_value
from pneumonia.errors import ConfigError, nearest


def check_kinds(family: type[Any], settings: Mapping[str, Any]) -> None:
    """Check each value against the annotation of its parameter.

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
        check_value(f"model.{name}", value, hints.get(name, Any))


def constructor_node(family: type[Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config node, in plain values, of an object that was built by its constructor with keyword arguments."""
    plain = {
        key: list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
        for key, value in keywords.items()
        if key != "options"
    }
    return {"_target_": f"{family.__module__}.{family.__qualname__}", **plain}
