"""Check which files the overrides choose from the config groups, before Hydra looks for them."""

from collections.abc import Iterable
from typing import Any, Final

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep

from pneumonia.config.declarations import shown
from pneumonia.config.keys import config_groups, files_of
from pneumonia.errors import ConfigError, masked

OF_SEVERAL: Final = ("callbacks", "logger", "experiment", "debug")  # groups that also take a list of files
NONE: Final = {
    "callbacks": " callbacks=[] chooses none.",
    "logger": " logger=[] chooses none.",
    "experiment": " ~experiment leaves it out.",
    "debug": " ~debug leaves it out.",
}


def check_choices(overrides: Iterable[str]) -> None:
    """Refuse a choice of a group that is not the name of a file, or for some groups a list of names.

    Raises:
        ConfigError: With the group, the value and what to use instead.
    """
    groups = config_groups()
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        group = str(override.key_or_group)
        if override.is_delete() or not (group in groups or group.startswith("hydra/")):
            continue
        if not override.is_sweep_override():
            _check_choice(group, override.value())
        elif isinstance(override.value(), ChoiceSweep):
            check_choices(f"{group}={value}" for value in override.sweep_string_iterator())


def _check_choice(group: str, value: Any) -> None:
    if isinstance(value, dict):  # keys of the node, which Hydra merges
        return
    several = group in OF_SEVERAL or group.startswith("hydra/")
    example = f"{group}=NAME" + (f", or a list of names, {group}=[NAME,NAME]" if several else "")
    names = files_of(group)
    known = f" Names are {', '.join(names)}." if names else ""
    given = masked(f"{group}={shown(value)}")
    if isinstance(value, list):
        if not several:
            raise ConfigError(f"{given} is a list, and {group} takes the name of one file: {group}=NAME.{known}")
        if not all(isinstance(name, str) and name for name in value):
            raise ConfigError(f"{given} holds more than names of files. Use {example}.{known}")
    elif value == "":
        raise ConfigError(f"{group}= is empty. Use {example}.{known}")
    elif not isinstance(value, str):
        raise ConfigError(f"{given} is not the name of a file. Use {example}.{NONE.get(group, '')}{known}")
