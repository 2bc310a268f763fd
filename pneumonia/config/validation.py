"""Refuse a config that can not mean what its author wants: unknown keys, values out of range, contradicting settings."""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from inspect import signature
from pathlib import Path
from sys import float_info
from typing import Any, Final

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue

from pneumonia.config.schema import LIMITS, OPEN_NODES, TIME_PARTS, TrainConfig, conf_dir, config_keys
from pneumonia.errors import ConfigError, LayoutError, nearest
from pneumonia.tasks import TASKS

KINDS: Final = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text (in quotes where it looks like anything else)",
    "None": "null",
}
# Arguments of Lightning's Trainer that no file of trainer may hold either, since a run sets them itself or could not heed them.
RUN_SETS_IN_TRAINER: Final = (
    *("max_epochs", "overfit_batches", "logger", "callbacks", "default_root_dir", "enable_checkpointing"),
    *("enable_model_summary", "barebones", "check_val_every_n_epoch", "val_check_interval", "num_sanity_val_steps"),
    *(
        "sync_batchnorm",
        "reload_dataloaders_every_n_epochs",
        "use_distributed_sampler",
        "inference_mode",
        "model_registry",
    ),
)
NOT_OF_THE_TRAINER: Final = {
    "overfit_batches": "say trainer.limit_train_batches=N",
    "limit_test_batches": "`pneumonia evaluate` takes the whole split",
    "limit_predict_batches": "`pneumonia predict` takes the images that it is given",
    "max_epochs": "say max_epochs=N",
    "min_epochs": "say early_stopping.patience=N, or leave early stopping out",
    "min_steps": "say max_epochs=N",
    "logger": "say logger=csv or logger=wandb",
    "callbacks": "the run's own callbacks record it; early_stopping, ema and swa have keys of their own",
    "num_nodes": "a run trains on one machine; launcher=slurm or launcher=ray spread the runs of a sweep",
    "check_val_every_n_epoch": "every epoch is validated, since the best one is kept",
    "val_check_interval": "every epoch is validated once, at its end",
    "log_every_n_steps": "metrics are recorded by epoch",
    "num_sanity_val_steps": "a sweep tries two batches first (rehearse=true)",
    "enable_checkpointing": "the best and the last checkpoint are always written",
    "enable_model_summary": "nothing prints one",
    "default_root_dir": "say runs_dir=DIR",
    "sync_batchnorm": "it is on whenever trainer.devices is more than 1",
    "use_distributed_sampler": "the data module divides each batch itself",
    "reload_dataloaders_every_n_epochs": "split=rotating does it",
    "profiler": "`make bench` measures",
    "inference_mode": "it has no effect on results",
    "plugins": "trainer.precision and trainer.strategy choose them",
    "barebones": "a run has to record itself",
    "model_registry": "say logger=wandb logger.artifact=true",
    "enable_autolog_hparams": "config.yaml of the run folder has every setting",
}
MAX_TIME: Final = re.compile(r"\d{1,6}(:[0-5]?\d){3}", re.ASCII)
MOST_MINUTES: Final = 10_000_000  # 19 years; far longer times overflow the timers of the operating system


