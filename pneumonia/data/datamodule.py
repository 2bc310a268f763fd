"""Batches of a split of chest X-rays, as a LightningDataModule."""

from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pandas as pd
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from pneumonia.config.declarations import check_value, rule_of
from pneumonia.config.schema import AugmentationConfig, DataConfig, SplitConfig, TrainConfig
from pneumonia.data.augmentation.augmenter import augmenter
from pneumonia.data.augmentation.torch_pipeline import augment_batch
from pneumonia.data.dataset import Batch, BatchSampler, XRayDataset
from pneumonia.data.decoded_images import DecodedImages
from pneumonia.data.run_data_cache import AssignedSplit, RunDataCache
from pneumonia.data.sources.releases import check_classes
from pneumonia.data.splits.assign import fold_view, split_sha256
from pneumonia.data.splits.files import check_split_file
from pneumonia.data.splits.leaks import Leak
from pneumonia.errors import ConfigError, SplitError
from pneumonia.system.arguments import paths
from pneumonia.system.arrays import Ints
from pneumonia.tasks import SUBTYPE, Task

EVALUATION_FACTOR: Final = 4  # evaluation batches are larger: no activation is kept for a backward pass


RULES: Final = {item.name: rule_of(item) for item in fields(TrainConfig)}


class XRayDataModule(LightningDataModule):
    """Batches of a split of chest X-rays.

    Args:
        data: Where the images come from.
        split: How they are divided; see :mod:`pneumonia.data.splits`.
        task: Gives the classes; a built-in one may be named.
        image_size: Pixels a side, after resizing.
        batch_size: Images a training batch.
        augmentation: Random changes of training images; ``None`` for none.
        augmenter: ``batch`` or ``albumentations``; see :mod:`pneumonia.data.augmentation.augmenter`.
        seed: Of the order of the training images and of their augmentation.
        num_workers: Processes that prepare batches; 0 prepares them in the training process.
        cache_dir: Where decoded images are kept.
        data_cache: Shares images and splits with other data modules of the process.
        overfit: Whether every epoch has the training batches of the first, without augmentation.

    Raises:
        ConfigError: An argument has the wrong type or is out of range.

    Attributes:
        images: The decoded images, after :meth:`setup`.
        split: One row per image, after :meth:`setup`; see :mod:`pneumonia.data.splits.assign`.
        labels: ``(N,)`` class of each image, after :meth:`setup`.
    """

    images: DecodedImages
    split: pd.DataFrame
    labels: Ints

    def __init__(
        self,
        data: DataConfig,
        split: SplitConfig,
        *,
        task: Task | str = SUBTYPE,
        image_size: int = 75,
        batch_size: int = 50,
        augmentation: AugmentationConfig | None = None,
        augmenter: str = "batch",
        seed: int = 0,
        num_workers: int = 0,
        cache_dir: Path | str = "cache",
        data_cache: RunDataCache | None = None,
        overfit: bool = False,
    ) -> None:
        super().__init__()
        for name, config, kind in (("data", data, DataConfig), ("split", split, SplitConfig)):
            if not isinstance(config, kind):
                raise ConfigError(f"{name} has the type {type(config).__name__}. Use config.{name} of pneumonia.compose().")
        given = {"image_size": image_size, "batch_size": batch_size, "augmenter": augmenter, "seed": seed}
        for name, value in {**given, "num_workers": num_workers}.items():
            check_value(name, value, str if name == "augmenter" else int, RULES[name])
        self.data_config, self.split_config = data, split
        self.task = task if isinstance(task, Task) else Task.from_plain(task)
        self.image_size, self.batch_size = image_size, batch_size
        self.augmentation, self.augmenter = augmentation or AugmentationConfig(), augmenter
        self.seed = seed
        self.overfit = overfit
        self.num_workers = num_workers
        (self.cache_dir,) = paths("cache_dir", [cache_dir])
        self.data_cache = data_cache or RunDataCache()
        self._assigned: AssignedSplit | None = None
        self._resumed_epoch = 0

    @classmethod
    def from_images(
        cls,
        images: DecodedImages,
        split: pd.DataFrame,
        task: Task = SUBTYPE,
        split_config: SplitConfig | None = None,
        **options: Any,
    ) -> Self:
        """Build a data module of images that are loaded and split already.

        Args:
            images: The images.
            split: One row per row of their manifest.
            task: Gives the classes.
            split_config: How they were split, where folds rotate.
            options: Keyword arguments of the constructor.
        """
        size = int(images.pixels.shape[1])
        module = cls(DataConfig(), split_config or SplitConfig(), task=task, **options)
        module.image_size = size
        module._assign(images, AssignedSplit(split, [], split_sha256(split)))
        return module

    def prepare_data(self) -> None:
        """Decode every image once into the memory-mapped cache.

        Raises:
            PneumoniaError: Bad data; see :func:`pneumonia.data.decoded_images.load_images`.
        """
        if self.split_config.file is not None:
            check_split_file(Path(self.split_config.file))
        if self._assigned is None:
            self._load()

    def setup(self, stage: str | None = None) -> None:
        """Load the manifest, compute the split, and refuse it if it leaks.

        Raises:
            PneumoniaError: A class has no image, or see :func:`pneumonia.data.splits.files.load_split`.
        """
        self._resumed_epoch = 0
        if self._assigned is not None:
            return
        images = self._load()
        check_classes(self.task.counts(images.manifest["label"].tolist()), self.task.classes, "The data")
        self._assign(images, self.data_cache.split(images, self.split_config))
        counts = Counter(dict(zip(self.task.classes, self.counts("train").tolist(), strict=True)))
        check_classes(counts, self.task.classes, f"The training split of split={self.split_config.method}")

    def _load(self) -> DecodedImages:
        return self.data_cache.images(self.data_config, self.image_size, self.cache_dir, self.task, every_class=True)

    def _assign(self, images: DecodedImages, assigned: AssignedSplit) -> None:
        self.images, self.split, self._assigned = images, assigned.table, assigned
        self.labels = np.array(self.task.indices(images.manifest["label"].tolist()), dtype=np.int64)

    @property
    def leaks(self) -> list[Leak]:
        """What the validation and test subsets share with the training subset."""
        return [] if self._assigned is None else self._assigned.leaks

    @property
    def hashes(self) -> dict[str, str]:
        """Hashes of the images with their labels, and of the split."""
        return {"manifest_sha256": self.images.sha256, "split_sha256": self._assigned.sha256 if self._assigned else ""}

    @property
    def rotate_every(self) -> int:
        """Epochs after which the next fold validates; 0 where folds do not rotate."""
        return self.split_config.every if self.split_config.rules.rotates else 0

    def positions(self, subset: str, epoch: int = 0) -> Ints:
        """Return the rows of the manifest in a subset; the epoch matters only where folds rotate."""
        if self._assigned is None:
            raise ConfigError("The data are not loaded. Call prepare_data() and setup() first, as a Trainer does.")
        subsets = self.split["subset"].to_numpy(dtype=object)
        if self.rotate_every:
            folds = self.split["fold"].to_numpy()
            start = int(folds[subsets == "val"][0])
            fold = (start + epoch // self.rotate_every) % (int(folds.max()) + 1)
            subsets = fold_view(self.split, fold)["subset"].to_numpy(dtype=object)
        return np.flatnonzero(subsets == subset)

    def rows(self, subset: str) -> Ints:
        """Return the rows of ``images.pixels`` in a subset, before any rotation."""
        return self.images.rows[self.positions(subset)]

    def counts(self, subset: str) -> Ints:
        """Count the images of each class in a subset, ``(K,)``."""
        return np.bincount(self.labels[self.positions(subset)], minlength=len(self.task.classes))

    def train_batches(self, epoch: int = 0) -> int:
        """Count the training batches of an epoch; epochs differ only where folds rotate."""
        images = len(self.positions("train", epoch))
        return len(BatchSampler(images, self._train_size(images), self.seed))

    def val_batches(self, epoch: int = 0) -> int:
        """Count the validation batches of an epoch."""
        return len(BatchSampler(len(self.positions("val", epoch)), self.evaluation_size, None))

    @property
    def evaluation_size(self) -> int:
        """Images of a validation batch."""
        return EVALUATION_FACTOR * self.batch_size

    def _train_size(self, images: int) -> int:
        full = self.trainer is not None and getattr(self.trainer.lightning_module, "full_batch", False)
        return images if full else self.batch_size

    def dataset(self, positions: Ints, *, augmented: bool = False, fitting: bool = False) -> XRayDataset:
        """Build the dataset of some images.

        Args:
            positions: ``(M,)`` rows of the manifest.
            augmented: Whether to change them at random.
            fitting: Whether a trainer asks; the changes may then be left to :meth:`on_after_batch_transfer`.
        """
        changes = augmenter(self.augmentation, self.augmenter) if augmented else None
        on_device = fitting and torch.cuda.is_available() and self.augmenter == "batch" and changes is not None
        classes = len(self.task.classes) if fitting and self._place()[1] > 1 else None
        rows = self.images.rows[positions]
        return XRayDataset(self.images.pixels, rows, self.labels[positions], changes, self.seed, on_device, classes)

    def train_dataloader(self) -> DataLoader[Batch]:
        if self.rotate_every and self.trainer is not None and self.trainer.reload_dataloaders_every_n_epochs != 1:  # type: ignore[attr-defined]
            raise ConfigError(
                "split=rotating validates on another fold in each epoch, and this trainer keeps the data of the first. Use "
                "Trainer(reload_dataloaders_every_n_epochs=1)."
            )
        return self.loader("train", self.seed, self._epoch(), fitting=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self.loader("val", epoch=self._epoch(), fitting=True)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self.loader("test", fitting=True)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Return batches of all images, in the order of the manifest."""
        return self._loader(self.dataset(np.arange(len(self.labels)), fitting=True), self.evaluation_size, fitting=True)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        # Lightning's own looks into every kind of collection, which costs small networks time.
        return {name: values.to(device, non_blocking=True) for name, values in batch.items()}

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Make the random changes that were left to the device."""
        key = batch.pop("key", None)
        if key is not None:
            batch["image"] = augment_batch(batch["image"][:, 0], key, self.augmentation)[:, None]
        return batch

    def state_dict(self) -> dict[str, int]:
        """Return the epoch that a resumed training starts with."""
        if self.trainer is None:
            return {"epoch": 0}
        started: int = self.trainer.fit_loop.epoch_progress.current.started  # type: ignore[attr-defined]
        return {"epoch": started if self.trainer.is_last_batch else max(started - 1, 0)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._resumed_epoch = int(state_dict["epoch"])

    def loader(self, subset: str, seed: int | None = None, epoch: int = 0, fitting: bool = False) -> DataLoader[Batch]:
        """Return batches of a subset: shuffled for training where a seed is given, else larger ones in order.

        Args:
            subset: Of the split.
            seed: Of the order.
            epoch: The first.
            fitting: Whether a trainer asks, which determines the device and the share of the batch of this process.

        Raises:
            SplitError: The subset has no image, or fewer than there are processes.
        """
        positions, world = self.positions(subset, epoch), self._place()[1] if fitting else 1
        if not len(positions):
            raise SplitError(f"The subset '{subset}' holds no image, so there is nothing to measure. Use data that have one.")
        if len(positions) < world:
            raise SplitError(
                f"Subset '{subset}' has {len(positions)} images for trainer.devices={world}, and each process needs one. Use "
                "fewer."
            )
        size = self.evaluation_size if seed is None else self._train_size(len(positions))
        dataset = self.dataset(positions, augmented=subset == "train" and not self.overfit, fitting=fitting)
        return self._loader(dataset, size, seed, epoch, fitting)

    def _loader(
        self, dataset: XRayDataset, size: int, seed: int | None = None, epoch: int = 0, fitting: bool = False
    ) -> DataLoader[Batch]:
        sampler = BatchSampler(len(dataset), size, seed, *(self._place() if fitting else (0, 1)), fixed=self.overfit)
        sampler.set_epoch(epoch)
        return DataLoader(
            dataset,
            batch_size=None,  # the sampler yields whole batches
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _place(self) -> tuple[int, int]:
        """Return the rank of this process, and how many train together."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _epoch(self) -> int:
        """Return the epoch whose batches are asked for.

        After a resume, workers fetch batches before the trainer has restored its epoch.
        """
        return max(self._resumed_epoch, self.trainer.current_epoch if self.trainer is not None else 0)
