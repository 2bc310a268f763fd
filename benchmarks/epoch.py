"""Row 2: an epoch of batches without augmentation, against decoding in every epoch and against files resized beforehand.

- ours: the training loader of a run and the scaling that its network begins with.
- decode: ImageFolder, PIL's RGB, Resize, a worker a core: a part of an epoch, since the whole takes minutes.
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
from benchmarks.world import SIDE, World, by_hand
from pneumonia.data.datamodule import XRayData

BATCH: Final = 50
EPOCHS: Final = 10  # of ours and the limit, which are over in a blink
DECODED: Final = 400  # images
LARGEST_ERROR: Final = 3.0  # grey levels between two ways to resize


def row(world: World) -> Row:
    """The arms over the training part."""
    data = world.data(batch_size=BATCH)
    count = len(data.positions("train"))
    decoding = by_hand(world.by_class, SIDE, BATCH, DECODED)
    resized = by_hand(world.resized(), SIDE, BATCH)
    share = len(decoding.dataset) / count  # type: ignore[arg-type]
    return Row(
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


def ours(data: XRayData) -> None:
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


def limit(data: XRayData) -> Callable[[], None]:
    """No loader at all."""
    pixels = torch.from_numpy(np.array(data.images.pixels[data.rows("train")]))

    def work() -> None:
        for epoch in range(EPOCHS):
            order = torch.from_numpy(np.random.default_rng(epoch).permutation(len(pixels)))
            for start in range(0, len(pixels), BATCH):
                scaled(pixels[order[start : start + BATCH]])

    return work


def guard(world: World, data: XRayData) -> str:
    """Ours gives the files that were resized beforehand, pixel by pixel, and nearly what PIL makes of the originals."""
    mine = {}
    for batch in data.loader("train"):
        mine |= zip(batch["position"].tolist(), scaled(batch["image"]), strict=True)
    errors = {"resized": 0.0, "decode": 0.0}
    for name, tree in (("resized", world.resized()), ("decode", world.by_class)):
        files = by_hand(tree, SIDE, BATCH, DECODED).dataset
        places = [Path(files.dataset.samples[number][0]).stem for number in files.indices]  # type: ignore[attr-defined]
        pairs = [(image, mine[int(place)]) for (image, _), place in zip(files, places, strict=True)]
        errors[name] = float(torch.stack([(a - b).abs().mean() for a, b in pairs]).mean()) * 127.5
    if errors["resized"] > 1e-3 or errors["decode"] > LARGEST_ERROR:
        raise Differs(f"images differ from ours by {errors} grey levels on average")
    return f"the pixels of the resized files; PIL's decode and resize differs by {errors['decode']:.2f} grey levels on average"


def scaled(image: Tensor) -> Tensor:
    """From grey levels to -1 to 1."""
    return (image.float() - 127.5) / 127.5
