"""Test that an audit finds planted leaks, copies and shortcuts, and nothing in clean data."""

import base64
import io
import json
import re
import sys
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pneumonia.cli import main
from pneumonia.config.schema import SplitConfig
from pneumonia.data.audit.audit import BLOCK, PAIR, audit, copies, leaks, measured
from pneumonia.data.audit.findings import conclusion, likeness, remarks
from pneumonia.data.audit.records import Score
from pneumonia.data.cache import load_cache
from pneumonia.data.manifest import load_manifest, write_manifest
from pneumonia.data.splits.assign import make_split
from pneumonia.data.splits.leaks import find_leaks
from pneumonia.report.audit_page import audit_page


@pytest.fixture(scope="module")
def data(phantoms, cache_dir):
    manifest = load_manifest(phantoms, cache_dir)
    return manifest, load_cache(manifest, 48, "stretch", cache_dir).pixels


@pytest.fixture
def tree(phantoms, tmp_path) -> Path:
    """Copy the phantoms into folders train and test, to be modified."""
    root = tmp_path / "data"
    for path in phantoms.rglob("*.jpeg"):
        subset = "test" if "test" in path.parts else "train"
        target = root / subset / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return root


def _run(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pneumonia", "data", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    printed = capsys.readouterr()
    return stop.value.code, printed.out, printed.err


def _audit(root, tmp_path, cache_dir, monkeypatch, capsys, *arguments):
    arguments = ["audit", root, *arguments, "--out", tmp_path / "audit", "--cache-dir", cache_dir]
    return _run(arguments, monkeypatch, capsys)


def test_clean_phantoms_have_no_leak_and_their_counts_are_right(data):
    manifest, pixels = data
    found = audit(manifest, pixels)
    assert found.leaks == []
    assert found.images == len(manifest)
    assert found.patients == manifest["patient_id"].nunique()
    assert found.duplicates.exact_groups == 0
    assert sum(subset.images for subset in found.subsets.values()) == len(manifest)
    for counts in (found.patients_by_class, *(subset.classes for subset in found.subsets.values())):
        assert list(counts) == ["NORMAL", "VIRUS", "BACTERIA"], "in the order of the task"
    json.dumps(asdict(found), allow_nan=False)
    again = audit(manifest, pixels)
    assert again == found, "the same data give the same figures, to the last digit"


def test_patient_in_two_folders_gives_exit_code_1(tree, tmp_path, cache_dir, monkeypatch, capsys):
    assert _audit(tree, tmp_path, cache_dir, monkeypatch, capsys)[0] == 0
    child = sorted((tree / "train" / "NORMAL").glob("*.jpeg"))[0]
    number = re.fullmatch(r"(.*)-(\d+)", child.stem)
    (tree / "test" / "NORMAL" / f"{number[1]}-9999.jpeg").write_bytes(
        sorted((tree / "test" / "NORMAL").glob("*.jpeg"))[0].read_bytes()[:-2] + b"\xff\xd9"
    )
    code, out, err = _audit(tree, tmp_path, cache_dir, monkeypatch, capsys)
    assert code == 1
    assert "LEAK" in err
    found = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert found["leaks"][0]["subsets"] == ["train", "test"]
    assert found["leaks"][0]["patients"] == 1
    assert Path(out.strip()) == tmp_path / "audit" / "index.html"
    assert "LEAK" in (tmp_path / "audit" / "index.html").read_text()


def test_resaved_copy_is_found_across_subsets_with_its_label_conflict(tree, tmp_path, cache_dir, monkeypatch, capsys):
    source = sorted((tree / "train" / "NORMAL").glob("*.jpeg"))[3]
    image = Image.open(source).convert("L")
    image.resize((150, 140)).save(tree / "test" / "PNEUMONIA" / "person9999_virus_1.jpeg", quality=60)
    code, _, _ = _audit(tree, tmp_path, cache_dir, monkeypatch, capsys)
    assert code == 1
    pairs = pd.read_csv(tmp_path / "audit" / "pairs.csv")
    pair = pairs[pairs["second"].eq("person9999_virus_1") | pairs["first"].eq("person9999_virus_1")]
    assert len(pair) == 1
    assert pair["kind"].item() == "near"
    found = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert found["duplicates"]["label_conflicts"] == found["duplicates"]["across_patients"] == 1
    assert found["leaks"][0]["copies"] == 1


def test_pairs_agree_with_a_brute_force_search_by_another_library(tree, cache_dir, tmp_path):
    for number, path in enumerate(sorted((tree / "train" / "NORMAL").glob("*.jpeg"))[:6]):
        out = io.BytesIO()
        Image.open(path).convert("L").save(out, "JPEG", quality=35)
        (tree / "train" / "NORMAL" / f"IM-{9000 + number}-0001.jpeg").write_bytes(out.getvalue())
    manifest = load_manifest(tree, tmp_path / "cache")
    found = copies(manifest, manifest["source_split"].to_numpy(dtype=object))
    hashes = [imagehash.phash(Image.open(path).convert("L"), hash_size=16) for path in manifest["path"]]
    names = manifest["image_id"].tolist()
    theirs = {(names[a], names[b]) for a in range(len(names)) for b in range(a + 1, len(names)) if hashes[a] - hashes[b] <= 24}
    assert set(zip(found["first"], found["second"], strict=True)) == theirs
    assert len(theirs) == 6


def test_shift_between_subsets_is_found_only_where_planted(data):
    manifest, pixels = data
    half = pd.Series(np.where(pd.factorize(manifest["patient_id"])[0] % 2, "train", "test"))
    alike = audit(manifest, pixels, half).shift[0]
    assert 0.3 < alike.thumbnail.auroc < 0.7
    darker = np.where((half == "test").to_numpy()[:, None, None], pixels // 2, pixels)
    assert audit(manifest, darker, half).shift[0].thumbnail.auroc > 0.95


def test_hostile_name_can_not_write_into_the_page(data):
    manifest, pixels = data
    hostile = manifest.copy()
    hostile.loc[:, "image_id"] = [f'<script>alert({n})</script>" onload="x' for n in range(len(hostile))]
    hostile.loc[1, ["sha256", "phash"]] = hostile.loc[0, ["sha256", "phash"]].to_list()
    found = audit(hostile, pixels)
    text = audit_page(found, hostile, pixels, "<b>source</b>")
    assert "<script" not in text
    assert 'onload="x' not in text
    assert "<b>source" not in text
    assert "&lt;script&gt;" in text
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", text), "nothing is fetched from elsewhere"


def test_leaky_split_has_leaks_and_grouped_split_has_none(phantoms, tmp_path, cache_dir, monkeypatch, capsys):
    code, out, _ = _audit(phantoms, tmp_path, cache_dir, monkeypatch, capsys, "--method", "random", "--json")
    assert code == 1
    assert json.loads(out)["subsets_from"] == "random"
    assert _audit(phantoms, tmp_path, cache_dir, monkeypatch, capsys, "--method", "grouped")[0] == 0
    code, out, _ = _run(
        ["split", phantoms, "--method", "random", "--out", tmp_path, "--cache-dir", cache_dir], monkeypatch, capsys
    )
    assert code == 0
    assert _audit(phantoms, tmp_path, cache_dir, monkeypatch, capsys, "--split", out.strip())[0] == 1


def test_broken_images_are_listed_or_skipped(tree, tmp_path, cache_dir, monkeypatch, capsys):
    for name in ("IM-8001-0001", "IM-8002-0001"):
        (tree / "train" / "NORMAL" / f"{name}.jpeg").write_bytes(b"not an image")
    code, _, err = _audit(tree, tmp_path, cache_dir, monkeypatch, capsys)
    assert code == 2
    assert "IM-8001-0001" in err
    assert "IM-8002-0001" in err
    assert not (tmp_path / "audit").exists()
    code, _, _ = _audit(tree, tmp_path, cache_dir, monkeypatch, capsys, "--on-bad-image", "skip")
    assert code == 0
    assert len(json.loads((tmp_path / "audit" / "audit.json").read_text())["skipped"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["audit"], "Missing argument 'SOURCE'"),
        (["audit", "/no/such/folder"], "does not exist"),
        (["audit", "DATA", "--method", "groupd"], "split=groupd is not known.*'grouped'"),
        (["audit", "DATA", "--split", "/no/such.parquet"], "There is no split file"),
        (["audit", "DATA", "--split", "x", "--method", "grouped"], "--split FILE and --method .* exclude each other"),
        (["audit", "DATA", "split.kk=3"], r"split\.kk=3 is not an option.*'--k'"),
        (["audit", "DATA", "split=kfold"], r"Use --method kfold\."),
        (["show", "DATA", "--augmentation", "hihg"], "augmentation=hihg is not known.*'high'"),
        (["show", "DATA", "--images", "0"], "'--images': 0 is not in the range 1<=x<=100"),
        (["audit", "DATA", "--out", __file__], r"'--out': Directory '.*test_audit\.py' is a file"),
        (["show", "DATA", "--out", __file__], r"'--out': Directory '.*test_audit\.py' is a file"),
        (["show", "DATA", "--draws", "many"], "'--draws': 'many' is not a valid integer"),
        (["auditt"], "has no verb 'auditt'.*'audit'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, phantoms, tmp_path, cache_dir, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PNEUMONIA_CACHE", str(cache_dir))
    code, _, err = _run([phantoms if argument == "DATA" else argument for argument in arguments], monkeypatch, capsys)
    assert code == 2
    assert re.search(message, err), err
    assert not list(tmp_path.iterdir())


def _table(**columns):
    """Return a manifest with the given columns and defaults for others."""
    count = len(next(iter(columns.values())))
    plain = {"image_id": [f"image-{n}" for n in range(count)], "label": "NORMAL", "patient_id": "p", "phash": ""}
    plain |= {"sha256": [f"{n:064x}" for n in range(count)], "source_split": ""}
    return pd.DataFrame({**plain, **columns}, index=range(count))


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["train", "val", "test", "unused", ""])), min_size=1, max_size=14))
def test_leaks_equal_a_search_over_all_pairs(rows):
    group, subset = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], dtype=object)
    manifest = _table(patient_id=[f"p{number}" for number in group])
    found = leaks(manifest, subset, np.full(len(rows), -1), group, copies(manifest, subset))
    expected = {}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        both = [(g, {q for h, q in rows if h == g}) for g, _ in rows]
        shared = {g for g, subsets in both if {one, other} <= subsets}
        if shared:
            images = {name: sum(p == name and g in shared for g, p in rows) for name in (one, other)}
            expected[one, other] = (len(shared), images)
    assert {tuple(leak.subsets): (leak.groups, leak.images) for leak in found} == expected


