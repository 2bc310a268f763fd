"""What can be told without looking at lungs: from a file's size and format, and from a thumbnail.

A model is worth what it scores over these. Kermany's originals give their class away by width, height and bytes alone.
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

from pneumonia.errors import some
from pneumonia.metrics.bootstrap import BLOCK_SIZE, wilson_interval
from pneumonia.metrics.classification import weighted_auroc
from pneumonia.system.arrays import Ints
from pneumonia.system.console import track
from pneumonia.system.parallel import available_cores
from pneumonia.tasks import TASKS, Task, in_class_order

FOLDS: Final = 5
RESAMPLES: Final = 1000
FEWEST: Final = 20  # groups that a subset must have before anything is said of its shift
THUMBNAIL: Final = 16  # pixels a side
FIGURES: Final = ("accuracy", "balanced_accuracy", "auroc")
Features = NDArray[np.float64]
Model = Callable[[], ClassifierMixin]
Score = dict[str, Any]
"""Plain values: ``accuracy`` with its bounds ``low`` and ``high``; ``balanced_accuracy`` and ``auroc`` (macro, one class
against the rest) with ``_low`` and ``_high``; ``largest_class`` (the accuracy of always saying it); ``n`` images; ``reason``.
Bounds are 95%, by group. What is undefined is ``None``, and ``reason`` then says why; bounds are ``None`` too where no
resample differs (at a figure of exactly 1), since that is no certainty."""


def metadata_features(manifest: pd.DataFrame) -> Features:
    """What a file says of itself, ``(N, F)``: width, height, aspect ratio, bytes, bytes per pixel, and its mode one-hot."""
    width, height = manifest["width"].to_numpy(float), manifest["height"].to_numpy(float)
    size = manifest["bytes"].to_numpy(float)
    pixels = np.maximum(width * height, 1)
    modes = pd.get_dummies(manifest["mode"]).to_numpy(float)
    return np.column_stack([width, height, width / np.maximum(height, 1), size, size / pixels, modes])


def thumbnail_features(pixels: NDArray[np.uint8], side: int = THUMBNAIL) -> Features:
    """Images as ``(N, side * side)`` grey levels from 0 to 1."""
    small = [cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA).ravel() for image in pixels]
    return np.asarray(small, dtype=np.float64) / 255


def forest() -> ClassifierMixin:
    """For features of unlike scale. Source: Breiman (2001), Random forests."""
    return RandomForestClassifier(100, min_samples_leaf=2, n_jobs=available_cores(), random_state=0)


def linear() -> ClassifierMixin:
    """For thumbnails: multinomial logistic regression with an l2 penalty."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=2000, tol=1e-3))


def shortcuts(
    manifest: pd.DataFrame,
    pixels: NDArray[np.uint8],
    subset: NDArray[np.object_],
    group: Ints,
    subsets: Sequence[str],
    validate: bool,
) -> dict[str, Any]:
    """How far file metadata and thumbnails alone tell the classes, and the subsets.

    Args:
        manifest: Readable images.
        pixels: ``(N, S, S)`` uint8, the same images.
        subset: ``(N,)`` subset of each image.
        group: ``(N,)`` from :func:`pneumonia.data.duplicates.groups`.
        subsets: Those to compare with each other.
        validate: Also fit on train and score on val.

    Returns:
        ``baselines``: by kind (``metadata``, ``thumbnail``) and task a ``Score`` by cross-validation, with ``on_val``: that of
        the subset val, or ``None``. Images of the subset test are left out: only an evaluation may score on them.
        ``shift``: for each two subsets, under the same kinds, the ``Score`` of telling the one from the other.
    """
    kinds: dict[str, tuple[Features, Model]] = {
        "metadata": (metadata_features(manifest), forest),
        "thumbnail": (thumbnail_features(pixels), linear),
    }
    label = manifest["label"].to_numpy(dtype=object)
    duels = list(combinations(subsets, 2))
    baselines: dict[str, dict[str, Score]] = {kind: {} for kind in kinds}
    shift: list[dict[str, Any]] = [{"subsets": list(duel)} for duel in duels]

    def steps() -> Iterator[None]:
        for kind, (features, model) in kinds.items():
            for task in TASKS.values():
                score = of_task(features, label, subset, group, task, model)
                on_val = of_val(features, label, subset, group, task, model) if validate else None
                baselines[kind][task.name] = {**score, "on_val": on_val}
                yield
            for number, duel in enumerate(duels):
                shift[number][kind] = of_duel(features, subset, group, duel, model)
                yield

    for _ in track(steps(), len(kinds) * (len(TASKS) + len(duels)), "Fitting baselines"):
        pass
    return {"baselines": baselines, "shift": shift}


