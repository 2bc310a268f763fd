"""Divides a manifest into train, val and test, and into folds. Pure functions: a table in, a table out."""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split

from pneumonia.config import SplitConfig
from pneumonia.data.duplicates import Groups, groups
from pneumonia.data.leaks import UNUSED, check_no_leak
from pneumonia.errors import ConfigError, SplitError, some
from pneumonia.storage.local import digest

PARTS: Final = ("train", "val", "test")
TENTHS: Final = 10
NO_FOLD: Final = -1


def make_split(manifest: pd.DataFrame, config: SplitConfig, group: Groups | None = None) -> pd.DataFrame:
    """Divides the images into parts, and refuses what leaks without being named leaky.

    Args:
        manifest: One row per image; see :mod:`pneumonia.data.manifest`.
        config: The method and its settings; see ``conf/split/``.
        group: ``(N,)`` from :func:`pneumonia.data.duplicates.groups`; worked out where it is not given.

    Returns:
        One row per image of the manifest, in its order: ``image_id`` (str), ``part`` (``train``, ``val``, ``test`` or
        ``unused``) and ``fold`` (int; 0 to k-1 for ``kfold`` and ``rotating``; -1 for the test part and other methods).

    Raises:
        ConfigError: ``split.fold`` is not one of the folds, or a setting does not go with the method.
        SplitError: The data lack the folders that the method needs, or are too few.
        SplitLeakageError: Two parts share a patient or a copy of an image, and ``split.leaky`` is not set.
    """
    manifest = manifest.reset_index(drop=True)
    group = groups(manifest) if group is None else group
    if config.method in FOLDED and not 0 <= config.fold < config.k:
        raise ConfigError(
            f"split.fold={config.fold} is no fold of split.k={config.k}; the folds are 0 to {config.k - 1}."
        )
    parts, folds = METHODS[config.method](manifest, group, config)
    if config.method in FOLDED:
        parts = parts_of_fold(parts, folds, config.fold)
    if config.fraction < 1:
        if config.method == "rotating":
            raise ConfigError(
                "split.fraction does not go with split=rotating, whose training part changes. Use split=kfold."
            )
        parts = _thinned(manifest, group, parts, config)
    split = pd.DataFrame({"image_id": manifest["image_id"].to_numpy(), "part": parts, "fold": folds})
    check_split(manifest, split, config, group)
    return split


def check_split(manifest: pd.DataFrame, split: pd.DataFrame, config: SplitConfig, group: Groups | None = None) -> None:
    """Refuses a split that can't train, or that leaks without being named leaky.

    Raises:
        SplitError: There is nothing to train or to validate on.
        SplitLeakageError: Two parts share a patient or a copy of an image, and ``split.leaky`` is not set.
    """
    for part in ("train", "val"):
        if not (split["part"] == part).any():
            raise SplitError(
                f"split={config.method} leaves no image in the part '{part}' ({len(manifest)} images, "
                f"{manifest['patient_id'].nunique()} patients). Use another split, or more data."
            )
    if not config.leaky:
        check_no_leak(manifest, split, group)


def parts_of_fold(parts: NDArray[np.object_], folds: NDArray[np.int64], fold: int) -> NDArray[np.object_]:
    """The parts where ``fold`` validates and all other folds train; what has no fold stays where it is.

    Source: Kohavi (1995), A study of cross-validation and bootstrap for accuracy estimation and model selection.
    """
    moved = parts.copy()
    moved[folds != NO_FOLD] = "train"
    moved[folds == fold] = "val"
    return moved


def split_sha256(split: pd.DataFrame) -> str:
    """The identity of a split: which image is in which part and fold."""
    rows = split.sort_values("image_id")[["image_id", "part", "fold"]]
    return digest(rows.astype(str).to_numpy().tolist())


def _grouped(manifest: pd.DataFrame, group: Groups, config: SplitConfig) -> tuple[NDArray[np.object_], Groups]:
    return _deal(manifest, group, {"val": 1, "test": 1}, config), _no_folds(manifest)


def _official(manifest: pd.DataFrame, group: Groups, config: SplitConfig) -> tuple[NDArray[np.object_], Groups]:
    """Source: Kermany et al. (2018); the official test folder stays the test part."""
    source = manifest["source_split"].to_numpy()
    if not np.isin(source, ["train", "val"]).any():
        raise SplitError("split=official needs the folders train (and val) of the release; the data have none.")
    parts, rest = _held_out_folder(manifest, group)
    parts[rest] = _deal(manifest[rest].reset_index(drop=True), group[rest], {"val": 1}, config)
    return parts, _no_folds(manifest)


