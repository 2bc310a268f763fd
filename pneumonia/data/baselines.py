"""What can be told without looking at lungs: from a file's size and format, and from a thumbnail.

A model is worth what it scores over these. Kermany's originals give their class away by width, height and bytes alone.
"""

from collections.abc import Callable
from typing import Any, Final

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pneumonia.data.duplicates import Groups
from pneumonia.parallel import available_cores

FOLDS: Final = 5
RESAMPLES: Final = 1000
THUMBNAIL: Final = 16  # pixels a side
Features = NDArray[np.float64]
Score = dict[str, Any]


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
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=500, tol=1e-3))


def cross_validated(
    features: Features, label: NDArray[Any], group: Groups, model: Callable[[], ClassifierMixin]
) -> Score:
    """How well the features tell the labels apart, on groups that the model was not fitted on.

    Args:
        features: ``(N, F)``.
        label: ``(N,)`` of at least two classes.
        group: ``(N,)``; a group is never on both sides.
        model: Makes a fresh classifier.

    Returns:
        ``accuracy`` with ``low`` and ``high`` (95%, groups resampled), ``balanced_accuracy``, ``auroc`` (macro, one against
        the rest), ``largest_class`` (the accuracy of always saying it), ``n``; or ``reason`` where it can't be said.

    Source: Field and Welsh (2007) for the interval; Hand and Till (2001) for AUROC over several classes.
    """
    classes, codes = np.unique(label, return_inverse=True)
    fewest = pd.Series(group).groupby(codes).nunique().min() if len(classes) > 1 else 0
    if len(classes) < 2 or fewest < FOLDS:
        return {
            "reason": f"needs two classes with {FOLDS} patients each; the smallest has {int(fewest)}",
            "n": len(label),
        }
    probability = np.zeros((len(label), len(classes)))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    for train, test in folds.split(features, codes, group):
        fitted = model().fit(features[train], codes[train])
        probability[np.ix_(test, fitted.classes_)] = fitted.predict_proba(features[test])
    right = probability.argmax(axis=1) == codes
    low, high = _interval(right, group)
    binary = len(classes) == 2
    return {
        "accuracy": float(right.mean()),
        "low": low,
        "high": high,
        "balanced_accuracy": float(balanced_accuracy_score(codes, probability.argmax(axis=1))),
        "auroc": float(roc_auc_score(codes, probability[:, 1]) if binary else _macro_auroc(codes, probability)),
        "largest_class": float(np.bincount(codes).max() / len(codes)),
        "n": len(label),
    }


def _macro_auroc(codes: NDArray[np.int64], probability: Features) -> float:
    return float(
        np.mean([roc_auc_score(codes == number, probability[:, number]) for number in range(probability.shape[1])])
    )


def _interval(right: NDArray[np.bool_], group: Groups) -> tuple[float, float]:
    """The 95% percentile interval of a mean, whole groups drawn with replacement."""
    codes = np.unique(group, return_inverse=True)[1]
    hits, sizes = np.bincount(codes, weights=right), np.bincount(codes)
    drawn = np.random.default_rng(0).multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=RESAMPLES)
    low, high = np.quantile((drawn @ hits) / (drawn @ sizes), [0.025, 0.975])
    return float(low), float(high)
