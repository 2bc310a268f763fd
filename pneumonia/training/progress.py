"""Show a progress bar for the batches of the running epoch, and print a line for each finished epoch."""

import math
import time
from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from torch import Tensor

from pneumonia.models.base import Classifier
from pneumonia.system.console import CONSOLE, format_value, say
from pneumonia.training.throughput import Throughput


class _Status(ProgressColumn):
    """Loss of the last batch and speed of the epoch; of a long training step, its progress as the module has it now."""

    def __init__(self, module: LightningModule) -> None:
        super().__init__()
        self.module = module
        self.loss: Tensor | None = None
        self._images = 0
        self._rate = 0.0
        self._started = time.perf_counter()

    def count(self, loss: Tensor | None, images: int) -> None:
        """Take in a training batch."""
        self.loss = loss
        self._images += images
        self._rate = self._images / (time.perf_counter() - self._started)

    def render(self, task: Task) -> Text:
        status = self.module.status if isinstance(self.module, Classifier) else ""
        if status or self.loss is None:
            return Text(status)
        return Text(
            f"loss {format_value(float(self.loss))}  {self._rate:.0f} images/s"
        )  # waits for the device, ten times a second


class EpochProgress(Checkpoint):
    """Show the progress of a training on the console.

    A ``Checkpoint``, though it saves none, because Lightning calls other callbacks before the module logs the training metrics
    of the epoch.

    Args:
        throughput: Measures the speed that is shown.
    """

    def __init__(self, throughput: Throughput) -> None:
        self.throughput = throughput
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._status: _Status | None = None
        self._images, self._train_s = 0, 0.0  # before the running epoch

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx > 0 or not trainer.is_global_zero:
            return
        self._status = _Status(pl_module)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            self._status,
        )
        self._progress = Progress(*columns, console=CONSOLE, transient=True, disable=not CONSOLE.is_terminal)
        total = int(trainer.num_training_batches)
        self._task = self._progress.add_task(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", total=total)
        self._progress.start()
        self._images, self._train_s = self.throughput.totals.images, self.throughput.totals.train_s

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._progress is not None and self._task is not None and self._status is not None:
            self._status.count(outputs.get("loss") if isinstance(outputs, Mapping) else None, len(batch["label"]))
            self._progress.advance(self._task)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()
        if not trainer.is_global_zero:
            return
        names = {"train loss": "train/loss", "val loss": "val/loss", "accuracy": "val/accuracy", "f1": "val/f1_macro"}
        values = {title: float(trainer.callback_metrics.get(name, math.nan)) for title, name in names.items()}
        shown = "  ".join(f"{title} {format_value(value if math.isfinite(value) else None)}" for title, value in values.items())
        totals = self.throughput.totals
        rate = (totals.images - self._images) / max(totals.train_s - self._train_s, 1e-9)
        say(f"epoch {trainer.current_epoch + 1:>3}/{trainer.max_epochs}  {shown}  {rate:5.0f} images/s")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close()

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
