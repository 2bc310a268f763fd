"""Divides a manifest into train, val and test. Pure functions: a table in, a table out, nothing else read or written."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from pneumonia.errors import SplitError, SplitLeakageError, some
from pneumonia.storage.local import digest

PARTS: Final = ("train", "val", "test")
TENTHS: Final = 10


@dataclass(frozen=True)
class Leak:
    """How many images of ``part`` show a patient (or are a copy of an image) that the training part holds too."""

    part: str
    images: int
    of: int
    example: str

    @property
    def fraction(self) -> float:
        """Share of the part's images, from 0 to 1."""
        return self.images / self.of if self.of else 0.0


def make_split(manifest: pd.DataFrame, method: str, seed: int) -> pd.DataFrame:
    """Divides the images into parts.

    Args:
        manifest: One row per image; see :mod:`pneumonia.data.manifest`.
        method: ``grouped``, ``official``, ``article`` or ``given``; see ``conf/split/``.
        seed: Draws which patients (or images) go where.

    Returns:
        One row per image of the manifest, in its order: ``image_id`` (str), ``part`` (``train``, ``val``, ``test``) and
        ``fold`` (int; -1 for all, since these methods have no folds).

    Raises:
        SplitError: The data lack the folders that the method needs, or are too few.
        SplitLeakageError: A method that promises to keep patients together did not (never silently).
    """
    parts = METHODS[method](manifest.reset_index(drop=True), seed)
    split = pd.DataFrame({"image_id": manifest["image_id"].to_numpy(), "part": parts, "fold": -1})
    for part in ("train", "val"):
        if not (split["part"] == part).any():
            raise SplitError(
                f"split={method} leaves no image in the part '{part}' ({len(manifest)} images, "
                f"{manifest['patient_id'].nunique()} patients). Use another split, or more data."
            )
    if method in PATIENT_SAFE:
        ours = np.ones(len(split), dtype=bool) if method == "grouped" else (split["part"] != "test").to_numpy()
        check_no_leak(
            manifest[ours], split[ours]
        )  # what the official test folder shares is the release's own: find_leaks
    return split


def split_sha256(split: pd.DataFrame) -> str:
    """The identity of a split: which image is in which part and fold."""
    rows = split.sort_values("image_id")[["image_id", "part", "fold"]]
    return digest(rows.astype(str).to_numpy().tolist())


def groups(manifest: pd.DataFrame) -> NDArray[np.int64]:
    """A number per image, equal for images that must stay together: one patient, or byte-identical files, transitively."""
    patients = pd.factorize(manifest["patient_id"])[0]
    copies = pd.factorize(manifest["sha256"])[0] + patients.max() + 1
    size = int(copies.max()) + 1
    graph = coo_array((np.ones(len(manifest)), (patients, copies)), shape=(size, size))
    return np.asarray(connected_components(graph, directed=False)[1][patients], dtype=np.int64)


def find_leaks(manifest: pd.DataFrame, split: pd.DataFrame) -> list[Leak]:
    """What val and test share with train: patients, and byte-identical images."""
    group = pd.Series(groups(manifest))
    part = split["part"].to_numpy()
    seen = set(group[part == "train"])
    leaks = []
    for name in ("val", "test"):
        inside = part == name
        leaking = inside & group.isin(seen).to_numpy()
        if leaking.any():
            example = str(manifest["patient_id"].to_numpy()[leaking][0])
            leaks.append(Leak(name, int(leaking.sum()), int(inside.sum()), example))
    return leaks


def check_no_leak(manifest: pd.DataFrame, split: pd.DataFrame) -> None:
    """Refuses a split in which one patient, or two copies of one image, stand in different parts.

    Raises:
        SplitLeakageError: With the number of patients and an example.
    """
    table = pd.DataFrame({"group": groups(manifest), "part": split["part"].to_numpy()})
    per_group = table.groupby("group")["part"].unique()
    torn = per_group[per_group.map(len) > 1]
    if len(torn):
        first = table["group"].to_numpy() == torn.index[0]
        names = some(manifest["patient_id"][first].unique(), 2)
        raise SplitLeakageError(
            f"{len(torn)} patients (or copies of one image) stand in more than one part, for example '{names}' in "
            f"{sorted(torn.iloc[0])}. Scores would be optimistic. Use split=grouped, which keeps them together."
        )


def _grouped(manifest: pd.DataFrame, seed: int) -> NDArray[np.object_]:
    return _deal(manifest, {"val": 1, "test": 1}, seed, "grouped")


def _official(manifest: pd.DataFrame, seed: int) -> NDArray[np.object_]:
    """Source: Kermany et al. (2018); the official test folder stays the test part."""
    source = manifest["source_split"].to_numpy()
    if not (np.isin(source, ["train", "val"])).any():
        raise SplitError("split=official needs the folders train (and val) of the release; the data have none.")
    parts = np.full(len(manifest), "test", dtype=object)
    rest = source != "test"
    parts[rest] = _deal(manifest[rest].reset_index(drop=True), {"val": 1}, seed, "official")
    return parts


def _article(manifest: pd.DataFrame, seed: int) -> NDArray[np.object_]:
    """The study's: 80/10/10 of the images at random, stratified by class. One patient may stand in all parts."""
    rows, label = np.arange(len(manifest)), manifest["label"].to_numpy()
    try:
        train, rest = train_test_split(rows, train_size=math.floor(0.8 * len(rows)), stratify=label, random_state=seed)
        val, test = train_test_split(rest, test_size=len(rest) // 2, stratify=label[rest], random_state=seed)
    except ValueError as error:
        raise SplitError(f"split=article can not divide {len(rows)} images by class: {error} Use more data.") from error
    parts = np.empty(len(rows), dtype=object)
    for name, chosen in (("train", train), ("val", val), ("test", test)):
        parts[chosen] = name
    return parts


def _given(manifest: pd.DataFrame, seed: int) -> NDArray[np.object_]:
    source = manifest["source_split"].to_numpy(dtype=object)
    missing = [part for part in ("train", "val") if part not in source]
    if missing:
        raise SplitError(
            f"split=given takes the folders as they are, and the data have no folder {some(missing)}. Use split=grouped."
        )
    return source


def _deal(manifest: pd.DataFrame, tenths: dict[str, int], seed: int, method: str) -> NDArray[np.object_]:
    """Deals groups into ten class-balanced piles; some piles become val and test, the others train.

    Source: scikit-learn's StratifiedGroupKFold; Kohavi (1995) for stratification.
    """
    label, group = manifest["label"].to_numpy(), groups(manifest)
    per_class = pd.Series(group).groupby(label).nunique()
    if len(per_class) == 0 or per_class.min() < len(tenths) + 1:
        raise SplitError(
            f"split={method} needs {len(tenths) + 1} patients or more in each class, one for each part; the data have "
            f"{', '.join(f'{name} {count}' for name, count in per_class.items())}. Use more data."
        )
    piles = np.empty(len(manifest), dtype=np.int64)
    folds = min(TENTHS, int(per_class.min()))
    dealer = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    for number, (_, rows) in enumerate(dealer.split(label, label, group)):
        piles[rows] = number
    parts = np.full(len(manifest), "train", dtype=object)
    start = 0
    for part, count in tenths.items():
        parts[(piles >= start) & (piles < start + count)] = part
        start += count
    return parts


METHODS: Final[dict[str, Callable[[pd.DataFrame, int], NDArray[np.object_]]]] = {
    "grouped": _grouped,
    "official": _official,
    "article": _article,
    "given": _given,
}
PATIENT_SAFE: Final = ("grouped", "official")  # the parts that they cut never share a patient
