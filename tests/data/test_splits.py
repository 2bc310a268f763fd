import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from pneumonia.config.schema import SplitConfig
from pneumonia.data.duplicates import groups
from pneumonia.data.splits.assign import METHODS, fold_view, make_split, split_sha256
from pneumonia.data.splits.files import load_split, read_split, write_split
from pneumonia.data.splits.leaks import check_no_leak, find_leaks
from pneumonia.errors import ConfigError, ManifestError, SplitError, SplitLeakageError

LABELS = ("NORMAL", "VIRUS", "BACTERIA")


def _manifest(patients: int = 90, seed: int = 0, copies: int = 3) -> pd.DataFrame:
    """Return patients of one to six images, with a few byte-identical images across patients."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(patients):
        label = LABELS[number % 3]
        for take in range(int(rng.integers(1, 7))):
            name = f"{label}-{number}-{take}"
            subset = "test" if number % 10 == 9 else "train"
            rows.append((name, label, f"{label}-{number}", subset, f"sha-{name}"))
    table = pd.DataFrame(rows, columns=["image_id", "label", "patient_id", "source_split", "sha256"])
    table["phash"] = rng.integers(0, 256, (len(table), 32)).astype(np.uint8).tolist()
    table["phash"] = table["phash"].map(lambda row: bytes(row).hex())  # 256 random bits are never near
    for _ in range(copies):
        one, other = rng.choice(np.flatnonzero(table["source_split"] == "train"), 2, replace=False)
        table.loc[other, "sha256"] = table.loc[one, "sha256"]
        one, other = rng.choice(np.flatnonzero(table["source_split"] == "train"), 2, replace=False)
        table.loc[other, "phash"] = _nearly(table.loc[one, "phash"], rng)
    return table


def _nearly(phash: str, rng: np.random.Generator) -> str:
    """Return the hash with up to 24 of its 256 bits flipped."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(phash), np.uint8))
    bits[rng.choice(256, int(rng.integers(0, 25)), replace=False)] ^= 1
    return np.packbits(bits).tobytes().hex()


def _config(method: str, seed: int = 0, **settings) -> SplitConfig:
    return SplitConfig(method, seed, leaky=method in {"random", "rotating", "given"}, **settings)


@pytest.mark.parametrize("method", METHODS)
def test_every_image_is_in_one_subset_and_the_split_repeats(method):
    manifest = _manifest()
    if method == "given":
        manifest.loc[:40, "source_split"] = "val"
    split = make_split(manifest, _config(method, 3))
    assert split["image_id"].tolist() == manifest["image_id"].tolist()
    assert set(split["subset"]) == {"train", "val", "test"}
    assert split_sha256(split) == split_sha256(make_split(manifest, _config(method, 3)))
    if method != "given":
        assert split_sha256(split) != split_sha256(make_split(manifest, _config(method, 4)))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_safe_splits_keep_groups_together(data):
    manifest = _manifest(data.draw(st.integers(12, 80)), data.draw(st.integers(0, 10**6)), data.draw(st.integers(0, 8)))
    k = data.draw(st.integers(2, 12))
    config = SplitConfig(
        data.draw(st.sampled_from(["grouped", "official", "kfold"])),
        data.draw(st.integers(0, 2**32 - 1)),
        data.draw(st.sampled_from([0.05, 0.3, 0.5, 0.99, 1.0])),
        k,
        data.draw(st.integers(0, k - 1)),
        data.draw(st.sampled_from(["0.1", "folder", "none"])),
    )
    group = groups(manifest)
    try:
        split = make_split(manifest, config)
    except SplitError:
        return  # too few groups in a class, named in the message
    table = pd.DataFrame({"group": group, "subset": split["subset"], "fold": split["fold"]})
    used = table[table["subset"] != "unused"]
    assert used.groupby("group")["subset"].nunique().max() == 1
    assert find_leaks(manifest, split) == []
    if config.method == "kfold":
        assert used.groupby("group")["fold"].nunique().max() == 1
        assert set(split.loc[split["fold"] >= 0, "fold"]) == set(range(k))
        assert (split.loc[split["subset"] == "test", "fold"] == -1).all()
    if config.method == "official" or config.holdout == "folder":
        assert config.method == "grouped" or ((split["subset"] == "test") == (manifest["source_split"] == "test")).all()


