"""What `Trainer.fit` costs over a plain loop on the same in-memory batches, side by side in one process.

    .venv/bin/python benchmarks/trainer_tax.py [DATA_ROOT] [ROUNDS]

Both arms train the same pseudo-ResNet (75 px, batches of 200) from the same weights on the same batches in the same order; the
ratio counts only if they end at the same training loss. Ours validates, computes metrics and writes checkpoints as well; its
time is that of the training part of the epoch, and of the whole epoch.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from lightning import Trainer
from torch import nn

from pneumonia.callbacks import Recorder, read_metrics
from pneumonia.config import DataConfig, PhantomConfig, SplitConfig
from pneumonia.data.datamodule import XRayData, load_images
from pneumonia.data.splits import make_split
from pneumonia.labels import SUBTYPE
from pneumonia.models.base import Classifier, Setup
from pneumonia.models.build import build_classifier
from pneumonia.optim import build_optimizer
from pneumonia.runs import RunFolder
from pneumonia.train import quiet

MODEL = {"_target_": "pneumonia.models.pseudo_resnet.PseudoResNet"}
SETUP = Setup("subtype", optimizer={"_target_": "torch.optim.SGD", "lr": 1e-2, "momentum": 0.9})


def plain(data: XRayData, batches: list[dict[str, torch.Tensor]]) -> tuple[float, float, float]:
    """Training and validation seconds of a hand-written epoch, and its mean training loss."""
    model = build_classifier(MODEL, SETUP)
    optimizer = build_optimizer(model.parameters(), SETUP.optimizer)
    validation = [(model.scale(batch["image"]), batch["label"]) for batch in data.loader("val")]
    torch.manual_seed(SETUP.seed * 100_003)
    model.train()
    start, total, images = time.perf_counter(), torch.zeros(()), 0
    for batch in batches:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model.network(batch["image"]), batch["label"])
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(batch["label"])
        images += len(batch["label"])
    trained = time.perf_counter()
    model.eval()
    with torch.no_grad():
        for image, _ in validation:
            model.network(image)
    return trained - start, time.perf_counter() - trained, float(total / images)


def ours(data: XRayData) -> tuple[float, float, float]:
    """Seconds of the training part and of the whole epoch of `Trainer.fit`, and its mean training loss."""
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place))
        recorder = Recorder(folder)
        trainer = Trainer(
            max_epochs=1, accelerator="cpu", logger=False, callbacks=[recorder], enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
        )  # fmt: skip
        model: Classifier = build_classifier(MODEL, SETUP)
        trainer.fit(model, datamodule=data)
        return recorder.train_s, recorder.fit_s, float(read_metrics(folder)[0]["train/loss"])


def main() -> None:
    """Interleaves the arms and prints the median ratios."""
    quiet()
    source = DataConfig("folder", sys.argv[1]) if len(sys.argv) > 1 else DataConfig(phantom=PhantomConfig(1000, 0))
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    images = load_images(source, 75, Path("cache"))
    data = XRayData(images, make_split(images.manifest, SplitConfig("article", leaky=True)), SUBTYPE, 200)
    model = build_classifier(MODEL, SETUP)
    batches = [{**batch, "image": model.scale(batch["image"])} for batch in data.loader("train", 0)]
    count = len(data.positions("train"))
    plain(data, batches[:3])
    training, whole, speed = [], [], []
    for number in range(rounds):
        a_train, a_val, a_loss = plain(data, batches)
        b_train, b_epoch, b_loss = ours(data)
        if abs(a_loss - b_loss) > 1e-5:
            raise SystemExit(f"the arms differ: loss {a_loss} and {b_loss}; no ratio counts")
        training.append(a_train / b_train)
        whole.append((a_train + a_val) / b_epoch)
        speed.append(count / b_train)
        print(
            f"round {number + 1}: {speed[-1]:.0f} images/s, loop/fit {training[-1]:.3f}, whole epoch {whole[-1]:.3f}",
            flush=True,
        )
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {count} images, {rounds} rounds, medians:")
    print(
        f"  training {statistics.median(speed):.0f} images/s; {statistics.median(training):.3f} of the plain loop's speed"
    )
    print(
        f"  whole epoch with validation, metrics, checkpoints: {statistics.median(whole):.3f} of the plain loop's speed"
    )


if __name__ == "__main__":
    main()
