"""Baselines that see no lungs: they predict classes and subsets from file metadata, and from a thumbnail.

Only what a model scores above them is evidence. Width, height and bytes alone reveal the class of Kermany's originals.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any, Final

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pneumonia.data.audit.records import Interval, Score, Shift, TaskScore
from pneumonia.errors import some
from pneumonia.metrics.bootstrap import BLOCK_SIZE, wilson_interval
from pneumonia.metrics.classification import weighted_auroc
from pneumonia.system.arrays import Floats, Ints, Objects, Pixels
from pneumonia.system.console import track
from pneumonia.system.parallel import available_cores
from pneumonia.tasks import Task, in_class_order

FOLDS: Final = 5
RESAMPLES: Final = 1000
FEWEST: Final = 20  # groups that a subset needs for a shift score
THUMBNAIL: Final = 16  # pixels a side
Model = Callable[[], ClassifierMixin]


def metadata_features(manifest: pd.DataFrame) -> Floats:
    """Return file metadata ``(N, F)``: width, height, aspect ratio, bytes, bytes per pixel, and the mode one-hot."""
    width, height = manifest["width"].to_numpy(float), manifest["height"].to_numpy(float)
    size = manifest["bytes"].to_numpy(float)
    pixels = np.maximum(width * height, 1)
    modes = pd.get_dummies(manifest["mode"]).to_numpy(float)
    return np.column_stack([width, height, width / np.maximum(height, 1), size, size / pixels, modes])


def thumbnail_features(pixels: Pixels, side: int = THUMBNAIL) -> Floats:
    """Return thumbnails as ``(N, side * side)`` grey levels from 0 to 1."""
    small = [cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA).ravel() for image in pixels]
    return np.asarray(small, dtype=np.float64) / 255


def forest() -> ClassifierMixin:
    """Build a classifier for features of unlike scale. Source: Breiman (2001), Random forests."""
    return RandomForestClassifier(100, min_samples_leaf=2, n_jobs=available_cores(), random_state=0)


def linear() -> ClassifierMixin:
    """Build a classifier for thumbnails: multinomial logistic regression with an l2 penalty."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=2000, tol=1e-3))


def shortcuts(
    manifest: pd.DataFrame,
    pixels: Pixels,
    subset: Objects,
    group: Ints,
    subsets: Sequence[str],
    tasks: Sequence[Task],
    validate: bool,
) -> tuple[dict[str, dict[str, TaskScore]], list[Shift]]:
    """Score the prediction of classes and subsets from file metadata and thumbnails alone.

    Args:
        manifest: Readable images.
        pixels: ``(N, S, S)``, the same images.
        subset: ``(N,)`` subset of each image.
        group: ``(N,)`` from :func:`pneumonia.data.duplicates.groups`.
        subsets: The subsets to compare with each other.
        tasks: Whose classes are predicted.
        validate: Also fit on train and score on val.

    Returns:
        The scores of the tasks by kind of features; images of test are left out, since only an evaluation may score on them.
        The shift between each two subsets.
    """
    kinds: dict[str, tuple[Floats, Model]] = {
        "metadata": (metadata_features(manifest), forest),
        "thumbnail": (thumbnail_features(pixels), linear),
    }
    label = manifest["label"].to_numpy(dtype=object)
    pairs = list(combinations(subsets, 2))
    baselines: dict[str, dict[str, TaskScore]] = {kind: {} for kind in kinds}
    separated: dict[str, list[Score]] = {kind: [] for kind in kinds}

    def steps() -> Iterator[None]:
        for kind, (features, model) in kinds.items():
            for task in tasks:
                score = of_task(features, label, subset, group, task, model)
                on_val = of_val(features, label, subset, group, task, model) if validate else None
                baselines[kind][task.name] = TaskScore(**vars(score), on_val=on_val)
                yield
            for pair in pairs:
                separated[kind].append(of_pair(features, subset, group, pair, model))
                yield

    for _ in track(steps(), len(kinds) * (len(tasks) + len(pairs)), "Fitting baselines"):
        pass
    return baselines, [Shift(*entry) for entry in zip(pairs, *separated.values(), strict=True)]


