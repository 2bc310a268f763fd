"""Find the packaged config folders, list all config keys, and suggest the nearest."""

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Final, get_type_hints

from pneumonia.config.choices import CHOICES
from pneumonia.config.convert import dataclass_of
from pneumonia.config.declarations import shown, type_text
from pneumonia.config.schema import GROUPS, LoggerConfig, TrainConfig
from pneumonia.errors import ConfigError, nearest

PACKAGE: Final = Path(__file__).resolve().parent.parent
NOT_PASSED_TO_TRAINER: Final = {
    "limit_test_batches": "`pneumonia evaluate` uses the whole split",
    "limit_predict_batches": "`pneumonia predict` uses all images that it is given",
    "max_epochs": "use max_epochs=N",
    "min_epochs": "use early_stopping.patience=N, or leave early stopping out",
    "min_steps": "use max_epochs=N",
    "logger": "use logger=wandb, or several: logger=[wandb,tensorboard,mlflow]",
    "callbacks": "use the group callbacks=NAME or callbacks=[NAME,NAME]",
    "num_nodes": "a run trains on one machine; launcher=slurm or launcher=ray distribute the runs of a sweep",
    "enable_checkpointing": "the best and the last checkpoint are always written",
    "enable_model_summary": "use callbacks=model_summary",
    "default_root_dir": "use runs_dir=DIR",
    "sync_batchnorm": "it is on whenever trainer.devices is more than 1",
    "use_distributed_sampler": "the data module divides each batch itself",
    "reload_dataloaders_every_n_epochs": "split=rotating does it",
    "inference_mode": "it has no effect on results",
    "plugins": "trainer.precision and trainer.strategy choose them",
    "barebones": "a run has to record itself",
    "model_registry": "use logger=wandb logger.wandb.artifact=true",
    "enable_autolog_hparams": "config.yaml of the run folder has every setting",
}

INSTEAD: Final = {  # arguments of Lightning's loggers
    "logger.wandb.offline": "logger.wandb.mode=offline",
    "logger.wandb.log_model": "logger.wandb.artifact=true",
    "logger.mlflow.log_model": "logger.mlflow.artifact=true",
    **{f"logger.{name}.save_dir": "runs_dir=DIR: the run folder holds the files" for name in ("wandb", "tensorboard", "mlflow")},
}


def conf_dir(folder: str = "conf") -> Path:
    """Return the packaged config folder (``conf`` or ``sweeps``): inside the wheel, or beside the package in a checkout."""
    inside = PACKAGE / folder
    return inside if inside.is_dir() else PACKAGE.parent / folder


def config_groups() -> list[str]:
    """Return the names of the groups, which are the folders of ``conf/``."""
    return sorted(entry.name for entry in conf_dir().iterdir() if entry.is_dir() and entry.name != "__pycache__")


def check_config_dir(folder: Path | str, option: str = "--config-dir ") -> None:
    """Refuse a config folder of the user's own that is missing, or a file.

    Raises:
        ConfigError: With the option and what to name.
    """
    if not Path(folder).is_dir():
        what = "is a file" if Path(folder).exists() else "is not a folder"
        raise ConfigError(f"{option}{folder} {what}. Name the folder that holds your groups, such as model/.")


def files_of(group: str) -> list[str]:
    """Return the names of the packaged files of a group, such as ``article/final`` of ``experiment``."""
    folder = conf_dir() / group
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


def config_keys(node: type[Any] = TrainConfig, prefix: str = "") -> list[str]:
    """Return all dotted keys of the schema; of a group whose keys depend on the choice, its name alone."""
    keys: list[str] = []
    for name, hint in get_type_hints(node).items():
        keys.append(prefix + name)
        if (inner := dataclass_of(hint)) is not None and name not in GROUPS:
            keys += config_keys(inner, f"{prefix}{name}.")
    return keys


def choice_keys() -> list[str]:
    """Return the dotted keys of all choices of the groups: of the built-in classes, and of the files of ``conf/``."""
    import yaml

    groups = {group: schemas for group, schemas in CHOICES.items() if group != "callbacks"}  # whose nodes have names
    keys = [f"{group}.{item.name}" for group, schemas in groups.items() for one in schemas for item in fields(one)]
    for path in sorted(path for group in groups for path in (conf_dir() / group).glob("*.yaml")):
        node = yaml.safe_load(path.read_text(encoding="utf-8"))
        keys += [f"{path.parent.name}.{key}" for key in node] if isinstance(node, dict) else []
    return list(dict.fromkeys(keys))


