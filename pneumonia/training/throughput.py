"""Measure how fast a run trains, and its peak memory."""

import contextlib
import math
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from pneumonia.runs.folder import RunFolder
from pneumonia.system.files import write_json

MIB = 2**20


@dataclass
class Totals:
    """Totals over all epochs of a run, also those before it was resumed.

    Attributes:
        fit_s: Seconds in epochs, with validation.
        train_s: Seconds in epochs, without validation.
        images: Training images, over all processes.
        batches: Training batches of this process.
    """

    fit_s: float = 0.0
    train_s: float = 0.0
    images: int = 0
    batches: int = 0


class Throughput(Callback):
    """Count images, batches and seconds, and write the running speed to ``progress.json``.

    An epoch begins with its first batch: Lightning does not call ``on_train_epoch_start`` in the epoch that follows a resume.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.totals = Totals()
        self._epoch_started = 0.0
        self._training_since: float | None = None
        self._epoch_images = 0  # of this process

    def state_dict(self) -> dict[str, float]:
        return asdict(self.totals)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.totals = Totals(**state_dict)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self._epoch_started = self._training_since = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._epoch_images += len(batch["label"])
        self.totals.batches += 1

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._count_training()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not (trainer.sanity_checking or trainer.is_last_batch):
            self._training_since = time.perf_counter()

    def _count_training(self) -> None:
        if self._training_since is not None:
            self.totals.train_s += time.perf_counter() - self._training_since
            self._training_since = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._count_training()  # of an epoch that was not validated
        images = torch.tensor(self._epoch_images, device=trainer.strategy.root_device)
        self.totals.images += int(trainer.strategy.reduce(images, reduce_op="sum"))
        self._epoch_images = 0
        epoch_s = time.perf_counter() - self._epoch_started
        self.totals.fit_s += epoch_s
        if trainer.is_global_zero:
            values = {
                "images_per_s": self.rates()["images_per_s"],
                "epoch_s": round(epoch_s, 3),
                "peak_memory_mib": peak_memory_mib(),
            }
            write_json(self.folder.progress, {"epochs": trainer.current_epoch + 1, "of": trainer.max_epochs, **values})

    def rates(self) -> dict[str, float | None]:
        """Return training images and batches a second, without validation; ``None`` before the first epoch."""
        seconds = self.totals.train_s or math.nan
        rates = {"images_per_s": self.totals.images / seconds, "batches_per_s": self.totals.batches / seconds}
        return {name: round(rate, 3) if math.isfinite(rate) else None for name, rate in rates.items()}


def reset_peak_memory() -> None:
    """Start a new peak, so that a run is not charged with that of earlier runs of its process (Linux and GPUs)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_mib() -> float:
    """Return the peak memory of the GPU where one is used, else of this process, since :func:`reset_peak_memory`."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return round(torch.cuda.max_memory_allocated() / MIB, 1)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / MIB if sys.platform == "darwin" else peak / 1024, 1)  # Linux counts KiB, macOS bytes
