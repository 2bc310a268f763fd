"""Load the images that a data config names, decoded."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from pneumonia.config.schema import DataConfig
from pneumonia.data.cache import Shape, load_cache
from pneumonia.data.manifest import broken, load_manifest, manifest_sha256
from pneumonia.data.sources.phantom import load_phantoms
from pneumonia.system.arrays import Ints, Pixels
from pneumonia.tasks import SUBTYPE, Task


@dataclass(frozen=True)
class DecodedImages:
    """Readable images with their pixels.

    Attributes:
        manifest: One row per image, index 0 to N-1.
        pixels: ``(M, H, W)`` uint8, memory-mapped; ``M >= N`` where unreadable images were skipped.
        rows: ``(N,)`` row of ``pixels`` for each row of the manifest.
        skipped: Paths of images that could not be read, with the reason.
    """

    manifest: pd.DataFrame
    pixels: Pixels
    rows: Ints
    skipped: dict[str, str]

    @cached_property
    def sha256(self) -> str:
        """Hash of the images and labels."""
        return manifest_sha256(self.manifest)

    def __reduce__(self) -> tuple[Callable[..., "DecodedImages"], tuple[object, ...]]:
        """Let another process map the file of the pixels instead of receiving them."""
        pixels = str(self.pixels.filename) if isinstance(self.pixels, np.memmap) else self.pixels
        return _mapped, (self.manifest, pixels, self.rows, self.skipped)


def _mapped(manifest: pd.DataFrame, pixels: Pixels | str, rows: Ints, skipped: dict[str, str]) -> DecodedImages:
    pixels = np.load(pixels, mmap_mode="r") if isinstance(pixels, str) else pixels
    return DecodedImages(manifest, pixels, rows, skipped)


def load_images(
    data: DataConfig, image_size: int, cache_dir: Path, task: Task = SUBTYPE, every_class: bool = False
) -> DecodedImages:
    """Load every readable image that a data config names; decode what is not in the cache.

    See :func:`pneumonia.data.manifest.load_manifest` for ``task`` and ``every_class``.

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
    manifest = load_manifest(root, cache_dir, labels, Shape(image_size, data.resize), task, every_class)
    cache = load_cache(manifest, image_size, data.resize, cache_dir)
    if cache.problems and data.on_bad_image == "error":
        raise broken(cache.problems)
    rows = np.flatnonzero(~manifest["path"].isin(list(cache.problems)).to_numpy())
    return DecodedImages(manifest.iloc[rows].reset_index(drop=True), cache.pixels, rows, cache.problems)