def test_grouped_split_is_near_80_10_10_in_every_class():
    manifest = _manifest(300)
    split = make_split(manifest, _config("grouped"))
    shares = pd.crosstab(manifest["label"], split["subset"], normalize="index")
    assert np.allclose(shares[["train", "val", "test"]], [0.8, 0.1, 0.1], atol=0.03)
    folds = StratifiedGroupKFold(10, shuffle=True, random_state=0).split(manifest, manifest["label"], groups(manifest))
    reference = [manifest["label"].iloc[rows].value_counts(normalize=True) for _, rows in folds]
    ours = manifest["label"][split["subset"] == "val"].value_counts(normalize=True)
    worst = max((fold - fold.mean()).abs().max() for fold in reference)
    assert (ours - ours.mean()).abs().max() <= worst + 1e-12


def test_random_split_has_the_studys_sizes_and_leaks():
    manifest = _manifest(1674)
    manifest = pd.concat([manifest] * 2, ignore_index=True).iloc[:5855]
    manifest["image_id"] = [f"i{n}" for n in range(len(manifest))]
    split = make_split(manifest, _config("random"))
    assert split["subset"].value_counts().to_dict() == {"train": 4684, "val": 586, "test": 585}
    leaks = {leak.subset: leak for leak in find_leaks(manifest, split)}
    assert set(leaks) == {"val", "test"}
    assert leaks["val"].fraction > 0.4


def test_official_split_leaves_the_test_folder_alone():
    manifest = _manifest()
    split = make_split(manifest, _config("official"))
    assert ((split["subset"] == "test") == (manifest["source_split"] == "test")).all()
    rest = split["subset"] != "test"
    check_no_leak(manifest[rest].reset_index(drop=True), split[rest].reset_index(drop=True))


def test_patient_in_two_subsets_is_refused():
    manifest = pd.DataFrame({"patient_id": ["a", "a", "b"], "sha256": ["1", "2", "3"], "phash": ""})
    split = pd.DataFrame({"image_id": ["x", "y", "z"], "subset": ["train", "val", "test"]})
    with pytest.raises(SplitLeakageError, match=r"1 patients.*'a' in \['train', 'val'\].*split=grouped"):
        check_no_leak(manifest, split)


def test_copies_join_patients_transitively():
    manifest = pd.DataFrame({"patient_id": ["a", "b", "b", "c", "d"], "sha256": ["1", "1", "2", "2", "3"], "phash": ""})
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
def test_split_without_its_folders_is_refused(method, source, message):
    manifest = _manifest()
    manifest["source_split"] = source
    with pytest.raises(SplitError, match=message):
        make_split(manifest, _config(method))


def _of_sizes(**sizes: list[int]) -> pd.DataFrame:
    """Return patients of each class with these numbers of images."""
    rows = [
        (f"{label}-{number}-{take}", label, f"{label}-{number}")
        for label, counts in sizes.items()
        for number, count in enumerate(counts)
        for take in range(count)
    ]
    table = pd.DataFrame(rows, columns=["image_id", "label", "patient_id"])
    return table.assign(source_split="train", sha256=table["image_id"], phash="")


RARE = _of_sizes(NORMAL=[1] * 40, VIRUS=[1] * 40, BACTERIA=[1] * 3)


