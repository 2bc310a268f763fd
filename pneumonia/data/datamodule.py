"""From a data config to batches: manifest, cache and split in one LightningDataModule."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from pneumonia.config.schema import AugmentationConfig, DataConfig
from pneumonia.data.augmentation.augmenter import augmenter
from pneumonia.data.augmentation.torch_batches import augment_batch
from pneumonia.data.cache import Shape, load_cache
from pneumonia.data.dataset import Batch, BatchSampler, XRayDataset
from pneumonia.data.manifest import broken, load_manifest
from pneumonia.data.sources.phantom import load_phantoms
from pneumonia.data.splits.assign import fold_view
from pneumonia.errors import SplitError
from pneumonia.system.arrays import Ints, Pixels
from pneumonia.tasks import Task

WITHOUT_GRADIENTS: Final = 4  # as many times the images fit into memory where no activation is kept for a backward pass


@dataclass(frozen=True)
class DecodedImages:
    """Readable images with their decoded pixels, row by row.

    Attributes:
        manifest: One row per image, index 0 to N-1.
        pixels: ``(M, H, W)`` uint8, memory-mapped; ``M >= N`` where broken images were skipped.
        rows: ``(N,)`` row of ``pixels`` for each row of the manifest.
        skipped: Paths of images that could not be read, with the reason.
    """

    manifest: pd.DataFrame
    pixels: Pixels
    rows: Ints
    skipped: dict[str, str]

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which maps the file anew instead of being sent all pixels."""
        state = dict(vars(self))
        if isinstance(self.pixels, np.memmap):
            state["pixels"] = str(self.pixels.filename)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if isinstance(state["pixels"], str):
            state["pixels"] = np.load(state["pixels"], mmap_mode="r")
        vars(self).update(state)


def load_images(data: DataConfig, image_size: int, cache_dir: Path) -> DecodedImages:
    """Everything readable that a data config names, decoded.

    Raises:
        BrokenImagesError: Images can't be read and ``data.on_bad_image`` is ``error``.
        LayoutError, LabelError, StorageError: See the modules that are called.
    """
    if data.source == "phantom":
        root = load_phantoms(data.phantom.patients, data.phantom.seed, cache_dir)
    elif data.source == "azure":
        from pneumonia.data.sources.azure import load_mirror  # the client takes half a second to import

        root = load_mirror(data.azure, cache_dir)
    else:
        root = Path(str(data.root)).expanduser()
    labels = None if data.labels is None else Path(data.labels).expanduser()
    manifest = load_manifest(root, cache_dir, labels, Shape(image_size, data.resize))
    cache = load_cache(manifest, image_size, data.resize, cache_dir)
    if cache.problems and data.on_bad_image == "error":
        raise broken(cache.problems)
    rows = np.flatnonzero(~manifest["path"].isin(list(cache.problems)).to_numpy())
    return DecodedImages(manifest.iloc[rows].reset_index(drop=True), cache.pixels, rows, cache.problems)


