"""The config of one run: types, ranges and identity of every key. Values and comments are in ``conf/``.

The nodes of :data:`GROUPS` differ by choice; :mod:`pneumonia.config.choices` declares the built-in ones.
"""

from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Final

from pneumonia.config.callback_classes import EARLY_STOPPING, lightning_class
from pneumonia.config.declarations import Rule, one_of, path, ranged, setting
from pneumonia.config.names import MONITORS, NORMALISATIONS, ON_BAD_IMAGE, RESIZES, TTA
from pneumonia.config.nodes import (
    CallbackConfig,
    LauncherConfig,
    ModelConfig,
    OptimizerConfig,
    SchedulerConfig,
    TrainerConfig,
    minutes,
)
from pneumonia.config.split_methods import SPLIT_METHODS, SplitMethod
from pneumonia.tasks import Task

GROUPS: Final = ("model", "optimizer", "scheduler", "trainer", "launcher")
WATCHED: Final = ("gradients", "parameters", "all")


seed = partial(ranged, "a whole number", at_least=0, at_most=2**32 - 1)


@dataclass(kw_only=True)
class TaskConfig:
    """The classes of a task; see :class:`pneumonia.tasks.Task`.

    Raises:
        ConfigError: The values do not fit each other.
    """

    name: str
    classes: list[str]
    positive: list[str] | None = None
    synonyms: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.build()

    def build(self) -> Task:
        """Return the task."""
        return Task.of(self.name, self.classes, self.positive, self.synonyms)


@dataclass
class PhantomConfig:
    """Which phantoms are drawn."""

    patients: int = ranged("a number", at_least=12, at_most=100_000, default=360)
    seed: int = seed(default=0)


@dataclass
class AzureConfig:
    """Where the blobs of each subset are; credentials come from the environment alone, so no snapshot holds them."""

    account_url: str | None = None
    train: str | None = "train"
    validation: str | None = "validation"
    test: str | None = "test"
    workers: int = ranged("a number of parallel transfers", at_least=1, at_most=256, default=16)


@dataclass
class DataConfig:
    """Where the X-rays come from and how they are read."""

    source: str = one_of("phantom", "folder", "azure", "medmnist", default="phantom")
    root: str | None = None
    labels: str | None = path(default=None)
    resize: str = one_of(*RESIZES, default="stretch")
    on_bad_image: str = one_of(*ON_BAD_IMAGE, default="error")
    phantom: PhantomConfig = field(default_factory=PhantomConfig)
    azure: AzureConfig = field(default_factory=AzureConfig)


@dataclass
class SplitConfig:
    """How the images are divided into train, val and test."""

    method: str = one_of(*SPLIT_METHODS, default="grouped")
    seed: int = seed(default=0)
    fraction: float = ranged("a fraction of the training split", above=0, at_most=1, default=1.0)
    k: int = ranged("a number of folds", at_least=2, at_most=1000, default=5)
    fold: int = ranged("a fold number", at_least=0, default=0)
    holdout: str = one_of("0.1", "folder", "none", default="0.1")
    every: int = ranged("a number of epochs", at_least=1, default=1)
    file: str | None = path(default=None, affects_result=False)  # the hash of the split is part of the identity instead
    leaky: bool = False

    @property
    def rules(self) -> SplitMethod:
        """The properties of the method."""
        return SPLIT_METHODS[self.method]


@dataclass
class AugmentationConfig:
    """Strengths of the random changes to a training image; 0 switches one off."""

    flip: float = ranged("a probability", at_least=0, at_most=1, default=0.0)
    rotate_deg: float = ranged("an angle in degrees", at_least=0, at_most=180, default=0.0)
    shift: float = ranged("a fraction of the side", at_least=0, at_most=0.5, default=0.0)
    zoom: float = ranged("a fraction", at_least=0, at_most=0.9, default=0.0)
    brightness: float = ranged("a fraction", at_least=0, at_most=1, default=0.0)
    contrast: float = ranged("a fraction", at_least=0, at_most=1, default=0.0)
    gamma: float = ranged("a fraction", at_least=0, at_most=0.9, default=0.0)
    noise: float = ranged("a fraction of the full range", at_least=0, at_most=1, default=0.0)
    blur: float = ranged("a probability", at_least=0, at_most=1, default=0.0)

    def __bool__(self) -> bool:
        """Whether anything is changed."""
        return any(asdict(self).values())


@dataclass(kw_only=True)
class EarlyStoppingConfig:
    """When to stop before ``max_epochs``."""

    patience: int | None = ranged("a number of epochs", at_least=1)
    min_delta: float = ranged("a number", at_least=0)


@dataclass(kw_only=True)
class CSVConfig:
    """The run folder alone."""


