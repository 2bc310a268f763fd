"""Record what Lightning logs between the epochs: training loss and learning rate of steps, and what callbacks add."""

import csv
from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from torch import Tensor

from pneumonia.models.base import Classifier
from pneumonia.runs.folder import RunFolder
from pneumonia.system.files import replacing


class StepLogger(Logger):
    """A logger of steps alone: the metrics of an epoch, which Lightning logs between the batches, are in ``metrics.csv``.

    Attributes:
        trainer: That logs, during a training.
        in_batch: Whether it is in a batch.
    """

    trainer: Trainer | None = None
    in_batch: bool = False

    def of_step(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the values that are not those of an epoch; Lightning adds the epoch to what it collects itself.

        Metrics of a validation within an epoch end with ``_step``, as Lightning names those of steps.
        """
        values = {name: value for name, value in metrics.items() if name != "epoch"}
        if self.trainer is None or self.in_batch or "epoch" not in metrics:
            return values
        if self.trainer.validating and not (self.trainer.is_last_batch or self.trainer.sanity_checking):
            return {f"{name}_step": value for name, value in values.items()}
        return {name: value for name, value in values.items() if name not in self.trainer.callback_metrics}


class StepsCsv(StepLogger):
    """Write ``steps.csv`` after each epoch: a row for each optimizer step that was logged."""

    name, version = "", ""  # so that a ModelCheckpoint of the user saves in checkpoints/ of the run folder

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        self.folder = folder
        self._rows: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = {name: float(value) for name, value in self.of_step(metrics).items() if isinstance(value, int | float | Tensor)}
        if values and step is not None:
            self._rows.setdefault(step, {}).update(values)

    def log_hyperparams(self, *arguments: Any, **options: Any) -> None:
        """Do nothing: ``config.yaml`` has them."""

    def write(self) -> None:
        """Write the steps of an epoch; of an interrupted epoch nothing is written, since it is trained again."""
        if not self._rows:
            return
        first, path = min(self._rows), self.folder.steps
        earlier: list[dict[str, Any]] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                earlier = [row for row in csv.DictReader(file) if int(row["step"]) < first]
        rows = [*earlier, *({"step": step, **values} for step, values in sorted(self._rows.items()))]
        self._rows = {}
        with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)


class StepRecorder(Checkpoint):
    """Log training loss and learning rate every few optimizer steps, which count from 0 as Lightning's do.

    A ``Checkpoint``, and the first of them, so that ``steps.csv`` is written before a checkpoint from which a run can resume.

    Args:
        every_n_steps: Optimizer steps between two records; ``None`` for none.
    """

    def __init__(self, every_n_steps: int | None) -> None:
        self.every_n_steps = every_n_steps
        self._lr, self._step = float("nan"), 0  # before the batch

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for logger in _step_loggers(trainer):
            logger.trainer = trainer

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        for logger in _step_loggers(trainer):
            logger.in_batch = True
        self._step = trainer.global_step
        if self.every_n_steps:
            self._lr = float(trainer.optimizers[0].param_groups[-1]["lr"])

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if self.every_n_steps and step > self._step and step % self.every_n_steps == 0 and isinstance(pl_module, Classifier):
            for logger in trainer.loggers:
                logger.log_metrics({"train/loss_step": float(pl_module.batch_loss), "lr_step": self._lr}, self._step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._between_batches(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._between_batches(trainer)
        for logger in trainer.loggers:
            if isinstance(logger, StepsCsv) and trainer.is_global_zero:
                logger.write()

    def _between_batches(self, trainer: Trainer) -> None:
        for logger in _step_loggers(trainer):
            logger.in_batch = False


def _step_loggers(trainer: Trainer) -> list[StepLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, StepLogger)]