def of_task(
    features: Features, label: NDArray[Any], subset: NDArray[np.object_], group: Ints, task: Task, model: Model
) -> Score:
    """A task's score by cross-validation over all images that are not of the subset test."""
    rows = np.flatnonzero(subset != "test")
    if not len(rows):
        return unsaid("all images are of the subset test, on which only an evaluation may score", 0)
    if reason := _foreign(label[rows], task):
        return unsaid(reason, len(rows))
    classes = np.array([task.groups[name] for name in label[rows]])
    return cross_validated(features[rows], classes, group[rows], model)


def of_val(
    features: Features, label: NDArray[Any], subset: NDArray[np.object_], group: Ints, task: Task, model: Model
) -> Score:
    """A task's score on the subset val of a model that was fitted on the subset train, as a run would have it."""
    train, val = np.flatnonzero(subset == "train"), np.flatnonzero(subset == "val")
    if not len(train) or not len(val):
        return unsaid("there is no subset train or no subset val", len(val))
    if reason := _foreign(label[np.concatenate([train, val])], task):
        return unsaid(reason, len(val))
    seen, codes = np.unique([task.groups[name] for name in label[train]], return_inverse=True)
    wanted = np.array([task.groups[name] for name in label[val]])
    if len(seen) < 2 or not set(wanted) <= set(seen):
        return unsaid(f"the subset train holds the classes {some(in_class_order(seen))} alone", len(val))
    probability = _probability(model, features[train], codes, features[val], len(seen))
    return scored(np.searchsorted(seen, wanted), probability, group[val], seen.tolist())


def of_duel(features: Features, subset: NDArray[np.object_], group: Ints, duel: Sequence[str], model: Model) -> Score:
    """How well two subsets are told apart, by cross-validation; nothing is said of a subset of fewer than ``FEWEST`` groups."""
    rows = np.flatnonzero(np.isin(subset, duel))
    sizes = {name: len(np.unique(group[subset == name])) for name in duel}
    least = min(sizes, key=lambda name: sizes[name])
    if sizes[least] < FEWEST:
        return unsaid(f"{least} has {sizes[least]} patients, and {FEWEST} are needed", len(rows))
    return cross_validated(features[rows], subset[rows].astype(str), group[rows], model)


def told_from(
    kind: str,
    manifest: pd.DataFrame,
    pixels: NDArray[np.uint8],
    codes: NDArray[np.int64],
    kinds: int,
) -> Features:
    """Probabilities ``(N - M, kinds)`` of some images by a baseline that was fitted on others.

    Args:
        kind: ``metadata`` or ``thumbnail``.
        manifest: ``N`` images: first ``M`` to fit on, then those to predict.
        pixels: ``(N, S, S)`` uint8, the same images.
        codes: ``(M,)`` class numbers of the images to fit on.
        kinds: How many classes there are.
    """
    features = metadata_features(manifest) if kind == "metadata" else thumbnail_features(pixels)
    model = forest if kind == "metadata" else linear
    return _probability(model, features[: len(codes)], codes, features[len(codes) :], kinds)


def cross_validated(features: Features, label: NDArray[Any], group: Ints, model: Model) -> Score:
    """How well the features tell the labels apart, on groups that the model was not fitted on.

    Args:
        features: ``(N, F)``.
        label: ``(N,)``.
        group: ``(N,)``; a group is never on both sides.
        model: Makes a fresh classifier.

    Source: Kohavi (1995) for cross-validation.
    """
    classes, codes = np.unique(label, return_inverse=True)
    if len(classes) < 2:
        return unsaid(f"there is one class alone, {classes[0]}", len(label))
    sizes = pd.Series(group).groupby(codes).nunique().to_numpy()
    if sizes.min() < FOLDS:
        reason = f"{classes[sizes.argmin()]} has {sizes.min()} patients, and {FOLDS} are needed in each class"
        return unsaid(reason, len(label))
    probability = np.zeros((len(label), len(classes)))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    for train, test in folds.split(features, codes, group):
        probability[test] = _probability(model, features[train], codes[train], features[test], len(classes))
    return scored(codes, probability, group, classes.tolist())


