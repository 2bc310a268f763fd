"""What happens around each epoch: progress for people, and the files from which a run goes on."""

import contextlib
import csv
import math
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pneumonia.config.trainer_limits import max_time_s
from pneumonia.errors import TimeLimitReached
from pneumonia.metrics.classification import lower_is_better
from pneumonia.models.base import Classifier
from pneumonia.models.weight_images import weights_picture
from pneumonia.runs.folder import RunFolder, read_metrics
from pneumonia.system.console import CONSOLE, figure, quiet, say, warn
from pneumonia.system.files import replacing, write_json

MIB = 2**20


class Recorder(Checkpoint):
    """Writes a row of metrics, the best and the last checkpoint after every epoch, each file whole or not at all.

    Lightning runs ``Checkpoint`` callbacks after all others, so the row is complete and ``last.ckpt`` holds everybody's
    state. Lightning's own ``ModelCheckpoint`` keeps ``last`` at the last *improving* epoch, and forgets the best score of
    a folder that was moved. What must happen as an epoch begins waits for its first batch: Lightning does not call
    ``on_train_epoch_start`` in the epoch that follows a resume.

    Attributes:
        best_epoch: Epoch of the best ``monitor`` so far, from 1; 0 before the first.
        stopped: Whether early stopping, or the family itself, has ended the run as its config says.
        out_of_steps: Whether ``max_steps`` has ended it before.
        diverged: The first epoch whose loss, monitor or weights are not finite, from 1; 0 before there is one.
        lost: Whether the training has ended without an epoch to keep. Weights that are not finite end it at once: they stay so.

    Args:
        folder: Of the run.
        monitor: The metric that compares epochs.
        max_steps: Optimizer steps after which the training ends; -1 for no limit. Lightning is not given it, since it resumes
            a training with ``max_steps`` in an epoch without batches.
    """

    def __init__(self, folder: RunFolder, monitor: str = "val/loss", max_steps: int = -1) -> None:
        self.folder = folder
        self.monitor = monitor
        self.max_steps = max_steps
        self.best = math.nan
        self.best_epoch = 0
        self.stopped = self.out_of_steps = self.lost = False
        self.diverged = 0
        self.fit_s = 0.0
        self.train_s = 0.0
        self.images = 0
        self.batches = 0
        self._started = self._epoch_started = 0.0
        self._rate = math.nan
        self._seen = 0  # images of the epoch, by this process

    def __setstate__(self, state: dict[str, Any]) -> None:
        quiet()  # in a process of its own, before Lightning begins there
        self.__dict__.update(state)

    def state_dict(self) -> dict[str, Any]:
        ends = ("stopped", "out_of_steps", "diverged", "lost")
        keys = ("best", "best_epoch", *ends, "fit_s", "train_s", "images", "batches")
        return {key: getattr(self, key) for key in keys}

    @property
    def ended(self) -> bool:
        """Whether no further epoch may be trained, although ``max_epochs`` is not reached."""
        return self.stopped or self.out_of_steps or self.lost

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for key, value in state_dict.items():
            setattr(self, key, value)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self._started = self._epoch_started = time.perf_counter()
            # Schedules have moved on when the epoch ends.
            self._rate = float(trainer.optimizers[0].param_groups[-1]["lr"])

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.train_s += time.perf_counter() - self._epoch_started

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._seen += len(batch["label"])
        self.batches += 1
        if trainer.global_step == self.max_steps:
            trainer.should_stop = True  # within an epoch Lightning then validates, so that the part of it has metrics

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.images += self._seen if trainer.world_size == 1 else _over_processes(trainer, self._seen)
        self._seen = 0
        self.fit_s += time.perf_counter() - self._started
        self.stopped = _ended_early(trainer, pl_module)
        last = trainer.current_epoch + 1 == trainer.max_epochs and trainer.is_last_batch
        self.out_of_steps = trainer.global_step == self.max_steps and not (self.stopped or last)
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        epoch = trainer.current_epoch + 1  # Lightning counts from 0, our files from 1
        if trainer.is_global_zero:
            self._append({"epoch": epoch, "lr": self._rate, **dict(sorted(values.items()))})
        value = values[self.monitor]
        finite_weights = _weights_are_finite(pl_module)
        finite = finite_weights and math.isfinite(values["val/loss"]) and math.isfinite(value)
        if trainer.is_global_zero and not (finite and math.isfinite(values["train/loss"])):
            name = "validation" if math.isfinite(values["train/loss"]) else "training"
            loss = values["val/loss" if name == "validation" else "train/loss"]
            warn(
                f"The {name} loss of epoch {epoch} is {loss}: the weights have run away. "
                "Lower optimizer.lr, or clip the gradient (trainer.gradient_clip_val=1)."
            )
        if isinstance(pl_module, Classifier) and trainer.current_epoch == pl_module.first_averaged_epoch():
            self.best_epoch = 0  # with swa, the epochs before the first mean do not count
        if not finite:
            self.diverged = self.diverged or epoch
            self.lost = not self.best_epoch and (last or not finite_weights)
            trainer.should_stop |= self.lost
        elif not self.best_epoch or better(value, self.best, self.monitor):
            self.best, self.best_epoch = value, epoch
            self._save(trainer, self.folder.best, weights_only=True)
        self._save(trainer, self.folder.last)
        if not trainer.is_global_zero:
            return
        epoch_s = time.perf_counter() - self._epoch_started
        speed = {
            "images_per_s": self.speed()["images_per_s"],
            "epoch_s": round(epoch_s, 3),
            "peak_memory_mib": peak_memory_mib(),
        }
        write_json(self.folder.progress, {"epochs": epoch, "of": trainer.max_epochs, **speed})

    def speed(self) -> dict[str, float | None]:
        """Return training images and batches per second, without validation."""
        seconds = self.train_s or math.nan
        rates = {"images_per_s": self.images / seconds, "batches_per_s": self.batches / seconds}
        return {key: round(value, 3) if math.isfinite(value) else None for key, value in rates.items()}

    def _append(self, row: dict[str, float]) -> None:
        earlier = [old for old in read_metrics(self.folder) if int(old["epoch"]) < row["epoch"]]
        with replacing(self.folder.metrics) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(row), restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows([*earlier, row])

    def _save(self, trainer: Trainer, path: Path, *, weights_only: bool = False) -> None:
        if not trainer.is_global_zero:
            # It writes nothing, but all processes wait for one another.
            trainer.save_checkpoint(path, weights_only=weights_only)
            return
        with replacing(path) as part:
            trainer.save_checkpoint(part, weights_only=weights_only)