def of_task(features: Floats, label: NDArray[Any], subset: Objects, group: Ints, task: Task, model: Model) -> Score:
    """Cross-validate a task over all images outside of the subset test."""
    rows = np.flatnonzero(subset != "test")
    if not len(rows):
        return Score("all images are of the subset test, on which only an evaluation may score", 0)
    if reason := _foreign(label[rows], task):
        return Score(reason, len(rows))
    classes = np.array(_classes(label[rows], task))
    return cross_validated(features[rows], classes, group[rows], model)


def of_val(features: Floats, label: NDArray[Any], subset: Objects, group: Ints, task: Task, model: Model) -> Score:
    """Score a task on the subset val with a model fitted on the subset train, as a run does."""
    train, val = np.flatnonzero(subset == "train"), np.flatnonzero(subset == "val")
    if not len(train) or not len(val):
        return Score("there is no subset train or no subset val", len(val))
    if reason := _foreign(label[np.concatenate([train, val])], task):
        return Score(reason, len(val))
    seen, codes = np.unique(_classes(label[train], task), return_inverse=True)
    wanted = np.array(_classes(label[val], task))
    if len(seen) < 2 or not set(wanted) <= set(seen):
        return Score(f"the subset train holds the classes {some(in_class_order(seen))} alone", len(val))
    probability = _probability(model, features[train], codes, features[val], len(seen))
    return scored(np.searchsorted(seen, wanted), probability, group[val], seen.tolist())


def of_pair(features: Floats, subset: Objects, group: Ints, pair: Sequence[str], model: Model) -> Score:
    """Cross-validate a classifier that separates two subsets; undefined for fewer than ``FEWEST`` groups."""
    rows = np.flatnonzero(np.isin(subset, pair))
    sizes = {name: len(np.unique(group[subset == name])) for name in pair}
    least = min(sizes, key=lambda name: sizes[name])
    if sizes[least] < FEWEST:
        return Score(f"{least} has {sizes[least]} patients, and {FEWEST} are needed", len(rows))
    return cross_validated(features[rows], subset[rows].astype(str), group[rows], model)


def baseline_probabilities(kind: str, manifest: pd.DataFrame, pixels: Pixels, codes: Ints, kinds: int) -> Floats:
    """Return probabilities ``(N - M, kinds)`` of some images by a baseline that was fitted on others.

    Args:
        kind: ``metadata`` or ``thumbnail``.
        manifest: ``N`` images: first ``M`` to fit on, then those to predict.
        pixels: ``(N, S, S)``, the same images.
        codes: ``(M,)`` class numbers of the images to fit on.
        kinds: Number of classes.
    """
    features = metadata_features(manifest) if kind == "metadata" else thumbnail_features(pixels)
    model = forest if kind == "metadata" else linear
    return _probability(model, features[: len(codes)], codes, features[len(codes) :], kinds)


def cross_validated(features: Floats, label: NDArray[Any], group: Ints, model: Model) -> Score:
    """Score the prediction of labels ``(N,)`` from features ``(N, F)`` on groups ``(N,)`` that the model was not fitted on.

    Source: Kohavi (1995) for cross-validation.
    """
    classes, codes = np.unique(label, return_inverse=True)
    if len(classes) < 2:
        return Score(f"there is one class alone, {classes[0]}", len(label))
    sizes = pd.Series(group).groupby(codes).nunique().to_numpy()
    if sizes.min() < FOLDS:
        reason = f"{classes[sizes.argmin()]} has {sizes.min()} patients, and {FOLDS} are needed in each class"
        return Score(reason, len(label))
    probability = np.zeros((len(label), len(classes)))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    for train, test in folds.split(features, codes, group):
        probability[test] = _probability(model, features[train], codes[train], features[test], len(classes))
    return scored(codes, probability, group, classes.tolist())


