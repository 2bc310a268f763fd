"""What all rows of the benchmark work on: real X-rays where they are, drawn phantoms otherwise."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from pneumonia.config.schema import AugmentationConfig, DataConfig, PhantomConfig, SplitConfig
from pneumonia.data.datamodule import XRayDataModule
from pneumonia.data.decoded_images import DecodedImages, load_images
from pneumonia.data.sources.phantom import load_phantoms
from pneumonia.data.splits.assign import make_split
from pneumonia.models.base import Classifier
from pneumonia.models.factory import build_classifier
from pneumonia.models.options import ClassifierOptions
from pneumonia.system.parallel import available_cores

SIDE = 75  # pixels, as in the study
SGD = {"_target_": "torch.optim.SGD", "lr": 1e-2, "momentum": 0.9}
NETWORK = {"_target_": "pneumonia.models.pseudo_resnet.PseudoResNet"}


@dataclass(frozen=True)
class World:
    """Images, and a folder to work in.

    Attributes:
        root: Of the X-rays; ``None`` draws phantoms.
        originals: Of X-rays at full size, for what reads files; ``root`` where there are none.
        scratch: A folder that goes away.
        rounds: How often the arms are run.
        patients: Of the phantoms.
    """

    root: Path | None
    originals: Path | None
    scratch: Path
    rounds: int
    patients: int

    @property
    def cache_dir(self) -> Path:
        return self.scratch / "cache"

    @property
    def config(self) -> DataConfig:
        """Where the images come from, as a run says it."""
        if self.root is None:
            return DataConfig(phantom=PhantomConfig(self.patients, 0))
        return DataConfig("folder", str(self.root))

    @property
    def words(self) -> dict[str, str]:
        """The same in words of the command line."""
        words = {"cache_dir": str(self.cache_dir), "runs_dir": str(self.scratch / "runs")}
        if self.root is None:
            return {**words, "data.phantom.patients": str(self.patients)}
        return {**words, "data": "folder", "data.root": str(self.root)}

    @cached_property
    def full_size(self) -> Path:
        """A folder with the largest files that there are."""
        if self.originals is not None:
            return self.originals
        return load_phantoms(self.patients, 0, self.cache_dir) if self.root is None else self.root

    def images(self, side: int = SIDE) -> DecodedImages:
        """All images, decoded."""
        return load_images(self.config, side, self.cache_dir)

    def data(self, side: int = SIDE, batch_size: int = 50, augmentation: AugmentationConfig | None = None) -> XRayDataModule:
        """Batches of the study's split."""
        images = self.images(side)
        split = make_split(images.manifest, SplitConfig("random", leaky=True))
        return XRayDataModule.from_images(images, split, batch_size=batch_size, augmentation=augmentation)

    def subset(self, train: int, validation: int, side: int = SIDE, batch_size: int = 50) -> XRayDataModule:
        """The same with only so many images in training and validation."""
        data = self.data(side, batch_size)
        left = np.full(len(data.split), "unused", dtype=object)
        for subset, count in (("train", train), ("val", validation)):
            left[data.positions(subset)[:: max(1, len(data.positions(subset)) // count)][:count]] = subset
        return XRayDataModule.from_images(data.images, data.split.assign(subset=left), batch_size=batch_size)

    @cached_property
    def by_class(self) -> Path:
        """The training split as ImageFolder wants it: a folder a class, links to the files in it, in our order."""
        data = self.data()
        tree = self.scratch / "by_class"
        manifest = data.images.manifest
        for number, position in enumerate(data.positions("train")):
            folder = tree / f"{data.labels[position]}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:06d}.jpeg").symlink_to(Path(manifest["path"][position]).resolve())
        return tree

    def resized(self, side: int = SIDE) -> Path:
        """The training split decoded and resized by us, as PNG files, a folder a class."""
        tree = self.scratch / f"resized_{side}"
        if tree.exists():
            return tree
        data = self.data(side)
        for number, position in enumerate(data.positions("train")):
            folder = tree / f"{data.labels[position]}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(data.images.pixels[data.images.rows[position]]).save(folder / f"{number:06d}.png")
        return tree


def by_hand(tree: Path, side: int, batch_size: int, images: int | None = None) -> DataLoader[tuple[Tensor, Tensor]]:
    """The loader that one would write by hand: ImageFolder, PIL's RGB, resize, tensors, a worker a core, kept between epochs.

    Args:
        tree: A folder a class.
        side: Pixels a side.
        batch_size: Images a batch.
        images: Only so many, where an epoch of all would take minutes.
    """
    steps = [v2.Resize((side, side)), v2.Grayscale(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    folder = ImageFolder(str(tree), transform=v2.Compose([*steps, v2.Normalize([0.5], [0.5])]))
    chosen = range(len(folder))[:: max(1, len(folder) // (images or len(folder)))][:images]
    return DataLoader(
        Subset(folder, chosen),
        batch_size=batch_size,
        shuffle=True,
        num_workers=available_cores(),
        persistent_workers=True,
        pin_memory=torch.cuda.is_available(),
    )


def classifier(side: int = SIDE, network: dict[str, str] | None = None) -> Classifier:
    """An untrained network, always with the same weights."""
    torch.manual_seed(0)
    return build_classifier(network or NETWORK, ClassifierOptions(image_size=side, optimizer=SGD))
