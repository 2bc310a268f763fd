"""Decide from its name alone whether the class of a ``_target_`` may be imported.

Importing a module runs it. A target of the user's own command line or config files is trusted; a target from a run folder or
a checkpoint is not: it must be in a known package, or be allowed by ``PNEUMONIA_ALLOW_TARGETS``.
"""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from typing import Any, Final, TypeVar

from pneumonia.errors import ConfigError, TargetError

ALLOW: Final = "PNEUMONIA_ALLOW_TARGETS"
PUBLIC: Final = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", re.ASCII)  # neither __main__ nor private names
NAME: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
LONGEST: Final = 200  # characters of a target that a message repeats
T = TypeVar("T")


def target_of(node: Mapping[str, Any], setting: str) -> str:
    """Return the ``_target_`` of a config node.

    Raises:
        TargetError: It is missing, or not text.
    """
    target = node.get("_target_")
    if isinstance(target, str) and target:
        return target
    what = "no _target_" if target in (None, "") else f"_target_={str(target)[:LONGEST]}, which is not text"
    raise TargetError(
        f"{setting} has {what}, so its class is unknown. Begin its YAML file with `_target_: package.module.Class`."
    )


def check_allowed(target: str, setting: str, packages: Sequence[str], own: Collection[str] = ()) -> None:
    """Refuse a target from an untrusted file, before anything is imported.

    Args:
        target: Dotted name of a class.
        setting: Its key for the message, such as ``model._target_``.
        packages: Packages whose public classes are allowed.
        own: Targets of the caller's own config, which are allowed.

    Raises:
        TargetError: The target is not allowed.
        ConfigError: ``PNEUMONIA_ALLOW_TARGETS`` is not a list of dotted names.
    """
    if target in own or (PUBLIC.fullmatch(target) and _lies_in(target, (*packages, *allowed_names()))):
        return
    shown = target[:LONGEST]
    module = shown.rpartition(".")[0] or shown
    raise TargetError(
        f"{setting}={shown!r} was not imported: it is read from a file, and importing a module runs it. Only public classes "
        f"of {' and '.join(packages)} are allowed. If you trust this class, allow its module by name: {ALLOW}={module}"
    )


def allowed_names() -> tuple[str, ...]:
    """Return the modules and classes that ``PNEUMONIA_ALLOW_TARGETS`` lists, separated by commas.

    Raises:
        ConfigError: An entry is not a dotted name.
    """
    names = tuple(name.strip() for name in os.environ.get(ALLOW, "").split(",") if name.strip())
    for name in names:
        if not NAME.fullmatch(name):
            raise ConfigError(f"{ALLOW}: {name!r} is not a dotted name of a module or a class, such as my_package.nets.")
    return names


def imported(target: str) -> Any:
    """Import a name from a module; attributes of attributes are not looked up.

    Raises:
        ImportError: There is no such module, or it has no such name.
        Exception: The module raises it while it is imported.
    """
    module, _, name = target.rpartition(".")
    if not module or not NAME.fullmatch(target):
        raise ImportError(f"{target[:LONGEST]!r} is not the dotted name of a class in a module")
    found = import_module(module)
    try:
        return getattr(found, name)
    except AttributeError:
        raise ImportError(f"module '{module}' has no name '{name}'") from None


def check_class(found: Any, target: str, base: type[T], packages: Sequence[str], own: Collection[str] = ()) -> type[T] | None:
    """Return the class if it is a proper subclass of ``base``, else ``None``.

    Modules also hold what they import, so the class must be defined in an allowed package, or be allowed itself; see
    :func:`check_allowed`.
    """
    if not isinstance(found, type) or not issubclass(found, base) or found is base:
        return None
    names = allowed_names()
    return found if target in (*own, *names) or _lies_in(found.__module__, (*packages, *names)) else None


def _lies_in(name: str, packages: Collection[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)
