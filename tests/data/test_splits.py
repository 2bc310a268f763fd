import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from pneumonia.data.splits import METHODS, check_no_leak, find_leaks, groups, make_split, split_sha256
from pneumonia.errors import SplitError, SplitLeakageError

LABELS = ("NORMAL", "VIRUS", "BACTERIA")


def _manifest(patients: int = 90, seed: int = 0, copies: int = 3) -> pd.DataFrame:
    """Patients of one to six images, a few byte-identical images across patients."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(patients):
        label = LABELS[number % 3]
        for take in range(int(rng.integers(1, 7))):
            name = f"{label}-{number}-{take}"
            part = "test" if number % 10 == 9 else "train"
            rows.append((name, label, f"{label}-{number}", part, f"sha-{name}"))
    table = pd.DataFrame(rows, columns=["image_id", "label", "patient_id", "source_split", "sha256"])
    for _ in range(copies):
        one, other = rng.choice(np.flatnonzero(table["source_split"] == "train"), 2, replace=False)
        table.loc[other, "sha256"] = table.loc[one, "sha256"]
    return table


@pytest.mark.parametrize("method", METHODS)
def test_every_image_is_in_exactly_one_part_and_the_split_repeats_under_its_seed(method):
    manifest = _manifest()
    if method == "given":
        manifest.loc[:40, "source_split"] = "val"
    split = make_split(manifest, method, 3)
    assert split["image_id"].tolist() == manifest["image_id"].tolist()
    assert set(split["part"]) == {"train", "val", "test"}
    assert split_sha256(split) == split_sha256(make_split(manifest, method, 3))
    if method != "given":
        assert split_sha256(split) != split_sha256(make_split(manifest, method, 4))


@settings(max_examples=60, deadline=None)
@given(
    patients=st.integers(12, 80), seed=st.integers(0, 2**32 - 1), data=st.integers(0, 10**6), copies=st.integers(0, 8)
)
def test_no_grouped_split_ever_puts_a_patient_or_a_copy_in_two_parts(patients, seed, data, copies):
    manifest = _manifest(patients, data, copies)
    try:
        split = make_split(manifest, "grouped", seed)
    except SplitError:
        return  # too few groups in a class, said by name
    table = pd.DataFrame({"group": groups(manifest), "part": split["part"]})
    assert table.groupby("group")["part"].nunique().max() == 1
    assert find_leaks(manifest, split) == []


def test_the_grouped_split_is_near_80_10_10_in_every_class_as_scikit_learn_would_cut_it():
    manifest = _manifest(300)
    split = make_split(manifest, "grouped", 0)
    shares = pd.crosstab(manifest["label"], split["part"], normalize="index")
    assert np.allclose(shares[["train", "val", "test"]], [0.8, 0.1, 0.1], atol=0.03)
    folds = StratifiedGroupKFold(10, shuffle=True, random_state=0).split(manifest, manifest["label"], groups(manifest))
    reference = [manifest["label"].iloc[rows].value_counts(normalize=True) for _, rows in folds]
    ours = manifest["label"][split["part"] == "val"].value_counts(normalize=True)
    worst = max((fold - fold.mean()).abs().max() for fold in reference)
    assert (ours - ours.mean()).abs().max() <= worst + 1e-12


def test_the_article_split_has_the_studys_sizes_and_is_found_leaky():
    manifest = _manifest(1674)
    manifest = pd.concat([manifest] * 2, ignore_index=True).iloc[:5855]
    manifest["image_id"] = [f"i{n}" for n in range(len(manifest))]
    split = make_split(manifest, "article", 0)
    assert split["part"].value_counts().to_dict() == {"train": 4684, "val": 586, "test": 585}
    leaks = {leak.part: leak for leak in find_leaks(manifest, split)}
    assert set(leaks) == {"val", "test"}
    assert leaks["val"].fraction > 0.4


def test_the_official_split_leaves_the_test_folder_alone():
    manifest = _manifest()
    split = make_split(manifest, "official", 0)
    assert ((split["part"] == "test") == (manifest["source_split"] == "test")).all()
    rest = split["part"] != "test"
    check_no_leak(manifest[rest].reset_index(drop=True), split[rest].reset_index(drop=True))


def test_a_patient_in_two_parts_is_refused():
    manifest = pd.DataFrame({"patient_id": ["a", "a", "b"], "sha256": ["1", "2", "3"]})
    split = pd.DataFrame({"image_id": ["x", "y", "z"], "part": ["train", "val", "test"]})
    with pytest.raises(SplitLeakageError, match=r"1 patients.*'a' in \['train', 'val'\].*split=grouped"):
        check_no_leak(manifest, split)


def test_copies_join_patients_transitively():
    manifest = pd.DataFrame({"patient_id": ["a", "b", "b", "c", "d"], "sha256": ["1", "1", "2", "2", "3"]})
    found = groups(manifest)
    assert len(set(found[:4])) == 1
    assert found[4] != found[0]


@pytest.mark.parametrize(
    ("method", "source", "message"),
    [
        ("given", "train", "no folder val"),
        ("official", "", "needs the folders train"),
        ("given", "", "no folder train, val"),
    ],
)
def test_a_split_that_the_folders_do_not_allow_says_what_is_missing(method, source, message):
    manifest = _manifest()
    manifest["source_split"] = source
    with pytest.raises(SplitError, match=message):
        make_split(manifest, method, 0)


def test_too_few_patients_are_counted_by_class():
    with pytest.raises(SplitError, match=r"needs 3 patients or more in each class.*BACTERIA 2"):
        make_split(_manifest(8, copies=0), "grouped", 0)
