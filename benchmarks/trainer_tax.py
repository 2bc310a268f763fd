"""Row 4: what `Trainer.fit` costs over a plain loop on the same batches in memory, in the same order, from the same weights.

- ours: `Trainer.fit` as a run calls it, with metrics, validation and checkpoints.
- defaults: Lightning as its tutorials have it: a metric and the loss logged at every step, its own checkpoints and CSV logger.
- limit: a plain loop, and the network over the validation split.
"""

import tempfile
import time
import warnings
from typing import Final

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from benchmarks.fits import DEVICE, FirstBatch, Fit, fit, plain, ready
from benchmarks.harness import Arm, Differs, Goal, Row
from benchmarks.world import SGD, SIDE, World, classifier
from pneumonia.data.datamodule import XRayDataModule
from pneumonia.models.optimization import build_optimizer
from pneumonia.system.console import quiet

BATCH: Final = 50
IMAGES: Final = (800, 200)  # of training and validation
CLOSE: Final = 1e-5  # of losses


def rows(world: World) -> list[Row]:
    """The arms over a part of the images."""
    quiet()
    data = world.subset(*IMAGES, batch_size=BATCH)
    batches, validation = ready(data, classifier())
    found = Row(
        key="trainer",
        what=f"an epoch of {len(data.positions('train'))} images at {SIDE} px in batches of {BATCH}, with validation",
        items=len(data.positions("train")),
        unit="images",
        arms={
            "ours": Arm(lambda: fit(data).epoch_s, timed=True),
            "defaults": Arm(lambda: defaults(data).epoch_s, timed=True),
            "limit": Arm(lambda: plain(batches, validation, classifier()).epoch_s, timed=True),
        },
        goals=(Goal("limit", "cost", 1.03), Goal("defaults", "faster", 1.0)),
        guard=lambda: guard(data),
        rounds=world.rounds,
        note="from the first batch to the end of all that follows the epoch; building model and trainer is row `first_step`",
    )
    return [found]


def guard(data: XRayDataModule) -> str:
    """All three end with the same mean loss."""
    losses = [fit(data).loss, defaults(data).loss, plain(*ready(data, classifier()), classifier()).loss]
    if max(losses) - min(losses) > CLOSE:
        raise Differs(f"the arms end at training losses {losses}")
    return f"training losses within {max(losses) - min(losses):.1g} of each other ({losses[0]:.5f})"


class Tutorial(LightningModule):
    """The network of ours in a module as Lightning's tutorials write it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = classifier()
        self.accuracy = nn.ModuleDict({stage: MulticlassAccuracy(3) for stage in ("train_stage", "val_stage")})
        self.total, self.images = 0.0, 0

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        if batch_idx == 0:
            torch.manual_seed(0)  # of the dropout, as in the other arms

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits = self.model.network(self.model.prepare(batch["image"]))
        loss = nn.functional.cross_entropy(logits, batch["label"])
        self.accuracy["train_stage"](logits, batch["label"])
        self.log("train_loss", loss, prog_bar=True)
        self.log("train_accuracy", self.accuracy["train_stage"], on_step=True, on_epoch=True)
        self.total, self.images = self.total + float(loss) * len(logits), self.images + len(logits)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        logits = self.model.network(self.model.prepare(batch["image"]))
        self.accuracy["val_stage"](logits, batch["label"])
        self.log("val_loss", nn.functional.cross_entropy(logits, batch["label"]), batch_size=len(logits))
        self.log("val_accuracy", self.accuracy["val_stage"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return build_optimizer(self.parameters(), SGD)


def defaults(data: XRayDataModule) -> Fit:
    """One epoch of it."""
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, module = FirstBatch(), Tutorial()
        trainer = Trainer(
            max_epochs=1,
            accelerator="gpu" if DEVICE.type == "cuda" else "cpu",
            devices=1,
            logger=CSVLogger(place),
            default_root_dir=place,
            callbacks=[first],
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(module, datamodule=data)
        spent = time.perf_counter() - first.at
        return Fit(spent, spent, module.total / module.images)
