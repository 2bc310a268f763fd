"""Write the shell commands of `pneumonia train` that train given configs."""

import itertools
import shlex
from collections.abc import Mapping, Sequence

from pneumonia.config.convert import dotted, to_plain
from pneumonia.config.overrides import GROUPS, Overrides, override_value, overrides_from_config, train_file
from pneumonia.config.schema import TrainConfig
from pneumonia.report.entries import REPEATED

Described = tuple[TrainConfig, Overrides]  # a config and the overrides for it


def train_commands(configs: Sequence[TrainConfig]) -> list[str]:
    """Return shell commands that train these configs and no others.

    One line if they are all combinations of some values; else one for each configuration with its seeds and folds.

    Args:
        configs: Configs of runs that belong together, such as those of a sweep; each has overrides.

    Returns:
        ``pneumonia train ...``, with ``-m`` for several runs.
    """
    in_order = sorted(configs, key=lambda config: (config.seed, config.split.fold))
    described = [(config, overrides_from_config(config) or {}) for config in in_order]
    whole = _joined(described)
    if whole:
        return [whole]
    alike: dict[tuple[tuple[str, str], ...], list[Described]] = {}
    for config, overrides in described:
        kept = tuple((key, value) for key, value in overrides.items() if key not in REPEATED)
        alike.setdefault(kept, []).append((config, overrides))
    lines: list[str] = []
    for group in alike.values():
        joined = _joined(group)
        lines += [joined] if joined else [_line({key: [value] for key, value in overrides.items()}) for _, overrides in group]
    return lines


def _joined(described: Sequence[Described]) -> str:
    """Return one line for all of them; empty if every line would train others too."""
    defaults, _ = train_file()
    keys = dict.fromkeys(key for _, overrides in described for key in overrides)
    full = []
    for config, overrides in described:
        held = defaults | {key: override_value(value) for key, value in dotted(to_plain(config)).items()} | overrides
        full.append({key: held[key] for key in keys if key in held})
    values = _product(full)
    return "" if values is None else _line(values)


def _product(known: Sequence[Overrides]) -> dict[str, list[str]] | None:
    """Return the values by key if the runs are all combinations of them."""
    if not known or len({frozenset(overrides) for overrides in known}) > 1:
        return None
    values = {key: list(dict.fromkeys(overrides[key] for overrides in known)) for key in known[0]}
    combined = set(itertools.product(*values.values()))
    return values if combined == {tuple(overrides[key] for key in values) for overrides in known} else None


def _line(values: Mapping[str, Sequence[str]]) -> str:
    several = any(len(one) > 1 for one in values.values())
    overrides = [f"{key}={','.join(one)}" for key, one in sorted(values.items(), key=lambda item: item[0] not in GROUPS)]
    return shlex.join(["pneumonia", "train", *(["-m"] if several else []), *overrides])