def test_group_in_two_folds_is_a_leak():
    manifest = _table(patient_id=["a", "a", "b", "c", "d"])
    subset = np.array(["train", "train", "train", "val", "test"], dtype=object)
    found = leaks(manifest, subset, np.array([1, 2, 1, 0, -1]), np.array([0, 0, 1, 2, 3]), copies(manifest, subset))
    assert [leak.subsets for leak in found] == [("fold 1", "fold 2")]
    assert found[0].patients == 1
    assert found[0].share == {"fold 1": 0.5, "fold 2": 1.0}
    assert found[0].examples == ["a"]


def test_leaks_share_is_what_splitting_says_of_it(data):
    manifest, _ = data
    split = make_split(manifest, SplitConfig("random", leaky=True))
    subset = split["subset"].to_numpy(dtype=object)
    group = pd.factorize(manifest["patient_id"])[0]
    found = {
        tuple(leak.subsets): leak for leak in leaks(manifest, subset, split["fold"].to_numpy(), group, copies(manifest, subset))
    }
    for theirs in find_leaks(manifest, split, group):
        assert found["train", theirs.subset].images[theirs.subset] == theirs.images
        assert found["train", theirs.subset].share[theirs.subset] == theirs.fraction


def test_most_serious_pairs_come_first():
    same, sha256 = "ab" * 32, ["1" * 64] * 6
    labels, patients = ["NORMAL"] * 5 + ["VIRUS"], ["a", "a", "a", "a", "b", "c"]
    manifest = _table(patient_id=patients, label=labels, phash=[same] * 6, sha256=sha256)
    subset = np.array(["train", "train", "train", "val", "train", "train"], dtype=object)
    pairs = copies(manifest, subset)
    assert tuple(pairs.columns) == PAIR
    assert len(pairs) == 15
    kinds = [
        "label"
        if row.first_label != row.second_label
        else "subset"
        if row.first_subset != row.second_subset
        else "patient"
        if row.first_patient != row.second_patient
        else "copy"
        for row in pairs.itertuples()
    ]
    assert kinds == ["label"] * 5 + ["subset"] * 4 + ["patient"] * 3 + ["copy"] * 3


