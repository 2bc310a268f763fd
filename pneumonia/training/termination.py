"""Record why a training ends before its last epoch, so that a resumed run trains no further."""

import math
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from pneumonia.models.base import Classifier
from pneumonia.system.console import quiet, warn
from pneumonia.training.checkpointing import BestCheckpoint, metrics_are_finite, weights_are_finite


class Termination(Checkpoint):
    """End a training after ``max_steps`` or when it has diverged, and record how it ended.

    A ``Checkpoint``, so that Lightning calls it after early stopping; place it behind ``best`` and before the last checkpoint.

    Args:
        best: Tells whether there is an epoch to keep.
        max_steps: Optimizer steps after which the training ends; -1 for no limit. Lightning is not given it, since it resumes
            a training with ``max_steps`` in an epoch without batches.

    Attributes:
        stopped: Whether early stopping, or the family's own criterion, has ended the training.
        out_of_steps: Whether ``max_steps`` has.
        diverged: The first epoch whose loss, monitor or weights are not finite, from 1; 0 before there is one.
        lost: Whether the training has ended without an epoch to keep. Weights that are not finite end it at once, since they
            stay so.
    """

    def __init__(self, best: BestCheckpoint, max_steps: int = -1) -> None:
        self.best = best
        self.max_steps = max_steps
        self.stopped = self.out_of_steps = self.lost = False
        self.diverged = 0

    def __setstate__(self, state: dict[str, object]) -> None:
        quiet()  # in each process of a distributed training, before Lightning starts there
        vars(self).update(state)

    def state_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("stopped", "out_of_steps", "diverged", "lost")}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        vars(self).update(state_dict)

    @property
    def ended(self) -> bool:
        """Whether no further epoch may be trained, although ``max_epochs`` is not reached."""
        return self.stopped or self.out_of_steps or self.lost

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.max_steps:
            trainer.should_stop = True  # within an epoch Lightning then validates, so that the part of it has metrics

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stoppers = [callback for callback in trainer.early_stopping_callbacks if isinstance(callback, EarlyStopping)]
        converged = isinstance(pl_module, Classifier) and pl_module.converged
        self.stopped = converged or any(stopper.stopping_reason is not EarlyStoppingReason.NOT_STOPPED for stopper in stoppers)
        last = trainer.current_epoch + 1 == trainer.max_epochs and trainer.is_last_batch
        self.out_of_steps = trainer.global_step == self.max_steps and not (self.stopped or last)
        self._check_divergence(trainer, pl_module, last)

    def _check_divergence(self, trainer: Trainer, module: LightningModule, last: bool) -> None:
        epoch, finite_weights = trainer.current_epoch + 1, weights_are_finite(module)
        values = trainer.callback_metrics
        losses = {name: float(values[f"{name}/loss"]) for name in ("train", "val") if f"{name}/loss" in values}
        finite = finite_weights and metrics_are_finite(trainer, self.best.monitor)
        if trainer.is_global_zero and not (finite and math.isfinite(losses["train"])):
            subset = "val" if "val" in losses and math.isfinite(losses["train"]) else "train"
            name = {"val": "validation", "train": "training"}[subset]
            warn(
                f"The {name} loss of epoch {epoch} is {losses[subset]}: the training diverges. Lower optimizer.lr, or clip the "
                "gradient (trainer.gradient_clip_val=1)."
            )
        if not finite:
            self.diverged = self.diverged or epoch
            self.lost = not self.best.best_epoch and (last or not finite_weights)
            trainer.should_stop |= self.lost
