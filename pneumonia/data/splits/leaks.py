"""What two subsets of a split share: patients, and copies of an image."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from pneumonia.data.duplicates import groups
from pneumonia.errors import SplitLeakageError, some
from pneumonia.system.arrays import Ints

UNUSED: Final = "unused"  # in no subset: outside of split.fraction, or kept away from a test folder that shows it too


@dataclass(frozen=True)
class Leak:
    """How many images of ``subset`` show a patient (or are a copy of an image) that the training split holds too."""

    subset: str
    images: int
    of: int
    example: str

    @property
    def fraction(self) -> float:
        """Share of the subset's images, from 0 to 1."""
        return self.images / self.of if self.of else 0.0

    def to_json(self) -> dict[str, Any]:
        """The record that ``result.json`` keeps, which calls the subset ``part``."""
        return {"part": self.subset, "images": self.images, "of": self.of, "example": self.example}


def find_leaks(
    manifest: pd.DataFrame, split: pd.DataFrame, group: Ints | None = None, rotating: bool = False
) -> list[Leak]:
    """What val and test share with train: patients, and copies of an image.

    Args:
        manifest: One row per image.
        split: One row per row of the manifest.
        group: From :func:`pneumonia.data.duplicates.groups`.
        rotating: The validating fold changes while one model trains, so that in the end all folds have trained it.
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
    """Refuses a split in which one patient, or two copies of one image, stand in different subsets.

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
            f"{len(torn)} patients (or copies of one image) stand in more than one subset, for example '{names}' in "
            f"{sorted(torn.iloc[0])}. Scores would be optimistic. Use split=grouped, which keeps them together; or say "
            "split.leaky=true to go on, and the run and all its figures will be marked LEAKY."
        )
