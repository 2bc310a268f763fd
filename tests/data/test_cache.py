import errno
import multiprocessing
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pneumonia.config.schema import DataConfig
from pneumonia.data import cache as cache_module
from pneumonia.data.cache import load_cache
from pneumonia.data.decoded_images import load_images
from pneumonia.data.images.decode import decode
from pneumonia.data.manifest import COLUMNS, load_manifest, manifest_sha256
from pneumonia.data.sources.phantom import load_phantoms
from pneumonia.errors import BrokenImagesError, ManifestError, StorageError


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


def test_manifest_has_typed_rows_and_a_path_free_hash(tmp_path):
    one, other = _tree(tmp_path / "one"), _tree(tmp_path / "other")
    manifest = load_manifest(one, tmp_path / "cache")
    assert list(manifest.columns) == list(COLUMNS)
    assert len(manifest) == 9
    assert set(zip(manifest["width"], manifest["height"], strict=True)) == {(50, 40)}
    assert manifest_sha256(manifest) == manifest_sha256(load_manifest(other, tmp_path / "cache"))
    path = Path(manifest["path"][0])
    Image.fromarray(np.zeros((40, 50), np.uint8)).save(path)
    assert manifest_sha256(load_manifest(one, tmp_path / "cache")) != manifest_sha256(manifest)


