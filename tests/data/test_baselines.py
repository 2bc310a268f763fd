"""Test that baselines find planted shortcuts alone, and that their metrics equal those of other libraries."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

from pneumonia.data.audit import baselines
from pneumonia.data.audit.baselines import (
    RESAMPLES,
    cross_validated,
    forest,
    linear,
    metadata_features,
    of_pair,
    of_task,
    of_val,
    scored,
    thumbnail_features,
)
from pneumonia.tasks import PNEUMONIA, SUBTYPE


def _files(count: int, seed: int = 0) -> pd.DataFrame:
    """Return files whose format is independent of the class."""
    rng = np.random.default_rng(seed)
    size = rng.integers(5000, 9000, count)
    return pd.DataFrame({"width": 200, "height": 150, "bytes": size, "mode": "L"})


def _predictions(count: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return codes of all classes, and probabilities in coarse steps, so that there are ties."""
    rng = np.random.default_rng(seed)
    codes = np.concatenate([np.arange(classes), rng.integers(0, classes, count - classes)])
    raw = rng.integers(1, 5, (count, classes)) + 2 * np.eye(classes)[codes]
    return codes, raw / raw.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_scikit_learn(classes, seed):
    codes, probability = _predictions(90, classes, seed)
    score = scored(codes, probability, np.arange(90) // 2, list("abc")[:classes])
    predicted = probability.argmax(axis=1)
    assert score.accuracy == pytest.approx(accuracy_score(codes, predicted), abs=1e-12)
    assert score.balanced_accuracy == pytest.approx(balanced_accuracy_score(codes, predicted), abs=1e-12)
    theirs = roc_auc_score(codes, probability[:, 1] if classes == 2 else probability, multi_class="ovr")
    assert score.auroc == pytest.approx(theirs, abs=1e-12)
    assert score.largest_class == np.bincount(codes).max() / 90


def test_auroc_bounds_equal_a_group_bootstrap_with_scikit_learn():
    codes, probability = _predictions(60, 2, 9)
    group = np.arange(60) // 3
    score = scored(codes, probability, group, ["a", "b"])
    drawn = np.random.default_rng(0).multinomial(20, np.full(20, 1 / 20), size=RESAMPLES)
    areas = [roc_auc_score(codes, probability[:, 1], sample_weight=times[group]) for times in drawn]
    assert [score.auroc_low, score.auroc_high] == pytest.approx(np.quantile(areas, [0.025, 0.975]), abs=1e-9)


@pytest.mark.parametrize("right", [0, 7, 37, 50])
def test_accuracy_bounds_are_wilsons_for_single_image_groups(right):
    codes = np.zeros(50, dtype=int)
    codes[25:] = 1
    predicted = codes.copy()
    predicted[right:] = 1 - predicted[right:]
    score = scored(codes, np.eye(2)[predicted], np.arange(50), ["a", "b"])
    theirs = binomtest(right, 50).proportion_ci(method="wilson")
    assert [score.low, score.high] == pytest.approx([theirs.low, theirs.high], abs=2e-3)


def test_more_images_per_patient_do_not_narrow_intervals():
    codes, probability = _predictions(40, 3, 5)
    once = scored(codes, probability, np.arange(40), list("abc"))
    again = scored(np.repeat(codes, 6), np.repeat(probability, 6, axis=0), np.repeat(np.arange(40), 6), list("abc"))
    values, repeated = vars(once), vars(again)
    for key in set(values) - {"n", "reason"}:
        assert repeated[key] == pytest.approx(values[key], abs=1e-9), key


def test_bounds_hold_the_truth_about_as_often_as_they_say():
    held = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        skill = rng.random(60) < 0.8  # a patient's images are right or wrong together
        group = np.repeat(np.arange(60), rng.integers(1, 6, 60))
        codes = rng.integers(0, 2, len(group))
        predicted = np.where(skill[group], codes, 1 - codes)
        score = scored(codes, np.eye(2)[predicted], group, ["a", "b"])
        held += score.low <= 0.8 <= score.high
    assert 0.89 <= held / 150 <= 0.99


def test_perfect_score_is_not_called_certain():
    codes = np.repeat([0, 1], 30)
    score = scored(codes, np.eye(2)[codes], np.arange(60), ["a", "b"])
    assert score.accuracy == score.auroc == 1
    assert 0.90 < score.low < 0.96
    assert score.auroc_low is None


def test_scores_are_identical_on_any_number_of_cores(monkeypatch):
    rng = np.random.default_rng(3)
    label = np.array(["NORMAL", "VIRUS"])[rng.integers(0, 2, 2000)]
    features = metadata_features(_files(2000))
    found = []
    for cores in (1, 8, 8):
        monkeypatch.setattr(baselines, "available_cores", lambda cores=cores: cores)
        found.append(cross_validated(features, label, np.arange(2000), forest))
    assert all(score == found[0] for score in found)


def test_only_a_planted_shortcut_is_found():
    label, group = np.repeat(["NORMAL", "VIRUS"], 150), np.arange(300) // 2
    table = _files(300)
    chance = cross_validated(metadata_features(table), label, group, forest)
    assert chance.auroc_low < 0.5 < chance.auroc_high
    table.loc[label == "VIRUS", "bytes"] += 6000
    shortcut = cross_validated(metadata_features(table), label, group, forest)
    assert shortcut.accuracy > 0.98
    assert shortcut.low > shortcut.largest_class + 0.4
    table["bytes"], table["mode"] = 7000, np.where(label == "VIRUS", "RGB", "L")
    assert cross_validated(metadata_features(table), label, group, forest).auroc > 0.98


@pytest.mark.parametrize("column", ["width", "height"])
def test_size_alone_is_a_shortcut_too(column):
    label, table = np.repeat(["NORMAL", "VIRUS"], 60), _files(120)
    table.loc[label == "VIRUS", column] = 260
    assert cross_validated(metadata_features(table), label, np.arange(120), forest).accuracy == 1


def test_thumbnail_predicts_a_class_that_differs_in_grey():
    rng = np.random.default_rng(1)
    label = np.repeat(["NORMAL", "VIRUS"], 120)
    pixels = rng.integers(0, 180, (240, 32, 32)).astype(np.uint8)
    none = cross_validated(thumbnail_features(pixels), label, np.arange(240), linear)
    assert none.auroc_low < 0.5 < none.auroc_high + 0.05
    pixels[120:, :16, :16] += 40
    assert cross_validated(thumbnail_features(pixels), label, np.arange(240), linear).auroc > 0.99


def test_groups_are_never_on_both_sides_of_a_fold():
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(80), 5)
    label = np.array(["a", "b"])[rng.integers(0, 2, 80)][group]
    face = rng.normal(size=(80, 30))[group] + 0.01 * rng.normal(size=(400, 30))
    assert cross_validated(face, label, np.arange(400), forest).accuracy > 0.95, "by image, patients are learnt by heart"
    assert cross_validated(face, label, group, forest).accuracy < 0.65


