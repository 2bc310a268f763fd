"""The schema of the composed config, and what of it decides a result; imports nothing heavy.

Types are checked by Hydra when it composes, because ``TrainConfig`` stands first in the defaults of ``conf/train.yaml``.
The nodes that differ by choice (model, optimizer, scheduler, trainer, logger, launcher) list all their keys in their own file in
``conf/``: a key that is in none of the chosen files is a mistake.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from omegaconf import MISSING, DictConfig, OmegaConf

PACKAGE: Final = Path(__file__).resolve().parent.parent
OPEN_NODES: Final = ("model", "optimizer", "scheduler", "trainer", "logger", "launcher")
FOREIGN_TO_RESULT: Final = (
    *("name", "data", "runs_dir", "cache_dir", "num_workers", "force"),
    *("logger", "launcher", "search", "fail_fast", "rehearse", "usd_per_hour", "backup"),
)
FOREIGN_TO_RESULT_IN_TRAINER: Final = (
    *("accelerator", "devices", "strategy"),
    *("enable_progress_bar", "benchmark", "detect_anomaly", "max_time"),
)
LIMITS: Final = ("limit_train_batches", "limit_val_batches")
TIME_PARTS: Final = ("days", "hours", "minutes", "seconds")


@dataclass
class PhantomConfig:
    """How many drawn patients, and which."""

    patients: int = 360
    seed: int = 0


@dataclass
class AzureConfig:
    """Where the blobs of each part lie; credentials come from the environment alone, so that no snapshot holds them."""

    account_url: str | None = None
    train: str | None = "train"
    validation: str | None = "validation"
    test: str | None = "test"
    workers: int = 16


@dataclass
class DataConfig:
    """Where the X-rays come from and how they are read."""

    source: str = "phantom"
    root: str | None = None
    labels: str | None = None
    resize: str = "squash"
    on_bad_image: str = "error"
    phantom: PhantomConfig = field(default_factory=PhantomConfig)
    azure: AzureConfig = field(default_factory=AzureConfig)


@dataclass
class SplitConfig:
    """How the images are divided into train, val and test; the comments are in ``conf/split/``."""

    method: str = "grouped"
    seed: int = 0
    fraction: float = 1.0
    k: int = 5
    fold: int = 0
    holdout: str = "tenth"
    every: int = 1
    file: str | None = None
    leaky: bool = False


@dataclass
class AugmentationConfig:
    """Strengths of the random changes to a training image; 0 switches one off."""

    flip: float = 0.0
    rotate_deg: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    noise: float = 0.0
    blur: float = 0.0


@dataclass
class EarlyStoppingConfig:
    """When to stop before ``max_epochs``."""

    patience: int | None = None
    min_delta: float = 0.0


@dataclass
class BackupConfig:
    """Where in Blob Storage the folder of a run or a sweep is kept as well; credentials come from the environment alone."""

    place: str | None = None
    every_min: float = 5.0
    account_url: str | None = None


@dataclass
class SearchConfig:
    """How ``pneumonia sweep`` searches, where a file gives it ranges."""

    trials: int | None = None
    startup: int = 8
    prune: bool = True
    warmup: int = 2
    seed: int = 0


@dataclass
class TrainConfig:
    """Everything one run depends on; the comments are in ``conf/train.yaml``."""

    name: str = "train"
    task: str = "subtype"
    seed: int = 0
    image_size: int = 75
    channels: int = 1
    batch_size: int = 50
    max_epochs: int = 10
    label_smoothing: float = 0.0
    class_weights: str = "none"
    normalisation: str = "half"
    mixup: float = 0.0
    ema: float | None = None
    swa: float | None = None
    tta: str = "none"
    monitor: str | None = None
    early_stopping: EarlyStoppingConfig = field(default_factory=EarlyStoppingConfig)
    runs_dir: str = "runs"
    cache_dir: str = "cache"
    augmenter: str = "batch"
    num_workers: int = 0
    force: bool = False
    data: DataConfig = field(default_factory=DataConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    model: dict[str, Any] = MISSING
    optimizer: dict[str, Any] = MISSING
    scheduler: dict[str, Any] = MISSING
    trainer: dict[str, Any] = MISSING
    logger: dict[str, Any] = MISSING
    launcher: dict[str, Any] = MISSING
    usd_per_hour: float | None = None
    backup: BackupConfig = field(default_factory=BackupConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    fail_fast: bool = False
    rehearse: bool = True


def conf_dir(folder: str = "conf") -> Path:
    """The shipped config folder (``conf`` or ``sweeps``): inside the wheel, or beside the package in a checkout."""
    inside = PACKAGE / folder
    return inside if inside.is_dir() else PACKAGE.parent / folder


def config_keys(node: type[Any] = TrainConfig, prefix: str = "") -> list[str]:
    """All dotted keys of the schema, for suggestions."""
    keys: list[str] = []
    for item in fields(node):
        keys.append(prefix + item.name)
        factory: Any = item.default_factory
        if isinstance(factory, type) and is_dataclass(factory):
            keys += config_keys(factory, f"{prefix}{item.name}.")
    return keys


def shortening(trainer: Mapping[str, Any]) -> list[str]:
    """What of a ``trainer`` node leaves batches out of every epoch, as overrides; none for a full training.

    ``trainer.max_steps`` is not among them: whether it shortens a run is known at its end.
    """
    limits = {key: trainer.get(key) for key in LIMITS}
    found = [f"trainer.{key}={value}" for key, value in limits.items() if not _all_batches(value)]
    if trainer.get("fast_dev_run"):
        found.append(f"trainer.fast_dev_run={trainer['fast_dev_run']}")
    return found


def max_time_s(max_time: str | Mapping[str, float]) -> float:
    """Seconds of a ``trainer.max_time``: ``DD:HH:MM:SS``, or days, hours, minutes and seconds by name."""
    parts = dict(zip(TIME_PARTS, map(int, max_time.split(":")), strict=True)) if isinstance(max_time, str) else max_time
    return timedelta(**parts).total_seconds()


def _all_batches(limit: Any) -> bool:
    """Whether a limit of batches is none: 1.0 is all batches, 1 is one."""
    return limit is None or (isinstance(limit, float) and limit == 1)


def resolved(config: DictConfig) -> dict[str, Any]:
    """The config as plain values, without Hydra's own node."""
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key != "hydra"}


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a resolved config that can change a run's result.

    Left out is where and how fast it runs. ``data`` is left out too: the hash of the images and labels stands for it,
    with the settings of the cache.
    """
    kept = {key: value for key, value in config.items() if key not in FOREIGN_TO_RESULT}
    kept["trainer"] = {k: v for k, v in config["trainer"].items() if k not in FOREIGN_TO_RESULT_IN_TRAINER}
    kept["resize"] = config["data"]["resize"]
    kept["split"] = {k: v for k, v in config["split"].items() if k != "file"}  # the hash of the split stands for it
    if not any(config["augmentation"].values()):
        kept.pop("augmenter", None)
    return kept
