"""Keep the best and the last checkpoint of a run."""

import math
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Literal

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from pneumonia.errors import ConfigError
from pneumonia.metrics.classification import lower_is_better
from pneumonia.models.base import Classifier
from pneumonia.runs.folder import RunFolder
from pneumonia.system.files import replacing

TENSORS: Final = ("state_dict", "optimizer_states")  # of a checkpoint; the rest is small


def check_plain_state(name: str, state: Mapping[str, object], what: str = "state_dict") -> None:
    """Refuse values that a checkpoint can't give back: files are read with ``weights_only``.

    Args:
        name: Whose values they are.
        state: The values.
        what: Where they come from, for the message.

    Raises:
        ConfigError: With the name and the value.
    """
    wrong = next(((key, value) for key, value in state.items() if not _is_plain(value)), None)
    if wrong is not None:
        key, value = wrong
        raise ConfigError(
            f"{name}: its {what} holds {key}={str(value)[:80]} ({type(value).__name__}), which no checkpoint can give back, so "
            "the run could not be resumed. Return plain values and tensors."
        )


def _is_plain(value: object) -> bool:
    file = BytesIO()
    try:
        torch.save(value, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception:  # pickle raises what the class of the value raises
        return False
    return True


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write each checkpoint atomically, so that an interrupted process leaves the one before it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        small = {key: value for key, value in checkpoint.items() if key not in TENSORS}
        if not _is_plain(small):
            for name, state in small.pop("callbacks", {}).items():
                check_plain_state(name, state)
            check_plain_state("A callback or the model", small, "on_save_checkpoint, or an own schedule,")
        with replacing(Path(path)) as part:
            super().save_checkpoint(checkpoint, part, storage_options)


class EpochCheckpoint(ModelCheckpoint):
    """Lightning's checkpoint callback for one file of a run folder, considered at the end of each epoch.

    Unlike Lightning's it also saves in an epoch without optimizer steps (logistic regression has none), and its state holds
    no paths, so that a run folder can be moved and resumed.
    """

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(path.parent, path.stem, save_on_train_epoch_end=True, enable_version_counter=False, **options)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave out Lightning's warning that the folder is not empty: it never is when a run resumes."""

    def _should_skip_saving_checkpoint(self, trainer: Trainer) -> bool:
        return trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING

    def state_dict(self) -> dict[str, float]:
        return {}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        vars(self).update(state_dict)


class LastCheckpoint(EpochCheckpoint):
    """Save ``last.ckpt`` after every epoch: all that a resumed run needs.

    ``ModelCheckpoint(save_last=True, monitor=...)`` saves it after improving epochs only. Place it behind the callbacks whose
    state it saves.
    """

    def __init__(self, folder: RunFolder) -> None:
        super().__init__(folder.last)


class BestCheckpoint(EpochCheckpoint):
    """Save the weights of the best epoch in ``best.ckpt``.

    An epoch with a loss, monitor or weights that are not finite is never the best. With stochastic weight averaging, the epochs
    before the first average do not count.

    Args:
        folder: Of the run.
        monitor: The metric that compares epochs.

    Attributes:
        best: The best value so far.
        best_epoch: Its epoch, from 1; 0 before the first.
    """

    def __init__(self, folder: RunFolder, monitor: str = "val/loss") -> None:
        super().__init__(folder.best, monitor=monitor, mode=direction(monitor), save_weights_only=True)
        self.best = math.nan
        self.best_epoch = 0

    def state_dict(self) -> dict[str, float]:
        return {"best": self.best, "best_epoch": self.best_epoch}

    def _save_topk_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        if "val/loss" in monitor_candidates:  # an epoch that is not validated can't be the best
            super()._save_topk_checkpoint(trainer, monitor_candidates)

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Decide whether the epoch that ends is the best so far, and remember it if so."""
        module = trainer.lightning_module
        if isinstance(module, Classifier) and trainer.current_epoch == module.first_averaged_epoch():
            self.best_epoch = 0
        if current is None or not (metrics_are_finite(trainer, self.monitor) and weights_are_finite(module)):
            return False
        value = float(current)
        if self.best_epoch and not (value < self.best if self.mode == "min" else value > self.best):
            return False
        self.best, self.best_epoch = value, trainer.current_epoch + 1
        return True


def direction(monitor: str) -> Literal["min", "max"]:
    """Return ``min`` where lower values of a metric are better, else ``max``."""
    metric = monitor.rpartition("/")[2]
    return "min" if metric == "objective" or lower_is_better(metric) else "max"


def metrics_are_finite(trainer: Trainer, monitor: str | None) -> bool:
    """Whether the validation loss and the monitor of the epoch are finite, as far as it has them."""
    values = trainer.callback_metrics
    return all(math.isfinite(float(values[name])) for name in ("val/loss", monitor or "val/loss") if name in values)


def weights_are_finite(module: LightningModule) -> bool:
    """Whether no weight is NaN or infinite; reads one value from the device."""
    return bool(torch.stack([weight.detach().isfinite().all() for weight in module.parameters()]).all())