def test_test_images_change_no_baseline():
    label = np.tile(["NORMAL", "VIRUS", "BACTERIA"], 60)
    subset = np.where(np.arange(180) < 120, "train", "test").astype(object)
    features, group = np.random.default_rng(4).normal(size=(180, 6)), np.arange(180)
    before = of_task(features, label, subset, group, SUBTYPE, linear)
    features[120:], label[120:] = 99, "NORMAL"
    assert of_task(features, label, subset, group, SUBTYPE, linear) == before
    assert before.n == 120
    nothing = of_task(features, label, np.full(180, "test", dtype=object), group, SUBTYPE, linear)
    assert nothing.accuracy is None
    assert "only an evaluation may score" in nothing.reason


def test_on_val_scores_a_model_fitted_on_train_alone():
    rng = np.random.default_rng(5)
    label = np.array(["NORMAL", "VIRUS", "BACTERIA"])[rng.integers(0, 3, 300)]
    features = rng.normal(size=(300, 4)) + (label == "VIRUS")[:, None]
    subset = np.array(["train", "val", "test"], dtype=object)[rng.integers(0, 3, 300)]
    score = of_val(features, label, subset, np.arange(300), PNEUMONIA, linear)
    sick = label != "NORMAL"
    model = linear().fit(features[subset == "train"], sick[subset == "train"])
    wanted, predicted = sick[subset == "val"], model.predict_proba(features[subset == "val"])[:, 1]
    assert score.auroc == pytest.approx(roc_auc_score(wanted, predicted))
    assert score.accuracy == pytest.approx(np.mean(wanted == (predicted > 0.5)))
    assert score.n == (subset == "val").sum()


def test_class_missing_from_val_leaves_auroc_undefined():
    label = np.array(["NORMAL", "VIRUS", "BACTERIA"] * 20 + ["NORMAL", "VIRUS"] * 5)
    subset = np.array(["train"] * 60 + ["val"] * 10, dtype=object)
    features = np.random.default_rng(6).normal(size=(70, 3))
    score = of_val(features, label, subset, np.arange(70), SUBTYPE, linear)
    assert score.accuracy is not None
    assert score.auroc is score.balanced_accuracy is score.auroc_low is None
    assert score.reason == "there is no image of BACTERIA"
    swapped = of_val(features, label, np.where(subset == "val", "train", "val"), np.arange(70), SUBTYPE, linear)
    assert swapped.accuracy is None
    assert "the subset train holds the classes NORMAL, VIRUS alone" in swapped.reason
    nowhere = of_val(features, label, np.full(70, "train", dtype=object), np.arange(70), SUBTYPE, linear)
    assert "no subset val" in nowhere.reason


def test_binary_labels_have_no_subtype_and_the_reason_names_them():
    label = np.array(["NORMAL", "PNEUMONIA"] * 20)
    features, subset = np.arange(40.0)[:, None] % 2, np.full(40, "", dtype=object)
    assert "labelled PNEUMONIA" in of_task(features, label, subset, np.arange(40), SUBTYPE, linear).reason
    assert of_task(features, label, subset, np.arange(40), PNEUMONIA, linear).accuracy == 1


def test_too_few_patients_give_a_reason_and_no_value():
    label = np.array(["a"] * 30 + ["b"] * 12)
    score = cross_validated(np.zeros((42, 2)), label, np.r_[np.arange(30), 100 + np.arange(12) // 3], linear)
    assert score.reason == "b has 4 patients, and 5 are needed in each class"
    assert score.accuracy is score.auroc is score.largest_class is None
    assert "one class alone, a" in cross_validated(np.zeros((9, 2)), np.full(9, "a"), np.arange(9), linear).reason


def test_shift_of_a_small_subset_is_undefined():
    subset = np.array(["train"] * 50 + ["val"] * 19, dtype=object)
    features = (subset == "val").astype(float)[:, None]
    score = of_pair(features, subset, np.arange(69), ("train", "val"), linear)
    assert score.reason == "val has 19 patients, and 20 are needed"
    subset[49] = "val"
    features = (subset == "val").astype(float)[:, None]
    assert of_pair(features, subset, np.arange(69), ("train", "val"), linear).auroc == 1