@dataclass(kw_only=True)
class WandbConfig:
    """Weights & Biases."""

    project: str
    entity: str | None
    group: str | None
    tags: list[str]
    mode: str = one_of("auto", "online", "offline")
    samples: int = ranged("a number of images", at_least=0, at_most=10_000)
    watch: str | None = one_of(*WATCHED, default=None)
    artifact: bool
    registry: str | None = None


@dataclass(kw_only=True)
class TensorBoardConfig:
    """TensorBoard's event files."""

    watch: str | None = one_of(*WATCHED, default=None)


@dataclass(kw_only=True)
class MLflowConfig:
    """MLflow."""

    tracking_uri: str | None
    experiment_name: str
    tags: dict[str, str] | None
    watch: str | None = one_of(*WATCHED, default=None)
    artifact: bool
    registry: str | None = None


@dataclass(kw_only=True)
class LoggerConfig:
    """The trackers that mirror a run; ``None`` for those that are not chosen."""

    csv: CSVConfig | None = None
    wandb: WandbConfig | None = None
    tensorboard: TensorBoardConfig | None = None
    mlflow: MLflowConfig | None = None

    @property
    def trackers(self) -> list[str]:
        """The names of the chosen trackers beside the run folder."""
        return [item.name for item in fields(self) if item.name != "csv" and getattr(self, item.name) is not None]


@dataclass(kw_only=True)
class BackupConfig:
    """Where a copy of the run or sweep folder is kept in Blob Storage."""

    place: str | None
    every_min: float = minutes()
    account_url: str | None


@dataclass(kw_only=True)
class SearchConfig:
    """How ``pneumonia sweep`` searches ranges."""

    trials: int | None = ranged("a number of trials", at_least=1, at_most=100_000)
    startup: int = ranged("a number of trials", at_least=1)
    prune: bool
    warmup: int = ranged("a number of epochs", at_least=0)
    seed: int = seed()


def _is_folder_name(name: str) -> bool:
    return Path(name).name == name and name not in {"", ".", ".."}


@dataclass(kw_only=True)
class TrainConfig:
    """Everything that one run depends on."""

    name: str = setting(
        Rule(_is_folder_name, "", "name='{value}' can't name a folder under runs_dir. Use letters, digits, - and _."),
        affects_result=False,
    )
    debug: str | None = setting(default=None, added_later=True)
    tune: str | None = one_of("lr", "batch_size", default=None, affects_result=False, added_later=True)
    task: TaskConfig
    seed: int = seed()
    image_size: int = ranged("a number of pixels", at_least=8, at_most=2048)
    channels: int = setting(Rule((1, 3).__contains__, "1 (grey) or 3 (grey, repeated)"))
    batch_size: int = ranged("a number of images", at_least=1)
    max_epochs: int = ranged("a number of epochs", at_least=1)
    label_smoothing: float = ranged("a fraction", at_least=0, at_most=0.99)
    class_weights: str = one_of("none", "balanced")
    normalisation: str = one_of(*NORMALISATIONS)
    mixup: float = ranged("a strength (alpha)", at_least=0, at_most=100)
    ema: float | None = ranged("a decay", above=0, below=1)
    swa: float | None = ranged("a fraction of the epochs", at_least=0, at_most=0.999)
    tta: str = one_of(*TTA)
    monitor: str | None = one_of(*MONITORS)
    early_stopping: EarlyStoppingConfig
    runs_dir: str = path(affects_result=False)
    cache_dir: str = path(affects_result=False)
    augmenter: str = one_of("batch", "albumentations")
    num_workers: int = ranged("a number of processes", at_least=0, at_most=256, affects_result=False)
    force: bool = setting(affects_result=False)
    data: DataConfig = setting(default_factory=DataConfig, affects_result=False)
    split: SplitConfig = field(default_factory=SplitConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    model: ModelConfig
    optimizer: OptimizerConfig
    scheduler: SchedulerConfig
    trainer: TrainerConfig
    # These three are part of the identity by what can change a result: see convert.identity and training.continuation.
    callbacks: dict[str, CallbackConfig] = setting(default_factory=dict, affects_result=False, added_later=True)
    ckpt_path: str | None = path(default=None, affects_result=False, added_later=True)
    init_from: str | None = path(default=None, affects_result=False, added_later=True)
    logger: LoggerConfig = setting(default_factory=LoggerConfig, affects_result=False)
    launcher: LauncherConfig = setting(affects_result=False)
    usd_per_hour: float | None = ranged("a price", at_least=0, affects_result=False)
    backup: BackupConfig = setting(affects_result=False)
    search: SearchConfig = setting(affects_result=False)
    fail_fast: bool = setting(affects_result=False)
    dry_run: bool = setting(affects_result=False)

    def early_stopping_keys(self) -> list[str]:
        """Return the keys by which the training may stop before ``max_epochs``."""
        own = ["early_stopping.patience"] if self.early_stopping.patience is not None else []
        nodes = self.callbacks.items()
        return own + [f"callbacks.{name}" for name, node in nodes if lightning_class(node._target_) == EARLY_STOPPING]