def scored(codes: Ints, probability: Floats, group: Ints, classes: Sequence[str]) -> Score:
    """Score probabilities ``(N, K)`` of class numbers ``(N,)``, with 95% intervals by group ``(N,)``.

    The interval of the accuracy is Wilson's at the effective number of images; the others are percentiles over draws of whole
    groups with replacement.

    Source: Wilson (1927); Korn and Graubard (1998) for the effective number; Field and Welsh (2007), Bootstrapping clustered
    data; Hand and Till (2001) for AUROC over several classes.
    """
    cluster = np.unique(group, return_inverse=True)[1]
    count, kinds = int(cluster.max()) + 1, len(classes)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    times = np.concatenate([np.ones((1, count), dtype=np.int64), drawn])  # the first row is the data
    cell = np.zeros((count, kinds * kinds))
    np.add.at(cell, (cluster, codes * kinds + probability.argmax(axis=1)), 1)
    confusion = (times @ cell).reshape(-1, kinds, kinds)
    right, truth = np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(axis=2)
    wanted = range(1, 2) if kinds == 2 else range(kinds)  # of two classes, both have the same area
    blocks = np.array_split(times, -(-times.shape[0] * len(codes) // BLOCK_SIZE))

    def area(k: int, rows: Ints) -> Floats:
        return weighted_auroc(probability[:, k], codes == k, rows[:, cluster].astype(np.float64))

    with np.errstate(invalid="ignore"):  # a resample may lack a class: NaN, which is counted below
        balanced = (right / truth).mean(axis=1)
        areas = np.concatenate([np.mean([area(k, rows) for k in wanted], axis=0) for rows in blocks])
    absent = [name for number, name in enumerate(classes) if not (codes == number).any()]
    hits = np.bincount(cluster, weights=codes == probability.argmax(axis=1)).astype(np.float64)
    return Score(
        f"there is no image of {some(absent)}" if absent else None,
        len(codes),
        *wilson_interval(hits, np.bincount(cluster)),
        *_bounded(balanced),
        *_bounded(areas),
        largest_class=float(np.bincount(codes).max() / len(codes)),
    )


def _classes(label: NDArray[Any], task: Task) -> list[str]:
    return [task.classes[number] for number in task.indices(label)]


def _foreign(label: NDArray[Any], task: Task) -> str:
    """Return why these labels do not fit a task; an empty string if they do."""
    foreign = sorted(name for name in set(label) if task.class_of(name) is None)
    return f"some images are labelled {some(foreign)}, for which task={task.name} has no class" if foreign else ""


def _probability(model: Model, features: Floats, codes: Ints, of: Floats, kinds: int) -> Floats:
    """Return probabilities ``(N, kinds)`` of other images by a freshly fitted model; 0 for an unseen class."""
    with threadpool_limits(1, "blas"):  # on such small matrices two threads are up to ten times slower than one
        fitted = model().fit(features, codes)
        if "n_jobs" in fitted.get_params():
            fitted.set_params(n_jobs=1)  # threads sum trees in the order they end, so that last digits differ
        probability = np.zeros((len(of), kinds))
        probability[:, fitted.classes_] = fitted.predict_proba(of)
    return probability


def _bounded(values: Floats) -> Interval:
    """Return a value and its bounds; ``None`` if it or one resample in twenty is undefined, or no resample differs."""
    value, resampled = values[0], values[1:]
    if not np.isfinite(value):
        return None, None, None
    known = resampled[np.isfinite(resampled)]
    if len(known) < 0.95 * len(resampled) or np.ptp(known) == 0:
        return float(value), None, None
    low, high = np.quantile(known, [0.025, 0.975])
    return float(value), float(low), float(high)