class TimeLimit(Callback):
    """Interrupts a training whose time is over; its finished epochs are kept.

    Lightning's own ``Timer`` ends the training as if all were done, takes a part of an epoch for a whole one, and goes on
    counting when the run is resumed, which would then end at once.

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

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.world_size == 1 and self._is_over():
            raise time_is_over(self.max_time, self.folder, trainer.max_epochs)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            trainer.should_stop |= bool(trainer.strategy.broadcast(self._is_over()))

    def _is_over(self) -> bool:
        return time.monotonic() - self._started > self.limit_s


class WeightPictures(Callback):
    """A picture of the weights after each epoch, for families whose weights can be looked at."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        weights = pl_module.weight_images() if isinstance(pl_module, Classifier) else {}
        if weights and trainer.is_global_zero:
            epoch = trainer.current_epoch + 1
            page = weights_picture(weights, f"{type(pl_module).__name__}, epoch {epoch} of {trainer.max_epochs}")
            with replacing(self.folder.weight_picture(epoch)) as part:
                page.save(part, "PNG")


class EpochReport(Checkpoint):
    """A bar for the batches of the running epoch, and a line for each finished one.

    A ``Checkpoint``, though it writes none, because Lightning calls the others before the module's own
    ``on_train_epoch_end``, from which the epoch's training figures come.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._before = (0, 0.0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx > 0 or not trainer.is_global_zero:
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=CONSOLE, transient=True, disable=not CONSOLE.is_terminal)
        total = int(trainer.num_training_batches)
        self._task = self._progress.add_task(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", total=total)
        self._progress.start()
        if isinstance(pl_module, Classifier):
            pl_module.report = self._say
        self._before = (self.recorder.images, self.recorder.train_s)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()
        if not trainer.is_global_zero:
            return
        values = trainer.callback_metrics
        images = self.recorder.images - self._before[0]
        rate = images / max(self.recorder.train_s - self._before[1], 1e-9)
        say(
            f"epoch {trainer.current_epoch + 1:>3}/{trainer.max_epochs}"
            f"  train loss {_shown(values, 'train/loss')}  val loss {_shown(values, 'val/loss')}"
            f"  accuracy {_shown(values, 'val/accuracy')}  f1 {_shown(values, 'val/f1_macro')}  {rate:5.0f} images/s"
        )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close()

    def _say(self, text: str) -> None:
        if self._progress is not None and self._task is not None:
            description = str(self._progress.tasks[self._task].description).partition(", ")[0]
            self._progress.update(self._task, description=f"{description}, {text}")

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def time_is_over(max_time: str | Mapping[str, float], folder: RunFolder, epochs: int | None) -> TimeLimitReached:
    """The error of a training that had ``max_time`` for so many epochs."""
    kept = len(read_metrics(folder))
    more = "" if kept else " Allow more time: no epoch was finished."
    return TimeLimitReached(
        f"trainer.max_time={max_time} was over after {kept} of {epochs} epochs; they are kept in {folder.path}. Run the same "
        f"command again to go on.{more}"
    )


def _ended_early(trainer: Trainer, pl_module: LightningModule) -> bool:
    """Whether early stopping or the family's own criterion asks the training to end; anybody else's wish is no end."""
    stops = [callback for callback in trainer.early_stopping_callbacks if isinstance(callback, EarlyStopping)]
    converged = isinstance(pl_module, Classifier) and pl_module.converged
    return converged or any(stop.stopping_reason is not EarlyStoppingReason.NOT_STOPPED for stop in stops)


def _weights_are_finite(module: LightningModule) -> bool:
    """Whether no weight is NaN or infinite; one answer is read from the device, not one for each weight."""
    return bool(torch.stack([weight.detach().isfinite().all() for weight in module.parameters()]).all())


def _over_processes(trainer: Trainer, count: int) -> int:
    """The sum of a count over the processes that train together."""
    device = trainer.strategy.root_device
    return int(trainer.strategy.reduce(torch.tensor(count, device=device), reduce_op="sum"))


def better(value: float, best: float, monitor: str) -> bool:
    """Whether a metric beats the best so far; NaN beats nothing."""
    if math.isnan(value) or math.isnan(best):
        return not math.isnan(value)
    return value < best if direction(monitor) == "min" else value > best


def direction(monitor: str) -> Literal["min", "max"]:
    """``min`` for losses and error rates, which are better when lower; else ``max``."""
    metric = monitor.rpartition("/")[2]
    return "min" if metric == "objective" or lower_is_better(metric) else "max"


def reset_peak_memory() -> None:
    """Begins a new peak, so that a run in a process that has done others is not charged with theirs (Linux and GPUs)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_mib() -> float:
    """Peak memory of the GPU where one is used, else of this process, since :func:`reset_peak_memory`."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return round(torch.cuda.max_memory_allocated() / MIB, 1)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / MIB if sys.platform == "darwin" else peak / 1024, 1)  # Linux counts KiB, macOS bytes


def _shown(values: Any, name: str) -> str:
    value = float(cast(Any, values.get(name, math.nan)))
    return figure(value if math.isfinite(value) else None)
