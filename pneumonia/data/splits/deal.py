"""Deal whole groups of images into subsets or folds, balanced by class."""

import warnings
from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from pneumonia.config.schema import SplitConfig
from pneumonia.data.splits.leaks import UNUSED
from pneumonia.errors import SplitError
from pneumonia.system.arrays import Ints, Objects
from pneumonia.tasks import in_class_order

TENTHS: Final = 10
FEWEST: Final = 8  # patients of each class from which equal piles give about the requested shares
MOST: Final = 0.25  # of the images of a class in val or test; more is too far from the requested tenth
HUGE: Final = 1 / 3  # of the training images of a class in one group, above which split.fraction takes it last
NO_FOLD: Final = -1


def deal_tenths(manifest: pd.DataFrame, group: Ints, tenths: Sequence[str], config: SplitConfig) -> Objects:
    """Return subsets ``(N,)``: a tenth of each class for each of ``tenths``, in whole groups, and the rest for train.

    Ten class-balanced piles do so if each class has enough groups of about one size. Otherwise each class is dealt on its
    own, so that a rare class does not change the shares of the others.

    Raises:
        SplitError: There are too few groups.
    """
    label = manifest["label"].to_numpy()
    fewest = int(pd.Series(group).groupby(label).nunique().min()) if len(label) else 0
    if fewest >= FEWEST:
        piles = deal_piles(manifest, group, min(TENTHS, fewest), config)
        subsets = np.full(len(manifest), "train", dtype=object)
        for number, subset in enumerate(tenths):
            subsets[piles == number] = subset
        shares = pd.crosstab(label, subsets, normalize="index").reindex(columns=list(tenths), fill_value=0.0).to_numpy()
        if (shares > 0).all() and (shares <= MOST).all():
            return subsets
    return _dealt_by_class(label, group, tenths, config)


def _dealt_by_class(label: Objects, group: Ints, tenths: Sequence[str], config: SplitConfig) -> Objects:
    """Deal the groups of each class on its own: the largest trains, then each subset gets one, then shares are filled.

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
            reserved = min(len(tenths) - place, max(len(left) - 1, 0))  # one for each subset that follows
            fitting = iter(list(left))
            while len(left) > reserved:
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


def deal_piles(manifest: pd.DataFrame, group: Ints, count: int, config: SplitConfig) -> Ints:
    """Return a pile from 0 to ``count`` - 1 for each image, ``(N,)``; groups stay together, and classes are balanced.

    The only group of a class is in no pile (``NO_FOLD``), since it must always train.

    Raises:
        SplitError: There are fewer groups than piles.
    """
    label = manifest["label"].to_numpy()
    table = pd.crosstab(group, label) > 0
    alone = table.index[table.loc[:, table.sum() == 1].any(axis=1)]
    rows = np.flatnonzero(~np.isin(group, alone))
    most = int(table.drop(alone).sum().max()) if len(rows) else 0
    piles = np.full(len(manifest), NO_FOLD, dtype=np.int64)
    if most >= count:
        dealer = StratifiedGroupKFold(n_splits=count, shuffle=True, random_state=config.seed)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The least populated class")  # rare_classes() reports it with counts
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


def thin_training(manifest: pd.DataFrame, group: Ints, subsets: Objects, config: SplitConfig) -> Objects:
    """Keep a fraction of train, in whole groups, class by class; a smaller fraction is part of a larger one.

    A group that is a large share of its class comes last, since a small fraction would be all of it.
    """
    order = np.random.default_rng([config.seed, 1]).permutation(int(group.max()) + 1)  # a position for each group
    thinned, trains = subsets.copy(), subsets == "train"
    for label in np.unique(manifest["label"].to_numpy()[trains]):
        rows = np.flatnonzero(trains & (manifest["label"] == label).to_numpy())
        huge = np.bincount(group[rows], minlength=len(order))[group[rows]] > HUGE * len(rows)
        place = order[group[rows]] + len(order) * huge
        wanted = max(1, round(config.fraction * len(rows)))
        last = np.sort(place)[wanted - 1]  # the group that reaches the fraction is included
        thinned[rows[place > last]] = UNUSED
    return thinned


def _patients(label: Objects, group: Ints) -> str:
    """Return the number of groups of each class, for a message."""
    found = pd.Series(group).groupby(label).nunique()
    return ", ".join(f"{name} {found[name]}" for name in in_class_order(found.index)) or "none"
