"""Training as a run does it, and as one would write it by hand."""

import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from benchmarks.world import SGD, classifier
from pneumonia.data.datamodule import XRayDataModule
from pneumonia.models.base import Classifier
from pneumonia.models.optimization import build_optimizer
from pneumonia.runs.folder import RunFolder, read_metrics
from pneumonia.training.callbacks import RunCallbacks
from pneumonia.training.checkpointing import AtomicCheckpointIO

Pairs = Iterable[tuple[Tensor, Tensor]]
DEVICE: Final = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Fit:
    """What an epoch of training took and gave.

    Attributes:
        epoch_s: From the first batch to the end of all that follows the epoch.
        train_s: Of its training split.
        loss: Mean over the training images.
    """

    epoch_s: float
    train_s: float
    loss: float


class FirstBatch(Callback):
    """Notes when the first step begins, and the loss that it has."""

    def __init__(self) -> None:
        self.at = 0.0
        self.loss = float("nan")

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.at = self.at or time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.loss = float(outputs["loss"])


def fit(data: XRayDataModule, model: Classifier | None = None) -> Fit:
    """One epoch of `Trainer.fit` with our metrics, validation and checkpoints."""
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place))
        record, first = RunCallbacks.of(folder), FirstBatch()
        trainer = Trainer(
            max_epochs=1,
            accelerator="gpu" if DEVICE.type == "cuda" else "cpu",
            devices=1,
            logger=False,
            callbacks=[*record.ordered(), first],
            plugins=[AtomicCheckpointIO()],
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        model = model or classifier(data.images.pixels.shape[1])
        trainer.fit(model, datamodule=data)
        end = time.perf_counter()
        return Fit(end - first.at, record.throughput.totals.train_s, float(read_metrics(folder)[0]["train/loss"]))


def plain(batches: list[tuple[Tensor, Tensor]], validation: list[Tensor], model: Classifier) -> Fit:
    """The same epoch in a loop without anything else; batches lie ready, scaled."""
    loop = Loop(model)
    torch.manual_seed(0)
    start = time.perf_counter()
    total, images = torch.zeros((), device=DEVICE), 0
    for image, label in batches:
        total += loop.step(image, label) * len(label)
        images += len(label)
    loss = float(total / images)
    trained = time.perf_counter()
    loop.network.eval()
    with torch.no_grad():
        for image in validation:
            loop.network(image.to(DEVICE)).cpu()
    return Fit(time.perf_counter() - start, trained - start, loss)


class Loop:
    """A training loop in single precision, as one would write it by hand.

    Args:
        model: Its network is trained.
    """

    def __init__(self, model: Classifier) -> None:
        self.network = model.network.to(DEVICE).train()
        self.optimizer = build_optimizer(model.parameters(), SGD)

    def step(self, image: Tensor, label: Tensor) -> Tensor:
        """One step; the loss before it."""
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.network(image.to(DEVICE)), label.to(DEVICE))
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()


def ready(data: XRayDataModule, model: Classifier) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
    """The training batches of the first epoch and the images of the validation batches, scaled, in memory."""
    batches = [(model.prepare(batch["image"]), batch["label"]) for batch in data.loader("train", data.seed)]
    return batches, [model.prepare(batch["image"]) for batch in data.loader("val")]
