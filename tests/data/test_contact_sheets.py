"""Test that contact sheets show the images that they name, and augmentation as in training."""

import io
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pneumonia.cli import main
from pneumonia.cli.data.show import _strengths
from pneumonia.config.schema import AugmentationConfig
from pneumonia.data.audit.contact_sheets import GAP, by_class, by_draw, by_subset, chosen, grid
from pneumonia.data.augmentation.augmenter import Augmenter

SIDE = 64
STEP = SIDE + GAP


@pytest.fixture
def manifest() -> pd.DataFrame:
    """Return 30 images of 10 patients; classes are in no order, and one is unknown."""
    label = np.tile(["VIRUS", "ZEBRA", "NORMAL"], 10)
    subset = np.repeat(["train", "test", ""], 10)
    return pd.DataFrame({"label": label, "source_split": subset, "patient_id": [f"{n // 3}" for n in range(30)]})


@pytest.fixture
def pixels(manifest) -> np.ndarray:
    """Return images that each have their own grey level, from 60 to 89, and a darker corner."""
    squares = np.broadcast_to(np.arange(60, 90, dtype=np.uint8)[:, None, None], (30, SIDE, SIDE)).copy()
    squares[:, : SIDE // 2, : SIDE // 2] -= 30
    return squares


def _cells(sheet: Image.Image, rows: int, columns: int) -> np.ndarray:
    """Return the pictures of a full sheet: ``(rows, columns, SIDE, SIDE)``."""
    page = np.asarray(sheet.convert("L"))
    top, left = page.shape[0] - rows * STEP, page.shape[1] - columns * STEP
    spots = [[(top + r * STEP, left + c * STEP) for c in range(columns)] for r in range(rows)]
    return np.array([[page[y : y + SIDE, x : x + SIDE] for y, x in row] for row in spots])


def _sources(cells: np.ndarray) -> np.ndarray:
    """Return the index of the image of each picture, by its grey level."""
    return cells[..., -1, -1].astype(int) - 60


def test_pictures_are_on_the_sheet_unchanged_beside_their_name(pixels):
    sheet = grid([list(pixels[:4]), list(pixels[4:6])], ["first row", "second"], "A title", ["one", "two"])
    cells = _cells(sheet, 2, 4)
    assert np.array_equal(cells[0], pixels[:4])
    assert np.array_equal(cells[1, :2], pixels[4:6])
    assert (cells[1, 2:] == 255).all(), "a shorter row ends in paper"
    page = np.asarray(sheet.convert("L"))
    names = page[-2 * STEP :, : page.shape[1] - 4 * STEP]
    for line in (names[:STEP], names[STEP:]):
        ink = line < 100
        assert 5 <= np.flatnonzero(ink.any(axis=1)).size <= 16, "one line of letters"
        assert ink.sum() > 60
    assert (page[: -2 * STEP] < 100).sum() > 150, "title and headings"


def test_long_title_widens_the_sheet(pixels):
    title = "A title that is far longer than one small picture could be"
    page = np.asarray(grid([[pixels[0]]], ["x"], title).convert("L"))
    assert (page[:, -2:] == 255).all(), "no letter is cut off"
    assert page.shape[1] > 300


def test_examples_cover_many_patients_and_repeat_by_seed(manifest):
    rows = np.arange(30)
    first = chosen(manifest, rows, 10, 0)
    assert len(set(manifest["patient_id"].to_numpy()[first])) == 10
    assert np.array_equal(first, chosen(manifest, rows, 10, 0))
    assert not np.array_equal(first, chosen(manifest, rows, 10, 1))
    assert sorted(chosen(manifest, rows, 99, 0)) == list(range(30)), "no image comes twice"


def test_each_row_of_the_classes_holds_images_of_its_class(manifest, pixels):
    found = _sources(_cells(by_class(manifest, pixels, 5, 0), 3, 5))
    labels = manifest["label"].to_numpy()[found]
    assert (labels == np.array([["NORMAL"], ["VIRUS"], ["ZEBRA"]])).all(), "the study's order, then others"
    assert all(len(set(row)) == 5 for row in found)


def test_each_row_holds_images_of_its_class_and_subset(manifest, pixels):
    subset = manifest["source_split"].to_numpy(dtype=object)
    found = _sources(_cells(by_subset(manifest, pixels, subset, 3, 0), 9, 3))
    assert manifest["label"].to_numpy()[found[:, 0]].tolist() == ["NORMAL"] * 3 + ["VIRUS"] * 3 + ["ZEBRA"] * 3
    assert (subset[found] == np.array([["train"], ["test"], [""]] * 3)).all()


def test_draws_are_those_of_training_beside_the_original(manifest, pixels):
    strengths = AugmentationConfig(flip=0.5, rotate_deg=10, brightness=0.1)
    cells = _cells(by_draw(manifest, pixels, strengths, "mine", 6, 4, seed=3), 6, 5)
    rows = _sources(cells[:, 0])
    assert np.array_equal(cells[:, 0], pixels[rows])
    assert sorted(manifest["label"].to_numpy()[rows]) == ["NORMAL"] * 2 + ["VIRUS"] * 2 + ["ZEBRA"] * 2
    changes = Augmenter(strengths)
    for epoch in range(4):
        assert np.array_equal(cells[:, 1 + epoch], changes(pixels[rows], 3, epoch, rows))
    assert not np.array_equal(cells[:, 1], cells[:, 2])


def test_without_augmentation_every_draw_is_the_original(manifest, pixels):
    cells = _cells(by_draw(manifest, pixels, AugmentationConfig(), "none", 2, 3, 0), 2, 4)
    assert all(np.array_equal(cells[:, 0], cells[:, number]) for number in (1, 2, 3))


def test_strengths_are_merged_as_training_merges_them(compose):
    for name in ("none", "normal", "high", "clinical"):
        assert _strengths(name) == compose(f"augmentation={name}").augmentation
    assert _strengths("high").rotate_deg == 100
    assert _strengths("high").noise == 0


def _show(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pneumonia", "data", "show", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    printed = capsys.readouterr()
    return stop.value.code, printed.out, printed.err


def test_command_writes_sheets_that_other_programs_open(phantoms, tmp_path, cache_dir, monkeypatch, capsys):
    arguments = [phantoms, "--out", tmp_path, "--images", 3, "--draws", 2, "--size", 48, "--cache-dir", cache_dir]
    code, out, _ = _show([*arguments, "--augmentation", "high"], monkeypatch, capsys)
    assert code == 0
    assert [Path(line).name for line in out.split()] == ["classes.png", "subsets.png", "augmentation-high.png"]
    for line in out.split():
        with Image.open(line) as sheet:
            assert sheet.format == "PNG"
            assert sheet.width >= 3 * (48 + GAP)
    first = (tmp_path / "augmentation-high.png").read_bytes()
    _show([*arguments, "--augmentation", "high"], monkeypatch, capsys)
    assert (tmp_path / "augmentation-high.png").read_bytes() == first
    _show([*arguments, "--augmentation", "high", "--seed", 1], monkeypatch, capsys)
    assert (tmp_path / "augmentation-high.png").read_bytes() != first


def test_data_without_subsets_have_no_subset_sheet(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for name in (
        "NORMAL/IM-0001-0001",
        "NORMAL/IM-0002-0001",
        "PNEUMONIA/person1_virus_1",
        "PNEUMONIA/person2_virus_2",
    ):
        path = tmp_path / "data" / f"{name}.jpeg"
        path.parent.mkdir(parents=True, exist_ok=True)
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (40, 40)).astype(np.uint8)).save(out, "JPEG")
        path.write_bytes(out.getvalue() if "0002" not in name else b"broken")
    arguments = [tmp_path / "data", "--out", tmp_path / "sheets", "--images", 2, "--cache-dir", tmp_path / "cache"]
    code, out, err = _show(arguments, monkeypatch, capsys)
    assert code == 2
    assert out == ""
    assert "IM-0002-0001" in err
    assert "--on-bad-image skip" in err
    assert not (tmp_path / "sheets").exists()
    code, out, err = _show([*arguments, "--on-bad-image", "skip"], monkeypatch, capsys)
    assert code == 0
    assert [Path(line).name for line in out.split()] == ["classes.png", "augmentation-normal.png"]
    assert "left out" in err


def test_too_large_sheet_is_refused_before_reading_images(tmp_path, monkeypatch, capsys):
    arguments = ["/no/such/data", "--images", 100, "--draws", 100, "--size", 1024, "--out", tmp_path / "sheets"]
    code, _, err = _show(arguments, monkeypatch, capsys)
    assert code == 2
    assert "--images 100, --draws 100 and --size 1024 make a picture of up to" in err
    assert not (tmp_path / "sheets").exists()