def _patients(manifest: pd.DataFrame, split: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Return the number of patients of each class in each subset."""
    table = manifest.assign(subset=split["subset"].to_numpy())
    return {str(label): rows.groupby("subset")["patient_id"].nunique().to_dict() for label, rows in table.groupby("label")}


def test_rare_class_costs_the_shares_of_the_others_nothing():
    found = _patients(RARE, make_split(RARE, _config("grouped")))
    assert found["NORMAL"] == found["VIRUS"] == {"train": 32, "val": 4, "test": 4}
    assert found["BACTERIA"] == {"train": 1, "val": 1, "test": 1}


@pytest.mark.parametrize(
    ("patients", "expected"),
    [
        (1, {"train": 1}),
        (2, {"train": 1, "val": 1}),
        (3, {"train": 1, "val": 1, "test": 1}),
        (4, {"train": 2, "val": 1, "test": 1}),
        (7, {"train": 5, "val": 1, "test": 1}),
    ],
)
def test_few_patients_train_first_then_validate_then_test(patients, expected):
    manifest = _of_sizes(NORMAL=[2] * 40, VIRUS=[1] * 20, BACTERIA=[2] * patients)
    for seed in range(5):
        found = _patients(manifest, make_split(manifest, _config("grouped", seed)))
        assert found["BACTERIA"] == expected
        assert found["NORMAL"] == {"train": 32, "val": 4, "test": 4}
        assert found["VIRUS"] == {"train": 16, "val": 2, "test": 2}


def test_patient_with_many_images_trains_without_changing_shares():
    manifest = _of_sizes(NORMAL=[30, *[1] * 30], VIRUS=[1] * 60, BACTERIA=[1] * 60)
    for seed in range(10):
        split = make_split(manifest, _config("grouped", seed))
        assert set(split["subset"][manifest["patient_id"] == "NORMAL-0"]) == {"train"}
        shares = pd.crosstab(manifest["label"], split["subset"], normalize="index")
        assert np.allclose(shares[["val", "test"]], 0.1, atol=0.02)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_shares_of_each_class_are_met_to_one_patient(data):
    sizes = {label: data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=12), label) for label in LABELS} | {
        "NORMAL": data.draw(st.lists(st.integers(1, 4), min_size=20, max_size=60))
    }
    seed = data.draw(st.integers(0, 2**32 - 1))
    manifest = _of_sizes(**sizes)
    split = make_split(manifest, _config("grouped", seed))
    assert split_sha256(split) == split_sha256(make_split(manifest, _config("grouped", seed)))
    assert find_leaks(manifest, split) == []
    assert split.groupby(groups(manifest))["subset"].nunique().max() == 1
    for label, counts in sizes.items():
        inside = split["subset"][(manifest["label"] == label).to_numpy()]
        images = inside.value_counts().reindex(["train", "val", "test"], fill_value=0)
        assert images["train"] > 0
        if len(counts) >= 3:
            largest = sorted(counts)[-2]  # of the patients that may be dealt to val or test
            assert all(abs(images[subset] - len(inside) / 10) <= max(largest, 0.15 * len(inside)) for subset in ("val", "test"))
            assert images["val"] > 0
            assert images["test"] > 0


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_folds_spread_a_rare_class_and_always_train_on_it(data):
    rare = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=6))
    k = data.draw(st.integers(2, 10))
    manifest = _of_sizes(NORMAL=[2] * 30, VIRUS=[1] * 30, BACTERIA=rare)
    holdout = data.draw(st.sampled_from(["0.1", "none"]))
    config = _config("kfold", data.draw(st.integers(0, 2**32 - 1)), k=k, fold=0, holdout=holdout)
    split = make_split(manifest, config)
    folds = split["fold"].to_numpy()
    assert set(folds[folds >= 0]) == set(range(k))
    for fold in range(k):
        trained = manifest["label"][(fold_view(split, fold)["subset"] == "train").to_numpy()]
        assert set(trained) == {"NORMAL", "VIRUS", "BACTERIA"}


def test_only_patient_of_a_class_trains_in_every_fold():
    manifest = _of_sizes(NORMAL=[1] * 20, VIRUS=[1] * 20, BACTERIA=[4])
    for fold in range(5):
        split = make_split(manifest, _config("kfold", k=5, fold=fold))
        rare = split[(manifest["label"] == "BACTERIA").to_numpy()]
        assert (set(rare["subset"]), set(rare["fold"])) == ({"train"}, {-1})


def test_small_fraction_skips_a_patient_with_many_images():
    manifest = _of_sizes(NORMAL=[40, *[1] * 60], VIRUS=[1] * 100, BACTERIA=[1] * 100)
    whole = (make_split(manifest, _config("grouped"))["subset"] == "train").to_numpy()
    for seed in range(5):
        split = make_split(manifest, _config("grouped", seed, fraction=0.1))
        normal = (split["subset"] == "train") & (manifest["label"] == "NORMAL")
        assert 0 < normal.sum() <= 0.12 * (whole & (manifest["label"] == "NORMAL")).sum()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SplitConfig(), r"BACTERIA has 3 patients \(train 1, val 1, test 1\), with 3 images\. They are too few"),
        (SplitConfig("kfold", k=5), r"BACTERIA has 3 patients .* 3 of 5 folds have no image of it"),
        (SplitConfig("official"), r"BACTERIA has 3 patients \(train 2, val 1\), with 3 images\. They are too few"),
    ],
    ids=["grouped", "kfold", "official"],
)
def test_rare_class_is_warned_of_with_its_counts(config, message, capsys):
    load_split(RARE, config)
    assert re.search(message, capsys.readouterr().err)


def test_class_missing_from_a_subset_is_warned_of(capsys):
    load_split(_of_sizes(NORMAL=[1] * 20, VIRUS=[1] * 20, BACTERIA=[1, 1]), SplitConfig())
    assert "(train 1, val 1, test 0)" in (err := capsys.readouterr().err)
    assert "Metrics that need all classes are undefined on test." in err
    load_split(_manifest(), SplitConfig())
    assert "patients" not in capsys.readouterr().err


def test_too_few_patients_are_counted_by_class():
    with pytest.raises(SplitError, match=r"needs a class with 3 patients or more; the data have NORMAL 2, BACTERIA 2"):
        make_split(_of_sizes(NORMAL=[1, 1], BACTERIA=[1, 5]), _config("grouped"))


@pytest.mark.parametrize(
    ("method", "settings_", "sha256"),
    [
        ("grouped", {}, "fc994b3fd949"),
        ("grouped", {"seed": 3}, "dfb93ed50242"),
        ("grouped", {"fraction": 0.25}, "1760dd2de7c9"),
        ("official", {}, "b9471212c6fe"),
        ("kfold", {"k": 5, "fold": 1}, "015431db610c"),
        ("kfold", {"k": 10, "holdout": "none"}, "c432c799080c"),
    ],
)
def test_splits_of_ordinary_data_stay_as_recorded(method, settings_, sha256):
    assert split_sha256(make_split(_manifest(300), SplitConfig(method, **settings_)))[:12] == sha256


def test_each_fold_validates_once_with_the_grouped_test_subset():
    manifest = _manifest(120)
    splits = [make_split(manifest, _config("kfold", 7, k=4, fold=fold)) for fold in range(4)]
    held_out = make_split(manifest, _config("grouped", 7))["subset"] == "test"
    times = sum((split["subset"] == "val").astype(int) for split in splits)
    assert (times == (~held_out).astype(int)).all()
    for split in splits:
        assert ((split["subset"] == "test") == held_out).all()
        assert (split["fold"] == splits[0]["fold"]).all()
    assert len({split_sha256(split) for split in splits}) == 4


def test_folds_are_balanced_as_well_as_scikit_learns():
    manifest = _manifest(300)
    group, label = groups(manifest), manifest["label"].to_numpy()

    def imbalance(fold_of: np.ndarray) -> float:
        shares = pd.crosstab(fold_of, label, normalize="index")
        return float(shares.std().max())

    worst = []
    for seed in range(5):
        reference = np.empty(len(manifest), dtype=int)
        dealer = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(label, label, group)
        for number, (_, rows) in enumerate(dealer):
            reference[rows] = number
        worst.append(imbalance(reference))
    ours = make_split(manifest, _config("kfold", 0, holdout="none"))["fold"].to_numpy()
    assert imbalance(ours) <= max(worst)


def test_smaller_fraction_is_within_a_larger_one():
    manifest = _manifest(300)
    whole = make_split(manifest, _config("grouped"))
    before: set[str] = set()
    for fraction in (0.01, 0.1, 0.25, 0.5, 1.0):
        split = make_split(manifest, _config("grouped", fraction=fraction))
        for subset in ("val", "test"):
            assert ((split["subset"] == subset) == (whole["subset"] == subset)).all()
        rows = split["subset"] == "train"
        assert abs(rows.sum() / (whole["subset"] == "train").sum() - fraction) < 0.03
        assert set(manifest["label"][rows]) == set(LABELS)
        assert before <= set(split["image_id"][rows])
        before = set(split["image_id"][rows])


def test_rotating_folds_match_the_study_and_all_images_leak():
    manifest = _manifest(90)
    split = make_split(manifest, _config("rotating", k=10))
    assert ((split["subset"] == "test") == (make_split(manifest, _config("random"))["subset"] == "test")).all()
    sizes = split.loc[split["fold"] >= 0, "fold"].value_counts()
    assert sizes.max() - sizes.min() <= len(LABELS)
    leak = find_leaks(manifest, split, rotating=True)[0]
    assert (leak.subset, leak.images, leak.fraction) == ("val", sizes[0], 1.0)


@pytest.mark.parametrize("method", ["random", "rotating", "given"])
def test_what_leaks_without_being_named_leaky_is_refused(method):
    manifest = _manifest()
    manifest.loc[::3, "source_split"] = "val"
    with pytest.raises(SplitLeakageError, match=r"are in more than one subset.*split.leaky=true"):
        make_split(manifest, SplitConfig(method))
    assert find_leaks(manifest, make_split(manifest, SplitConfig(method, leaky=True)), rotating=method == "rotating")


def test_copies_of_the_official_test_folder_are_not_trained_on():
    manifest = _manifest()
    test = manifest.index[manifest["source_split"] == "test"][0]
    train = manifest.index[manifest["source_split"] == "train"][0]
    manifest.loc[train, "sha256"] = manifest.loc[test, "sha256"]
    split = make_split(manifest, _config("official"))
    same_child = manifest["patient_id"] == manifest["patient_id"][train]
    assert (split["subset"][same_child] == "unused").all()
    assert find_leaks(manifest, split) == []


def test_split_file_is_read_for_any_fold_and_order(tmp_path):
    manifest = _manifest()
    path = write_split(make_split(manifest, _config("kfold")), tmp_path)
    assert path.name == f"split-{split_sha256(make_split(manifest, _config('kfold')))[:12]}.parquet"
    shuffled = manifest.sample(frac=1, random_state=0, ignore_index=True)
    for fold in (0, 3):
        read = load_split(shuffled, _config("kfold", fold=fold, file=str(path)))
        assert read["image_id"].tolist() == shuffled["image_id"].tolist()
        assert split_sha256(read) == split_sha256(make_split(manifest, _config("kfold", fold=fold)))
    with pytest.raises(ConfigError, match=r"split.fold=5 is no fold of .*which has 5"):
        load_split(manifest, _config("kfold", fold=5, file=str(path)))


def test_kept_split_that_leaks_is_refused_at_load(tmp_path):
    manifest = _manifest()
    path = write_split(make_split(manifest, _config("random")), tmp_path)
    with pytest.raises(SplitLeakageError, match="are in more than one subset"):
        load_split(manifest, SplitConfig("given", file=str(path)))
    assert len(load_split(manifest, SplitConfig("given", file=str(path), leaky=True))) == len(manifest)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda split: split.drop(columns="subset"), "is not a split file"),
        (lambda split: split.assign(subset="exam"), "unknown subsets: exam"),
        (lambda split: split.iloc[1:], "1 images of the data are not in it, for example NORMAL-0-0"),
        (lambda split: pd.concat([split, split.iloc[:2]]), "2 images occur twice"),
        (lambda split: split.assign(image_id=split["image_id"] + "x"), "of its images are not in the data"),
    ],
)
def test_split_file_that_does_not_fit_says_how(damage, message, tmp_path):
    manifest = _manifest()
    damage(make_split(manifest, _config("grouped"))).to_parquet(tmp_path / "split.parquet")
    with pytest.raises(ManifestError, match=message):
        read_split(tmp_path / "split.parquet", manifest)


def test_split_file_that_is_none_is_named(tmp_path):
    with pytest.raises(ManifestError, match="There is no split file"):
        read_split(tmp_path / "none.parquet", _manifest())
    (tmp_path / "text.parquet").write_text("subset")
    with pytest.raises(ManifestError, match="is not a split file"):
        read_split(tmp_path / "text.parquet", _manifest())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"method": "kfold", "fold": 5}, ConfigError, "the folds are 0 to 4"),
        (
            {"method": "kfold", "k": 40},
            SplitError,
            "needs 40 patients or more of one class.*NORMAL 26.*a smaller split.k",
        ),
        ({"method": "rotating", "fraction": 0.5, "leaky": True}, ConfigError, "does not go with split=rotating"),
        ({"method": "rotating", "k": 500, "leaky": True}, SplitError, "needs 500 images or more in each class"),
    ],
)
def test_settings_that_can_not_be_met_are_named(settings, error, message):
    with pytest.raises(error, match=message):
        make_split(_manifest(), SplitConfig(**settings))


def test_holding_out_a_missing_test_folder_is_refused():
    manifest = _manifest()
    manifest["source_split"] = ""
    with pytest.raises(SplitError, match="holdout=folder needs the release's folder test"):
        make_split(manifest, _config("kfold", holdout="folder"))
