"""Test that a manifest is validated, and that one decoding serves the manifest and the cache."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pneumonia.data import cache as cache_module
from pneumonia.data.cache import Shape, load_cache
from pneumonia.data.duplicates import near_pairs
from pneumonia.data.manifest import COLUMNS, load_manifest, manifest_sha256, write_manifest
from pneumonia.errors import ManifestError


@pytest.fixture
def manifest(phantoms, tmp_path) -> pd.DataFrame:
    return load_manifest(phantoms, tmp_path / "cache")


def test_kept_manifest_is_read_back_as_it_was(manifest, tmp_path):
    write_manifest(manifest, tmp_path / "manifest.parquet")
    read = load_manifest(tmp_path / "manifest.parquet", tmp_path / "elsewhere")
    pd.testing.assert_frame_equal(read, manifest)
    assert manifest_sha256(read) == manifest_sha256(manifest)


@pytest.mark.parametrize("size", [24, 75, 76, 160])
@pytest.mark.parametrize("resize", ["stretch", "pad"])
def test_manifest_does_not_depend_on_the_decoded_size(size, resize, manifest, phantoms, tmp_path):
    other = load_manifest(phantoms, tmp_path / "other", shape=Shape(size, resize))
    pd.testing.assert_frame_equal(other, manifest)


def test_each_file_is_read_once_for_manifest_and_cache(phantoms, tmp_path, monkeypatch):
    read: list[str] = []
    plain = cache_module.read_image_file
    monkeypatch.setattr(cache_module, "read_image_file", lambda path: read.append(path) or plain(path))
    manifest = load_manifest(phantoms, tmp_path, shape=Shape(32))
    load_cache(manifest, 32, "stretch", tmp_path)
    assert sorted(read) == sorted(manifest["path"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda table: table.drop(columns=["phash", "label"]), "lacks the columns label, phash"),
        (lambda table: table.iloc[:0], "holds no image"),
        (lambda table: pd.concat([table, table.iloc[:1]]), "names 1 images twice"),
        (lambda table: table.assign(path=table["path"] + ".moved"), r"\d+ of \d+ images of .* are gone"),
    ],
)
def test_manifest_that_can_not_be_used_says_why(damage, message, manifest, tmp_path):
    damage(manifest).to_parquet(tmp_path / "manifest.parquet")
    with pytest.raises(ManifestError, match=message):
        load_manifest(tmp_path / "manifest.parquet", tmp_path)


CELLS = {
    "a width that is no number": ("width", float("nan"), r"width: 1 of \d+, for example nan in row 1"),
    "a width below zero": ("width", -5, r"width: 1 of \d+, for example -5 in row 1"),
    "a huge height": ("height", 1e300, "height: 1 of"),
    "half a byte": ("bytes", 10.5, r"bytes: 1 of \d+, for example 10\.5 in row 1"),
    "a height in words": ("height", "tall", r"height: (\d+) of \1, for example .tall. in row 0"),
    "no path": ("path", None, "path: 1 of .* nan in row 1"),
    "an empty path": ("path", "", "path: 1 of"),
    "a path that is a number": ("path", 7, r"path: (\d+) of \1, for example 7 in row 0"),
    "a name with a control character": ("image_id", "a\x1b[31m", r"image_id: 1 of .*x1b\[31m"),
    "no patient": ("patient_id", None, "patient_id: 1 of"),
    "no label": ("label", "", "label: 1 of"),
    "a digest that is none": ("sha256", "abc", "sha256: 1 of"),
    "a perceptual hash that is none": ("phash", "xyz", "phash: 1 of"),
    "no problem": ("problem", None, "problem: 1 of"),
}


@pytest.mark.parametrize("name", CELLS)
def test_invalid_manifest_cell_is_named_by_column_and_row(name, manifest, tmp_path):
    column, value, message = CELLS[name]
    cells = manifest[column].tolist()
    # A Parquet column has one type: a cell of another one makes the column that of all cells.
    same = isinstance(value, type(cells[0])) or value is None or isinstance(value, float)
    changed = manifest.assign(**{column: [*cells[:1], value, *cells[2:]] if same else [value] * len(cells)})
    changed.to_parquet(tmp_path / "manifest.parquet")
    with pytest.raises(ManifestError, match=message):
        load_manifest(tmp_path / "manifest.parquet", tmp_path)


def test_file_that_is_no_manifest_is_refused(tmp_path):
    with pytest.raises(ManifestError, match=r"There is no manifest .*pneumonia data import"):
        load_manifest(tmp_path / "none.parquet", tmp_path)
    (tmp_path / "text.parquet").write_text("image_id,label\n")
    with pytest.raises(ManifestError, match="is no parquet file"):
        load_manifest(tmp_path / "text.parquet", tmp_path)


def test_file_changed_after_import_is_found_on_decoding(phantoms, tmp_path):
    root = tmp_path / "NORMAL"
    root.mkdir()
    for path in sorted(phantoms.rglob("IM-*.jpeg"))[:5]:
        (root / path.name).write_bytes(path.read_bytes())
    manifest = load_manifest(tmp_path, tmp_path / "cache")
    changed = Path(manifest["path"][2])
    Image.fromarray(np.zeros((60, 60), np.uint8)).save(changed)
    with pytest.raises(ManifestError, match=f"1 files are gone or hold other bytes .*{changed.name}"):
        load_cache(manifest, 48, "stretch", tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.npy"))


def test_columns_are_those_that_other_programs_read(manifest):
    promised = "image_id path label patient_id source_split width height mode bytes sha256".split()
    assert list(COLUMNS)[: len(promised)] == promised
    assert list(manifest.columns) == list(COLUMNS)


def test_different_phantoms_are_not_taken_for_copies(manifest):
    pairs = near_pairs(manifest["phash"])
    same_patient = manifest["patient_id"].to_numpy()[pairs["first"]] == manifest["patient_id"].to_numpy()[pairs["second"]]
    assert same_patient.all()