def test_cache_holds_decoded_images_and_is_reused(tmp_path, monkeypatch):
    manifest = load_manifest(_tree(tmp_path / "x"), tmp_path / "cache")
    pixels = load_cache(manifest, 24, "stretch", tmp_path / "cache").pixels
    assert pixels.shape == (9, 24, 24)
    assert isinstance(pixels, np.memmap)
    for row, path in enumerate(manifest["path"]):
        assert np.array_equal(pixels[row], decode(Path(path).read_bytes(), 24))

    def never(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(cache_module, "read_image", never)
    assert np.array_equal(load_cache(manifest, 24, "stretch", tmp_path / "cache").pixels, pixels)
    with pytest.raises(AssertionError, match="decoded again"):
        load_cache(manifest, 24, "pad", tmp_path / "cache")


def _build(manifest: pd.DataFrame, where: Path, results) -> None:
    results.put(int(np.asarray(load_cache(manifest, 48, "stretch", where).pixels, dtype=np.int64).sum()))


def test_two_processes_build_one_cache_together(tmp_path):
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


def test_broken_images_are_listed_together_or_skipped_by_name(tmp_path):
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
def test_full_or_read_only_disk_leaves_nothing_half_written(code, tmp_path, monkeypatch):
    manifest = load_manifest(_tree(tmp_path / "x"), tmp_path / "cache")
    before = sorted((tmp_path / "cache").iterdir())

    def refuse(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match=r"Can't write .*\.npy: .*cache_dir=DIR"):
        load_cache(manifest, 24, "stretch", tmp_path / "cache")
    left = [path for path in (tmp_path / "cache").iterdir() if path not in before and path.suffix != ".lock"]
    assert left == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_device_that_is_really_full_is_named(tmp_path):
    from pneumonia.system.files import translated_os_errors

    with (
        pytest.raises(StorageError, match="the disk is full"),
        translated_os_errors(tmp_path),
        open("/dev/full", "wb", buffering=0) as file,
    ):
        file.write(b"x")


def test_file_in_place_of_the_cache_folder_is_refused(tmp_path, phantoms):
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(StorageError, match="a file is where a folder is needed"):
        load_manifest(phantoms, tmp_path / "cache")


def _flip_bits(path: Path) -> None:
    """Flip a fifth of the bytes after the header, as a failing disk would; size and time stay as they are."""
    stat, content = path.stat(), np.frombuffer(path.read_bytes(), np.uint8).copy()
    places = np.random.default_rng(0).random(len(content)) < 0.2
    places[:200] = False
    content[places] ^= 255
    path.write_bytes(content.tobytes())
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _saved_as(change) -> object:
    """Write the array again with a change that keeps its name."""

    def damage(path: Path) -> None:
        array = np.load(path)
        with path.open("wb") as file:
            np.save(file, change(array))

    return damage


class _Bomb:
    """Leave a mark when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(Path.cwd() / "unpickled"),)


def _pickled(path: Path) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (1,)})
        pickle.dump([_Bomb()], file)


ANY_FILE = {
    "one bit": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "gone": lambda path: path.unlink(),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}
PIXELS = {
    "a fifth of the bytes": _flip_bits,
    "other type": _saved_as(lambda array: array.astype(np.int8)),
    "other shape": _saved_as(lambda array: array[:, :12]),
    "other order": _saved_as(np.asfortranarray),
    "fewer images": _saved_as(lambda array: array[1:]),
    "pickled": _pickled,
}
DAMAGE = [(suffix, how, damage) for suffix in (".npy", ".parquet", ".json") for how, damage in ANY_FILE.items()]
DAMAGE += [(".npy", how, damage) for how, damage in PIXELS.items()]
DAMAGE += [(".json", "a list", lambda path: path.write_text("[]"))]
DAMAGE += [(".json", "no files", lambda path: path.write_text('{"of": 1, "files": {"x": 3}}'))]


@pytest.mark.parametrize(("suffix", "how", "damage"), DAMAGE, ids=[f"{how} {suffix}" for suffix, how, _ in DAMAGE])
def test_damaged_cache_file_is_decoded_again_with_a_warning(suffix, how, damage, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    manifest = load_manifest(_tree(tmp_path / "x"), tmp_path / "cache")
    before = np.array(load_cache(manifest, 24, "stretch", tmp_path / "cache").pixels)
    (path,) = (tmp_path / "cache").glob(f"*{suffix}")
    capsys.readouterr()
    damage(path)
    after = load_cache(manifest, 24, "stretch", tmp_path / "cache")
    assert np.array_equal(after.pixels, before)
    assert after.pixels.dtype == np.uint8
    assert after.problems == {}
    printed = capsys.readouterr().err
    assert printed.count("The images are decoded again.") == 1
    assert path.name in printed
    assert not (tmp_path / "unpickled").exists()
    load_cache(manifest, 24, "stretch", tmp_path / "cache")
    assert capsys.readouterr().err == ""


def test_cache_of_other_images_is_not_used(tmp_path, capsys):
    ours, theirs = (load_manifest(_tree(tmp_path / name, count), tmp_path / "cache") for name, count in (("x", 3), ("y", 4)))
    caches = [load_cache(manifest, 24, "stretch", tmp_path / "cache").pixels for manifest in (ours, theirs)]
    names = [Path(pixels.filename).stem for pixels in caches]
    before = np.array(caches[0])
    for suffix in (".npy", ".parquet", ".json"):
        shutil.copy(tmp_path / "cache" / f"{names[1]}{suffix}", tmp_path / "cache" / f"{names[0]}{suffix}")
    capsys.readouterr()
    assert np.array_equal(load_cache(ours, 24, "stretch", tmp_path / "cache").pixels, before)
    assert "belongs to other data. The images are decoded again." in capsys.readouterr().err


@pytest.mark.parametrize("how", ANY_FILE)
@pytest.mark.parametrize("name", ["manifest.parquet", "checksums.json"])
def test_damaged_manifest_is_made_again_with_a_warning(name, how, tmp_path, capsys):
    root = _tree(tmp_path / "x")
    before = load_manifest(root, tmp_path / "cache")
    (path,) = (tmp_path / "cache").rglob(name)
    capsys.readouterr()
    ANY_FILE[how](path)
    pd.testing.assert_frame_equal(load_manifest(root, tmp_path / "cache"), before)
    assert capsys.readouterr().err.count("The images are read again.") == 1
    pd.testing.assert_frame_equal(load_manifest(root, tmp_path / "cache"), before)
    assert capsys.readouterr().err == ""


def test_another_manifest_under_this_name_is_not_used(tmp_path):
    one, other = _tree(tmp_path / "x"), _tree(tmp_path / "y", 4)
    before = load_manifest(one, tmp_path / "cache")
    (mine,) = (tmp_path / "cache" / "manifests").iterdir()
    load_manifest(other, tmp_path / "cache")
    (theirs,) = (folder for folder in mine.parent.iterdir() if folder != mine)
    for path in theirs.iterdir():
        shutil.copy(path, mine / path.name)
    pd.testing.assert_frame_equal(load_manifest(one, tmp_path / "cache"), before)


@pytest.mark.parametrize("how", [*ANY_FILE, "a fifth of the bytes"])
def test_damaged_phantom_is_drawn_again_with_a_warning(how, tmp_path, capsys):
    root = load_phantoms(6, 0, tmp_path)
    films = {path: path.read_bytes() for path in root.rglob("*.jpeg")}
    spoiled = sorted(films)[1]
    (ANY_FILE | PIXELS)[how](spoiled)
    capsys.readouterr()
    load_phantoms(6, 0, tmp_path)
    assert {path: path.read_bytes() for path in root.rglob("*.jpeg")} == films
    printed = capsys.readouterr().err
    assert printed.count("The phantoms are drawn again.") == 1
    assert spoiled.name in printed
    load_phantoms(6, 0, tmp_path)
    assert capsys.readouterr().err == ""


def test_damaged_cache_on_a_full_disk_is_an_error(tmp_path, monkeypatch):
    manifest = load_manifest(_tree(tmp_path / "x"), tmp_path / "cache")
    path = Path(load_cache(manifest, 24, "stretch", tmp_path / "cache").pixels.filename)
    _flip_bits(path)
    damaged = path.read_bytes()

    def refuse(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StorageError, match=r"Can't write .*: the file system is read-only"):
        load_cache(manifest, 24, "stretch", tmp_path / "cache")
    assert path.read_bytes() == damaged
    assert not list((tmp_path / "cache").glob(".*part"))


def test_folder_in_place_of_a_cache_file_is_refused(tmp_path):
    manifest = load_manifest(_tree(tmp_path / "x"), tmp_path / "cache")
    path = Path(load_cache(manifest, 24, "stretch", tmp_path / "cache").pixels.filename)
    path.unlink()
    path.mkdir()
    with pytest.raises(StorageError, match="a folder is where a file is needed"):
        load_cache(manifest, 24, "stretch", tmp_path / "cache")


def test_two_processes_may_repair_one_cache_at_once(tmp_path):
    manifest = load_manifest(_tree(tmp_path / "x", 60), tmp_path / "cache")
    pixels = load_cache(manifest, 48, "stretch", tmp_path / "cache").pixels
    whole = int(np.asarray(pixels, dtype=np.int64).sum())
    path = Path(pixels.filename)
    path.write_bytes(path.read_bytes()[:1000])
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=_build, args=(manifest, tmp_path / "cache", results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=120) for _ in workers] == [whole, whole]
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert not list((tmp_path / "cache").glob(".*part"))


def test_image_changed_behind_its_manifest_is_not_decoded(tmp_path):
    manifest = load_manifest(_tree(tmp_path / "x"), tmp_path / "cache")
    _flip_bits(Path(manifest["path"][0]))
    with pytest.raises(ManifestError, match=r"hold other bytes than the manifest says.*import the data again"):
        load_cache(manifest, 24, "stretch", tmp_path / "cache")