def test_unused_images_cannot_leak():
    same = "cd" * 32
    manifest = _table(patient_id=["a", "a", "b"], phash=[same] * 3, sha256=["2" * 64] * 3)
    subset = np.array(["train", "unused", ""], dtype=object)
    assert leaks(manifest, subset, np.full(3, -1), np.zeros(3, dtype=int), copies(manifest, subset)) == []


def test_brightness_contrast_and_quantisation_are_those_of_the_files(tmp_path):
    rng = np.random.default_rng(0)
    count = 2 * BLOCK + 3
    pixels = rng.integers(0, 256, (count, 4, 4)).astype(np.uint8)
    paths = [tmp_path / "a.jpeg", tmp_path / "b.jpeg", tmp_path / "c.png", tmp_path / "d.dcm"]
    image = Image.fromarray(rng.integers(0, 256, (32, 48)).astype(np.uint8))
    image.save(paths[0], quality=50)
    image.save(paths[1], quality=95)
    image.save(paths[2])
    paths[3].write_bytes(b"\0" * 128 + b"DICM")
    manifest = pd.DataFrame({"path": list(map(str, (paths * count)[:count])), "width": 48, "height": 32, "bytes": 7})
    values = measured(manifest, pixels)
    assert values["brightness"].tolist() == pytest.approx([float(square.mean()) for square in pixels])
    assert values["contrast"].tolist() == pytest.approx([float(square.std()) for square in pixels])
    assert (values["aspect"] == 1.5).all()
    # ITU-T T.81 (1992), table K.1, which quality 50 is: the sum of its 64 steps is 3688.
    assert values["quantisation"][0] == 3688 / 64
    assert values["quantisation"][1] < 10
    assert values["quantisation"][[2, 3]].isna().all()


