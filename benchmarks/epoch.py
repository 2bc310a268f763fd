"""Row 2: an epoch of batches without augmentation, against decoding in every epoch and against files resized beforehand.

- ours: the training loader of a run and the scaling that its network begins with.
- decode: ImageFolder over files at full size, PIL's RGB, Resize, a worker a core: a part of an epoch; the whole takes minutes.
- resized: the same over PNG files that have the right size already, workers kept between epochs.
- limit: a gather from an array in memory and its scaling, batch by batch.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.harness import Arm, Differs, Goal, Row
from benchmarks.ingest import sample
from benchmarks.world import SIDE, World, by_hand
from pneumonia.config.schema import DataConfig
from pneumonia.data.datamodule import XRayDataModule
from pneumonia.data.decoded_images import load_images

BATCH: Final = 50
EPOCHS: Final = 10  # of ours and the limit, which are over in a blink
DECODED: Final = 400  # images
LARGEST_ERROR: Final = 3.0  # grey levels between two ways to resize


def rows(world: World) -> list[Row]:
    """The arms over the training split."""
    data = world.data(batch_size=BATCH)
    count = len(data.positions("train"))
    decoding = by_hand(sample(world), SIDE, BATCH, DECODED)
    resized = by_hand(world.resized(), SIDE, BATCH)
    share = len(decoding.dataset) / count  # type: ignore[arg-type]
    found = Row(
        key="epoch",
        what=f"an epoch of {count} images at {SIDE} px in batches of {BATCH}",
        items=count,
        unit="images",
        arms={
            "ours": Arm(lambda: ours(data), share=EPOCHS),
            "decode": Arm(lambda: all_of(decoding), share=share),
            "resized": Arm(lambda: all_of(resized)),
            "limit": Arm(limit(data), share=EPOCHS),
        },
        goals=(Goal("decode", "faster", 500), Goal("resized", "faster", 20), Goal("limit", "faster", 0.5)),
        guard=lambda: guard(world, data),
        rounds=world.rounds,
        note=f"decode: {share:.0%} of an epoch, divided by that",
    )
    return [found]


def ours(data: XRayDataModule) -> None:
    """Batches as a training step is given them, scaled."""
    loader = data.loader("train", 0)
    for epoch in range(EPOCHS):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for batch in loader:
            scaled(batch["image"])


def all_of(loader: DataLoader[tuple[Tensor, Tensor]]) -> None:
    """Every batch."""
    for _ in loader:
        pass


def limit(data: XRayDataModule) -> Callable[[], None]:
    """No loader at all."""
    pixels = np.array(data.images.pixels[data.rows("train")])

    def work() -> None:
        for epoch in range(EPOCHS):
            order = np.random.default_rng(epoch).permutation(len(pixels))
            for start in range(0, len(pixels), BATCH):
                scaled(torch.from_numpy(pixels[order[start : start + BATCH]]))

    return work


def guard(world: World, data: XRayDataModule) -> str:
    """Ours gives the files that were resized beforehand, pixel by pixel, and nearly what PIL makes of those at full size."""
    mine: dict[str, Tensor] = {}
    for batch in data.loader("train"):
        mine |= {f"{at:06d}": image for at, image in zip(batch["position"].tolist(), batch["image"], strict=True)}
    resized = error(world.resized(), mine)
    tree = sample(world)
    images = load_images(DataConfig("folder", str(tree)), SIDE, world.cache_dir)
    names = [Path(path).stem for path in images.manifest["path"]]
    full = {name: torch.tensor(images.pixels[row]) for name, row in zip(names, images.rows, strict=True)}
    decoded = error(tree, full)
    if resized > 1e-3 or decoded > LARGEST_ERROR:
        raise Differs(f"images differ from ours by {resized:.3f} (resized) and {decoded:.2f} (decoded) grey levels on average")
    return f"the pixels of the resized files; PIL's decode and resize differs by {decoded:.2f} grey levels on average"


def error(tree: Path, ours: dict[str, Tensor]) -> float:
    """Grey levels between what a loader written by hand gives and ours, by name of the file; on average over some images."""
    files = by_hand(tree, SIDE, BATCH, DECODED).dataset
    names = [Path(files.dataset.samples[number][0]).stem for number in files.indices]  # type: ignore[attr-defined]
    apart = [(image - scaled(ours[name])).abs().mean() for (image, _), name in zip(files, names, strict=True)]
    return float(torch.stack(apart).mean()) * 127.5


def scaled(image: Tensor) -> Tensor:
    """From grey levels to -1 to 1."""
    return (image.float() - 127.5) / 127.5
