"""An audit finds what is planted, and nothing where nothing is."""

import io
import json
import re
import sys
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from pneumonia.cli import main
from pneumonia.data.audit import audit, copies
from pneumonia.data.audit_page import page
from pneumonia.data.baselines import cross_validated, forest, linear, metadata_features, thumbnail_features
from pneumonia.data.cache import load_cache
from pneumonia.data.manifest import load_manifest


@pytest.fixture(scope="module")
def data(phantoms, cache_dir):
    manifest = load_manifest(phantoms, cache_dir)
    return manifest, load_cache(manifest, 48, "squash", cache_dir).pixels


@pytest.fixture
def tree(phantoms, tmp_path) -> Path:
    """The phantoms again, to be spoilt: train and test of the release."""
    root = tmp_path / "data"
    for path in phantoms.rglob("*.jpeg"):
        part = "test" if "test" in path.parts else "train"
        target = root / part / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return root


def _run(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pneumonia", "data", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr()
    return stop.value.code, said.out, said.err


def _audit(root, tmp_path, cache_dir, monkeypatch, capsys, *words):
    words = ["audit", root, *words, "--out", tmp_path / "audit", "--cache-dir", cache_dir]
    return _run(words, monkeypatch, capsys)


def test_clean_phantoms_have_no_leak_and_their_counts_are_right(data):
    manifest, pixels = data
    found = audit(manifest, pixels)
    assert found["leaks"] == []
    assert found["images"] == len(manifest)
    assert found["patients"] == manifest["patient_id"].nunique()
    assert found["duplicates"]["exact_groups"] == 0
    assert sum(part["images"] for part in found["parts"].values()) == len(manifest)
    json.dumps(found, allow_nan=False)
    again = audit(manifest, pixels)
    assert again == found, "the same data give the same figures, to the last digit"


def test_a_patient_in_two_folders_ends_with_exit_code_1_and_is_named(tree, tmp_path, cache_dir, monkeypatch, capsys):
    assert _audit(tree, tmp_path, cache_dir, monkeypatch, capsys)[0] == 0
    child = sorted((tree / "train" / "NORMAL").glob("*.jpeg"))[0]
    number = re.fullmatch(r"(.*)-(\d+)", child.stem)
    (tree / "test" / "NORMAL" / f"{number[1]}-9999.jpeg").write_bytes(
        sorted((tree / "test" / "NORMAL").glob("*.jpeg"))[0].read_bytes()[:-2] + b"\xff\xd9"
    )
    code, out, said = _audit(tree, tmp_path, cache_dir, monkeypatch, capsys)
    assert code == 1
    assert "LEAK" in said
    found = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert found["leaks"][0]["parts"] == ["train", "test"]
    assert found["leaks"][0]["patients"] == 1
    assert Path(out.strip()) == tmp_path / "audit" / "index.html"
    assert "LEAK" in (tmp_path / "audit" / "index.html").read_text()


def test_a_copy_saved_anew_under_another_name_is_found_across_parts_with_its_label_conflict(
    tree, tmp_path, cache_dir, monkeypatch, capsys
):
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
    theirs = {
        (names[a], names[b]) for a in range(len(names)) for b in range(a + 1, len(names)) if hashes[a] - hashes[b] <= 24
    }
    assert set(zip(found["first"], found["second"], strict=True)) == theirs
    assert len(theirs) == 6


def test_a_planted_shortcut_is_found_and_without_one_files_say_nothing():
    rng = np.random.default_rng(0)
    label = np.repeat(["NORMAL", "VIRUS"], 150)
    table = pd.DataFrame({"width": 200, "height": 150, "bytes": rng.integers(5000, 9000, 300), "mode": "L"})
    group = np.arange(300) // 2
    chance = cross_validated(metadata_features(table), label, group, forest)
    assert chance["low"] - 0.06 < 0.5 < chance["high"] + 0.06
    table.loc[label == "VIRUS", "bytes"] += 6000
    betrayed = cross_validated(metadata_features(table), label, group, forest)
    assert betrayed["accuracy"] > 0.98
    table["bytes"], table["mode"] = 7000, np.where(label == "VIRUS", "RGB", "L")
    assert cross_validated(metadata_features(table), label, group, forest)["auroc"] > 0.98


def test_a_class_that_differs_in_grey_is_told_by_the_thumbnail():
    rng = np.random.default_rng(1)
    label = np.repeat(["NORMAL", "VIRUS"], 120)
    pixels = rng.integers(0, 180, (240, 32, 32)).astype(np.uint8)
    pixels[120:, :16, :16] += 40
    score = cross_validated(thumbnail_features(pixels), label, np.arange(240), linear)
    assert roc_auc_score(label == "VIRUS", pixels[:, :16, :16].mean(axis=(1, 2))) == 1
    assert score["auroc"] > 0.99
    assert score["accuracy"] > 0.95


def test_a_planted_shift_between_parts_is_found_and_its_absence_too(data):
    manifest, pixels = data
    half = pd.Series(np.where(pd.factorize(manifest["patient_id"])[0] % 2, "train", "test"))
    alike = audit(manifest, pixels, half)["shift"][0]
    assert 0.3 < alike["thumbnail"]["auroc"] < 0.7
    darker = np.where((half == "test").to_numpy()[:, None, None], pixels // 2, pixels)
    assert audit(manifest, darker, half)["shift"][0]["thumbnail"]["auroc"] > 0.95


def test_too_few_patients_are_a_reason_and_not_a_figure():
    score = cross_validated(np.zeros((6, 2)), np.array(["a", "a", "a", "b", "b", "b"]), np.arange(6), linear)
    assert "3 patients, and 5 are needed in each class" in score["reason"]
    assert score["accuracy"] is None


def test_a_hostile_name_can_not_write_into_the_page(data):
    manifest, pixels = data
    hostile = manifest.copy()
    hostile.loc[:, "image_id"] = [f'<script>alert({n})</script>" onload="x' for n in range(len(hostile))]
    hostile.loc[1, ["sha256", "phash"]] = hostile.loc[0, ["sha256", "phash"]].to_list()
    found = audit(hostile, pixels)
    text = page(found, hostile, pixels, "<b>source</b>")
    assert "<script" not in text
    assert 'onload="x' not in text
    assert "<b>source" not in text
    assert "&lt;script&gt;" in text
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", text), "nothing is fetched from elsewhere"


def test_a_leaky_split_is_audited_and_a_safe_one_is_clean(phantoms, tmp_path, cache_dir, monkeypatch, capsys):
    code, out, _ = _audit(phantoms, tmp_path, cache_dir, monkeypatch, capsys, "split=article", "--json")
    assert code == 1
    assert json.loads(out)["parts_from"] == "article"
    assert _audit(phantoms, tmp_path, cache_dir, monkeypatch, capsys, "split=grouped")[0] == 0
    code, out, _ = _run(
        ["split", phantoms, "split=article", "--out", tmp_path, f"cache_dir={cache_dir}"], monkeypatch, capsys
    )
    assert code == 0
    assert _audit(phantoms, tmp_path, cache_dir, monkeypatch, capsys, "--split", out.strip())[0] == 1


def test_broken_images_are_all_listed_and_nothing_is_written_or_they_are_left_out(
    tree, tmp_path, cache_dir, monkeypatch, capsys
):
    for name in ("IM-8001-0001", "IM-8002-0001"):
        (tree / "train" / "NORMAL" / f"{name}.jpeg").write_bytes(b"not an image")
    code, _, said = _audit(tree, tmp_path, cache_dir, monkeypatch, capsys)
    assert code == 2
    assert "IM-8001-0001" in said
    assert "IM-8002-0001" in said
    assert not (tmp_path / "audit").exists()
    code, _, _ = _audit(tree, tmp_path, cache_dir, monkeypatch, capsys, "--on-bad-image", "skip")
    assert code == 0
    assert len(json.loads((tmp_path / "audit" / "audit.json").read_text())["skipped"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["audit"], "the following arguments are required: SOURCE"),
        (["audit", "/no/such/folder"], "does not exist"),
        (["audit", "DATA", "split=groupd"], "split=groupd is not known.*'grouped'"),
        (["audit", "DATA", "--split", "/no/such.parquet"], "There is no split file"),
        (["audit", "DATA", "--split", "x", "split=grouped"], "Both --split FILE and split=METHOD"),
        (["audit", "DATA", "split.kk=3"], r"split\.kk=3 is not understood.*'split\.k'"),
        (["show", "DATA", "--augmentation", "hihg"], "augmentation=hihg is not known.*'high'"),
        (["show", "DATA", "--images", "0"], "--images 0 is out of range"),
        (["show", "DATA", "--draws", "many"], "invalid int value: 'many'"),
        (["auditt"], "there is no verb 'auditt'.*'audit'"),
    ],
)
def test_wrong_words_are_named(words, message, phantoms, tmp_path, cache_dir, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PNEUMONIA_CACHE", str(cache_dir))
    code, _, said = _run([phantoms if word == "DATA" else word for word in words], monkeypatch, capsys)
    assert code == 2
    assert re.search(message, said), said
    assert not list(tmp_path.iterdir())


def test_contact_sheets_hold_the_images_that_they_name(phantoms, tmp_path, cache_dir, monkeypatch, capsys):
    words = ["show", phantoms, "--out", tmp_path, "--images", 3, "--draws", 2, "--size", 48, "--cache-dir", cache_dir]
    code, out, _ = _run([*words, "--augmentation", "none"], monkeypatch, capsys)
    assert code == 0
    assert [Path(line).name for line in out.split()] == ["classes.png", "parts.png", "augmentation-none.png"]
    sheet = np.asarray(Image.open(tmp_path / "augmentation-none.png").convert("L")).astype(int)
    assert sheet.shape[1] >= 3 * 52
    left = sheet.shape[1] - 3 * 52
    first, second = (sheet[-52:-4, left + n * 52 : left + n * 52 + 48] for n in (0, 1))
    assert np.array_equal(first, second), "without augmentation every draw is the original"
    _run([*words, "--augmentation", "high"], monkeypatch, capsys)
    sheet = np.asarray(Image.open(tmp_path / "augmentation-high.png").convert("L")).astype(int)
    first, second, third = (sheet[-52:-4, left + n * 52 : left + n * 52 + 48] for n in (0, 1, 2))
    assert np.abs(first - second).mean() > 5
    assert np.abs(second - third).mean() > 5