def scored(codes: NDArray[np.int64], probability: Features, group: Ints, classes: Sequence[str]) -> Score:
    """Figures of some predictions, with 95% intervals by group.

    That of the accuracy is Wilson's at the effective number of images; the others are percentiles over draws of whole groups
    with replacement.

    Args:
        codes: ``(N,)`` class numbers.
        probability: ``(N, K)``.
        group: ``(N,)``.
        classes: ``(K,)`` names.

    Source: Wilson (1927); Korn and Graubard (1998) for the effective number; Field and Welsh (2007), Bootstrapping clustered
    data; Hand and Till (2001) for AUROC over several classes.
    """
    cluster = np.unique(group, return_inverse=True)[1]
    count, kinds = int(cluster.max()) + 1, len(classes)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    times = np.concatenate([np.ones((1, count), dtype=np.int64), drawn])  # the first row is the data themselves
    cell = np.zeros((count, kinds * kinds))
    np.add.at(cell, (cluster, codes * kinds + probability.argmax(axis=1)), 1)
    confusion = (times @ cell).reshape(-1, kinds, kinds)
    right, truth = np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(axis=2)
    wanted = range(1, 2) if kinds == 2 else range(kinds)  # of two classes, the one's area is the other's
    blocks = np.array_split(times, -(-times.shape[0] * len(codes) // BLOCK_SIZE))

    def area(k: int, rows: NDArray[np.int64]) -> Features:
        return weighted_auroc(probability[:, k], codes == k, rows[:, cluster].astype(np.float64))

    with np.errstate(invalid="ignore"):  # a resample may lack a class: not a number, and counted below
        values = {
            "balanced_accuracy": (right / truth).mean(axis=1),
            "auroc": np.concatenate([np.mean([area(k, rows) for k in wanted], axis=0) for rows in blocks]),
        }
    absent = [name for number, name in enumerate(classes) if not (codes == number).any()]
    score: Score = {"reason": f"there is no image of {some(absent)}" if absent else None, "n": len(codes)}
    hits = np.bincount(cluster, weights=codes == probability.argmax(axis=1)).astype(np.float64)
    score["accuracy"], score["low"], score["high"] = wilson_interval(hits, np.bincount(cluster))
    for name, resampled in values.items():
        score[name], score[f"{name}_low"], score[f"{name}_high"] = _bounded(resampled)
    score["largest_class"] = float(np.bincount(codes).max() / len(codes))
    return score


def unsaid(reason: str, n: int) -> Score:
    """A score that can't be given."""
    bounds = ("low", "high", *(f"{name}_{end}" for name in FIGURES[1:] for end in ("low", "high")))
    return {"reason": reason, "n": n, **dict.fromkeys((*FIGURES, *bounds, "largest_class"))}


def _foreign(label: NDArray[Any], task: Task) -> str:
    """Why a task can't be set on these labels; empty where it can."""
    foreign = sorted(set(label) - set(task.groups))
    return f"some images are labelled {some(foreign)}, for which task={task.name} has no class" if foreign else ""


def _probability(model: Model, features: Features, codes: NDArray[np.int64], of: Features, kinds: int) -> Features:
    """Probabilities ``(N, kinds)`` of other images by a freshly fitted model; 0 for a class that it never saw."""
    with threadpool_limits(1, "blas"):  # on so small matrices two threads are up to ten times slower than one
        fitted = model().fit(features, codes)
        if "n_jobs" in fitted.get_params():
            fitted.set_params(n_jobs=1)  # threads add up trees in the order they end, and the last digits differ
        probability = np.zeros((len(of), kinds))
        probability[:, fitted.classes_] = fitted.predict_proba(of)
    return probability


def _bounded(values: Features) -> tuple[float | None, float | None, float | None]:
    """The figure itself and its bounds; ``None`` where it, or one resample in twenty, is undefined, or none differs."""
    figure, resampled = values[0], values[1:]
    if not np.isfinite(figure):
        return None, None, None
    known = resampled[np.isfinite(resampled)]
    if len(known) < 0.95 * len(resampled) or np.ptp(known) == 0:
        return float(figure), None, None
    low, high = np.quantile(known, [0.025, 0.975])
    return float(figure), float(low), float(high)
