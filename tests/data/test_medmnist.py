"""Test that PneumoniaMNIST files keep every pixel, and that other files are refused by name."""

import io
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from builders import make_zip, medmnist

from pneumonia.data.sources import medmnist as module
from pneumonia.data.sources.medmnist import unpack_medmnist
from pneumonia.errors import ArchiveError


def read_back(folder: Path, subset: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels of a subset, in the order of their numbers."""
    files = sorted((folder / subset).rglob("*.png"), key=lambda path: path.name)
    pixels = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in files]
    return np.stack(pixels), np.array([path.parent.name == "PNEUMONIA" for path in files])


@pytest.mark.parametrize("side", [28, 64, 128, 224])
def test_every_pixel_and_label_survives(side, tmp_path):
    path = medmnist(tmp_path / "x.npz", side)
    folder = unpack_medmnist(path, tmp_path / "cache")
    with np.load(path) as arrays:
        for subset in ("train", "val", "test"):
            images, labels = read_back(folder, subset)
            assert images.dtype == np.uint8
            assert np.array_equal(images, arrays[f"{subset}_images"])
            assert np.array_equal(labels, arrays[f"{subset}_labels"].ravel() == 1)


def test_trailing_axis_and_flat_labels_give_equal_data(tmp_path):
    plain = medmnist(tmp_path / "plain.npz")
    with np.load(plain) as arrays:
        other = {name: value[..., None] if "images" in name else value.ravel().astype(np.int64) for name, value in arrays.items()}
    np.savez(tmp_path / "other.npz", **other)
    one, two = unpack_medmnist(plain, tmp_path / "cache"), unpack_medmnist(tmp_path / "other.npz", tmp_path / "cache")
    for subset in ("train", "val", "test"):
        assert all(np.array_equal(a, b) for a, b in zip(read_back(one, subset), read_back(two, subset), strict=True))


def test_missing_subsets_are_accepted(tmp_path):
    path = medmnist(tmp_path / "x.npz", counts={"test": 5})
    folder = unpack_medmnist(path, tmp_path / "cache")
    assert sorted(entry.name for entry in folder.iterdir()) == ["test"]
    assert len(read_back(folder, "test")[0]) == 5


def test_it_is_unpacked_once(tmp_path):
    path = medmnist(tmp_path / "x.npz")
    folder = unpack_medmnist(path, tmp_path / "cache")
    (folder / "mark").touch()
    assert (unpack_medmnist(path, tmp_path / "cache") / "mark").exists()


GREY = np.zeros((12, 28, 28), dtype=np.uint8)
WRONG = {
    "no array of ours": ({"counts": {}, "x": np.zeros(3)}, r"it holds x; expected are train_images, train_labels"),
    "labels missing": ({"train_labels": None}, "it holds train_images without train_labels"),
    "images missing": ({"val_images": None}, "it holds val_labels without val_images"),
    "colour": (
        {"train_images": np.zeros((12, 28, 28, 3), np.uint8)},
        r"train_images is uint8 of shape \(12, 28, 28, 3\)",
    ),
    "volumes": ({"train_images": np.zeros((12, 28, 28, 28), np.uint8)}, r"of shape \(12, 28, 28, 28\)"),
    "another side": ({"train_images": np.zeros((12, 30, 30), np.uint8)}, r"with S one of 28, 64, 128, 224"),
    "not square": ({"train_images": np.zeros((12, 28, 64), np.uint8)}, r"of shape \(12, 28, 64\)"),
    "floats": ({"train_images": GREY.astype(np.float32)}, "train_images is float32"),
    "a scalar": ({"train_images": np.uint8(3)}, r"of shape \(\)"),
    "fewer labels": ({"train_labels": np.zeros((11, 1), np.uint8)}, "train has 12 images and 11 labels"),
    "many labels each": ({"train_labels": np.zeros((12, 14), np.uint8)}, r"train_labels is uint8 of shape \(12, 14\)"),
    "labels of text": ({"train_labels": np.array(["a"] * 12)}, "train_labels is <U1"),
    "fractions": ({"train_labels": np.zeros((12, 1))}, "train_labels is float64"),
    "another task": (
        {"train_labels": np.arange(12)[:, None]},
        r"train_labels has the values 2, 3, 4, 5, 6 and 5 more beside 0",
    ),
    "negative": ({"train_labels": np.full((12, 1), -1)}, "has the values -1 beside"),
    "nothing in it": ({"counts": {"train": 0}}, "expected are train_images"),
}


@pytest.mark.parametrize("name", WRONG)
def test_arrays_that_are_not_pneumoniamnist_are_refused(name, tmp_path):
    arrays, message = WRONG[name]
    path = medmnist(tmp_path / "x.npz", **arrays)
    with pytest.raises(ArchiveError, match=f"x.npz is no PneumoniaMNIST file: .*{message}"):
        unpack_medmnist(path, tmp_path / "cache")
    assert [entry.suffix for entry in (tmp_path / "cache" / "unpacked").iterdir()] == [".lock"]


class Bomb:
    """Deletes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.unlink, (self.path,)


@pytest.mark.parametrize("where", ["train_images", "train_labels", "extra"])
def test_pickled_objects_are_refused_and_never_run(where, tmp_path):
    witness = tmp_path / "witness"
    witness.touch()
    path = medmnist(tmp_path / "x.npz", **{where: np.array([Bomb(witness)] * 12, dtype=object)})
    with pytest.raises(ArchiveError, match=f"{where} holds pickled objects, which can run any program"):
        unpack_medmnist(path, tmp_path / "cache")
    assert witness.exists()
    with np.load(path, allow_pickle=True) as arrays:  # the bomb is live
        arrays[where]
    assert not witness.exists()


def header(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": kind, "fortran_order": False, "shape": shape})
    return out.getvalue()


def test_array_with_too_large_a_header_is_refused_before_allocation(tmp_path):
    files = {"train_images.npy": header((10**9, 224, 224)), "train_labels.npy": header((10**9, 1))}
    with pytest.raises(ArchiveError, match=r"train_images declares 50,176,000,000,000 bytes and has 0"):
        unpack_medmnist(make_zip(tmp_path / "x.npz", files), tmp_path / "cache")


def test_header_that_could_fill_the_memory_is_refused_unread(tmp_path):
    later = b"\x93NUMPY\x02\x00" + (2**32 - 1).to_bytes(4, "little") + b" " * 1000
    with pytest.raises(ArchiveError, match=r"train_images is an array of format \(2, 0\)"):
        unpack_medmnist(make_zip(tmp_path / "x.npz", {"train_images.npy": later}), tmp_path / "cache")


def test_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_IMAGES", 1000)
    files = {
        "train_images.npy": header((5000, 28, 28)) + bytes(5000 * 28 * 28),
        "train_labels.npy": header((5000,)) + bytes(5000),
    }
    with pytest.raises(ArchiveError, match=r"train has 5,000 images, and PneumoniaMNIST has 5,856 in all \(a zip bomb"):
        unpack_medmnist(make_zip(tmp_path / "x.npz", files), tmp_path / "cache")


def test_truncated_or_flipped_file_is_refused(tmp_path):
    sound = medmnist(tmp_path / "sound.npz").read_bytes()
    for cut in (0, 3, 500, len(sound) // 2, len(sound) - 10):
        (tmp_path / "x.npz").write_bytes(sound[:cut])
        with pytest.raises(ArchiveError, match=r"is damaged or no \.npz file"):
            unpack_medmnist(tmp_path / "x.npz", tmp_path / "cache")
    with zipfile.ZipFile(tmp_path / "sound.npz") as file:
        begins = file.getinfo("train_images.npy").header_offset
    flipped = bytearray(sound)
    flipped[begins + 3000] ^= 0xFF  # inside the pixels
    (tmp_path / "x.npz").write_bytes(flipped)
    with pytest.raises(ArchiveError, match=r"is damaged or no \.npz file"):
        unpack_medmnist(tmp_path / "x.npz", tmp_path / "cache")


def test_text_file_or_bare_array_is_refused(tmp_path):
    np.save(tmp_path / "bare.npy", GREY)
    (tmp_path / "bare.npy").rename(tmp_path / "x.npz")
    with pytest.raises(ArchiveError, match=r"is damaged or no \.npz file"):
        unpack_medmnist(tmp_path / "x.npz", tmp_path / "cache")
    make_zip(tmp_path / "x.npz", {"train_images.npy": b"text", "a.txt": b"more"})
    with pytest.raises(ArchiveError, match=r"is damaged or no \.npz file"):
        unpack_medmnist(tmp_path / "x.npz", tmp_path / "cache")
