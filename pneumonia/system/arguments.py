"""Check the arguments of Python functions: one path or text, or several."""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from pneumonia.errors import ConfigError


def paths(name: str, values: object) -> list[Path]:
    """Return one path, or each of several.

    Args:
        name: Of the argument, for the message.
        values: Text, a ``Path``, or some of them.

    Raises:
        ConfigError: One is neither text nor a path.
    """
    found = []
    for value in _listed(values):
        if not isinstance(value, str | PathLike):
            raise ConfigError(f"{name} holds {_shown(value)}, which is no path. Use text or a Path, or a list of them.")
        found.append(Path(value))
    return found


def texts(name: str, values: object, example: str) -> list[str]:
    """Return one text, or each of several; ``example`` is one.

    Raises:
        ConfigError: One is no text.
    """
    found = []
    for value in _listed(values):
        if not isinstance(value, str):
            raise ConfigError(f"{name} holds {_shown(value)}, which is no text. Use text such as '{example}', or a list of them.")
        found.append(value)
    return found


def _listed(values: object) -> list[object]:
    if isinstance(values, Iterable) and not isinstance(values, str | bytes | PathLike):
        return list(values)
    return [values]


def _shown(value: object) -> str:
    return repr(value) if value is None or isinstance(value, int | float) else f"a {type(value).__name__}"