def test_quantities_are_quantiles_by_class_in_class_order(data):
    manifest, pixels = data
    found = audit(manifest, pixels)
    assert list(found.quantities["bytes"]) == ["NORMAL", "VIRUS", "BACTERIA"]
    for label, points in found.quantities["bytes"].items():
        column = manifest["bytes"][manifest["label"] == label]
        assert points == pytest.approx(column.quantile([0.05, 0.25, 0.5, 0.75, 0.95]).tolist())
    assert sum(found.modes["VIRUS"].values()) == (manifest["label"] == "VIRUS").sum()


def test_only_an_assigned_split_is_scored_on_val(data):
    manifest, pixels = data
    split = make_split(manifest, SplitConfig("grouped"))
    found = audit(manifest, pixels, split["subset"], "grouped", split["fold"])
    score = found.baselines["thumbnail"]["pneumonia"]
    assert score.on_val.n == (split["subset"] == "val").sum()
    assert score.n == (split["subset"] != "test").sum()
    assert audit(manifest, pixels).baselines["thumbnail"]["pneumonia"].on_val is None


class _Balance(HTMLParser):
    """Check that every tag is closed, and collect the pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[dict[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.pictures.append(dict(attrs))
        elif tag not in {"meta", "br", "wbr", "rect", "path"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_shows_each_pair_and_is_self_contained(data):
    manifest, pixels = data
    changed = manifest.copy()
    changed.loc[[5, 9], ["sha256", "phash"]] = changed.loc[3, ["sha256", "phash"]].to_list()
    found = replace(audit(changed, pixels), skipped={"/data/<broken>.jpeg": "it is empty"})
    text = audit_page(found, changed, pixels, "data")
    shown = _Balance(text)
    assert shown.open == []
    assert len(text) < 3_000_000
    assert not re.search(r"https?://|<script|<link|@import", text)
    assert "/data/&lt;broken&gt;.jpeg: it is empty" in text
    assert conclusion(found)[1] in text
    for row in (3, 5, 9):
        picture = next(item for item in shown.pictures if item["alt"] == changed["image_id"][row])
        raw = base64.b64decode(picture["src"].removeprefix("data:image/jpeg;base64,"))
        assert np.abs(np.asarray(Image.open(io.BytesIO(raw))).astype(int) - pixels[row]).mean() < 4


def test_page_counts_the_pairs_that_it_does_not_show(data):
    manifest, pixels = data
    changed = manifest.copy()
    changed.loc[:11, "sha256"], changed.loc[:11, "phash"] = changed["sha256"][0], changed["phash"][0]
    found = audit(changed, pixels)
    assert found.duplicates.exact_pairs == 66
    assert "The 40 most serious of 66 pairs; all are in pairs.csv." in audit_page(found, changed, pixels, "data")
    fewer = replace(found, pairs=found.pairs[:50])
    assert "The 40 most serious of 66 pairs; the 50 most serious are in pairs.csv." in audit_page(fewer, changed, pixels, "data")


def test_remarks_explain_the_scores(data):
    manifest, pixels = data
    found = audit(manifest, pixels)
    clean = remarks(found)
    assert not any("files predict the class" in text or "two labels" in text for text in clean)
    table = manifest.copy()
    table.loc[table["label"] == "NORMAL", "width"] = 900
    shortcut = remarks(audit(table, pixels))
    assert any(re.search(r"files predict the class.*normal or pneumonia: accuracy 1\.000 against", text) for text in shortcut)
    conflict = manifest.copy()
    normal, virus = (int(np.flatnonzero(conflict["label"] == label)[0]) for label in ("NORMAL", "VIRUS"))
    conflict.loc[virus, ["sha256", "phash"]] = conflict.loc[normal, ["sha256", "phash"]].to_list()
    found = remarks(audit(conflict, pixels))
    assert re.search(r"Pairs of copies with two labels: 1,.*(\(NORMAL\).*\(VIRUS\)|\(VIRUS\).*\(NORMAL\))", found[0])
    assert "Pairs of copies under two patients: 1." in found[1]


@pytest.mark.parametrize(
    ("area", "low", "expected"),
    [
        (0.55, 0.48, "alike"),
        (0.55, 0.52, "almost alike"),
        (0.7, 0.6, "different"),
        (0.9, 0.8, "very different"),
        (1.0, None, "very different"),
    ],
)
def test_likeness_describes_the_shift(area, low, expected):
    assert likeness(Score(None, 9, auroc=area, auroc_low=low)) == expected
    assert likeness(Score("val has 15 patients", 9)) == "val has 15 patients"


def test_data_without_patients_are_not_called_free_of_leaks(data):
    manifest, pixels = data
    unknown = manifest.assign(patient_id="unknown-" + manifest["image_id"])
    found = audit(unknown, pixels)
    assert not found.patients_known
    assert conclusion(found)[1].endswith("The data name no patients: only copies of images could be found.")
    half = manifest.copy()
    half.loc[:9, "patient_id"] = unknown["patient_id"]
    found = audit(half, pixels)
    assert found.images_without_patient == 10
    assert any("Images that name no patient: 10." in text for text in remarks(found))


def test_paths_with_special_characters_are_read_literally(tree, tmp_path, cache_dir, monkeypatch, capsys):
    odd = tmp_path / "split=s, (a) [red]{b}"
    code, split, _ = _run(["split", tree, "--out", odd, "--cache-dir", cache_dir], monkeypatch, capsys)
    assert code == 0
    out = tmp_path / "[red]out"
    arguments = ["audit", tree, "--split", split.strip(), "--out", out, "--cache-dir", cache_dir]
    code, out_text, err = _run(arguments, monkeypatch, capsys)
    assert code == 0
    assert out_text.strip() == str(out / "index.html")
    assert f"Written: {out}/index.html" in err
    assert json.loads((out / "audit.json").read_text())["subsets_from"] == split.strip()


def test_audit_files_repeat_and_empty_pairs_have_a_header(tree, tmp_path, cache_dir, monkeypatch, capsys):
    _audit(tree, tmp_path, cache_dir, monkeypatch, capsys)
    first = {path.name: path.read_bytes() for path in (tmp_path / "audit").iterdir()}
    assert sorted(first) == ["audit.json", "index.html", "pairs.csv"]
    _audit(tree, tmp_path, cache_dir, monkeypatch, capsys)
    assert {path.name: path.read_bytes() for path in (tmp_path / "audit").iterdir()} == first
    assert pd.read_csv(tmp_path / "audit" / "pairs.csv").columns.tolist() == list(PAIR)


def test_manifest_is_audited_like_its_folder(tree, tmp_path, cache_dir, monkeypatch, capsys):
    _audit(tree, tmp_path, cache_dir, monkeypatch, capsys)
    folder = json.loads((tmp_path / "audit" / "audit.json").read_text())
    write_manifest(load_manifest(tree, cache_dir), tmp_path / "m.parquet")
    _audit(tmp_path / "m.parquet", tmp_path, cache_dir, monkeypatch, capsys)
    assert json.loads((tmp_path / "audit" / "audit.json").read_text()) == folder


def test_nothing_is_written_where_no_image_can_be_read(tmp_path, cache_dir, monkeypatch, capsys):
    for name in ("IM-0001-0001", "IM-0002-0001"):
        path = tmp_path / "data" / "NORMAL" / f"{name}.jpeg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not an image")
    code, out, err = _audit(tmp_path / "data", tmp_path, cache_dir, monkeypatch, capsys, "--on-bad-image", "skip")
    assert code == 2
    assert out == ""
    assert "BrokenImagesError: 2 images can't be read" in err
    assert "use --on-bad-image skip" in err
    assert not (tmp_path / "audit").exists()


@pytest.mark.real
def test_random_split_of_real_data_leaks_four_in_ten_images(real_xrays, tmp_path, cache_dir, monkeypatch, capsys):
    code, out, _ = _audit(real_xrays, tmp_path, cache_dir, monkeypatch, capsys, "--method", "random", "--json")
    assert code == 1
    found = json.loads(out)
    assert found["patients"] == 3669
    assert found["duplicates"]["exact_groups"] == 24
    shares = {leak["subsets"][1]: leak["share"][leak["subsets"][1]] for leak in found["leaks"] if leak["subsets"][0] == "train"}
    assert all(0.33 < share < 0.47 for share in shares.values())
    assert sorted(shares) == ["test", "val"]