def _article(manifest: pd.DataFrame, group: Groups, config: SplitConfig) -> tuple[NDArray[np.object_], Groups]:
    """The study's: 80/10/10 of the images at random, stratified by class. One patient may stand in all parts."""
    rows, label = np.arange(len(manifest)), manifest["label"].to_numpy()
    try:
        train, rest = train_test_split(
            rows, train_size=math.floor(0.8 * len(rows)), stratify=label, random_state=config.seed
        )
        val, test = train_test_split(rest, test_size=len(rest) // 2, stratify=label[rest], random_state=config.seed)
    except ValueError as error:
        raise SplitError(
            f"split={config.method} can not divide {len(rows)} images by class: {error} Use more data."
        ) from error
    parts = np.empty(len(rows), dtype=object)
    for name, chosen in (("train", train), ("val", val), ("test", test)):
        parts[chosen] = name
    return parts, _no_folds(manifest)


def _given(manifest: pd.DataFrame, group: Groups, config: SplitConfig) -> tuple[NDArray[np.object_], Groups]:
    source = manifest["source_split"].to_numpy(dtype=object)
    missing = [part for part in ("train", "val") if part not in source]
    if missing:
        raise SplitError(
            f"split=given takes the folders as they are, and the data have no folder {some(missing)}. Use split=grouped."
        )
    return source, _no_folds(manifest)


def _kfold(manifest: pd.DataFrame, group: Groups, config: SplitConfig) -> tuple[NDArray[np.object_], Groups]:
    """Folds that keep groups together, balanced by class, after a test part was held out that no fold touches.

    Source: scikit-learn's StratifiedGroupKFold.
    """
    if config.holdout == "folder":
        parts, rest = _held_out_folder(manifest, group)
        if not (parts == "test").any():
            raise SplitError(
                "split.holdout=folder needs the release's folder test; the data have none. Use tenth or none."
            )
    elif config.holdout == "tenth":  # the very test part of split=grouped with this seed, so that runs compare
        parts = _deal(manifest, group, {"val": 1, "test": 1}, config)
        rest = parts != "test"
    else:
        parts, rest = np.full(len(manifest), "train", dtype=object), np.ones(len(manifest), dtype=bool)
    folds = _no_folds(manifest)
    folds[rest] = _piles(manifest[rest].reset_index(drop=True), group[rest], config.k, config)
    return parts, folds


def _rotating(manifest: pd.DataFrame, group: Groups, config: SplitConfig) -> tuple[NDArray[np.object_], Groups]:
    """The study's folds: images at random, stratified by class, after the test part of its random split."""
    parts, folds = _article(manifest, group, config)
    rest = np.flatnonzero(parts != "test")
    label = manifest["label"].to_numpy()[rest]
    fewest = int(pd.Series(label).value_counts().min())
    if fewest < config.k:
        raise SplitError(
            f"split=rotating with split.k={config.k} needs {config.k} images or more in each class; the smallest has "
            f"{fewest}. Use a smaller split.k, or more data."
        )
    dealer = StratifiedKFold(config.k, shuffle=True, random_state=config.seed)
    for number, (_, rows) in enumerate(dealer.split(label, label)):
        folds[rest[rows]] = number
    return parts, folds


def _no_folds(manifest: pd.DataFrame) -> Groups:
    return np.full(len(manifest), NO_FOLD, dtype=np.int64)


def _held_out_folder(manifest: pd.DataFrame, group: Groups) -> tuple[NDArray[np.object_], NDArray[np.bool_]]:
    """The release's folder test as test part; what else shows its patients or images is left out of training."""
    test = (manifest["source_split"] == "test").to_numpy()
    parts = np.full(len(manifest), "train", dtype=object)
    parts[np.isin(group, np.unique(group[test]))] = UNUSED
    parts[test] = "test"
    return parts, parts == "train"


def _deal(manifest: pd.DataFrame, group: Groups, tenths: dict[str, int], config: SplitConfig) -> NDArray[np.object_]:
    """Deals groups into ten class-balanced piles; some piles become val and test, the others train."""
    label = manifest["label"].to_numpy()
    fewest = int(pd.Series(group).groupby(label).nunique().min()) if len(label) else 0
    piles = _piles(manifest, group, max(min(TENTHS, fewest), len(tenths) + 1), config)
    parts = np.full(len(manifest), "train", dtype=object)
    for number, part in enumerate(tenths):
        parts[piles == number] = part
    return parts


def _piles(manifest: pd.DataFrame, group: Groups, count: int, config: SplitConfig) -> Groups:
    """A pile from 0 to ``count`` - 1 for each image, groups kept together, classes balanced."""
    label = manifest["label"].to_numpy()
    per_class = pd.Series(group).groupby(label).nunique()
    if len(per_class) == 0 or per_class.min() < count:
        raise SplitError(
            f"split={config.method} needs {count} patients or more in each class, one for each part or fold; the data have "
            f"{', '.join(f'{name} {number}' for name, number in per_class.items()) or 'none'}. Use more data"
            f"{', or a smaller split.k' if config.method == 'kfold' else ''}."
        )
    piles = np.empty(len(manifest), dtype=np.int64)
    dealer = StratifiedGroupKFold(n_splits=count, shuffle=True, random_state=config.seed)
    for number, (_, rows) in enumerate(dealer.split(label, label, group)):
        piles[rows] = number
    return piles


def _thinned(
    manifest: pd.DataFrame, group: Groups, parts: NDArray[np.object_], config: SplitConfig
) -> NDArray[np.object_]:
    """Keeps a fraction of the training part, whole groups, class by class; a smaller fraction lies within a larger one."""
    order = np.random.default_rng([config.seed, 1]).permutation(int(group.max()) + 1)  # a place for each group
    thinned = parts.copy()
    trains = parts == "train"
    for label in np.unique(manifest["label"].to_numpy()[trains]):
        rows = np.flatnonzero(trains & (manifest["label"] == label).to_numpy())
        rows = rows[np.argsort(order[group[rows]], kind="stable")]
        wanted = max(1, round(config.fraction * len(rows)))
        last = order[group[rows[wanted - 1]]]  # the group that reaches the fraction is kept whole
        thinned[rows[order[group[rows]] > last]] = UNUSED
    return thinned


Method = Callable[[pd.DataFrame, Groups, SplitConfig], tuple[NDArray[np.object_], Groups]]
METHODS: Final[dict[str, Method]] = {
    "grouped": _grouped,
    "official": _official,
    "article": _article,
    "given": _given,
    "kfold": _kfold,
    "rotating": _rotating,
}
FOLDED: Final = ("kfold", "rotating")
