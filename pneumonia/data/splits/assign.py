"""Assign the images of a manifest to subsets and folds: one function for each split method, all pure."""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold, train_test_split

from pneumonia.config.schema import SplitConfig
from pneumonia.data.duplicates import groups
from pneumonia.data.splits.deal import NO_FOLD, deal_piles, deal_tenths, thin_training
from pneumonia.data.splits.leaks import UNUSED, check_no_leak
from pneumonia.errors import ConfigError, SplitError, sentence, some
from pneumonia.system.arrays import Bools, Ints, Objects
from pneumonia.system.files import digest


def make_split(manifest: pd.DataFrame, config: SplitConfig, group: Ints | None = None) -> pd.DataFrame:
    """Divide the images into subsets and folds, and refuse a split that leaks unless it is declared leaky.

    Args:
        manifest: One row per image; see :mod:`pneumonia.data.manifest`.
        config: The method and its options; see ``conf/split/``.
        group: ``(N,)`` from :func:`pneumonia.data.duplicates.groups`; computed if it is not given.

    Returns:
        One row per image of the manifest, in its order: ``image_id`` (str), ``subset`` (``train``, ``val``, ``test`` or
        ``unused``) and ``fold`` (int; 0 to k-1 for ``kfold`` and ``rotating``; -1 for the test subset, for the only patient of
        a class, who always trains, and for other methods).

    Raises:
        ConfigError: ``split.fold`` is not one of the folds, or an option does not apply to the method.
        SplitError: The data lack the folders that the method needs, or are too few.
        SplitLeakageError: Two subsets share a patient or a copy of an image, and ``split.leaky`` is not set.
    """
    manifest = manifest.reset_index(drop=True)
    group = groups(manifest) if group is None else group
    if config.rules.folded and not 0 <= config.fold < config.k:
        raise ConfigError(f"split.fold={config.fold} is no fold of split.k={config.k}; the folds are 0 to {config.k - 1}.")
    subsets, folds = METHODS[config.method](manifest, group, config)
    split = pd.DataFrame({"image_id": manifest["image_id"].to_numpy(), "subset": subsets, "fold": folds})
    if config.rules.folded:
        split = fold_view(split, config.fold)
    if config.fraction < 1:
        if config.rules.rotates:
            raise ConfigError("split.fraction does not go with split=rotating, whose training split changes. Use split=kfold.")
        split["subset"] = thin_training(manifest, group, split["subset"].to_numpy(dtype=object), config)
    check_split(manifest, split, config, group)
    return split


def check_split(manifest: pd.DataFrame, split: pd.DataFrame, config: SplitConfig, group: Ints | None = None) -> None:
    """Refuse a split that can't train, or that leaks and is not declared leaky.

    Raises:
        SplitError: There is no image to train or to validate on.
        SplitLeakageError: Two subsets share a patient or a copy of an image, and ``split.leaky`` is not set.
    """
    for subset in ("train", "val"):
        if not (split["subset"] == subset).any():
            raise SplitError(
                f"split={config.method} leaves no image in the subset '{subset}' ({len(manifest)} images, "
                f"{manifest['patient_id'].nunique()} patients). Use another split, or more data."
            )
    if not config.leaky:
        check_no_leak(manifest, split, group)


def fold_view(split: pd.DataFrame, fold: int) -> pd.DataFrame:
    """Return a split in which ``fold`` validates and all other folds train; images without a fold keep their subset.

    Source: Kohavi (1995), A study of cross-validation and bootstrap for accuracy estimation and model selection.
    """
    folds = split["fold"].to_numpy()
    kept = split["subset"].to_numpy(dtype=object)
    return split.assign(subset=np.where(folds == fold, "val", np.where(folds != NO_FOLD, "train", kept)))


def split_sha256(split: pd.DataFrame) -> str:
    """Return the hash of a split: the subset and fold of each image."""
    rows = split.sort_values("image_id")[["image_id", "subset", "fold"]]
    return digest(rows.astype(str).to_numpy().tolist())


def _grouped(manifest: pd.DataFrame, group: Ints, config: SplitConfig) -> tuple[Objects, Ints]:
    return deal_tenths(manifest, group, ("val", "test"), config), _no_folds(manifest)


