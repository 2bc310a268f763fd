"""The config of one run: types, ranges and identity of every key. Values and comments are in ``conf/``.

The nodes of :data:`GROUPS` differ by choice; :mod:`pneumonia.config.choices` declares the built-in ones.
"""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

from pneumonia.config.callback_classes import EARLY_STOPPING, lightning_class
from pneumonia.config.declarations import Rule, one_of, path, ranged, setting
from pneumonia.config.names import MONITORS, NORMALISATIONS, ON_BAD_IMAGE, RESIZES, TTA
from pneumonia.config.split_methods import SPLIT_METHODS, SplitMethod
from pneumonia.tasks import Task

GROUPS: Final = ("model", "optimizer", "scheduler", "trainer", "launcher")
MOST_MINUTES: Final = 10_000_000  # 19 years; longer times overflow the timers of the operating system
MAX_TIME: Final = re.compile(r"\d{1,6}(:[0-5]?\d){3}", re.ASCII)
WATCHED: Final = ("gradients", "parameters", "all")
TIME_PARTS: Final = ("days", "hours", "minutes", "seconds")


seed = partial(ranged, "a whole number", at_least=0, at_most=2**32 - 1)
minutes = partial(ranged, "a number of minutes", above=0, at_most=MOST_MINUTES)


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


@dataclass(kw_only=True)
class Node:
    """A node whose keys depend on the chosen file; see :func:`pneumonia.config.convert.group_node`."""

    _group_: ClassVar[str]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Pickle the values: the class of a node with keys of its own is made at run time."""
        from pneumonia.config.convert import group_node

        return group_node, (self._group_, asdict(self))


@dataclass(kw_only=True)
class TargetNode(Node):
    """A node that :func:`hydra.utils.instantiate` accepts."""

    _target_: str


@dataclass(kw_only=True)
class ModelConfig(TargetNode):
    """A model family and its own keys."""

    _group_: ClassVar[str] = "model"


@dataclass(kw_only=True)
class OptimizerConfig(TargetNode):
    """An optimizer class and its arguments."""

    _group_: ClassVar[str] = "optimizer"


@dataclass(kw_only=True)
class SchedulerConfig(TargetNode):
    """A schedule of :mod:`pneumonia.training.schedulers` and its arguments."""

    _group_: ClassVar[str] = "scheduler"


@dataclass(kw_only=True)
class CallbackConfig(TargetNode):
    """A callback of Lightning's, or of one's own, and its arguments."""

    _group_: ClassVar[str] = "callbacks"


@dataclass(kw_only=True)
class LauncherConfig(Node):
    """Where the jobs of a sweep run."""

    _group_: ClassVar[str] = "launcher"
    kind: str = one_of("local", "parallel", "slurm", "ray")
    timeout_min: float | None = minutes()


def _is_limit(value: float) -> bool:
    return 0 < value <= 1 if isinstance(value, float) else value >= 1


def _is_max_time(value: Any) -> bool:
    if isinstance(value, dict):
        numbers = all(isinstance(one, int | float) and 0 <= one <= 1e6 for one in value.values())
        return bool(value) and set(value) <= set(TIME_PARTS) and numbers
    return MAX_TIME.fullmatch(value) is not None


limit = partial(setting, Rule(_is_limit, "a fraction above 0, at most 1.0, or a whole number of batches"))


def _is_devices(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(number >= 0 for number in value) and len(set(value)) == len(value)
    return value == "auto" if isinstance(value, str) else value == -1 or value >= 1


@dataclass(kw_only=True)
class TrainerConfig(Node):
    """Arguments of :class:`lightning.Trainer`."""

    _group_: ClassVar[str] = "trainer"
    accelerator: str = one_of("auto", "cpu", "gpu", "cuda", affects_result=False)
    devices: int | str | list[int] = setting(
        Rule(_is_devices, "a number of processes, auto or -1 for all GPUs, or a list of GPUs such as [0]"), affects_result=False
    )
    strategy: str = one_of("auto", "ddp", "ddp_spawn", affects_result=False)
    precision: str = one_of("32-true", "mixed", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")
    gradient_clip_val: float | None = ranged("a number", above=0)
    gradient_clip_algorithm: str = one_of("norm", "value")
    accumulate_grad_batches: int = ranged("a number of batches", at_least=1)
    max_time: str | dict[str, float] | None = setting(
        Rule(_is_max_time, "a time as DD:HH:MM:SS of at most 999999 days"), affects_result=False
    )
    limit_train_batches: float | int = limit()
    limit_val_batches: float | int = limit()
    overfit_batches: float | int | None = limit(default=None, added_later=True)
    check_val_every_n_epoch: int = ranged("a number of epochs", at_least=1, default=1, added_later=True)
    val_check_interval: float | int = setting(
        Rule(_is_limit, "a fraction of an epoch above 0, at most 1.0, or a number of batches"), default=1.0, added_later=True
    )
    num_sanity_val_steps: int = setting(
        Rule(lambda steps: steps >= -1, "a number of batches, or -1 for all"), default=0, affects_result=False
    )
    log_every_n_steps: int | None = ranged("a number of steps", at_least=1, default=None, affects_result=False)
    profiler: str | None = one_of("simple", "advanced", default=None, affects_result=False)
    max_steps: int = setting(Rule(lambda steps: steps == -1 or steps >= 1, "a number of steps, or -1 for no limit"))
    fast_dev_run: bool | int = setting(Rule(lambda runs: runs >= 0, "true or false"))
    deterministic: bool
    benchmark: bool = setting(affects_result=False)
    detect_anomaly: bool = setting(affects_result=False)
    enable_progress_bar: bool = setting(affects_result=False)


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
