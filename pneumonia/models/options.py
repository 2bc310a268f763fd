"""Settings that every model family shares."""

from dataclasses import asdict, dataclass, field
from typing import Any, Final

from pneumonia.data.normalization import Scaling
from pneumonia.errors import ConfigError


@dataclass(frozen=True)
class ClassifierOptions:
    """Settings of every family, in plain values, so that a checkpoint with them loads with ``weights_only``.

    Attributes:
        task: A name of :data:`pneumonia.tasks.TASKS`.
        channels: 1, or 3 for networks that want colour: the grey channel is repeated.
        image_size: Pixels a side.
        resize: How an image file becomes that square; kept here for ``predict``.
        scaling: A :class:`pneumonia.data.normalization.Scaling`, as it was fitted on the training split.
        seed: Of dropout and of all else that draws in a training step.
        optimizer: Its config node.
        scheduler: Its config node.
        label_smoothing: Of the training loss alone.
        class_weights: Of the training loss alone; ``None`` weighs all the same.
        mixup: Strength of mixup (alpha); 0 is none.
        ema: Decay of the moving average of the weights; ``None`` is none.
        swa: Fraction of the epochs after which the mean of the weights is taken; ``None`` is none.
        tta: Test-time augmentation, a name of :data:`pneumonia.models.components.test_time_augmentation.VIEWS`.
        max_steps: Optimizer steps that end the training, which shorten its schedule; -1 for no limit.
    """

    task: str = "subtype"
    channels: int = 1
    image_size: int = 75
    resize: str = "stretch"
    scaling: dict[str, Any] = field(default_factory=lambda: asdict(Scaling()))
    seed: int = 0
    optimizer: dict[str, Any] = field(default_factory=lambda: {"_target_": "torch.optim.Adam", "lr": 1e-3})
    scheduler: dict[str, Any] = field(default_factory=lambda: {"_target_": "pneumonia.training.schedulers.constant"})
    label_smoothing: float = 0.0
    class_weights: list[float] | None = None
    mixup: float = 0.0
    ema: float | None = None
    swa: float | None = None
    tta: str = "none"
    max_steps: int = -1


DEFAULT_OPTIONS: Final = ClassifierOptions()


def check_datamodule(options: ClassifierOptions, datamodule: Any) -> None:
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
    task = getattr(getattr(datamodule, "task", None), "name", options.task)
    size = getattr(datamodule, "image_size", options.image_size)
    if (task, size) != (options.task, options.image_size):
        raise ConfigError(
            f"The data module has task={task} and image_size={size}, and the model was built for task={options.task} and "
            f"image_size={options.image_size}. Build it with build_model(config, datamodule)."
        )
