"""Divides a manifest into train, val and test, and into folds. Pure functions: a table in, a table out."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split

from pneumonia.config.schema import SplitConfig
from pneumonia.data.duplicates import groups
from pneumonia.data.splits.leaks import UNUSED, check_no_leak
from pneumonia.errors import ConfigError, SplitError, some
from pneumonia.system.arrays import Ints
from pneumonia.system.files import digest
from pneumonia.tasks import SUBSETS, in_class_order

TENTHS: Final = 10
FEWEST: Final = 8  # patients of each class from which dealing into piles gives about the shares that were asked
MOST: Final = 0.25  # of the images of a class in val, and in test: of a tenth that was asked, more is no tenth
HUGE: Final = 1 / 3  # of the training images of a class in one group, above which split.fraction takes it last
NO_FOLD: Final = -1


def make_split(manifest: pd.DataFrame, config: SplitConfig, group: Ints | None = None) -> pd.DataFrame:
    """Divides the images into subsets, and refuses what leaks without being named leaky.

    Args:
        manifest: One row per image; see :mod:`pneumonia.data.manifest`.
        config: The method and its settings; see ``conf/split/``.
        group: ``(N,)`` from :func:`pneumonia.data.duplicates.groups`; worked out where it is not given.

    Returns:
        One row per image of the manifest, in its order: ``image_id`` (str), ``subset`` (``train``, ``val``, ``test`` or
        ``unused``) and ``fold`` (int; 0 to k-1 for ``kfold`` and ``rotating``; -1 for the test split, for the only patient of a
        class, who always trains, and for other methods).

    Raises:
        ConfigError: ``split.fold`` is not one of the folds, or a setting does not go with the method.
        SplitError: The data lack the folders that the method needs, or are too few.
        SplitLeakageError: Two subsets share a patient or a copy of an image, and ``split.leaky`` is not set.
    """
    manifest = manifest.reset_index(drop=True)
    group = groups(manifest) if group is None else group
    if config.rules.folded and not 0 <= config.fold < config.k:
        raise ConfigError(
            f"split.fold={config.fold} is no fold of split.k={config.k}; the folds are 0 to {config.k - 1}."
        )
    subsets, folds = METHODS[config.method](manifest, group, config)
    if config.rules.folded:
        subsets = subsets_of_fold(subsets, folds, config.fold)
    if config.fraction < 1:
        if config.rules.rotates:
            raise ConfigError(
                "split.fraction does not go with split=rotating, whose training split changes. Use split=kfold."
            )
        subsets = _thinned(manifest, group, subsets, config)
    split = pd.DataFrame({"image_id": manifest["image_id"].to_numpy(), "subset": subsets, "fold": folds})
    check_split(manifest, split, config, group)
    return split


def check_split(manifest: pd.DataFrame, split: pd.DataFrame, config: SplitConfig, group: Ints | None = None) -> None:
    """Refuses a split that can't train, or that leaks without being named leaky.

    Raises:
        SplitError: There is nothing to train or to validate on.
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


def subsets_of_fold(subsets: NDArray[np.object_], folds: NDArray[np.int64], fold: int) -> NDArray[np.object_]:
    """The subsets where ``fold`` validates and all other folds train; what has no fold stays where it is.

    Source: Kohavi (1995), A study of cross-validation and bootstrap for accuracy estimation and model selection.
    """
    moved = subsets.copy()
    moved[folds != NO_FOLD] = "train"
    moved[folds == fold] = "val"
    return moved


def split_sha256(split: pd.DataFrame) -> str:
    """The identity of a split: which image is in which subset and fold."""
    rows = split.sort_values("image_id")[["image_id", "subset", "fold"]]
    return digest(rows.astype(str).to_numpy().tolist())


def _grouped(manifest: pd.DataFrame, group: Ints, config: SplitConfig) -> tuple[NDArray[np.object_], Ints]:
    return _deal(manifest, group, ("val", "test"), config), _no_folds(manifest)


def _official(manifest: pd.DataFrame, group: Ints, config: SplitConfig) -> tuple[NDArray[np.object_], Ints]:
    """Source: Kermany et al. (2018); the official test folder stays the test split."""
    source = manifest["source_split"].to_numpy()
    if not np.isin(source, ["train", "val"]).any():
        raise SplitError("split=official needs the folders train (and val) of the release; the data have none.")
    subsets, rest = _held_out_folder(manifest, group)
    subsets[rest] = _deal(manifest[rest].reset_index(drop=True), group[rest], ("val",), config)
    return subsets, _no_folds(manifest)


def _random(manifest: pd.DataFrame, group: Ints, config: SplitConfig) -> tuple[NDArray[np.object_], Ints]:
    """The study's: 80/10/10 of the images at random, stratified by class. One patient may stand in all subsets."""
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
    subsets = np.empty(len(rows), dtype=object)
    for name, chosen in (("train", train), ("val", val), ("test", test)):
        subsets[chosen] = name
    return subsets, _no_folds(manifest)


