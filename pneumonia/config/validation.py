"""Refuse a config whose keys are unknown, or whose values contradict each other."""

from collections.abc import Iterable
from inspect import signature
from pathlib import Path
from typing import Any, Final

from omegaconf import DictConfig, OmegaConf

from pneumonia.config.declarations import shown
from pneumonia.config.keys import nearest_key, why_not
from pneumonia.config.schema import TrainConfig
from pneumonia.errors import ConfigError, LayoutError, nearest
from pneumonia.tasks import LABELS

# Arguments of Lightning's Trainer that no file of conf/trainer may set, since a run sets them itself.
SET_BY_RUN: Final = (
    *("max_epochs", "logger", "callbacks", "default_root_dir", "enable_checkpointing"),
    *("enable_model_summary", "barebones"),
    *("sync_batchnorm", "reload_dataloaders_every_n_epochs", "use_distributed_sampler", "inference_mode"),
    "model_registry",
)


def check_together(config: TrainConfig) -> None:
    """Refuse values that contradict each other; each by itself was checked when the config was built.

    Raises:
        ConfigError: With the keys, the values and what to do.
    """
    trainer, split = config.trainer, config.split
    for key in SET_BY_RUN:
        if hasattr(trainer, key):
            raise ConfigError(f"trainer.{key} is set by the run itself.{why_not(f'trainer.{key}')} Leave it out.")
    every = trainer.check_val_every_n_epoch
    if every > config.max_epochs:
        raise ConfigError(
            f"trainer.check_val_every_n_epoch={every} validates no epoch of max_epochs={config.max_epochs}, so none could be the "
            f"best. Use at most {config.max_epochs}."
        )
    interval = trainer.val_check_interval
    if every > 1 and interval != 1.0:
        raise ConfigError(
            f"trainer.val_check_interval={interval} validates within epochs, and trainer.check_val_every_n_epoch={every} leaves "
            "epochs out. Leave one out."
        )
    if every > 1 and config.scheduler._target_.endswith(".plateau"):
        raise ConfigError(
            f"scheduler=plateau follows the validation loss of every epoch, and trainer.check_val_every_n_epoch={every} leaves "
            "epochs out. Use trainer.check_val_every_n_epoch=1, or another schedule."
        )
    if trainer.overfit_batches is not None and trainer.limit_train_batches != 1.0:
        raise ConfigError(
            f"trainer.overfit_batches={trainer.overfit_batches} and trainer.limit_train_batches={trainer.limit_train_batches} "
            "limit the same batches. Leave one out."
        )
    if config.data.source in {"folder", "medmnist"} and not config.data.root:
        raise ConfigError(f"data.root has no value, and data={config.data.source} needs one. Set data.root=PATH.")
    if len(stopping := config.early_stopping_keys()) > 1:
        raise ConfigError(f"{' and '.join(stopping)} both stop the training early. Leave one out.")
    for key, value, neutral in (
        ("ckpt_path", config.ckpt_path, None),
        ("trainer.fast_dev_run", config.trainer.fast_dev_run, False),
    ):
        if config.tune is not None and value != neutral:
            raise ConfigError(f"tune={config.tune} has no use for {key}={shown(value)}. Leave it out.")
    if config.init_from is not None:
        for key, value in (("ckpt_path", config.ckpt_path), ("model.weights", getattr(config.model, "weights", None))):
            if value is not None:
                raise ConfigError(f"init_from={config.init_from} and {key}={value} both give the first weights. Leave one out.")
    task = config.task.build()
    drawn = {task.class_of(label) for label in LABELS}
    if config.data.source == "phantom" and drawn != {*task.classes}:
        raise ConfigError(
            f"data=phantom draws {', '.join(LABELS)} alone, and task={task.name} has the classes {', '.join(task.classes)}. Use "
            "data=folder data.root=PATH with images of these classes, or name the three in task.synonyms."
        )
    if config.ema is not None and config.swa is not None:
        raise ConfigError(
            f"ema={config.ema} and swa={config.swa} are two averages of the same weights. Set ema=null or swa=null."
        )
    if split.rules.folded and split.fold >= split.k and not split.file:
        raise ConfigError(f"split.fold={split.fold} does not exist with split.k={split.k}: folds count from 0 to {split.k - 1}.")
    if split.rules.rotates and split.fraction < 1:
        raise ConfigError(
            f"split.fraction={split.fraction} does not go with split={split.method}, whose training split changes. "
            "Use split=kfold."
        )


