"""Write the metrics of each epoch to ``metrics.csv``."""

import csv
from collections.abc import Mapping, Sequence
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from pneumonia.runs.folder import RunFolder, read_metrics
from pneumonia.system.files import replacing


class MetricsCsv(Checkpoint):
    """Append a row of all logged metrics after every epoch, with the learning rate at which it was trained.

    A callback, since Lightning calls a ``Logger`` only after the checkpoint callbacks: a process killed between the two would
    resume after an epoch whose row is lost. A ``Checkpoint``, since Lightning calls other callbacks before the module logs the
    training metrics of the epoch.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._lr = float("nan")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:  # at the end of the epoch, schedules have changed it
            self._lr = float(trainer.optimizers[0].param_groups[-1]["lr"])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        epoch = trainer.current_epoch + 1  # Lightning counts from 0, our files from 1
        metrics = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        row = {"epoch": epoch, "lr": self._lr, **metrics}
        earlier = [old for old in read_metrics(self.folder) if int(old["epoch"]) < epoch]
        write_metrics(self.folder, [*earlier, row])


def write_metrics(folder: RunFolder, rows: Sequence[Mapping[str, object]]) -> None:
    """Write ``metrics.csv``, one row an epoch."""
    with replacing(folder.metrics) as part, part.open("w", newline="", encoding="utf-8") as file:
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(file, fieldnames=names, restval="nan")  # of an epoch that was not validated
        writer.writeheader()
        writer.writerows(rows)