def _given(manifest: pd.DataFrame, group: Ints, config: SplitConfig) -> tuple[NDArray[np.object_], Ints]:
    source = manifest["source_split"].to_numpy(dtype=object)
    missing = [subset for subset in ("train", "val") if subset not in source]
    if missing:
        raise SplitError(
            f"split=given takes the folders as they are, and the data have no folder {some(missing)}. Use split=grouped."
        )
    return source, _no_folds(manifest)


def _kfold(manifest: pd.DataFrame, group: Ints, config: SplitConfig) -> tuple[NDArray[np.object_], Ints]:
    """Folds that keep groups together, balanced by class, after a test split was held out that no fold touches.

    Source: scikit-learn's StratifiedGroupKFold.
    """
    if config.holdout == "folder":
        subsets, rest = _held_out_folder(manifest, group)
        if not (subsets == "test").any():
            raise SplitError(
                "split.holdout=folder needs the release's folder test; the data have none. Use 0.1 or none."
            )
    elif config.holdout == "0.1":  # the very test split of split=grouped with this seed, so that runs compare
        subsets = _deal(manifest, group, ("val", "test"), config)
        rest = subsets != "test"
        subsets[rest] = "train"
    else:
        subsets, rest = np.full(len(manifest), "train", dtype=object), np.ones(len(manifest), dtype=bool)
    folds = _no_folds(manifest)
    folds[rest] = _piles(manifest[rest].reset_index(drop=True), group[rest], config.k, config)
    return subsets, folds


def _rotating(manifest: pd.DataFrame, group: Ints, config: SplitConfig) -> tuple[NDArray[np.object_], Ints]:
    """The study's folds: images at random, stratified by class, after the test split of its random split."""
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


def _held_out_folder(manifest: pd.DataFrame, group: Ints) -> tuple[NDArray[np.object_], NDArray[np.bool_]]:
    """The release's folder test as test split; what else shows its patients or images is left out of training."""
    test = (manifest["source_split"] == "test").to_numpy()
    subsets = np.full(len(manifest), "train", dtype=object)
    subsets[np.isin(group, np.unique(group[test]))] = UNUSED
    subsets[test] = "test"
    return subsets, subsets == "train"


def _deal(manifest: pd.DataFrame, group: Ints, tenths: Sequence[str], config: SplitConfig) -> NDArray[np.object_]:
    """Give a tenth of each class to each of ``tenths``, in whole groups, and the rest to train.

    Ten class-balanced piles do so where each class has enough groups of about one size. Otherwise each class is dealt by
    itself, so that a rare one costs the shares of the others nothing.
    """
    label = manifest["label"].to_numpy()
    fewest = int(pd.Series(group).groupby(label).nunique().min()) if len(label) else 0
    if fewest >= FEWEST:
        piles = _piles(manifest, group, min(TENTHS, fewest), config)
        subsets = np.full(len(manifest), "train", dtype=object)
        for number, subset in enumerate(tenths):
            subsets[piles == number] = subset
        shares = pd.crosstab(label, subsets, normalize="index").reindex(columns=list(tenths), fill_value=0.0).to_numpy()
        if (shares > 0).all() and (shares <= MOST).all():
            return subsets
    return _dealt_by_class(label, group, tenths, config)


def _dealt_by_class(
    label: NDArray[np.object_], group: Ints, tenths: Sequence[str], config: SplitConfig
) -> NDArray[np.object_]:
    """Deal the groups of each class on its own: the largest trains, then each subset has one, then shares are filled.

    A group that shows several classes counts as one of the rarest of them.
    """
    subsets = np.full(len(label), "train", dtype=object)
    counts = pd.crosstab(group, label)  # images of each class in each group
    rarest_first = (counts > 0).sum().sort_values(kind="stable").index
    home = pd.Series([next(name for name in rarest_first if row[name]) for _, row in counts.iterrows()], counts.index)
    rng = np.random.default_rng([config.seed, 2])
    for name in rarest_first:
        sizes = counts.loc[home == name, name]
        left = [int(number) for number in rng.permutation(np.array(sizes.index))]
        if left:
            left.remove(int(sizes.idxmax()))
        for place, subset in enumerate(tenths, 1):
            filled, wanted = 0, counts[name].sum() / TENTHS
            kept_back = min(len(tenths) - place, max(len(left) - 1, 0))  # one for each subset that is still to come
            fitting = iter(list(left))
            while len(left) > kept_back:
                number = next((one for one in fitting if filled + sizes[one] / 2 <= wanted), None)
                if number is None and filled:
                    break
                number = min(left, key=lambda one: sizes[one]) if number is None else number
                subsets[group == number] = subset
                filled += int(sizes[number])
                left.remove(number)
    for name in rarest_first:  # all its groups may show a rarer class too, and none of them be the largest there
        if not ((label == name) & (subsets == "train")).any():
            subsets[group == counts[name].idxmax()] = "train"
    empty = [subset for subset in tenths if not (subsets == subset).any()]
    if empty:
        raise SplitError(
            f"split={config.method} leaves no image in the subset '{empty[0]}'. It needs a class with {len(tenths) + 1} patients "
            f"or more; the data have {_patients(label, group)}. Use more data."
        )
    return subsets


