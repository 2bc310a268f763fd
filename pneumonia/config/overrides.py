"""Describe a config by the overrides that compose it from the packaged files, without Hydra."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Final

from omegaconf import OmegaConf

from pneumonia.config.convert import dotted, to_plain
from pneumonia.config.keys import conf_dir
from pneumonia.config.schema import AugmentationConfig, DataConfig, SplitConfig, TrainConfig

GROUPS: Final = ("task", "data", "split", "augmentation", "model", "optimizer", "scheduler", "trainer")
SCHEMAS: Final = {"data": DataConfig, "split": SplitConfig, "augmentation": AugmentationConfig}
IDENTIFYING_KEY: Final = {
    "task": "name",
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


def overrides_from_config(config: TrainConfig) -> Overrides | None:
    """Return the overrides, key and value as Hydra reads them, that turn the packaged defaults into a config.

    Returns:
        Group choices first (``model=simple_cnn``); ``None`` for a config file of the user's own, which no override can name.
    """
    plain = to_plain(config)
    choices = group_choices(plain)
    if any(choice is None for choice in choices.values()):
        return None
    defaults, _ = train_file()
    chosen = {group: choice for group, choice in choices.items() if choice is not None and choice != defaults[group]}
    changed = {}
    for key, value in changed_settings(plain, choices).items():
        group, _, own = key.partition(".")
        added = group in choices and group not in SCHEMAS and own not in _files(group)[choices[group] or ""]
        added |= group == "callbacks"
        changed[f"+{key}" if added else key] = override_value(value)
    return chosen | changed


def group_choices(plain: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the packaged file of each group that a config, as plain values, comes from; ``None`` for a file of one's own."""
    defaults, _ = train_file()
    return {group: _choice(group, dotted(plain[group]), defaults[group]) for group in GROUPS}


def changed_settings(plain: Mapping[str, Any], choices: Mapping[str, str | None]) -> dict[str, object]:
    """Return the dotted keys that differ from the chosen files and from ``conf/train.yaml``; of a file of one's own, all keys."""
    _, settings = train_file()
    changed: dict[str, object] = {}
    for group, choice in choices.items():
        theirs = {} if choice is None else _files(group)[choice]
        own = dotted(plain[group])
        changed |= {f"{group}.{key}": value for key, value in own.items() if value != theirs.get(key, ...)}
    rest = dotted({key: value for key, value in plain.items() if key not in (*GROUPS, *IRRELEVANT)})
    return changed | {key: value for key, value in rest.items() if value != settings.get(key, ...)}


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
def train_file() -> tuple[dict[str, str], dict[str, object]]:
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