def _number(low: float, high: float = math.inf, *, above: bool = False, whole: bool = False) -> Callable[[Any], bool]:
    """A test for a finite number from ``low`` (not itself, with ``above``) to ``high``."""

    def good(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            return False
        if not abs(value) <= float_info.max:  # neither NaN nor a whole number that no float holds
            return False
        return (value > low if above else value >= low) and value <= high

    return good


def _is_time(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value) and set(value) <= set(TIME_PARTS) and all(map(_number(0, 1e6), value.values()))
    return MAX_TIME.fullmatch(str(value)) is not None


def _is_limit(value: Any) -> bool:
    return _number(0, 1, above=True)(value) if isinstance(value, float) else _number(1, whole=True)(value)


RANGES: Final[list[tuple[str, Callable[[Any], bool], str]]] = [
    ("image_size", _number(8, 2048), "a number of pixels from 8 to 2048"),
    ("channels", lambda value: value in (1, 3), "1 (grey) or 3 (grey, repeated)"),
    ("batch_size", _number(1), "a whole number of images, 1 or more"),
    ("max_epochs", _number(1), "a whole number of epochs, 1 or more"),
    ("seed", _number(0, 2**32 - 1), "a whole number from 0 to 4294967295"),
    ("split.seed", _number(0, 2**32 - 1), "a whole number from 0 to 4294967295"),
    ("split.k", _number(2, 1000), "a number of folds from 2 to 1000"),
    ("split.fold", _number(0), "a fold, from 0 to split.k - 1"),
    ("split.every", _number(1), "a number of epochs, 1 or more"),
    ("split.fraction", _number(0, 1, above=True), "a fraction of the training split above 0, at most 1"),
    ("data.azure.workers", _number(1, 256), "a number of transfers at once from 1 to 256"),
    ("num_workers", _number(0, 256), "a number of processes from 0 to 256"),
    ("label_smoothing", _number(0, 0.99), "a fraction from 0 to 0.99"),
    ("mixup", _number(0, 100), "a strength (alpha) from 0 (none) to 100"),
    ("ema", _number(0, 1 - 1e-9, above=True), "null, or a decay above 0 and below 1, for example 0.99"),
    ("swa", _number(0, 0.999), "null, or a fraction of the epochs from 0 to 0.999"),
    ("early_stopping.patience", _number(1), "null, or a number of epochs, 1 or more"),
    ("early_stopping.min_delta", _number(0), "0 or more"),
    ("data.phantom.patients", _number(12, 100_000), "a number from 12 (four a class) to 100000"),
    ("data.phantom.seed", _number(0, 2**32 - 1), "a whole number from 0 to 4294967295"),
    ("augmentation.flip", _number(0, 1), "a probability from 0 to 1"),
    ("augmentation.rotate_deg", _number(0, 180), "an angle from 0 to 180 degrees"),
    ("augmentation.shift", _number(0, 0.5), "a fraction of the side from 0 to 0.5"),
    ("augmentation.zoom", _number(0, 0.9), "a fraction from 0 to 0.9"),
    ("augmentation.brightness", _number(0, 1), "a fraction from 0 to 1"),
    ("augmentation.contrast", _number(0, 1), "a fraction from 0 to 1"),
    ("augmentation.gamma", _number(0, 0.9), "a fraction from 0 to 0.9"),
    ("augmentation.noise", _number(0, 1), "a fraction of the full range from 0 to 1"),
    ("augmentation.blur", _number(0, 1), "a probability from 0 to 1"),
    ("optimizer.lr", _number(0, 1e3, above=True), "a learning rate above 0 (a rate of 0 learns nothing), at most 1000"),
    ("optimizer.weight_decay", _number(0), "0 or more"),
    ("optimizer.momentum", _number(0, 0.9999), "from 0 to less than 1"),
    ("scheduler.drop", _number(0, 1, above=True), "a factor above 0, at most 1"),
    ("scheduler.every", _number(0, above=True), "a number of epochs above 0"),
    ("scheduler.rate", _number(0), "a decay rate of 0 or more"),
    ("scheduler.factor", _number(0, 0.9999, above=True), "a factor above 0, below 1"),
    ("scheduler.patience", _number(0, whole=True), "a number of epochs, 0 or more"),
    ("scheduler.least", _number(0, 1), "a fraction of the learning rate from 0 to 1"),
    ("scheduler.warmup", _number(0, 0.99, above=True), "a fraction of the steps above 0, at most 0.99"),
    ("trainer.devices", _number(1, whole=True), "a number of processes, 1 or more"),
    ("trainer.gradient_clip_val", _number(0, above=True), "null, or above 0"),
    ("trainer.accumulate_grad_batches", _number(1, whole=True), "a number of batches, 1 or more"),
    *((f"trainer.{key}", _is_limit, "a fraction above 0, at most 1.0, or a whole number of batches") for key in LIMITS),
    (
        "trainer.max_steps",
        lambda value: value == -1 or _number(1, whole=True)(value),
        "a number of steps, or -1 for no limit",
    ),
    ("trainer.fast_dev_run", lambda value: isinstance(value, bool) or _number(0, whole=True)(value), "true or false"),
    ("trainer.max_time", _is_time, "null, or a time as DD:HH:MM:SS of at most 999999 days"),
    ("usd_per_hour", _number(0), "null, or a price of 0 or more"),
    ("logger.samples", _number(0, 10_000, whole=True), "a number of images, 0 or more"),
    ("backup.every_min", _number(0, MOST_MINUTES, above=True), f"a number of minutes above 0, at most {MOST_MINUTES}"),
    ("search.trials", _number(1, 100_000, whole=True), "null, or a number of trials, 1 or more"),
    ("search.startup", _number(1, whole=True), "a number of trials, 1 or more"),
    ("search.warmup", _number(0, whole=True), "a number of epochs, 0 or more"),
    ("search.seed", _number(0, 2**32 - 1), "a whole number from 0 to 4294967295"),
    ("launcher.n_jobs", _number(1, 1024, whole=True), "null, or a number of jobs at once, 1 or more"),
    (
        "launcher.timeout_min",
        _number(0, MOST_MINUTES, above=True),
        f"null, or a number of minutes above 0, at most {MOST_MINUTES}",
    ),
    ("launcher.cpus_per_job", _number(1, 1024, whole=True), "null, or a number of cores, 1 or more"),
    ("launcher.gpus_per_job", _number(0, 64), "a number of GPUs, or a share of one"),
    ("launcher.mem_gb", _number(0, above=True), "null, or a number of GB above 0"),
    ("model.width", _number(1, 4096, whole=True), "a whole number of channels from 1 to 4096"),
    ("model.depth", _number(1, 100, whole=True), "a whole number of blocks from 1 to 100"),
    ("model.dropout", _number(0, 0.99), "a fraction from 0 to 0.99"),
]
SWITCHES: Final = tuple(
    f"trainer.{name}" for name in ("deterministic", "benchmark", "detect_anomaly", "enable_progress_bar")
)
PLACES: Final = ("runs_dir", "cache_dir", "data.labels", "split.file")
OF_SOME_CHOICES: Final = ("logger.mode",)  # keys that not every choice of their group has
MEANS_OVER_CLASSES: Final = ("val/f1_macro", "val/recall_macro", "val/auroc")  # undefined where a class has no image
MONITORS: Final = ("val/loss", "val/accuracy", *MEANS_OVER_CLASSES)
WORDS: Final[dict[str, tuple[str, ...]]] = {
    "task": tuple(TASKS),
    "class_weights": ("none", "balanced"),
    "normalisation": ("half", "minmax", "zscore", "robust", "imagenet"),
    "tta": ("none", "flip", "shift"),
    "augmenter": ("batch", "albumentations"),
    "data.source": ("phantom", "folder", "azure", "medmnist"),
    "data.resize": ("squash", "pad"),
    "data.on_bad_image": ("error", "skip"),
    "split.method": ("grouped", "official", "article", "kfold", "rotating", "given"),
    "split.holdout": ("tenth", "folder", "none"),
    "logger.kind": ("csv", "wandb"),
    "logger.mode": ("auto", "online", "offline"),
    "launcher.kind": ("local", "parallel", "slurm", "ray"),
    "trainer.accelerator": ("auto", "cpu", "gpu", "cuda"),
    "trainer.strategy": ("auto", "ddp_spawn"),
    "trainer.gradient_clip_algorithm": ("norm", "value"),
    "trainer.precision": ("32-true", "mixed", "bf16-mixed", "16-mixed", "bf16-true", "64-true"),
}


def check(config: DictConfig, choices: dict[str, str], folders: Iterable[Path]) -> None:
    """Refuses a composed config that can not mean what its author wants.

    Args:
        config: As Hydra hands it to the application, without its own ``hydra`` node.
        choices: The file chosen in each group, as in ``HydraConfig``'s ``runtime.choices``.
        folders: Config folders to look these files up in, first come first served.

    Raises:
        ConfigError: An unknown key, a missing value, a value out of range; with the key, the value and what to do.
    """
    places = list(folders)
    for group in OPEN_NODES:
        if OmegaConf.is_missing(config, group):
            raise ConfigError(
                f"{group} has no value, and a run needs one. Choose one of the files in conf/{group}: {group}=NAME."
            )
        _check_keys(group, config[group], str(choices.get(group)), places)
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = getattr(error, "full_key", None) or str(error)
        raise ConfigError(f"{key} has no value, and the run needs one. Say {key}=... on the command line.") from error
    except InterpolationResolutionError as error:
        raise ConfigError(f"A reference in the config leads nowhere: {error}") from error
    known = config_keys()
    for key in known:
        if not _has(plain, key):
            raise ConfigError(
                f"{key} is missing from the config, and every run needs it. Set it with {key}=VALUE instead of removing it with "
                f"~{key}."
            )
    for key in _dotted(plain):
        if key not in known:  # +key=value adds what Hydra's own schema check does not see
            raise ConfigError(
                f"{key} is not a config key, and would change nothing.{why_not(key) or nearest_key(key, known)}"
            )
    check_values(plain)


def check_values(plain: Any) -> None:
    """Refuses values out of range, unknown words, and settings that do not go together.

    Args:
        plain: A resolved config as plain values; keys that it does not have are not checked.

    Raises:
        ConfigError: With the key, the value and what to do.
    """
    for key, good, wanted in RANGES:
        value = _lookup(plain, key)
        if value is None and key.startswith("trainer.") and _has(plain, key) and not wanted.startswith("null"):
            raise ConfigError(f"{key}=null is out of range: it must be {wanted}.")
        if value is not None and not good(value):
            raise ConfigError(f"{key}={value} is out of range: it must be {wanted}.")
    for key in PLACES:
        if _lookup(plain, key) == "":
            instead = "leave it out" if key in {"runs_dir", "cache_dir"} else f"say {key}=null"
            raise ConfigError(f"{key} is empty, and would stand for the current folder. Say {key}=PATH, or {instead}.")
    for key in SWITCHES:
        if _has(plain, key) and not isinstance(_lookup(plain, key), bool):
            raise ConfigError(f"{key}={_lookup(plain, key)} is of the wrong kind: it must be true or false.")
    for key, allowed in WORDS.items():
        value = _lookup(plain, key)
        if key in OF_SOME_CHOICES and value is None:
            continue
        if value not in allowed:
            words = ", ".join(allowed)
            raise ConfigError(f"{key}={value} is not known; choose one of {words}.{nearest(str(value), allowed)}")
    for key in plain["trainer"]:
        if key in RUN_SETS_IN_TRAINER:
            raise ConfigError(f"trainer.{key} is set by the run itself: {NOT_OF_THE_TRAINER[key]}. Leave it out.")
    devices = _lookup(plain, "trainer.devices") or 1
    if devices > 1 and _lookup(plain, "trainer.strategy") == "auto":
        raise ConfigError(
            f"trainer.devices={devices} are more than one, and trainer.strategy=auto is for one. "
            f"Say trainer=ddp trainer.devices={devices}."
        )
    source, split = plain["data"]["source"], plain["split"]
    if source in {"folder", "medmnist"} and not plain["data"]["root"]:
        raise ConfigError(
            f"data.root has no value, and data={source} needs one. Say data.root=... on the command line."
        )
    if plain["monitor"] not in {None, *MONITORS}:
        words = ", ".join(MONITORS)
        raise ConfigError(
            f"monitor={plain['monitor']} is not known; choose one of {words}, or null.{nearest(str(plain['monitor']), MONITORS)}"
        )
    if plain["ema"] is not None and plain["swa"] is not None:
        raise ConfigError(
            f"ema={plain['ema']} and swa={plain['swa']} are two averages of the same weights. Say ema=null or swa=null."
        )
    if split["method"] in {"kfold", "rotating"} and split["fold"] >= split["k"] and not split["file"]:
        raise ConfigError(
            f"split.fold={split['fold']} is no fold of split.k={split['k']}: folds count from 0 to {split['k'] - 1}."
        )
    if split["method"] == "rotating" and split["fraction"] < 1:
        raise ConfigError(
            "split.fraction does not go with split=rotating, whose training split changes. Use split=kfold."
        )
    if Path(plain["name"]).name != plain["name"] or plain["name"] in {"", ".", ".."}:
        raise ConfigError(f"name={plain['name']!r} can not name a folder under runs_dir. Use letters, digits, - and _.")


def check_root(root: Path) -> None:
    """Refuses a place of data that is not there; cheap, so that it can be asked before anything is loaded.

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


def nearest_key(key: str, keys: Iterable[str]) -> str:
    """``" Did you mean 'model.width'?"``, or nothing where no key is close.

    Of a dotted key the last name alone is compared, where its parent is known: ``trainer.fast_dev_run`` shares most letters with
    ``trainer.devices`` and means nothing like it.
    """
    parent, _, last = key.rpartition(".")
    beside = [known.rpartition(".")[2] for known in keys if known.rpartition(".")[0] == parent]
    if not parent or not beside:
        return nearest(key, keys)
    return nearest(last, beside).replace("'", f"'{parent}.", 1)


def why_not(key: str) -> str:
    """Why an argument of Lightning's Trainer is no key of ours, and what to use instead; empty for any other key."""
    name = key.removeprefix("trainer.")
    instead = NOT_OF_THE_TRAINER.get(name) if name != key else None
    return f" It is an argument of Lightning's Trainer that is not passed on: {instead}." if instead else ""


def kind_of(key: str) -> tuple[str, list[str], Any]:
    """Which values a key of the schema takes.

    Args:
        key: Dotted.

    Returns:
        The kind in words, the keys that it holds where it is a node, and its default; nothing for a key of another schema.
    """
    node: Any = TrainConfig()
    *above, last = key.split(".")
    for part in above:
        node = getattr(node, part, None)
    if not is_dataclass(node) or last not in {item.name for item in fields(node)}:
        return "", [], None
    value = getattr(node, last)
    if is_dataclass(value):
        return "a node", [item.name for item in fields(value)], None
    types = str(node.__dataclass_fields__[last].type)
    kinds = [words for name, words in KINDS.items() if re.search(rf"\b{name}\b", types)]
    default = str(value).lower() if isinstance(value, bool) else "null" if value is None else value
    return " or ".join(kinds), [], default


def choice_keys() -> list[str]:
    """All dotted keys of the nodes that differ by choice, over all shipped choices, for suggestions."""
    folders = {group: conf_dir() / group for group in OPEN_NODES}
    return [
        f"{group}.{key}"
        for group, folder in folders.items()
        for path in sorted(folder.glob("*.yaml"))
        for key in sorted(_keys_of_file(group, path.stem, [conf_dir()]))
    ]


def _check_keys(group: str, node: DictConfig, choice: str, places: list[Path]) -> None:
    known = _keys_of_file(group, choice, places)
    missing = sorted(known - set(map(str, node)))
    if missing:
        key = f"{group}.{missing[0]}"
        raise ConfigError(f"{key} is missing from the config, and {group}={choice} needs it. Set it with {key}=VALUE.")
    unknown = [str(key) for key in node if str(key) not in known]
    if group == "optimizer" and unknown:
        known |= _arguments(str(node.get("_target_")))
        unknown = [key for key in unknown if key not in known]
    if unknown:
        key = unknown[0]
        raise ConfigError(
            f"{group}.{key} is not a key of {group}={choice}, so it is refused. "
            f"It has {', '.join(sorted(known))}.{why_not(f'{group}.{key}') or nearest(key, known)}"
        )


def _keys_of_file(group: str, choice: str, places: list[Path]) -> set[str]:
    if choice == "None":
        raise ConfigError(f"{group} has no file, or a list of them, and it takes the name of one: {group}=NAME.")
    path = next((p for p in (place / group / f"{choice}.yaml" for place in places) if p.is_file()), None)
    if path is None:
        raise ConfigError(f"{group}={choice} names no file {group}/{choice}.yaml in {', '.join(map(str, places))}.")
    loaded: Any = OmegaConf.to_container(OmegaConf.load(path))
    keys = set(map(str, loaded or {})) - {"defaults"}
    for base in (loaded or {}).get("defaults", []):
        if isinstance(base, str) and base != "_self_":
            keys |= _keys_of_file(group, base, places)
    return keys


def _arguments(target: str) -> set[str]:
    """What the class of an optimiser takes beside its parameters; nothing where there is no such class."""
    from hydra.utils import get_class  # loads torch: only where a key is in no file

    try:
        found = signature(get_class(target)).parameters.values()
    except (ImportError, ValueError):  # build_optimizer says what is wrong with it
        return set()
    return {one.name for one in found if one.kind in {one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY}} - {"params"}


def _lookup(plain: dict[Any, Any], key: str) -> Any:
    """The value at a dotted key; ``None`` where a choice does not have it."""
    value: Any = plain
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _dotted(plain: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of a config that the schema describes."""
    for key, value in plain.items():
        if prefix + str(key) == "hydra":
            continue
        yield prefix + str(key)
        if isinstance(value, dict) and prefix + str(key) not in OPEN_NODES:
            yield from _dotted(value, f"{prefix}{key}.")


def _has(plain: Any, key: str) -> bool:
    """Whether a dotted key is there, whatever its value."""
    for part in key.split("."):
        if not isinstance(plain, dict) or part not in plain:
            return False
        plain = plain[part]
    return True
