"""Find the overrides of `pneumonia train` that compose a run's config, without Hydra."""

import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Final

from omegaconf import OmegaConf

from pneumonia.config.convert import dotted, to_plain
from pneumonia.config.keys import conf_dir
from pneumonia.config.schema import AugmentationConfig, DataConfig, SplitConfig, TrainConfig
from pneumonia.report.entries import REPEATED

GROUPS: Final = ("data", "split", "augmentation", "model", "optimizer", "scheduler", "trainer")
SCHEMAS: Final = {"data": DataConfig, "split": SplitConfig, "augmentation": AugmentationConfig}
IDENTIFYING_KEY: Final = {
    "data": "source",
    "split": "method",
    "model": "_target_",
    "optimizer": "_target_",
    "scheduler": "_target_",
}
IRRELEVANT: Final = ("cache_dir", "num_workers", "force", "search", "fail_fast", "dry_run", "logger", "launcher")
UNQUOTED: Final = re.compile(r"[A-Za-z_/.][\w/.-]*", re.ASCII)  # read as text without quotes, unless it is one of RESERVED
RESERVED: Final = {"null", "true", "false", "nan", "inf"}
Overrides = dict[str, str]
Described = tuple[TrainConfig, Overrides]  # a config and the overrides for it


def overrides_from_config(config: TrainConfig) -> Overrides | None:
    """Return the overrides, key and value as Hydra reads them, that turn the packaged defaults into a config.

    Returns:
        Group choices first (``model=simple_cnn``); ``None`` for a config file of the user's own, which no override can name.
    """
    chosen: Overrides = {}
    changed: Overrides = {}
    plain = to_plain(config)
    defaults, settings = _train_file()
    for group in GROUPS:
        own = dotted(plain[group])
        choice = _choice(group, own, defaults[group])
        if choice is None:
            return None
        if choice != defaults[group]:
            chosen[group] = choice
        theirs = _files(group)[choice]
        changed |= {
            f"{'' if key in theirs or group in SCHEMAS else '+'}{group}.{key}": override_value(value)
            for key, value in own.items()
            if value != theirs.get(key, ...)
        }
    rest = dotted({key: value for key, value in plain.items() if key not in (*GROUPS, *IRRELEVANT)})
    changed |= {key: override_value(value) for key, value in rest.items() if value != settings.get(key, ...)}
    return chosen | changed


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
    defaults, _ = _train_file()
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


def override_value(value: object) -> str:
    """Write a plain value as Hydra reads it in an override, quoted if it would be read as something else."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(override_value, value))}]"
    text = str(value)
    if UNQUOTED.fullmatch(text) and text.lower() not in RESERVED and not _is_number(text):
        return text
    quoted = re.sub(r"(\\*)'", r"\1\1\\'", text)  # backslashes count only before a quote
    ending = re.search(r"\\*$", quoted)
    return f"'{quoted}{ending[0] if ending else ''}'"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _choice(group: str, own: Mapping[str, object], default: str) -> str | None:
    """Return the choice of a group that a node comes from: the one that differs least."""
    identifying = IDENTIFYING_KEY.get(group)
    ranks = []
    for choice, settings in _files(group).items():
        # Of an optimiser, arguments of its class that no file sets can be added: +optimizer.amsgrad=true.
        fits = group in SCHEMAS or set(settings) == set(own) or (group == "optimizer" and set(settings) < set(own))
        if fits and (identifying is None or settings.get(identifying) == own.get(identifying)):
            apart = sum(settings.get(key, ...) != value for key, value in own.items())
            ranks.append((apart, choice != default, choice != own.get(identifying or ""), choice))
    return min(ranks)[-1] if ranks else None


@cache
def _train_file() -> tuple[dict[str, str], dict[str, object]]:
    """Return the choices of conf/train.yaml by group, and its own dotted keys."""
    settings = _load(conf_dir() / "train.yaml")
    defaults = {key: choice for item in settings.pop("defaults") if isinstance(item, dict) for key, choice in item.items()}
    return defaults, dotted({key: value for key, value in settings.items() if key != "hydra"})


@cache
def _files(group: str) -> dict[str, dict[str, object]]:
    """Return the dotted settings of each choice of a group, with the defaults of the schema."""
    schema = dotted(asdict(SCHEMAS[group]())) if group in SCHEMAS else {}
    return {path.stem: schema | _settings(path) for path in sorted((conf_dir() / group).glob("*.yaml"))}


def _settings(path: Path) -> dict[str, object]:
    """Return the dotted settings of a file, with those of the files that it names as defaults."""
    own = _load(path)
    found: dict[str, object] = {}
    for base in own.pop("defaults", []):
        if isinstance(base, str) and base != "_self_":
            found |= _settings(path.with_name(f"{base}.yaml"))
    return found | dotted(own)


def _load(path: Path) -> dict[str, Any]:
    """Read a YAML file of conf/."""
    settings: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    return settings or {}
