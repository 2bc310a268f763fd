"""The LightningModule of all families. A family subclasses ``Classifier`` once, builds its network, and stops there."""

from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from lightning import LightningModule
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from pneumonia.data.dataset import Batch
from pneumonia.errors import CheckpointError, ConfigError
from pneumonia.metrics.epoch_metrics import build_epoch_metrics, compute_epoch_metrics, cross_entropy
from pneumonia.models.components.batch_norm import check_single_images, has_batch_norm
from pneumonia.models.components.channels_last import channels_last_is_safe
from pneumonia.models.components.mixup import mixup
from pneumonia.models.components.test_time_augmentation import VIEWS, mean_of_views
from pneumonia.models.components.training_loss import TrainingLoss
from pneumonia.models.components.weight_averaging import averaged_copy, first_averaged_epoch, update_batch_norm
from pneumonia.models.optimization import advance_schedules, build_optimizer, build_schedule, optimizer_steps
from pneumonia.models.options import ClassifierOptions, Options, Plain, check_datamodule, fit_options
from pneumonia.tasks import MOST_CLASSES, PNEUMONIA, SUBTYPE, Task


class Classifier(LightningModule):
    """Chest X-ray classifier around a network that returns one logit per class.

    A family subclasses it once and sets ``network``. A family that does not learn by optimizer steps also sets its
    ``training_rule``. Keyword arguments of a family's constructor are the keys of its file in ``conf/model``; they must be plain
    values, since checkpoints keep them as hyperparameters.

    Args:
        options: The options that all families share, or their plain values, as a checkpoint has them. ``None`` for the defaults
            with a task that the family supports.

    Attributes:
        most_classes: Classes that the family separates at most.
        training_rule: How the family learns, if not by optimizer steps; printed when a run starts.
        unsupported_options: Config keys without effect on the family; a run that sets one is refused.
        default_monitor: The metric that compares epochs, unless ``monitor`` names another.
        full_batch: Whether one training batch is the whole training subset.
        caveat: A warning about the probabilities, for families that have none.
        note: A message about the network, printed when a run starts.
        converged: Whether the family has found its optimum, which ends the training.
        status: The progress of a long training step, for a progress bar.
    """

    most_classes: ClassVar[int] = MOST_CLASSES
    training_rule: ClassVar[str] = ""
    unsupported_options: ClassVar[tuple[str, ...]] = ()
    full_batch: ClassVar[bool] = False
    default_monitor: ClassVar[str] = "val/loss"
    caveat: ClassVar[str] = ""
    note: str = ""
    converged: bool = False
    status: str = ""
    network: nn.Module

    def __init__(self, options: Options = None) -> None:
        super().__init__()
        if options is None:
            options = ClassifierOptions(task=SUBTYPE if self.most_classes > 2 else PNEUMONIA)
        self.options = options if isinstance(options, ClassifierOptions) else ClassifierOptions.from_plain(options)
        self.task: Task = self.options.task
        if len(self.task.classes) > self.most_classes:
            raise ConfigError(
                f"task={self.task.name} has {len(self.task.classes)} classes, and {type(self).__name__} separates "
                f"{self.most_classes} at most. Use task=pneumonia or a task of two classes, or another model."
            )
        self.averaged: AveragedModel | None = None
        self._training_batches: list[tuple[Tensor, Tensor, Tensor]] = []  # summed loss, predictions and labels of each batch
        self._evaluation_batches: list[tuple[Tensor, Tensor]] = []  # summed loss and images of each batch
        self._float32: dict[str, Tensor] = {}  # during evaluation, the weights of 16 bits as float32
        self.train_metrics = build_epoch_metrics(self.task, auroc=False)
        self.evaluation_metrics = build_epoch_metrics(self.task)
        self.save_hyperparameters(ignore="options")  # the keyword arguments of the family
        self.hparams.update({key: _plain(value) for key, value in self.hparams.items()})
        self.hparams["_target_"] = self.options.family or f"{type(self).__module__}.{type(self).__qualname__}"
        self._use(self.options)

    def _use(self, options: ClassifierOptions) -> None:
        self.options = options
        self.hparams["options"] = options.to_plain()
        weights = torch.tensor(options.class_weights) if isinstance(options.class_weights, list) else None
        self.criterion = TrainingLoss(weight=weights, label_smoothing=options.label_smoothing)

    @classmethod
    def identity(cls, model: Plain) -> Plain:
        """Return what of a config node can change a result: files by their content, not by their path."""
        return model

    def setup(self, stage: str) -> None:
        """Compare the data module with the options, and fit those that are fitted on the training subset."""
        datamodule = getattr(self.trainer, "datamodule", None)
        check_datamodule(self.options, datamodule)
        if stage == "fit":
            self._use(fit_options(self.options, datamodule))

    def configure_model(self) -> None:
        """Choose the memory format of the network, and copy it where the options ask for averaged weights."""
        if channels_last_is_safe(self.network):
            self.network.to(memory_format=torch.channels_last)  # twice as fast on CPUs at these sizes
        if self.averaged is None and (self.options.ema is not None or self.options.swa is not None):
            self.averaged = averaged_copy(self.network, self.options.ema)

    def forward(self, image: Tensor) -> Tensor:
        """Compute logits ``(B, K)`` of grey levels from 0 to 255 ``(B, 1, H, W)``, uint8 or float.

        Evaluation uses the averaged weights where there are any, and averages over test-time augmentation.
        """
        if self.training:
            logits: Tensor = self.network(self.prepare(image))
            return logits
        network = self.evaluated_network()
        return mean_of_views([network(self.prepare(view)) for view in VIEWS[self.options.tta](image)])

    def trained_logits(self, image: Tensor) -> Tensor:
        """Compute logits ``(B, K)`` in a training step, in which a process may have no image of a shared batch."""
        if len(image) or has_batch_norm(self.network):  # synchronised batch norms must not see a made-up image
            logits: Tensor = self(image)
            return logits
        empty: Tensor = self(image.new_zeros(1, *image.shape[1:]))[:0]  # few other networks take an empty batch
        return empty

    def prepare(self, image: Tensor) -> Tensor:
        """Return the input of the network, ``(B, C, H, W)``: scaled, the grey channel repeated."""
        return self.scale(image).expand(-1, self.options.channels, -1, -1)

    def scale(self, image: Tensor) -> Tensor:
        """Normalise grey levels as in training, in the same shape; part of the model, so that every caller does the same."""
        scaling = self.options.fitted
        return (image.to(next(self.network.parameters()).dtype) - scaling.shift) / scaling.scale

    def parameter_groups(self) -> Any:
        """Return what the optimizer trains: parameters, or groups of them with options of their own."""
        return self.network.parameters()

    def optimizer_config(self) -> Plain:
        """Return the config node of the optimizer."""
        return self.options.optimizer

    def weight_images(self) -> dict[str, Tensor]:
        """Return weights ``(H, W)`` that can be shown as images, by name; none for most families."""
        return {}

    def weight_offsets(self) -> dict[str, float]:
        """Return what is added to the sum of weights times image, by name of :meth:`weight_images`."""
        return dict.fromkeys(self.weight_images(), 0.0)

    def first_averaged_epoch(self) -> int:
        """Return the first epoch whose metrics are those of averaged weights, where ``swa`` averages them; else 0."""
        swa = self.options.swa
        return 0 if swa is None else first_averaged_epoch(swa, self.trainer.max_epochs or 1)

    def check_single_images(self) -> None:
        """Refuse training batches of one image; see :func:`pneumonia.models.components.batch_norm.check_single_images`."""
        side = self.options.image_size
        image = torch.zeros(1, self.options.channels, side, side, device=self.device)
        check_single_images(self.network, image, type(self).__name__)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if batch_idx > 0:
            return
        if int(batch["counts"].sum() if "counts" in batch else len(batch["label"])) == 1:
            self.check_single_images()
        self._training_batches.clear()
        # Dropout depends on (seed, epoch) alone, so that a resumed run repeats it.
        torch.manual_seed(self.options.seed * 100_003 + self.current_epoch + self.global_rank * 1_000_003)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label, target = batch["image"], batch["label"], batch["label"]
        if self.options.mixup > 0:
            seed = (self.options.seed, self.current_epoch, batch_idx)
            image, target = mixup(image, label, len(self.task.classes), self.options.mixup, seed)
            label = target.argmax(dim=1)  # the prevailing class of a blend
        logits = self.trained_logits(image)
        if "counts" in batch:  # of a batch that several processes share
            loss, reported = self.criterion.shared(logits, label, batch["counts"])
            self._training_batches.append((reported, logits.detach().argmax(dim=1), label))
            return loss * self.trainer.world_size
        self.record(self.criterion.reported(logits, target), logits, label)
        weighted: Tensor = self.criterion(logits, target)
        return weighted

    def record(self, loss: Tensor, logits: Tensor, label: Tensor) -> None:
        """Keep the mean loss and the predictions of a batch for the metrics of the epoch; a metric a step would be slower."""
        self._training_batches.append((loss.detach() * len(label), logits.detach().argmax(dim=1), label))

    @property
    def batch_loss(self) -> Tensor:
        """Mean loss of the last training batch."""
        summed, _, label = self._training_batches[-1]
        return summed / len(label)

    def on_train_epoch_start(self) -> None:
        for name in [name for name in self.trainer.callback_metrics if name.startswith("val/")]:
            del self.trainer.callback_metrics[name]  # of an earlier epoch, where this one is not validated

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        self._average_step()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if not self.automatic_optimization:  # Lightning then leaves to us what follows a step
            self._average_step()
            advance_schedules(self.trainer, "step", manual=True)
        if self.options.swa is not None and self.trainer.is_last_batch:
            self._average_epoch()

    def on_train_epoch_end(self) -> None:
        losses, predictions, labels = zip(*self._training_batches, strict=True)
        self._training_batches.clear()
        label = torch.cat(labels)
        self.train_metrics.update(torch.cat(predictions), label)
        loss = self._mean(torch.stack(losses), torch.tensor(len(label), device=self.device))
        self._log_metrics("train", loss, self.train_metrics)
        advance_schedules(self.trainer, "epoch", manual=not self.automatic_optimization)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if not len(batch["label"]):
            return  # the last batch has fewer images than there are processes
        logits, label = self._evaluation_logits(batch["image"]), batch["label"]
        self.evaluation_metrics.update(logits.softmax(dim=1), label)  # probabilities, never logits
        # Plain cross-entropy, so that runs with other class weights or smoothing can be compared.
        loss = cross_entropy(logits, label, reduction="sum")
        self._evaluation_batches.append((loss, torch.tensor(len(label), device=self.device)))

    test_step = validation_step

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute probabilities ``(B, K)``."""
        return self._evaluation_logits(batch["image"]).softmax(dim=1)

    def _evaluation_logits(self, image: Tensor) -> Tensor:
        """Compute logits ``(B, K)`` in float32, in which a trained model predicts, however it was trained."""
        with torch.autocast(self.device.type, enabled=False):
            logits: Tensor = functional_call(self, self._float32, (image,)).float()
        return logits

    def on_validation_start(self) -> None:
        # Weights of 16 bits are copied: processes no longer share the gradients of a weight whose type has changed meanwhile.
        if self.dtype in {torch.bfloat16, torch.float16}:
            tensors = (*self.named_parameters(), *self.named_buffers())
            self._float32 = {name: value.detach().float() for name, value in tensors if value.is_floating_point()}

    def on_validation_end(self) -> None:
        self._float32 = {}

    def on_validation_epoch_start(self) -> None:
        self._evaluation_batches.clear()

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end
    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    def _log_evaluation(self, stage: str) -> None:
        losses, images = (torch.stack(values) for values in zip(*self._evaluation_batches, strict=True))
        self._log_metrics(stage, self._mean(losses, images), self.evaluation_metrics)

    def _log_metrics(self, stage: str, loss: float, metrics: Any) -> None:
        values = {"loss": loss, **compute_epoch_metrics(metrics, self.task)}
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()})
        with torch.inference_mode(False):  # `Trainer.test` is in it, and its tensors can't be updated in a later fit
            metrics.reset()

    def _mean(self, losses: Tensor, images: Tensor) -> float:
        """Divide summed losses by numbers of images, over all processes; Lightning weighs processes, not images."""
        total, count = losses.double().sum(), images.double().sum()
        if self.trainer.world_size > 1:
            reduce = self.trainer.strategy.reduce
            total, count = reduce(total, reduce_op="sum"), reduce(count, reduce_op="sum")
        return float(total / count)

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.parameter_groups(), self.optimizer_config(), self.options.own_targets)
        epochs = self.trainer.max_epochs or 1
        steps = optimizer_steps(self.trainer, epochs, self.options.max_steps)
        schedule = build_schedule(optimizer, self.options.scheduler, epochs, steps, self.options.own_targets)
        if not self.automatic_optimization:
            schedule.pop("monitor", None)  # Lightning warns that it will not step a plateau; we do
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        # Lightning would step a plateau after the epoch's checkpoint, and a resumed run would miss that step.
        if not isinstance(scheduler, ReduceLROnPlateau):
            super().lr_scheduler_step(scheduler, metric)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # the whole of a run's checkpoint is checked
        cls, checkpoint_path: str | Path, map_location: Any = None, **_: Any
    ) -> Self:
        """Load a classifier of this family in evaluation mode; nothing in the file is executed.

        Raises:
            CheckpointError: The file is missing, damaged, or of another family.
        """
        from pneumonia.models.checkpoints import load_classifier

        target = f"{cls.__module__}.{cls.__qualname__}"
        classifier = load_classifier(Path(checkpoint_path), own=(target,))
        if not isinstance(classifier, cls):
            raise CheckpointError(
                f"{checkpoint_path} holds a {type(classifier).__name__}, not a {cls.__name__}. Load it with that class."
            )
        return classifier if map_location is None else classifier.to(map_location)

    def evaluated_network(self) -> nn.Module:
        """Return the network that predicts in evaluation: the averaged one where there is one."""
        if self.averaged is None or not int(self.averaged.n_averaged):
            return self.network
        network: nn.Module = self.averaged.module
        return network

    def _average_step(self) -> None:
        """Update the moving average after a step."""
        if self.averaged is not None and self.options.ema is not None:
            self.averaged.update_parameters(self.network)

    def _average_epoch(self) -> None:
        """Add the weights at the end of an epoch to the average of stochastic weight averaging."""
        if self.averaged is None or self.current_epoch < self.first_averaged_epoch():
            return
        self.averaged.update_parameters(self.network)
        loader = self.trainer.datamodule.loader("train", self.options.seed, self.current_epoch)  # type: ignore[attr-defined]
        images = (self.prepare(batch["image"].to(self.device)) for batch in loader)
        update_batch_norm(self.averaged, self.network, images)


def _plain(value: Any) -> Any:
    """Turn what ``hydra.utils.instantiate`` passes into what a checkpoint can hold."""
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
