"""Row 3: augmented batches of the study's `normal`, against torchvision's transforms an image at a time in workers.

- ours: the training loader of a run.
- baseline: torchvision v2's flip, rotation and jitter on tensors that lie in memory, a worker a core, kept between epochs.
- limit: one `grid_sample` a batch with the same rotation for all.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode, v2

from benchmarks.harness import Arm, Differs, Goal, Row
from benchmarks.world import SIDE, World
from pneumonia.config.schema import AugmentationConfig
from pneumonia.data.datamodule import XRayDataModule
from pneumonia.system.parallel import available_cores

BATCH: Final = 50
NORMAL: Final = replace(AugmentationConfig(), flip=0.5, rotate_deg=10.0, brightness=0.1, contrast=0.1)
CLOSE: Final = 100.0  # grey levels over the root of the images, of means and standard deviations of a pixel: chance gives half


def rows(world: World) -> list[Row]:
    """The arms over the training split."""
    data = world.data(batch_size=BATCH, augmentation=NORMAL)
    pixels = np.array(data.images.pixels[data.rows("train")])
    loader = baseline(pixels)
    found = Row(
        key="augment",
        what=f"{len(pixels)} images at {SIDE} px changed as `normal` does, in batches of {BATCH}",
        items=len(pixels),
        unit="images",
        arms={
            "ours": Arm(lambda: gathered(data.loader("train", 0))),
            "baseline": Arm(lambda: gathered(loader)),
            "limit": Arm(limit(pixels)),
        },
        goals=(Goal("baseline", "faster", 3),),
        guard=lambda: guard(data, loader),
        rounds=world.rounds,
    )
    return [found]


class OneByOne(Dataset[torch.Tensor]):
    """Images in memory, changed one at a time."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.pixels = torch.from_numpy(pixels)[:, None]
        self.change = v2.Compose(
            [
                v2.RandomHorizontalFlip(0.5),
                v2.RandomRotation(10, InterpolationMode.BILINEAR),
                v2.ColorJitter(brightness=0.1, contrast=0.1),
            ]
        )

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, number: int) -> torch.Tensor:
        changed: torch.Tensor = self.change(self.pixels[number])
        return changed


def baseline(pixels: NDArray[np.uint8]) -> DataLoader[torch.Tensor]:
    """As one would write it by hand."""
    return DataLoader(OneByOne(pixels), batch_size=BATCH, shuffle=True, num_workers=available_cores(), persistent_workers=True)


def limit(pixels: NDArray[np.uint8]) -> Callable[[], None]:
    """The arithmetic alone."""
    images = torch.from_numpy(pixels)[:, None]
    turn = torch.tensor(10.0).deg2rad()
    theta = torch.tensor([[turn.cos(), -turn.sin(), 0], [turn.sin(), turn.cos(), 0]])
    grid = torch.nn.functional.affine_grid(theta[None], [1, 1, SIDE, SIDE], align_corners=False).expand(BATCH, -1, -1, -1)

    def work() -> None:
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH].float()
            torch.nn.functional.grid_sample(batch, grid[: len(batch)], align_corners=False)

    return work


def gathered(loader: DataLoader) -> torch.Tensor:  # type: ignore[type-arg]
    """All images of an epoch, ``(N, H, W)`` uint8."""
    return torch.cat([batch["image"] if isinstance(batch, dict) else batch for batch in loader])[:, 0]


def guard(data: XRayDataModule, loader: DataLoader[torch.Tensor]) -> str:
    """Draws are random, so what must agree is how they are spread."""
    ours, theirs = gathered(data.loader("train", 0)).double(), gathered(loader).double()
    if len(ours) != len(theirs):
        raise Differs(f"ours gives {len(ours)} images and the baseline {len(theirs)}")
    mean = float((ours.mean(dim=0) - theirs.mean(dim=0)).abs().mean())
    spread = float((ours.std(dim=0) - theirs.std(dim=0)).abs().mean())
    if max(mean, spread) > CLOSE / len(ours) ** 0.5:
        raise Differs(f"pixels' means differ by {mean:.2f} and their deviations by {spread:.2f} grey levels")
    return f"means of a pixel over all images differ by {mean:.2f}, standard deviations by {spread:.2f} grey levels"
