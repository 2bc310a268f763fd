"""Find leakage between subsets, that is shared patients and copies of an image, and refuse a split that leaks."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from pneumonia.data.duplicates import groups
from pneumonia.errors import SplitLeakageError, some
from pneumonia.system.arrays import Ints
from pneumonia.tasks import SUBSETS

UNUSED: Final = "unused"  # in no subset: outside of split.fraction, or a copy of a test folder's patient or image


@dataclass(frozen=True)
class Leak:
    """Images of ``subset`` whose patient, or a copy of which, is in the training subset too."""

    subset: str
    images: int
    of: int
    example: str

    @property
    def fraction(self) -> float:
        """Fraction of the subset's images, from 0 to 1."""
        return self.images / self.of if self.of else 0.0

    def to_json(self) -> dict[str, str | int]:
        """Return the record of ``result.json``, where the subset is called ``part``."""
        return {"part": self.subset, "images": self.images, "of": self.of, "example": self.example}


def in_subset_order(names: Iterable[object]) -> list[str]:
    """Return each name once: train, val, test, unused, none (an empty string), then others."""
    present, known = set(map(str, names)), (*SUBSETS, UNUSED, "")
    return [name for name in known if name in present] + sorted(present - set(known))


def find_leaks(manifest: pd.DataFrame, split: pd.DataFrame, group: Ints | None = None, rotating: bool = False) -> list[Leak]:
    """Find the images of val and test whose patient, or a copy of which, is in train.

    In a ``rotating`` split the validation fold changes during training, so that all folds train the model in the end. ``group``
    is from :func:`pneumonia.data.duplicates.groups`.
    """
    group = groups(manifest) if group is None else group
    subset = split["subset"].to_numpy()
    trains = np.isin(subset, ["train", "val"]) if rotating else subset == "train"
    seen = np.unique(group[trains])
    leaks = []
    for name in ("val", "test"):
        inside = subset == name
        leaking = inside & np.isin(group, seen)
        if leaking.any():
            example = str(manifest["patient_id"].to_numpy()[leaking][0])
            leaks.append(Leak(name, int(leaking.sum()), int(inside.sum()), example))
    return leaks


def check_no_leak(manifest: pd.DataFrame, split: pd.DataFrame, group: Ints | None = None) -> None:
    """Refuse a split in which one patient, or copies of one image, are in different subsets.

    Raises:
        SplitLeakageError: With the number of patients and an example.
    """
    table = pd.DataFrame({"group": groups(manifest) if group is None else group, "subset": split["subset"].to_numpy()})
    used = (table["subset"] != UNUSED).to_numpy()
    per_group = table[used].groupby("group")["subset"].unique()
    torn = per_group[per_group.map(len) > 1]
    if len(torn):
        first = (table["group"] == torn.index[0]).to_numpy() & used
        names = some(manifest["patient_id"][first].unique(), 2)
        raise SplitLeakageError(
            f"{len(torn)} patients (or copies of one image) are in more than one subset, for example '{names}' in "
            f"{sorted(torn.iloc[0])}. Scores would be optimistic. Use split=grouped, which keeps them together; or set "
            "split.leaky=true to train anyway, and mark the run and all its metrics LEAKY."
        )