def _patients(label: NDArray[np.object_], group: Ints) -> str:
    """Ints of each class, for a message."""
    found = pd.Series(group).groupby(label).nunique()
    return ", ".join(f"{name} {found[name]}" for name in in_class_order(found.index)) or "none"


def _piles(manifest: pd.DataFrame, group: Ints, count: int, config: SplitConfig) -> Ints:
    """A pile from 0 to ``count`` - 1 for each image, groups kept together, classes balanced.

    The only group of a class is in no pile (``NO_FOLD``), since without it there would be nothing to train on.
    """
    label = manifest["label"].to_numpy()
    table = pd.crosstab(group, label) > 0
    alone = table.index[table.loc[:, table.sum() == 1].any(axis=1)]
    rows = np.flatnonzero(~np.isin(group, alone))
    most = int(table.drop(alone).sum().max()) if len(rows) else 0
    piles = _no_folds(manifest)
    if most >= count:
        dealer = StratifiedGroupKFold(n_splits=count, shuffle=True, random_state=config.seed)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The least populated class")  # said with counts in rare_classes()
            for number, (_, chosen) in enumerate(dealer.split(label[rows], label[rows], group[rows])):
                piles[rows[chosen]] = number
    if set(piles[rows]) != set(range(count)):
        raise SplitError(
            f"split={config.method} needs {count} patients or more of one class, one for each subset or fold; the data have "
            f"{_patients(label, group)}. Use more data{', or a smaller split.k' if config.method == 'kfold' else ''}."
        )
    for name in table.columns:  # a class that is all in one pile would be missing where the others train
        inside = rows[label[rows] == name]
        if len(inside) and len(set(piles[inside])) == 1:
            smallest = pd.Series(group[inside]).value_counts(sort=False).idxmin()
            piles[group == smallest] = (piles[inside[0]] + 1) % count
    return piles


def rare_classes(manifest: pd.DataFrame, split: pd.DataFrame) -> list[str]:
    """What a split could not give to classes with few patients, a sentence or two for each.

    Args:
        manifest: One row per image.
        split: One row per row of the manifest.
    """
    used = split["subset"] != UNUSED
    table = pd.DataFrame(
        {
            "label": manifest["label"],
            "subset": split["subset"],
            "fold": split["fold"],
            "patient": manifest["patient_id"],
        }
    )[used.to_numpy()]
    subsets = [subset for subset in SUBSETS if (table["subset"] == subset).any()]
    folds = int(split["fold"].max()) + 1
    found = []
    for name in in_class_order(table["label"].unique()):
        own = table[table["label"] == name]
        patients = own["patient"].nunique()
        by_subset = own.groupby("subset")["patient"].nunique().reindex(subsets, fill_value=0)
        absent = [subset for subset in subsets if not by_subset[subset]]
        absent_folds = folds - own.loc[own["fold"] >= 0, "fold"].nunique()
        if patients >= FEWEST and not absent and not absent_folds:
            continue
        counts = ", ".join(f"{subset} {by_subset[subset]}" for subset in subsets)
        text = f"{name} has {patients} patients ({counts}), with {len(own)} images."
        if patients < FEWEST:
            text += " They are too few for the shares of the split, so metrics of this class are uncertain."
        if absent_folds:
            text += f" {absent_folds} of {folds} folds have no image of it."
        if absent:
            text += f" Metrics that need all classes are undefined on {some(absent)}."
        found.append(text)
    return found


def _thinned(
    manifest: pd.DataFrame, group: Ints, subsets: NDArray[np.object_], config: SplitConfig
) -> NDArray[np.object_]:
    """Keeps a fraction of the training split, whole groups, class by class; a smaller fraction lies within a larger one.

    A group that is a large share of its class comes last, since a small fraction would be all of it.
    """
    order = np.random.default_rng([config.seed, 1]).permutation(int(group.max()) + 1)  # a place for each group
    thinned = subsets.copy()
    trains = subsets == "train"
    for label in np.unique(manifest["label"].to_numpy()[trains]):
        rows = np.flatnonzero(trains & (manifest["label"] == label).to_numpy())
        huge = np.bincount(group[rows], minlength=len(order))[group[rows]] > HUGE * len(rows)
        place = order[group[rows]] + len(order) * huge
        wanted = max(1, round(config.fraction * len(rows)))
        last = np.sort(place)[wanted - 1]  # the group that reaches the fraction is kept whole
        thinned[rows[place > last]] = UNUSED
    return thinned


Method = Callable[[pd.DataFrame, Ints, SplitConfig], tuple[NDArray[np.object_], Ints]]
METHODS: Final[dict[str, Method]] = {
    "grouped": _grouped,
    "official": _official,
    "random": _random,
    "given": _given,
    "kfold": _kfold,
    "rotating": _rotating,
}
