"""Compose overrides into one typed, validated config."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, field, fields, make_dataclass
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue

from pneumonia.config.convert import from_plain, hints_of, is_mapping_of_nodes
from pneumonia.config.error_translation import translated
from pneumonia.config.group_choices import check_choices
from pneumonia.config.keys import check_config_dir, conf_dir, config_keys
from pneumonia.config.schema import GROUPS, LoggerConfig, TaskConfig, TrainConfig
from pneumonia.config.validation import check_group_keys, check_keys, check_together
from pneumonia.errors import ConfigError

# A task whose values have any type: OmegaConf would turn numbers and booleans into text. Jobs of a multirun pickle it.
UntypedTask = make_dataclass(
    "UntypedTask",
    [(item.name, Any, field(default=item.default, default_factory=item.default_factory)) for item in fields(TaskConfig)],
    kw_only=True,
    namespace={"__module__": __name__},
)


def compose(*overrides: str, config_dir: Path | str | None = None, config_name: str = "train") -> TrainConfig:
    """Compose one training config, as ``pneumonia train OVERRIDES`` does.

    Args:
        overrides: In Hydra's grammar: ``"optimizer.lr=1e-3"``, ``"model=mlp"``, ``"+optimizer.amsgrad=true"``.
        config_dir: A folder with groups or files of your own, as ``--config-dir``.
        config_name: The primary config.

    Raises:
        ConfigError: An unknown key or choice, or a value that a run can't take.
    """
    if wrong := [override for override in overrides if not isinstance(override, str) or not override]:
        raise ConfigError(f"{wrong[0]!r} is not an override. Use text such as 'seed=1' or 'model=mlp'.")
    own = [] if config_dir is None else [Path(config_dir).resolve()]
    if config_dir is not None:
        check_config_dir(config_dir, "config_dir=")
    search_path = [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in own)}]"] if own else []
    with translated(), hydra_session(conf_dir()):
        check_choices(overrides)
        config = hydra_compose(config_name, [*search_path, *overrides], return_hydra_config=True)
        choices = {str(group): str(choice) for group, choice in config.hydra.runtime.choices.items()}
        with open_dict(config):
            del config["hydra"]
        return typed(config, choices, [conf_dir(), *own])


def typed(config: DictConfig, choices: Mapping[str, str], folders: Sequence[Path]) -> TrainConfig:
    """Turn a config that Hydra has composed into a validated ``TrainConfig``.

    Args:
        config: Without Hydra's own node.
        choices: The file chosen in each group, as in ``HydraConfig``'s ``runtime.choices``.
        folders: Config folders to find these files in; the first that has one counts.

    Raises:
        ConfigError: An unknown key, a missing value, a value out of range; with the key, the value and what to do.
    """
    for group in GROUPS:
        check_group_keys(config, group, str(choices.get(group)), folders)
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = getattr(error, "full_key", None) or str(error)
        raise ConfigError(f"{key} has no value, and the run needs one. Set {key}=VALUE.") from error
    except InterpolationResolutionError as error:
        raise ConfigError(f"A reference in the config can't be resolved: {error}") from error
    plain.pop("hydra", None)
    check_keys(plain, config_keys())
    built = from_plain(plain)
    check_together(built)
    return built


def register_schema() -> None:
    """Register the schema that ``conf/train.yaml`` names first in its defaults, so that Hydra checks types.

    The groups are open in it: which keys they have depends on the chosen file.
    """
    hints = hints_of(TrainConfig)
    items: list[Any] = []
    for item in fields(TrainConfig):
        if hints[item.name] is TaskConfig:
            items.append((item.name, UntypedTask))
            continue
        own = item.default_factory is not MISSING
        is_open = item.name in GROUPS or hints[item.name] is LoggerConfig or is_mapping_of_nodes(hints[item.name])
        value = field(default_factory=dict if is_open else item.default_factory) if own else field()
        items.append((item.name, dict if is_open else hints[item.name], value))
    ConfigStore.instance().store("schema", make_dataclass("TrainConfig", items, kw_only=True))


@contextmanager
def hydra_session(folder: Path) -> Iterator[None]:
    """Let Hydra compose from a folder in the block; a session that the caller has opened is put back afterwards."""
    register_schema()
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(folder), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = outer