def check_root(root: Path) -> None:
    """Refuse a place of data that does not exist; fast, so that it can be checked before anything is loaded.

    Raises:
        LayoutError: There is neither a file nor a folder.
    """
    if not root.exists():
        hint = {
            ".npz": " `pneumonia data import --from medmnist` downloads it.",
            ".parquet": f" `pneumonia data import SOURCE --out {root}` writes one.",
        }.get(root.suffix, "")
        raise LayoutError(
            f"data.root={root} does not exist; it must be the folder or file that holds the X-rays. Check the path.{hint}"
        )
    if root.is_dir() and next(root.iterdir(), None) is None:
        raise LayoutError(f"data.root={root} is an empty folder; it must hold the X-rays. Check the path.")


def check_group_keys(config: DictConfig, group: str, choice: str, folders: Iterable[Path]) -> None:
    """Refuse a node that lacks keys of its chosen file, or has others; an optimizer may have any argument of its class.

    The file is looked for in several config folders; the first that has it counts.

    Raises:
        ConfigError: With the key and what to do.
    """
    if OmegaConf.is_missing(config, group):
        raise ConfigError(f"{group} has no value, and a run needs one. Choose one of the files in conf/{group}: {group}=NAME.")
    keys = {str(key) for key in config[group]}
    known = _keys_of_file(group, choice, list(folders))
    for key in sorted(known - keys):
        raise ConfigError(
            f"{group}.{key} is missing from the config, and {group}={choice} needs it. Set it with {group}.{key}=VALUE."
        )
    unknown = sorted(keys - known)
    if group == "optimizer" and unknown:
        known |= _arguments(str(config[group].get("_target_")))
        unknown = [key for key in unknown if key not in known]
    if unknown:
        key = f"{group}.{unknown[0]}"
        raise ConfigError(
            f"{key} is not a key of {group}={choice}, so it is refused. "
            f"Known keys: {', '.join(sorted(known))}.{why_not(key) or nearest(unknown[0], known)}"
        )


def check_keys(plain: Any, known: list[str], prefix: str = "") -> None:
    """Refuse keys that the schema does not have; ``+key=value`` adds them past Hydra's own check.

    Raises:
        ConfigError: With the key and the nearest one.
    """
    for name, value in plain.items():
        key = f"{prefix}{name}"
        if key not in known:
            raise ConfigError(f"{key} is not a config key, and would change nothing.{why_not(key) or nearest_key(key, known)}")
        if isinstance(value, dict) and any(one.startswith(f"{key}.") for one in known):
            check_keys(value, known, f"{key}.")


def _keys_of_file(group: str, choice: str, places: list[Path]) -> set[str]:
    if choice == "None":
        raise ConfigError(f"{group} has no file, or a list of them, and it takes the name of one: {group}=NAME.")
    path = next((p for p in (place / group / f"{choice}.yaml" for place in places) if p.is_file()), None)
    if path is None:
        raise ConfigError(f"{group}={choice}: there is no file {group}/{choice}.yaml in {', '.join(map(str, places))}.")
    loaded: Any = OmegaConf.to_container(OmegaConf.load(path)) or {}
    keys = set(map(str, loaded)) - {"defaults"}
    for base in loaded.get("defaults", []):
        if isinstance(base, str) and base != "_self_":
            keys |= _keys_of_file(group, base, places)
    return keys


def _arguments(target: str) -> set[str]:
    """Return the arguments of an optimizer class beside its parameters; nothing if there is no such class."""
    from hydra.utils import get_class  # loads torch: only for a key that is in no file

    try:
        found = signature(get_class(target)).parameters.values()
    except (ImportError, ValueError):  # build_optimizer explains what is wrong with it
        return set()
    return {one.name for one in found if one.kind in {one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY}} - {"params"}