def _official(manifest: pd.DataFrame, group: Ints, config: SplitConfig) -> tuple[Objects, Ints]:
    """Source: Kermany et al. (2018); the official test folder stays the test subset."""
    source = manifest["source_split"].to_numpy()
    if not np.isin(source, ["train", "val"]).any():
        raise SplitError("split=official needs the folders train (and val) of the release; the data have none.")
    subsets, rest = _held_out_folder(manifest, group)
    subsets[rest] = deal_tenths(manifest[rest].reset_index(drop=True), group[rest], ("val",), config)
    return subsets, _no_folds(manifest)


def _random(manifest: pd.DataFrame, group: Ints, config: SplitConfig) -> tuple[Objects, Ints]:
    """Split images 80/10/10 at random, stratified by class, as the study did. One patient may be in all subsets."""
    rows, label = np.arange(len(manifest)), manifest["label"].to_numpy()
    size = math.floor(0.8 * len(rows))
    try:
        train, rest = train_test_split(rows, train_size=size, stratify=label, random_state=config.seed)
        val, test = train_test_split(rest, test_size=len(rest) // 2, stratify=label[rest], random_state=config.seed)
    except ValueError as error:
        raise SplitError(
            f"split={config.method} can not divide {len(rows)} images by class: {sentence(error)} Use more data."
        ) from error
    subsets = np.empty(len(rows), dtype=object)
    for name, chosen in (("train", train), ("val", val), ("test", test)):
        subsets[chosen] = name
    return subsets, _no_folds(manifest)


def _given(manifest: pd.DataFrame, group: Ints, config: SplitConfig) -> tuple[Objects, Ints]:
    source = manifest["source_split"].to_numpy(dtype=object)
    missing = [subset for subset in ("train", "val") if subset not in source]
    if missing:
        raise SplitError(f"split=given uses the folders of the data, and they have no folder {some(missing)}. Use split=grouped.")
    return source, _no_folds(manifest)


def _kfold(manifest: pd.DataFrame, group: Ints, config: SplitConfig) -> tuple[Objects, Ints]:
    """Assign folds that keep groups together, balanced by class, after a test subset was held out of all folds.

    Source: scikit-learn's StratifiedGroupKFold.
    """
    if config.holdout == "folder":
        subsets, rest = _held_out_folder(manifest, group)
        if not (subsets == "test").any():
            raise SplitError("split.holdout=folder needs the release's folder test; the data have none. Use 0.1 or none.")
    elif config.holdout == "0.1":  # the test subset of split=grouped with this seed, so that runs compare
        subsets = deal_tenths(manifest, group, ("val", "test"), config)
        rest = subsets != "test"
        subsets[rest] = "train"
    else:
        subsets, rest = np.full(len(manifest), "train", dtype=object), np.ones(len(manifest), dtype=bool)
    folds = _no_folds(manifest)
    folds[rest] = deal_piles(manifest[rest].reset_index(drop=True), group[rest], config.k, config)
    return subsets, folds


def _rotating(manifest: pd.DataFrame, group: Ints, config: SplitConfig) -> tuple[Objects, Ints]:
    """Assign the study's folds: images at random, stratified by class, outside of the test subset of its random split."""
    subsets, folds = _random(manifest, group, config)
    rest = np.flatnonzero(subsets != "test")
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
    return subsets, folds


def _no_folds(manifest: pd.DataFrame) -> Ints:
    return np.full(len(manifest), NO_FOLD, dtype=np.int64)


def _held_out_folder(manifest: pd.DataFrame, group: Ints) -> tuple[Objects, Bools]:
    """Make the release's folder test the test subset; leave other copies of its patients and images unused."""
    test = (manifest["source_split"] == "test").to_numpy()
    subsets = np.full(len(manifest), "train", dtype=object)
    subsets[np.isin(group, np.unique(group[test]))] = UNUSED
    subsets[test] = "test"
    return subsets, subsets == "train"


Method = Callable[[pd.DataFrame, Ints, SplitConfig], tuple[Objects, Ints]]
METHODS: Final[dict[str, Method]] = {
    "grouped": _grouped,
    "official": _official,
    "random": _random,
    "given": _given,
    "kfold": _kfold,
    "rotating": _rotating,
}
