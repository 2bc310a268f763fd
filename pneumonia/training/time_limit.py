"""Interrupt a training whose time is over."""

import time
from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from pneumonia.config.trainer_limits import max_time_s
from pneumonia.errors import TimeLimitReached
from pneumonia.runs.folder import RunFolder, read_metrics


class TimeLimit(Callback):
    """Interrupt a training whose time is over; its finished epochs are kept.

    Lightning's own ``Timer`` ends ``fit`` as if all epochs were done, counts a part of an epoch as a whole one, and continues
    to count when the run is resumed, which then ends at once.

    Args:
        max_time: From the start of the training in this process; see :func:`pneumonia.config.trainer_limits.max_time_s`.
        folder: Of the run.

    Raises:
        TimeLimitReached: Within an epoch. Several processes that train together stop at the end of one instead, and leave the
            error to the process that started them.
    """

    def __init__(self, max_time: str | Mapping[str, float], folder: RunFolder) -> None:
        self.max_time, self.folder = max_time, folder
        self.limit_s = max_time_s(max_time)
        self._started = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.world_size == 1 and self._is_over():
            raise time_limit_reached(self.max_time, self.folder, trainer.max_epochs)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            trainer.should_stop |= bool(trainer.strategy.broadcast(self._is_over()))

    def _is_over(self) -> bool:
        return time.monotonic() - self._started > self.limit_s


def time_limit_reached(max_time: str | Mapping[str, float], folder: RunFolder, epochs: int | None) -> TimeLimitReached:
    """Build the error of a training of so many epochs whose time is over."""
    kept = len(read_metrics(folder))
    more = "" if kept else " Allow more time: no epoch was finished."
    return TimeLimitReached(
        f"trainer.max_time={max_time} was over after {kept} of {epochs} epochs; they are kept in {folder.path}. Rerun the "
        f"command to resume.{more}"
    )
