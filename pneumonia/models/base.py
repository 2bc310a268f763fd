"""Base class of all model families: losses, metrics, averaged weights, checkpoints. A family adds its network."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Final, Self, cast

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel
from torchmetrics import MetricCollection

from pneumonia.data.dataset import Batch
from pneumonia.errors import CheckpointError, ConfigError
from pneumonia.metrics.epoch_metrics import build_epoch_metrics, compute_epoch_metrics, cross_entropy
from pneumonia.models.components.batch_norm import check_single_images, has_batch_norm
from pneumonia.models.components.mixup import mixup
from pneumonia.models.components.test_time_augmentation import VIEWS, mean_of_views
from pneumonia.models.components.weight_averaging import averaged_copy, first_averaged_epoch, remeasure
from pneumonia.models.optimization import advance_schedules, build_optimizer, build_schedule, optimizer_steps
from pneumonia.models.options import DEFAULT_OPTIONS, ClassifierOptions, check_datamodule
from pneumonia.models.signature_checks import constructor_node
from pneumonia.tasks import TASKS, Task

CHECKPOINT_KEY: Final = "pneumonia"


def _silent(text: str) -> None:
    """Ignore a progress message."""


class Classifier(LightningModule):
    """Chest X-ray classifier around a network that returns one logit per class.

    Families subclass this once and set ``network``; those that are not trained by optimizer steps also declare how.

    Attributes:
        tasks: Supported tasks.
        training_rule: Description of the training, where it is not by optimizer steps; printed at the start.
        unsupported_options: Config keys that the family does not use; other than neutral values are refused.
        default_monitor: The metric that compares epochs, unless ``monitor`` is set.
        full_batch: Whether one training batch is the whole training split.
        caveat: A warning about outputs that are not probabilities.
        note: A message about the network, printed at the start.
        converged: Whether the optimum is reached, which ends the training.
    """

    tasks: ClassVar[tuple[str, ...]] = tuple(TASKS)
    training_rule: ClassVar[str] = ""
    unsupported_options: ClassVar[tuple[str, ...]] = ()
    full_batch: ClassVar[bool] = False
    default_monitor: ClassVar[str] = "val/loss"
    caveat: ClassVar[str] = ""
    note: str = ""
    converged: bool = False
    network: nn.Module
    _keywords: dict[str, Any]

    def __new__(cls, *arguments: Any, **keywords: Any) -> Self:
        """Keep the keyword arguments of the family, with which a checkpoint is rebuilt."""
        classifier = super().__new__(cls)
        classifier._keywords = keywords
        return classifier

    def __init__(self, options: ClassifierOptions = DEFAULT_OPTIONS) -> None:
        super().__init__()
        if options.task not in self.tasks:
            raise ConfigError(
                f"task={options.task} has {len(TASKS[options.task].classes)} classes, and {type(self).__name__} tells only two "
                f"apart. Use task={self.tasks[0]}, or another model."
            )
        self.options = options
        self.task: Task = TASKS[options.task]
        self.model_config: dict[str, Any] = {}
        self.own_targets: Collection[str] = ()  # see pneumonia.config.targets
        self.averaged: AveragedModel | None = None
        self._epoch: list[tuple[Tensor, Tensor, Tensor]] = []  # summed loss, answers and labels of each batch so far
        self._evaluated: list[tuple[Tensor, Tensor]] = []  # summed loss and images of each evaluated batch
        self._widened: dict[str, Tensor] = {}  # during validation, the weights of 16 bits as float32
        self.report: Callable[[str], None] = _silent  # reports the progress of a long training step
        self.train_metrics = build_epoch_metrics(self.task, auroc=False)
        self.val_metrics, self.test_metrics = build_epoch_metrics(self.task), build_epoch_metrics(self.task)
        weights = None if options.class_weights is None else torch.tensor(options.class_weights)
        self.criterion = nn.CrossEntropyLoss(weight=weights, label_smoothing=options.label_smoothing)

    @classmethod
    def as_restored(cls, model: dict[str, Any]) -> dict[str, Any]:
        """Return the config node that rebuilds a checkpoint of the family before its weights are loaded."""
        return model

    @classmethod
    def identity(cls, model: dict[str, Any]) -> dict[str, Any]:
        """Return the part of the config node that affects results: files by their content, not their path."""
        return model

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(B, K)`` for grey levels from 0 to 255 of shape ``(B, 1, H, W)``, uint8 or float.

        In evaluation mode averaged weights are used where there are any, and the views of ``tta`` are averaged.
        """
        if self.training:
            return cast(Tensor, self.network(self.prepare(image)))
        network = self.evaluated_network()
        return mean_of_views([network(self.prepare(view)) for view in VIEWS[self.options.tta](image)])

    def trained_logits(self, image: Tensor) -> Tensor:
        """Return logits ``(B, K)`` in a training step; with several processes, one may have no image of a batch."""
        if len(image) or has_batch_norm(self.network):  # synchronised batch norms must not see an image that is none
            logits: Tensor = self(image)
            return logits
        nothing: Tensor = self(image.new_zeros(1, *image.shape[1:]))[:0]  # few other networks take an empty batch
        return nothing

    def prepare(self, image: Tensor) -> Tensor:
        """Return the input of the network ``(B, C, H, W)``: scaled, with the grey channel repeated."""
        return self.scale(image).expand(-1, self.options.channels, -1, -1)

    def scale(self, image: Tensor) -> Tensor:
        """Normalize grey levels as in training; part of the model, so that no caller can differ."""
        scaling = self.options.scaling
        shift, scale = float(scaling["shift"]), float(scaling["scale"])
        return (image.to(next(self.network.parameters()).dtype) - shift) / scale

    def follow_weights(self) -> None:
        """Create the averaged copy of the network where the options ask for one."""
        if self.averaged is None and (self.options.ema is not None or self.options.swa is not None):
            self.averaged = averaged_copy(self.network, self.options.ema)

    def configure_model(self) -> None:
        self.follow_weights()

    def setup(self, stage: str) -> None:
        check_datamodule(self.options, getattr(self.trainer, "datamodule", None))

    def parameter_groups(self) -> Iterable[Any]:
        """Return what the optimizer trains: parameters, or groups of them with options."""
        return self.network.parameters()

    def weight_images(self) -> dict[str, Tensor]:
        """Return weights ``(H, W)`` to draw as images, by name; none for most families."""
        return {}

    def weight_offsets(self) -> dict[str, float]:
        """Return the bias of each of :meth:`weight_images`."""
        return dict.fromkeys(self.weight_images(), 0.0)

    def first_averaged_epoch(self) -> int:
        """Return the first epoch whose metrics are those of averaged weights (``swa``), else 0."""
        if self.options.swa is None:
            return 0
        return first_averaged_epoch(self.options.swa, self.trainer.max_epochs or 1)

    def check_single_images(self) -> None:
        """Raise ``ConfigError`` if batch normalization can not train on batches of one image."""
        side = self.options.image_size
        image = self.prepare(torch.zeros(1, 1, side, side, device=self.device))
        check_single_images(self.network, image, f"{type(self).__name__} at image_size={side}")

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 0 and int(batch["counts"].sum() if "counts" in batch else len(batch["label"])) == 1:
            self.check_single_images()
        # Dropout draws from (seed, epoch) alone, so that a resumed run draws what it would have drawn.
        if batch_idx == 0:
            self._epoch.clear()
            torch.manual_seed(self.options.seed * 100_003 + self.current_epoch + self.global_rank * 1_000_003)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label, target = batch["image"], batch["label"], batch["label"]
        if self.options.mixup > 0:
            seed = (self.options.seed, self.current_epoch, batch_idx)
            image, target = mixup(image, label, len(self.task.classes), self.options.mixup, seed)
            label = target.argmax(dim=1)  # of a blend, the class that prevails
        logits = self.trained_logits(image)
        if "counts" in batch:
            return self._share_of_loss(logits, label, batch["counts"])
        loss: Tensor = self.criterion(logits, target)
        self.keep(self._reported(logits, target), logits, label)
        return loss

    def _reported(self, logits: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        """Return the training loss of logits as reported; see :func:`pneumonia.metrics.epoch_metrics.cross_entropy`."""
        weight = self.criterion.weight
        options = {"reduction": reduction, "label_smoothing": self.options.label_smoothing}
        return cross_entropy(logits.detach(), target, weight=None if weight is None else weight.float(), **options)

    def _share_of_loss(self, logits: Tensor, label: Tensor, counts: Tensor) -> Tensor:
        """Return this process's share of the loss of a batch; the mean over processes is the loss of the whole batch.

        Torch averages gradients over processes, which is right only where all have as many images of the same weight.
        """
        weight = counts if self.criterion.weight is None else counts * self.criterion.weight
        smoothing = self.options.label_smoothing
        total = nn.functional.cross_entropy(
            logits, label, self.criterion.weight, reduction="sum", label_smoothing=smoothing
        )
        share: Tensor = total / weight.sum()
        reported = self._reported(logits, label, "sum") / weight.sum() * counts.sum()
        self._epoch.append((reported, logits.detach().argmax(dim=1), label))
        return share * self.trainer.world_size

    def keep(self, loss: Tensor, logits: Tensor, label: Tensor) -> None:
        """Store a training batch's loss and predictions for the metrics of the epoch, which is faster than metrics per step."""
        self._epoch.append((loss.detach() * len(label), logits.detach().argmax(dim=1), label))

    def optimizer_step(self, *arguments: Any, **settings: Any) -> None:
        super().optimizer_step(*arguments, **settings)
        self._average_step()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if not self.automatic_optimization:  # Lightning then leaves to us what follows a step
            self._average_step()
            advance_schedules(self.trainer, "step", manual=True)
        if self.options.swa is not None and self.trainer.is_last_batch:
            self._average_epoch()

    def on_train_epoch_end(self) -> None:
        losses, answers, labels = zip(*self._epoch, strict=True)
        self._epoch.clear()
        label = torch.cat(labels)
        self.train_metrics.update(torch.cat(answers), label)
        total, images = torch.stack(losses).double().sum(), torch.tensor(len(label), device=self.device)
        loss = self._over_processes(total) / self._over_processes(images)
        self._log_summary("train", {"loss": float(loss), **compute_epoch_metrics(self.train_metrics, self.task)})
        self.train_metrics.reset()
        advance_schedules(self.trainer, "epoch", manual=not self.automatic_optimization)

    def _over_processes(self, value: Tensor) -> Tensor:
        """Return the sum of a value over the processes."""
        if self.trainer.world_size == 1:
            return value
        summed: Tensor = self.trainer.strategy.reduce(value, reduce_op="sum")
        return summed

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        # Lightning would step a plateau after the epoch's checkpoint, and a resumed run would miss that step.
        if not isinstance(scheduler, ReduceLROnPlateau):
            super().lr_scheduler_step(scheduler, metric)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate_batch(batch, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate_batch(batch, self.test_metrics)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return probabilities ``(B, K)`` of a batch, in float32."""
        with torch.autocast(self.device.type, enabled=False):
            probabilities: Tensor = self(batch["image"]).float().softmax(dim=1)
            return probabilities

    def _evaluate_batch(self, batch: Batch, metrics: MetricCollection) -> None:
        if not len(batch["label"]):
            return  # the last batch has fewer images than there are processes
        with torch.autocast(self.device.type, enabled=False):
            logits, label = functional_call(self, self._widened, (batch["image"],)).float(), batch["label"]
        metrics.update(logits.softmax(dim=1), label)  # probabilities, never logits
        # Plain cross-entropy, so that runs with other class weights or smoothing can be compared.
        loss = cross_entropy(logits, label, reduction="sum")
        self._evaluated.append((loss, torch.tensor(len(label), device=self.device)))

    def on_validation_start(self) -> None:
        # A trained model answers in float32, however it was trained, so its epochs are compared as such. The weights of 16 bits
        # are copied, because several processes no longer share the gradients of a weight whose type has changed meanwhile.
        if self.dtype in {torch.bfloat16, torch.float16}:
            tensors = (*self.named_parameters(), *self.named_buffers())
            self._widened = {name: value.detach().float() for name, value in tensors if value.is_floating_point()}

    def on_validation_end(self) -> None:
        self._widened = {}

    on_test_start, on_test_end = on_validation_start, on_validation_end

    def on_validation_epoch_start(self) -> None:
        self._evaluated.clear()

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test", self.test_metrics)

    def _log_evaluation(self, stage: str, metrics: MetricCollection) -> None:
        # Lightning's own mean over processes takes a whole number of images for each.
        total, images = (torch.stack(values).double().sum() for values in zip(*self._evaluated, strict=True))
        loss = self._over_processes(total) / self._over_processes(images)
        self._log_summary(stage, {"loss": float(loss), **compute_epoch_metrics(metrics, self.task)})
        with torch.inference_mode(
            False
        ):  # `Trainer.test` is in inference mode, and its tensors can not be updated in a later fit
            metrics.reset()

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.parameter_groups(), self.options.optimizer, self.own_targets)
        epochs = self.trainer.max_epochs or 1
        steps = optimizer_steps(self.trainer, epochs, self.options.max_steps)
        schedule = build_schedule(optimizer, self.options.scheduler, epochs, steps, self.own_targets)
        if not self.automatic_optimization:
            schedule.pop("monitor", None)  # Lightning warns that it will not step a plateau; we do
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        model = self.model_config or constructor_node(type(self), self._keywords)
        checkpoint[CHECKPOINT_KEY] = {"model": model, "options": asdict(self.options)}

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # the whole of a run's checkpoint is checked
        cls, checkpoint_path: str | Path, map_location: Any = None, **_: Any
    ) -> Self:
        """Load a classifier of this family in evaluation mode; nothing in the file is executed.

        Raises:
            CheckpointError: The file is missing, damaged, or of another family.
        """
        from pneumonia.models.factory import load_classifier

        target = f"{cls.__module__}.{cls.__qualname__}"
        classifier = load_classifier(Path(checkpoint_path), own=(target,))
        if not isinstance(classifier, cls):
            raise CheckpointError(
                f"{checkpoint_path} holds a {type(classifier).__name__}, not a {cls.__name__}. Load it with that class."
            )
        return classifier if map_location is None else classifier.to(map_location)

    def _average_step(self) -> None:
        """Update the moving average of the weights after a step."""
        if self.averaged is not None and self.options.ema is not None:
            self.averaged.update_parameters(self.network)

    def evaluated_network(self) -> nn.Module:
        """Return the network used in evaluation: the averaged one where there is one."""
        if self.averaged is None or not int(self.averaged.n_averaged):
            return self.network
        network: nn.Module = self.averaged.module
        return network

    def _average_epoch(self) -> None:
        """Update the stochastic weight average after each of the last epochs."""
        if self.averaged is None or self.current_epoch < self.first_averaged_epoch():
            return
        self.averaged.update_parameters(self.network)
        loader = self.trainer.datamodule.loader("train", self.options.seed, self.current_epoch)  # type: ignore[attr-defined]
        remeasure(self.averaged, self.network, (self.prepare(batch["image"].to(self.device)) for batch in loader))

    def _log_summary(self, stage: str, values: dict[str, float]) -> None:
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()})