def nearest_key(key: str, keys: Iterable[str]) -> str:
    """Return ``" Did you mean 'model.width'?"``, or nothing if no key is close.

    Only the last part of a dotted key is compared if its parent is known: ``trainer.fast_dev_run`` shares most letters with
    ``trainer.devices``.
    """
    parent, _, last = key.rpartition(".")
    beside = [known.rpartition(".")[2] for known in keys if known.rpartition(".")[0] == parent]
    if not parent or not beside:
        return nearest(key, keys)
    return nearest(last, beside).replace("'", f"'{parent}.", 1)


def of_a_callback(key: str, is_chosen: bool) -> str:
    """Explain how to set an option of a callback; empty for any other key.

    Args:
        key: Dotted, such as ``callbacks.lr_monitor.logging_interval``.
        is_chosen: Whether the config has the node of this callback.
    """
    group, _, rest = key.partition(".")
    if group != "callbacks" or not rest:
        return ""
    name, _, argument = rest.partition(".")
    if is_chosen:
        known = [f"callbacks.{name}.{one}" for one in _arguments_of_callback(name)]
        return nearest_key(key, known) or f" An argument that the file does not set is added with a +: +{key}=VALUE."
    if name in files_of("callbacks"):
        return (
            f" It belongs to a callback that is not chosen. Choose it, callbacks={name}, or in a list: callbacks=[NAME,{name}]."
        )
    name = "NAME" if name.startswith("_") else name
    added = f"+callbacks.{name}._target_=PACKAGE.CLASS" + (f" +{key}=VALUE" if argument not in {"", "_target_"} else "")
    return f" A callback without a file is added with a +: {added}."


def _arguments_of_callback(name: str) -> list[str]:
    import yaml

    path = conf_dir() / "callbacks" / f"{name}.yaml"
    file = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return list(file.get("callbacks", file).get(name, {}))


def why_not(key: str) -> str:
    """Explain why an argument of Lightning's Trainer, or an option of a logger, is no config key; empty for any other key."""
    if near := _of_a_logger(key):
        return near
    if key in INSTEAD:
        return f" Use {INSTEAD[key]}."
    name = key.removeprefix("trainer.")
    instead = NOT_PASSED_TO_TRAINER.get(name) if name != key else None
    return f" It is an argument of Lightning's Trainer that is not passed on: {instead}." if instead else ""


def _of_a_logger(key: str) -> str:
    """Explain where an option of a logger belongs: ``logger.mode`` is ``logger.wandb.mode``."""
    group, _, rest = key.partition(".")
    if group != "logger" or not rest:
        return ""
    found = [known for known in config_keys(LoggerConfig, "logger.") if known == key or known.endswith(f".{rest}")]
    if key in found:
        name = rest.partition(".")[0]
        return f" It is an option of a logger that is not chosen: logger={name}, or logger=[csv,{name}]."
    return f" Options follow the name of their logger: {' or '.join(found)}." if found else ""


def wanted(key: str) -> str:
    """Return which values a key takes and an example, as the end of a sentence."""
    node: Any = TrainConfig
    *above, last = key.split(".")
    for part in above:
        node = get_type_hints(node).get(part) if is_dataclass(node) else None
    hint = get_type_hints(node).get(last) if is_dataclass(node) else None
    if hint is None:
        return "the schema does not allow it. `pneumonia train --cfg all` shows the packaged value."
    if is_dataclass(hint):
        names = ", ".join(f"{key}.{item.name}=VALUE" for item in fields(hint))
        return f"it holds several keys. Set them one by one: {names}."
    return f"it must be {type_text(hint)}. For example {key}={shown(_packaged(key))}, or leave it out."


def _packaged(key: str) -> Any:
    """Return the value of a key in ``conf/train.yaml``, or the default of its dataclass."""
    from omegaconf import OmegaConf

    if key.startswith("task."):
        return OmegaConf.select(OmegaConf.load(conf_dir() / "task" / "subtype.yaml"), key.removeprefix("task."))
    found = OmegaConf.select(OmegaConf.load(conf_dir() / "train.yaml"), key, throw_on_missing=False)
    if found is None and key.partition(".")[0] in {"data", "split", "augmentation"}:
        node: Any = get_type_hints(TrainConfig)[key.partition(".")[0]]()
        for part in key.split(".")[1:]:
            node = getattr(node, part)
        return node
    return found
