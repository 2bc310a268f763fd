import errno
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pneumonia.config import DataConfig
from pneumonia.data import cache as cache_module
from pneumonia.data.cache import load_cache
from pneumonia.data.datamodule import load_images
from pneumonia.data.images import decode
from pneumonia.data.manifest import COLUMNS, load_manifest, manifest_sha256
from pneumonia.errors import BrokenImagesError, StorageError


def _tree(root: Path, count: int = 3) -> Path:
    rng = np.random.default_rng(0)
    for number in range(count):
        for name in (
            f"NORMAL/IM-{number:04d}-0001",
            f"PNEUMONIA/person{number}_virus_1{number}",
            f"PNEUMONIA/person{number}_bacteria_2{number}",
        ):
            path = root / "train" / f"{name}.jpeg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (40, 50)).astype(np.uint8)).save(path)
    return root


def test_the_manifest_has_one_typed_row_per_image_and_its_hash_ignores_the_place(tmp_path):
    one, other = _tree(tmp_path / "one"), _tree(tmp_path / "other")
    manifest = load_manifest(one, tmp_path / "cache")
    assert list(manifest.columns) == list(COLUMNS)
    assert len(manifest) == 9
    assert set(zip(manifest["width"], manifest["height"], strict=True)) == {(50, 40)}
    assert manifest_sha256(manifest) == manifest_sha256(load_manifest(other, tmp_path / "cache"))
    path = Path(manifest["path"][0])
    Image.fromarray(np.zeros((40, 50), np.uint8)).save(path)
    assert manifest_sha256(load_manifest(one, tmp_path / "cache")) != manifest_sha256(manifest)


def test_the_cache_holds_what_decode_gives_and_a_later_run_decodes_nothing(tmp_path, monkeypatch):
    manifest = load_manifest(_tree(tmp_path / "x"), tmp_path / "cache")
    pixels = load_cache(manifest, 24, "squash", tmp_path / "cache").pixels
    assert pixels.shape == (9, 24, 24)
    assert isinstance(pixels, np.memmap)
    for row, path in enumerate(manifest["path"]):
        assert np.array_equal(pixels[row], decode(Path(path).read_bytes(), 24))

    def never(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(cache_module, "read_image", never)
    assert np.array_equal(load_cache(manifest, 24, "squash", tmp_path / "cache").pixels, pixels)
    with pytest.raises(AssertionError, match="decoded again"):
        load_cache(manifest, 24, "pad", tmp_path / "cache")


def _build(manifest: pd.DataFrame, where: Path, results) -> None:
    results.put(int(np.asarray(load_cache(manifest, 48, "squash", where).pixels, dtype=np.int64).sum()))


def test_two_processes_may_build_one_cache_at_once(tmp_path):
    manifest = load_manifest(_tree(tmp_path / "x", 60), tmp_path / "cache")
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=_build, args=(manifest, tmp_path / "cache", results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    sums = {results.get(timeout=120) for _ in workers}
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(sums) == 1
    assert not list((tmp_path / "cache").glob(".*part"))


def test_all_broken_images_are_listed_at_once_or_skipped_by_name(tmp_path):
    root = _tree(tmp_path / "x")
    (root / "train/NORMAL/IM-0000-0001.jpeg").write_bytes(b"")
    (root / "train/PNEUMONIA/person1_virus_11.jpeg").write_bytes(b"hello")
    whole = (root / "train/PNEUMONIA/person2_bacteria_22.jpeg").read_bytes()
    (root / "train/PNEUMONIA/person2_bacteria_22.jpeg").write_bytes(whole[: len(whole) // 2])
    data = DataConfig("folder", str(root))
    with pytest.raises(BrokenImagesError) as caught:
        load_images(data, 24, tmp_path / "cache")
    text = str(caught.value)
    assert "3 images can't be read" in text
    assert "IM-0000-0001.jpeg: empty file" in text
    assert "person1_virus_11.jpeg: not an image" in text
    assert "person2_bacteria_22.jpeg: broken or cut short" in text
    assert "data.on_bad_image=skip" in text
    images = load_images(DataConfig("folder", str(root), on_bad_image="skip"), 24, tmp_path / "cache")
    assert len(images.manifest) == 6
    assert len(images.skipped) == 3
    for row, path in zip(images.rows, images.manifest["path"], strict=True):
        assert np.array_equal(images.pixels[row], decode(Path(path).read_bytes(), 24))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk_leaves_nothing_half_written(code, tmp_path, monkeypatch):
    manifest = load_manifest(_tree(tmp_path / "x"), tmp_path / "cache")
    before = sorted((tmp_path / "cache").iterdir())

    def refuse(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match=r"Can't write .*\.npy: .*cache_dir=DIR"):
        load_cache(manifest, 24, "squash", tmp_path / "cache")
    left = [path for path in (tmp_path / "cache").iterdir() if path not in before and path.suffix != ".lock"]
    assert left == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_a_device_that_is_really_full_is_named(tmp_path):
    from pneumonia.storage.local import explained

    with (
        pytest.raises(StorageError, match="the disk is full"),
        explained(tmp_path),
        open("/dev/full", "wb", buffering=0) as file,
    ):
        file.write(b"x")


def test_a_file_in_the_place_of_the_cache_folder_is_named(tmp_path, phantoms):
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(StorageError, match="a file stands where a folder is needed"):
        load_manifest(phantoms, tmp_path / "cache")
