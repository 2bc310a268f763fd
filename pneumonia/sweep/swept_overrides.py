"""Parse the overrides of a sweep: which keys are swept over, with which values, and which are fixed."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.core.plugins import Plugins

from pneumonia.errors import ConfigError
from pneumonia.sweep.sweep_files import SHARED_KEYS, SweepFile


def split_overrides(file: SweepFile, overrides: Sequence[str]) -> tuple[list[Override], list[str]]:
    """Return the overrides that are swept over, those of the sweep file included, and the fixed ones as text.

    A key that the file sweeps over keeps its position when an override gives it other values, or a single one.

    Raises:
        ConfigError: An override that a sweep does not allow.
    """
    of_file = _without_globs(parse_overrides(f"{key}={value}" for key, value in file.swept.items()), file.folders)
    swept = {override.get_key_element(): override for override in of_file}
    fixed = []
    for override in _without_globs(parse_overrides(overrides), file.folders):
        key, text = override.get_key_element().lstrip("+"), str(override.input_line)
        if key.lstrip("~").startswith("hydra"):
            raise ConfigError(f"{text}: a sweep has no keys of Hydra. Set launcher=... to choose where it runs.")
        if override.is_delete() and key.lstrip("~") in swept:
            del swept[key.lstrip("~")]
        elif override.is_delete():
            fixed.append(text)
        elif key in swept or override.is_sweep_override():
            swept[key] = override
        else:
            fixed.append(text)
    for key, override in swept.items():
        if key.partition(".")[0] in SHARED_KEYS:
            raise ConfigError(
                f"{override.input_line}: all jobs of a sweep share {key.partition('.')[0]}, so it takes one value. "
                "Run a sweep for each."
            )
    if not file.sets_name and not any(line.startswith("name=") for line in fixed):
        fixed.append(f"name={file.path.stem}")
    return list(swept.values()), fixed


def override_values(override: Override) -> list[str]:
    """Return the values of an override, each as it is written in one.

    Raises:
        ConfigError: A range without steps, or no value.
    """
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if override.is_interval_sweep():
        raise ConfigError(
            f"{override.input_line} is a range without steps, which only a search can use. Name values with commas, or "
            "range(low, high, step); or set search.trials=30."
        )
    values = list(override.sweep_string_iterator())
    if not values:
        raise ConfigError(f"{override.input_line} has no value. Name one, or several with commas between them.")
    return values


def parse_overrides(overrides: Iterable[str]) -> list[Override]:
    """Parse overrides with Hydra."""
    Plugins.instance()
    return OverridesParser.create().parse_overrides(list(overrides))


def _without_globs(overrides: Iterable[Override], folders: Sequence[Path]) -> Iterator[Override]:
    """Replace ``glob(...)`` by the names of files."""
    for override in overrides:
        value: object = override.value()
        key = override.get_key_element()
        if not isinstance(value, Glob):
            yield override
            continue
        names = sorted({file.stem for folder in folders for file in (folder / key.lstrip("+")).glob("*.yaml")})
        found = value.filter(names)
        if not found:
            there = f"there are {', '.join(names)}" if names else f"{key} is not a config group"
            raise ConfigError(f"{override.input_line} has no value: {there}.")
        yield from parse_overrides([f"{key}={','.join(found)}"])
