"""What the runs of one process share: decoded images, groups, splits. A sweep then loads them once."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd

from pneumonia.config.schema import DataConfig, SplitConfig
from pneumonia.data.datamodule import DecodedImages, load_images
from pneumonia.data.duplicates import groups
from pneumonia.data.manifest import manifest_sha256
from pneumonia.data.splits.assign import split_sha256
from pneumonia.data.splits.files import load_split
from pneumonia.data.splits.leaks import Leak, find_leaks
from pneumonia.system.arrays import Ints
from pneumonia.system.files import digest


@dataclass(frozen=True)
class Divided:
    """A split, what leaks through it, and its hash."""

    split: pd.DataFrame
    leaks: list[Leak]
    sha256: str


@dataclass
class RunDataCache:
    """Remembers what it has loaded; it takes the files not to change while it lives."""

    _images: dict[str, tuple[DecodedImages, str]] = field(default_factory=dict)
    _groups: dict[str, Ints] = field(default_factory=dict)
    _divided: dict[str, Divided] = field(default_factory=dict)

    def images(self, config: DataConfig, size: int, cache_dir: Path) -> tuple[DecodedImages, str]:
        """As :func:`pneumonia.data.datamodule.load_images`, with the hash of images and labels."""
        key = digest([asdict(config), size, str(cache_dir)])
        if key not in self._images:
            images = load_images(config, size, cache_dir)
            self._images[key] = images, manifest_sha256(images.manifest)
        return self._images[key]

    def divided(self, manifest: pd.DataFrame, sha256: str, plan: SplitConfig) -> Divided:
        """The split of a manifest, given with its hash, that a config names.

        Raises:
            PneumoniaError: See :func:`pneumonia.data.splits.files.load_split`.
        """
        key = digest([sha256, asdict(plan)])
        if key not in self._divided:
            if sha256 not in self._groups:
                self._groups[sha256] = groups(manifest)
            group = self._groups[sha256]
            split = load_split(manifest, plan, group)
            leaks = find_leaks(manifest, split, group, rotating=plan.rules.rotates)
            self._divided[key] = Divided(split, leaks, split_sha256(split))
        return self._divided[key]
