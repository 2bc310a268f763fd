"""Batches from the decoded cache.

A batch is one gather from a memory map, so the dataset is indexed by whole batches and needs no worker. The order of the
images and their augmentation depend on (seed, epoch) alone, so that a resumed run repeats them.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from pneumonia.data.augmentation.augmenter import Augmenter
from pneumonia.data.augmentation.torch_pipeline import image_keys
from pneumonia.system.arrays import Ints, Pixels

Batch = dict[str, torch.Tensor]


class BatchKey(NamedTuple):
    """The index of a batch: its epoch and its positions in the subset; ``whole`` has those of all processes."""

    epoch: int
    positions: Ints
    whole: Ints


class BatchSampler(Sampler[BatchKey]):
    """The positions of each batch of an epoch, shuffled by (seed, epoch).

    Every image is in one batch. The last batch may be smaller; in training, a last batch of one image is merged into the batch
    before it, because batch normalisation can't train on a single value a channel.

    Args:
        images: Number of images.
        batch_size: Images a batch.
        seed: ``None`` keeps the order.
        rank: Of the process, from 0; it takes every ``world``-th image of each batch, which may leave it none of the last.
        world: Processes that train together.
        fixed: Whether every epoch has the order of the first.
    """

    def __init__(
        self, images: int, batch_size: int, seed: int | None, rank: int = 0, world: int = 1, *, fixed: bool = False
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.rank, self.world = rank, world
        self.fixed = fixed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls it before each one."""
        self.epoch = 0 if self.fixed else epoch

    def __iter__(self) -> Iterator[BatchKey]:
        order = np.arange(self.images)
        if self.seed is not None:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        starts = range(0, len(self) * self.batch_size, self.batch_size)
        for start, end in zip(starts, [*starts[1:], self.images], strict=True):
            whole = order[start:end]
            yield BatchKey(self.epoch, whole[self.rank :: self.world], whole)

    def __len__(self) -> int:
        full, left = divmod(self.images, self.batch_size)
        merged = left == 1 and full > 0 and self.seed is not None
        return full + (left > 0 and not merged)


class XRayDataset(Dataset[Batch]):
    """The images of one subset.

    Args:
        pixels: ``(N, H, W)`` uint8, all images of the cache.
        rows: ``(M,)`` rows of ``pixels`` in the subset.
        labels: ``(M,)`` class indices.
        augmenter: Random changes, or ``None``.
        seed: Of the changes.
        on_device: Whether the changes are left to the training device; a batch then holds ``key`` ``(B,)`` for them.
        classes: Of the task, where several processes share each batch; a batch then holds ``counts`` ``(K,)``, the images
            of each class in the whole batch.
    """

    def __init__(
        self,
        pixels: Pixels,
        rows: Ints,
        labels: Ints,
        augmenter: Augmenter | None = None,
        seed: int = 0,
        on_device: bool = False,
        classes: int | None = None,
    ) -> None:
        self.pixels, self.rows, self.labels = pixels, rows, labels
        self.augmenter, self.seed, self.on_device = augmenter, seed, on_device
        self.classes = classes

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: BatchKey) -> Batch:
        """Return a batch: ``image`` ``(B, 1, H, W)`` uint8, ``label`` ``(B,)`` int64, ``position`` ``(B,)`` int64."""
        epoch, positions, whole = key
        images = self.pixels[self.rows[positions]]
        if self.augmenter is not None and not self.on_device:
            images = self.augmenter(images, self.seed, epoch, positions)
        batch = {
            "image": torch.from_numpy(np.ascontiguousarray(images))[:, None],
            "label": torch.from_numpy(self.labels[positions]),
            "position": torch.from_numpy(np.ascontiguousarray(positions)),
        }
        if self.on_device:
            batch["key"] = image_keys(self.seed, epoch, positions)
        if self.classes is not None:
            batch["counts"] = torch.from_numpy(np.bincount(self.labels[whole], minlength=self.classes))
        return batch
