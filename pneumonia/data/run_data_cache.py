"""Share decoded images, duplicate groups and splits among the runs of one process."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from pneumonia.config.schema import DataConfig, SplitConfig
from pneumonia.data.decoded_images import DecodedImages, load_images
from pneumonia.data.duplicates import groups
from pneumonia.data.sources.class_names import ClassNames
from pneumonia.data.splits.assign import split_sha256
from pneumonia.data.splits.files import load_split
from pneumonia.data.splits.leaks import Leak, find_leaks
from pneumonia.system.arrays import Ints
from pneumonia.system.files import digest
from pneumonia.tasks import SUBTYPE, Task


@dataclass(frozen=True)
class AssignedSplit:
    """A split with its leaks and its hash."""

    table: pd.DataFrame
    leaks: list[Leak]
    sha256: str


@dataclass
class RunDataCache:
    """Keep what earlier runs of the process have loaded; files must not change while it lives."""

    _images: dict[str, DecodedImages] = field(default_factory=dict)
    _groups: dict[str, Ints] = field(default_factory=dict)
    _splits: dict[str, AssignedSplit] = field(default_factory=dict)

    def __reduce__(self) -> tuple[Any, ...]:
        """Start empty in another process."""
        return type(self), ()

    def images(
        self, config: DataConfig, size: int, cache_dir: Path, task: Task = SUBTYPE, every_class: bool = False
    ) -> DecodedImages:
        """Load images once; see :func:`pneumonia.data.decoded_images.load_images`."""
        key = digest([asdict(config), size, str(cache_dir), dict(ClassNames.of(task).own)])
        if key not in self._images:
            self._images[key] = load_images(config, size, cache_dir, task, every_class)
        return self._images[key]

    def split(self, images: DecodedImages, config: SplitConfig) -> AssignedSplit:
        """Split images once.

        Raises:
            PneumoniaError: See :func:`pneumonia.data.splits.files.load_split`.
        """
        key = digest([images.sha256, asdict(config)])
        if key not in self._splits:
            if images.sha256 not in self._groups:
                self._groups[images.sha256] = groups(images.manifest)
            group = self._groups[images.sha256]
            table = load_split(images.manifest, config, group)
            leaks = find_leaks(images.manifest, table, group, rotating=config.rules.rotates)
            self._splits[key] = AssignedSplit(table, leaks, split_sha256(table))
        return self._splits[key]
