"""The one training loop. A family subclasses ``Classifier`` once, builds its network, and stops there."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import torch
from hydra.utils import get_class
from lightning import LightningModule
from torch import Tensor, nn

from pneumonia.data.dataset import Batch
from pneumonia.data.scaling import Scaling
from pneumonia.errors import CheckpointError, ConfigError
from pneumonia.labels import TASKS, Task
from pneumonia.metrics import collection, summary
from pneumonia.optim import build_optimizer, build_schedule

CHECKPOINT_KEY: Final = "pneumonia"


@dataclass(frozen=True)
class Setup:
    """What every family is given, in plain values, so that a checkpoint that holds it loads with ``weights_only``.

    Attributes:
        task: A name of :data:`pneumonia.labels.TASKS`.
        channels: 1, or 3 for networks that want colour: the grey channel is repeated.
        image_size: Pixels a side.
        resize: How an image file becomes that square; kept here for ``predict``.
        scaling: A :class:`pneumonia.data.scaling.Scaling`, as it was fitted on the training part.
        seed: Of dropout and of all else that draws in a training step.
        optimizer: Its config node.
        scheduler: Its config node.
        label_smoothing: Of the training loss alone.
        class_weights: Of the training loss alone; ``None`` weighs all the same.
    """

    task: str
    channels: int = 1
    image_size: int = 75
    resize: str = "squash"
    scaling: dict[str, Any] = field(default_factory=lambda: asdict(Scaling()))
    seed: int = 0
    optimizer: dict[str, Any] = field(default_factory=lambda: {"_target_": "torch.optim.Adam", "lr": 1e-3})
    scheduler: dict[str, Any] = field(default_factory=lambda: {"_target_": "pneumonia.optim.constant"})
    label_smoothing: float = 0.0
    class_weights: list[float] | None = None


class Classifier(LightningModule):
    """Chest X-ray classifier around a network that returns one logit per class."""

    network: nn.Module

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self.setup_values = setup
        self.task: Task = TASKS[setup.task]
        self.model_config: dict[str, Any] = {}
        self.most_batches = 0  # of the longest epoch, where epochs differ
        self.train_metrics = collection(self.task, ranking=False)
        self.val_metrics = collection(self.task)
        weights = None if setup.class_weights is None else torch.tensor(setup.class_weights)
        self.criterion = nn.CrossEntropyLoss(weight=weights, label_smoothing=setup.label_smoothing)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of shape ``(B, K)`` for grey levels from 0 to 255 of shape ``(B, 1, H, W)``, uint8 or float."""
        logits: Tensor = self.network(self.scale(image).expand(-1, self.setup_values.channels, -1, -1))
        return logits

    def scale(self, image: Tensor) -> Tensor:
        """Grey levels normalised as in training, in the same shape: part of the model, so that no caller can differ."""
        scaling = self.setup_values.scaling
        shift, scale = float(scaling["shift"]), float(scaling["scale"])
        return (image.float() - shift) / scale

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout draws from (seed, epoch) alone, so that a resumed run draws what it would have drawn.
        if batch_idx == 0:
            torch.manual_seed(self.setup_values.seed * 100_003 + self.current_epoch)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits, label = self(batch["image"]), batch["label"]
        loss: Tensor = self.criterion(logits, label)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(label))
        self.train_metrics.update(logits.detach().float().softmax(dim=1), label)
        return loss

    def on_train_epoch_end(self) -> None:
        self._log_summary("train", summary(self.train_metrics, self.task))
        self.train_metrics.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits, label = self(batch["image"]).float(), batch["label"]
        self.val_metrics.update(logits.softmax(dim=1), label)  # probabilities, never logits
        # Plain cross-entropy, so that runs with other class weights or smoothing can be compared.
        self.log("val/loss", nn.functional.cross_entropy(logits, label), batch_size=len(label))

    def on_validation_epoch_end(self) -> None:
        self._log_summary("val", summary(self.val_metrics, self.task))
        self.val_metrics.reset()

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.parameters(), self.setup_values.optimizer)
        epochs = self.trainer.max_epochs or 1
        longest = -(-self.most_batches // self.trainer.accumulate_grad_batches) * epochs
        steps = max(int(self.trainer.estimated_stepping_batches), longest)
        schedule = build_schedule(optimizer, self.setup_values.scheduler, epochs, steps)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CHECKPOINT_KEY] = {"model": self.model_config, "setup": asdict(self.setup_values)}

    def _log_summary(self, stage: str, values: dict[str, float]) -> None:
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()})


def build_classifier(model: dict[str, Any], setup: Setup) -> Classifier:
    """The family that a config node names, with its keys.

    Raises:
        ConfigError: ``_target_`` is no family of ours, or a key is not one of its own.
    """
    settings = dict(model)
    target = str(settings.pop("_target_", ""))
    try:
        family = get_class(target)
    except Exception as error:
        raise ConfigError(
            f"model._target_={target} names no class. Use model=NAME, with a file of conf/model."
        ) from error
    if not issubclass(family, Classifier):  # also keeps a hostile checkpoint from calling anything else
        raise ConfigError(
            f"model._target_={target} is not a family: it must subclass pneumonia.models.base.Classifier."
        )
    torch.manual_seed(setup.seed)
    try:
        classifier: Classifier = family(setup, **settings)
    except TypeError as error:
        raise ConfigError(f"model: {target} refuses its settings {settings}: {error}") from error
    classifier.model_config = dict(model)
    if _may_use_channels_last(classifier.network):
        classifier.network.to(memory_format=torch.channels_last)  # twice as fast on CPUs at these sizes
    return classifier


def _may_use_channels_last(network: nn.Module) -> bool:
    """Whether every convolution has a multiple of 16 channels.

    With others, torch 2.15 on CPUs writes past its buffers in a channels-last backward pass when the batch size varies,
    as it does at the end of an epoch ("double free or corruption"); seen at 8 and 12 channels.
    """
    return all(layer.out_channels % 16 == 0 for layer in network.modules() if isinstance(layer, nn.Conv2d))


def load_classifier(path: Path, task: str | None = None) -> Classifier:
    """A classifier as it was saved, in evaluation mode, on the CPU.

    Args:
        path: A checkpoint of ours; read with ``weights_only``, so nothing in it is executed.
        task: Refuse a checkpoint of another task.

    Raises:
        CheckpointError: Missing, unreadable, not ours, or of another task.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}. Train the run to its end, or name another run folder.")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        own = saved[CHECKPOINT_KEY]
        known = {item.name for item in fields(Setup)}
        setup = Setup(**{key: value for key, value in own["setup"].items() if key in known})
        model = dict(own["model"])
    except Exception as error:
        raise CheckpointError(
            f"{path} is not a checkpoint that pneumonia wrote, or it is damaged ({type(error).__name__}). Train the run again."
        ) from error
    if task is not None and setup.task != task:
        raise CheckpointError(
            f"{path} was trained for task={setup.task}, and task={task} was asked: its outputs are other classes. "
            f"Say task={setup.task}, or name another run."
        )
    classifier = build_classifier(model, setup)
    try:
        classifier.load_state_dict(saved["state_dict"])
    except RuntimeError as error:
        raise CheckpointError(f"{path} holds weights of another shape than its settings say: {error}") from error
    return classifier.eval()
