"""The options that all model families share, and those of them that are fitted on the training subset."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final, Self, TypeAlias, get_type_hints

import numpy as np

from pneumonia.config.declarations import Rule, check_value, rule_of
from pneumonia.config.schema import TrainConfig
from pneumonia.data.datamodule import XRayDataModule
from pneumonia.data.normalization import Scaling, fit_scaling, histogram
from pneumonia.errors import ConfigError
from pneumonia.tasks import SUBTYPE, Task

Plain: TypeAlias = Mapping[str, object]  # a config node in plain values, as a checkpoint keeps it
BALANCED: Final = "balanced"
ADAM: Final[Plain] = {"_target_": "torch.optim.Adam", "lr": 1e-3}
CONSTANT: Final[Plain] = {"_target_": "pneumonia.training.schedulers.constant"}


@dataclass(frozen=True)
class ClassifierOptions:
    """Options of a classifier, whatever its family.

    Attributes:
        task: Gives the classes; a built-in one may be named.
        channels: 1, or 3 for networks that want colour: the grey channel is repeated.
        image_size: Pixels a side.
        resize: How an image file becomes that square; ``predict`` needs it.
        scaling: The normalisation; or a method of :data:`pneumonia.data.normalization.FITTED`, until :func:`fit_options`.
        seed: Of dropout and of all else that is random in a training step.
        optimizer: Its config node.
        scheduler: Its config node.
        label_smoothing: Of the training loss alone.
        class_weights: Of the training loss alone; ``None`` weighs all classes the same; ``balanced`` until :func:`fit_options`.
        mixup: Strength of mixup (alpha); 0 for none.
        ema: Decay of the moving average of the weights; ``None`` for none.
        swa: Fraction of the epochs after which weights are averaged; ``None`` for never.
        tta: Test-time augmentation, a name of :data:`pneumonia.config.names.TTA`.
        max_steps: Optimizer steps after which the training ends, which shorten its schedule; -1 for no limit.
        family: Target under which a config knows the family; empty for the name of its class.
        own_targets: Targets of the user's own config, which may lie in any package; never read from a checkpoint.
    """

    task: Task = SUBTYPE
    channels: int = 1
    image_size: int = 75
    resize: str = "stretch"
    scaling: Scaling | str = field(default_factory=Scaling)
    seed: int = 0
    optimizer: Plain = field(default_factory=lambda: ADAM)
    scheduler: Plain = field(default_factory=lambda: CONSTANT)
    label_smoothing: float = 0.0
    class_weights: list[float] | str | None = None
    mixup: float = 0.0
    ema: float | None = None
    swa: float | None = None
    tta: str = "none"
    max_steps: int = -1
    family: str = ""
    own_targets: Collection[str] = ()

    def __post_init__(self) -> None:
        given: object = self.task
        if not isinstance(given, Task):
            object.__setattr__(self, "task", Task.from_plain(given))

    @property
    def inputs(self) -> int:
        """Numbers of a flattened image."""
        return self.channels * self.image_size**2

    @classmethod
    def from_plain(cls, values: Plain) -> Self:
        """Read the options of a trained classifier from plain values; names that are no options are ignored.

        Raises:
            ConfigError: A value that no run writes.
        """
        hints, rules = get_type_hints(cls), {item.name: rule_of(item) for item in fields(TrainConfig)}
        hints |= {"task": str | Mapping[str, object], "scaling": Mapping[str, object], "class_weights": list[float] | None}
        del rules["class_weights"], rules["task"]  # of their name
        if missing := {"task", "image_size", "scaling"} - set(values):
            raise ConfigError(f"{min(missing)} is missing.")
        known: dict[str, Any] = {key: value for key, value in values.items() if key in hints and key != "own_targets"}
        for name, value in known.items():
            check_value(name, value, hints[name], rules.get(name))
        if "scaling" in known:
            scaling = known["scaling"]
            for name, rule in (("shift", None), ("scale", Rule(lambda scale: scale > 0, "above 0"))):
                check_value(f"scaling.{name}", scaling.get(name), float, rule)
            known["scaling"] = Scaling(str(scaling.get("method")), scaling["shift"], scaling["scale"])
        return cls(**known)

    def to_plain(self) -> Plain:
        """Return plain values, so that a checkpoint that holds them loads with ``weights_only``."""
        plain = asdict(replace(self, own_targets=())) | {"task": self.task.to_plain()}
        del plain["own_targets"]
        return plain

    @property
    def fitted(self) -> Scaling:
        """The normalisation.

        Raises:
            ConfigError: It is not fitted yet.
        """
        if isinstance(self.scaling, str):
            raise ConfigError(
                f"normalisation={self.scaling} is not fitted yet, so the model can't take images. Trainer.fit fits it on the "
                "training images; build_model(config, datamodule) before."
            )
        return self.scaling


Options: TypeAlias = ClassifierOptions | Plain | None  # what the constructor of a family takes


def fit_options(options: ClassifierOptions, datamodule: object) -> ClassifierOptions:
    """Fit normalisation and class weights on the training subset, where the options name a method for them.

    Args:
        options: Of the classifier.
        datamodule: An :class:`XRayDataModule` that is set up.

    Raises:
        ConfigError: The images have no spread to normalise by, or there is no such data module.
    """
    scaling, weights = options.scaling, options.class_weights
    if not isinstance(scaling, str) and weights != BALANCED:
        return options
    if not isinstance(datamodule, XRayDataModule):
        what = "class_weights=balanced" if weights == BALANCED else f"normalisation={scaling}"
        raise ConfigError(
            f"{what} is fitted on the training images and needs an XRayDataModule: use Trainer.fit(model, datamodule)."
        )
    if isinstance(scaling, str):
        scaling = fit_scaling(scaling, histogram(datamodule.images.pixels, datamodule.rows("train")))
    if weights == BALANCED:
        counts = datamodule.counts("train").astype(np.float64)
        weights = [float(value) for value in counts.sum() / (len(counts) * counts)]
    return replace(options, scaling=scaling, class_weights=weights)


def check_datamodule(options: ClassifierOptions, datamodule: object) -> None:
    """Refuse a data module whose images or classes do not match a classifier.

    Args:
        options: Of the classifier.
        datamodule: Of the trainer; ``None`` for plain dataloaders.

    Raises:
        ConfigError: The image size or the task differs, or weights are averaged without a data module.
    """
    if datamodule is None and options.swa is not None:
        raise ConfigError(
            f"swa={options.swa} recomputes batch norm statistics on the training images after an epoch and needs a data module: "
            "use Trainer.fit(model, datamodule)."
        )
    task: Task = getattr(datamodule, "task", options.task)
    size = getattr(datamodule, "image_size", options.image_size)
    if (task, size) != (options.task, options.image_size):
        raise ConfigError(
            f"The data module has task={task.name} ({task.title}) and image_size={size}, and the model was built for "
            f"task={options.task.name} ({options.task.title}) and image_size={options.image_size}. Build it with "
            "build_model(config, datamodule)."
        )