class XRayDataModule(LightningDataModule):
    """Batches of the subsets of a split.

    Args:
        images: From :func:`load_images`.
        split: One row per row of the manifest; see :mod:`pneumonia.data.splits.assign`.
        task: Gives the class numbers.
        batch_size: Images a batch.
        augmentation: Of the training split.
        seed: Of the order and the augmentation.
        num_workers: Processes that prepare batches; 0 prepares them in the training process.
        rotate_every: Epochs after which the next fold of the split validates; 0 never rotates.
        whole_train: Whether one training batch is the whole training split.
        augmenter: ``batch`` or ``albumentations``; see :mod:`pneumonia.data.augmentation.augmenter`.
    """

    def __init__(
        self,
        images: DecodedImages,
        split: pd.DataFrame,
        task: Task,
        batch_size: int,
        augmentation: AugmentationConfig | None = None,
        seed: int = 0,
        num_workers: int = 0,
        rotate_every: int = 0,
        whole_train: bool = False,
        augmenter: str = "batch",
    ) -> None:
        super().__init__()
        self.images = images
        self.split = split
        self.task = task
        self.batch_size = batch_size
        self.augmentation = augmentation or AugmentationConfig()
        self.seed = seed
        self.num_workers = num_workers
        self.rotate_every = rotate_every
        self.whole_train = whole_train
        self.augmenter = augmenter
        self.on_device = torch.cuda.is_available() and augmenter == "batch" and any(vars(self.augmentation).values())
        self.first_epoch = 0  # not 0 after a resume: workers fetch ahead before Lightning has called set_epoch
        self.labels = np.array(task.indices(images.manifest["label"].tolist()), dtype=np.int64)

    def positions(self, subset: str, epoch: int = 0) -> Ints:
        """Rows of the manifest that belong to a subset; the epoch matters only where folds rotate."""
        subsets = self.split["subset"].to_numpy(dtype=object)
        if self.rotate_every:
            folds = self.split["fold"].to_numpy()
            start = int(folds[subsets == "val"][0])
            fold = (start + epoch // self.rotate_every) % (int(folds.max()) + 1)
            subsets = fold_view(self.split, fold)["subset"].to_numpy(dtype=object)
        return np.flatnonzero(subsets == subset)

    def rows(self, subset: str) -> Ints:
        """Rows of ``images.pixels`` that belong to a subset, before any rotation."""
        return self.images.rows[self.positions(subset)]

    def counts(self, subset: str) -> Ints:
        """Images of each class in a subset, ``(K,)``."""
        return np.bincount(self.labels[self.positions(subset)], minlength=len(self.task.classes))

    def train_batches(self, epoch: int = 0) -> int:
        """Training batches of an epoch; epochs differ only where folds rotate."""
        images = len(self.positions("train", epoch))
        return len(BatchSampler(images, self._train_size(images), self.seed))

    def val_batches(self, epoch: int = 0) -> int:
        """Validation batches of an epoch."""
        return len(BatchSampler(len(self.positions("val", epoch)), self.validation_size, None))

    @property
    def validation_size(self) -> int:
        """Images of a validation batch."""
        return WITHOUT_GRADIENTS * self.batch_size

    def _train_size(self, images: int) -> int:
        return images if self.whole_train else self.batch_size

    def dataset(self, subset: str, epoch: int = 0, fitting: bool = False) -> XRayDataset:
        """One subset, augmented only for training; with ``fitting`` perhaps not before :meth:`on_after_batch_transfer`."""
        chosen = self.positions(subset, epoch)
        if not len(chosen):
            raise SplitError(
                f"The subset '{subset}' holds no image, so there is nothing to measure. Use data that have one."
            )
        changes = augmenter(self.augmentation, self.augmenter) if subset == "train" else None
        later = fitting and changes is not None and self.on_device
        classes = len(self.task.classes) if fitting and self._place()[1] > 1 else None
        rows = self.images.rows[chosen]
        return XRayDataset(self.images.pixels, rows, self.labels[chosen], changes, self.seed, later, classes)

    def train_dataloader(self) -> DataLoader[Batch]:
        return self.loader("train", self.seed, self._epoch(), fitting=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self.loader("val", epoch=self._epoch(), fitting=True)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        # Lightning's own looks into every kind of collection, which small networks feel.
        return {name: values.to(device, non_blocking=True) for name, values in batch.items()}

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Makes the random changes that were left to the device."""
        key = batch.pop("key", None)
        if key is not None:
            batch["image"] = augment_batch(batch["image"][:, 0], key, self.augmentation)[:, None]
        return batch

    def loader(self, subset: str, seed: int | None = None, epoch: int = 0, fitting: bool = False) -> DataLoader[Batch]:
        """Batches of a subset: shuffled for training where a seed is given, else larger ones in order.

        Args:
            subset: Of the split.
            seed: Of the order.
            epoch: The first.
            fitting: Whether a trainer asks, for the device and the share of the batch that it has in this process.

        Raises:
            SplitError: The subset has no image, or fewer than there are processes.
        """
        dataset = self.dataset(subset, epoch, fitting)
        rank, world = self._place() if fitting else (0, 1)
        if len(dataset) < world:
            raise SplitError(
                f"Subset '{subset}' has {len(dataset)} images for trainer.devices={world}, and each process needs one. Use fewer."
            )
        size = self.validation_size if seed is None else self._train_size(len(dataset))
        batches = BatchSampler(len(dataset), size, seed, rank, world)
        batches.set_epoch(epoch)
        return DataLoader(
            dataset,
            batch_size=None,  # the sampler yields whole batches
            sampler=batches,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _place(self) -> tuple[int, int]:
        """Which process this is, of how many that train together."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _epoch(self) -> int:
        return max(self.first_epoch, self.trainer.current_epoch if self.trainer is not None else 0)
