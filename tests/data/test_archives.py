"""Test that sound archives are unpacked once and completely, and that others leave nothing behind."""

import os
import struct
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import add_to_tar, make_tar, make_zip, medmnist
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pneumonia.data.sources import archives
from pneumonia.data.sources.archives import unpack, unpack_once
from pneumonia.data.sources.medmnist import unpack_medmnist
from pneumonia.errors import ArchiveError, StorageError

FILES = {
    "chest_xray/train/NORMAL/IM-0001-0001.jpeg": b"a" * 3000,
    "chest_xray/readme.txt": b"",
    "x.png": os.urandom(9000),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def nothing_is_left(cache: Path) -> bool:
    """Return whether only the lock is left."""
    return all(path.suffix == ".lock" or path.name == "unpacked" for path in cache.rglob("*"))


@pytest.mark.parametrize("name", ["x.zip", "x.ZIP", "x.tar", "x.tar.gz", "x.tgz"])
def test_sound_archive_is_unpacked_byte_for_byte_and_once(name, tmp_path):
    archive = (make_zip if name.lower().endswith("zip") else make_tar)(tmp_path / name, FILES)
    folder = unpack(archive, tmp_path / "cache")
    assert contents(folder) == FILES
    (folder / "mark").touch()
    assert unpack(archive, tmp_path / "cache") == folder
    assert (folder / "mark").exists(), "not unpacked a second time"


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(bytes(255 - byte for byte in path.read_bytes())),
    ],
    ids=["gone", "cut", "empty", "other bytes"],
)
def test_damaged_unpacked_file_is_unpacked_again_with_a_warning(damage, tmp_path, capsys):
    archive = make_zip(tmp_path / "x.zip", FILES)
    folder = unpack(archive, tmp_path / "cache")
    damage(folder / "x.png")
    assert unpack(archive, tmp_path / "cache") == folder
    assert contents(folder) == FILES
    assert "The folder is built again from" in capsys.readouterr().err
    assert unpack(archive, tmp_path / "cache") == folder
    assert capsys.readouterr().err == ""
    assert sorted(path.suffix for path in folder.parent.iterdir()) == ["", ".json", ".lock"]


def test_unpacked_folder_with_new_times_is_not_unpacked_again(tmp_path, capsys):
    archive = make_zip(tmp_path / "x.zip", FILES)
    folder = unpack(archive, tmp_path / "cache")
    capsys.readouterr()
    os.utime(folder / "x.png", (1, 1))
    unpack(archive, tmp_path / "cache")
    assert (folder / "x.png").stat().st_mtime == 1


def test_changed_archive_is_unpacked_anew(tmp_path):
    archive = make_zip(tmp_path / "x.zip", FILES)
    first = unpack(archive, tmp_path / "cache")
    make_zip(archive, {"other.png": b"b"})
    second = unpack(archive, tmp_path / "cache")
    assert second != first
    assert contents(second) == {"other.png": b"b"}


NAMES = {
    "../evil.png": "leads out of the folder",
    "a/../../evil.png": "leads out of the folder",
    "/etc/evil.png": "is an absolute path",
    "C:/evil.png": "is an absolute path",
    "a\\..\\evil.png": "holds a backslash",
    "a\nb.png": "holds control characters",
    "a" * 300 + ".png": "is too long",
    ".": "names no file",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["x.zip", "x.tar.gz"])
def test_escaping_name_is_refused_and_nothing_is_written(name, kind, tmp_path):
    make = make_zip if kind == "x.zip" else make_tar
    archive = make(tmp_path / kind, {"good.png": b"good", name: b"evil"})
    with pytest.raises(ArchiveError, match=f"{kind} was not unpacked: the name .* {NAMES[name]}"):
        unpack(archive, tmp_path / "home" / "cache")
    assert nothing_is_left(tmp_path / "home" / "cache")
    assert not list(tmp_path.rglob("evil*"))


def test_zip_name_cut_by_a_zero_byte_is_refused(tmp_path):
    archive = make_zip(tmp_path / "x.zip", {"aX../evil.png": b"evil"})
    archive.write_bytes(archive.read_bytes().replace(b"aX..", b"a\0.."))
    with pytest.raises(ArchiveError, match="control characters"):
        unpack(archive, tmp_path / "cache")


@pytest.mark.parametrize("names", [["a.png", "a.png"], ["a", "a/b.png"], ["a/b.png", "a"], ["a.png", "./a.png"]])
@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_two_files_of_one_name_are_refused(names, kind, tmp_path):
    archive = tmp_path / f"x.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as file:
            for name in names:
                file.writestr(name, b"x")
    else:
        with tarfile.open(archive, "w") as tar:
            for name in names:
                add_to_tar(tar, name, b"x")
    with pytest.raises(ArchiveError, match="occurs twice"):
        unpack(archive, tmp_path / "cache")
    assert nothing_is_left(tmp_path / "cache")


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE],
)
def test_links_and_devices_in_a_tar_are_refused(kind, tmp_path):
    archive = tmp_path / "x.tar"
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as file:
        add_to_tar(file, "good.png", b"good")
        add_to_tar(file, "link.png", type=kind, linkname="/etc/passwd")
    with pytest.raises(ArchiveError, match=r"'link.png' is a link, a device or a sparse file|damaged"):
        unpack(archive, tmp_path / "cache")
    assert nothing_is_left(tmp_path / "cache")


def test_link_in_a_zip_is_refused(tmp_path):
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as file:
        link = zipfile.ZipInfo("link.png")
        link.create_system, link.external_attr = 3, (0o120777 << 16)
        file.writestr(link, "/etc/passwd")
    with pytest.raises(ArchiveError, match=r"'link.png' is a link or a device"):
        unpack(archive, tmp_path / "cache")


@pytest.mark.parametrize("kind", ["x.zip", "x.tar.gz"])
def test_zip_bomb_is_refused(kind, tmp_path):
    make = make_zip if kind == "x.zip" else make_tar
    archive = make(tmp_path / kind, {f"{number}.png": bytes(16 * 2**20) for number in range(5)})
    assert archive.stat().st_size < 2**20
    with pytest.raises(ArchiveError, match=r"over 200 times as much: a zip bomb"):
        unpack(archive, tmp_path / "cache")
    assert nothing_is_left(tmp_path / "cache")


@pytest.mark.parametrize("kind", ["x.zip", "x.tar"])
def test_too_many_files_or_bytes_are_refused(kind, tmp_path, monkeypatch):
    make = make_zip if kind == "x.zip" else make_tar
    archive = make(tmp_path / kind, {f"{number}.png": os.urandom(100) for number in range(30)})
    monkeypatch.setattr(archives, "MAX_MEMBERS", 20)
    with pytest.raises(ArchiveError, match="more than 20 files"):
        unpack(archive, tmp_path / "cache")
    monkeypatch.setattr(archives, "MAX_MEMBERS", 100)
    monkeypatch.setattr(archives, "MAX_BYTES", 2000)
    with pytest.raises(ArchiveError, match="would unpack to more than"):
        unpack(archive, tmp_path / "cache")
    assert nothing_is_left(tmp_path / "cache")


def test_zip_that_lies_about_a_size_is_refused(tmp_path):
    archive = make_zip(tmp_path / "x.zip", {"a.png": bytes(5000)})
    raw = archive.read_bytes().replace(struct.pack("<I", 5000), struct.pack("<I", 4000))  # both headers
    archive.write_bytes(raw)
    with pytest.raises(ArchiveError, match="damaged"):
        unpack(archive, tmp_path / "cache")
    assert nothing_is_left(tmp_path / "cache")


def test_encrypted_zip_is_refused(tmp_path):
    archive = make_zip(tmp_path / "x.zip", {"a.png": b"secret"})
    raw = bytearray(archive.read_bytes())
    raw[6] |= 1  # the flag in the member's own header
    raw[raw.index(b"PK\x01\x02") + 8] |= 1  # and in the index
    archive.write_bytes(raw)
    with pytest.raises(ArchiveError, match=r"it is encrypted\. Unpack it yourself"):
        unpack(archive, tmp_path / "cache")


@pytest.mark.parametrize("kind", ["x.zip", "x.tar", "x.tar.gz"])
@pytest.mark.parametrize("cut", [0, 1, 600, 0.5, 0.8, 0.95])
def test_archive_cut_short_anywhere_is_refused(kind, cut, tmp_path):
    files = {f"{number}.png": os.urandom(2000) for number in range(8)}
    archive = (make_zip if kind == "x.zip" else make_tar)(tmp_path / kind, files)
    raw = archive.read_bytes()
    end = len(raw.rstrip(b"\0")) if kind == "x.tar" else len(raw)
    archive.write_bytes(raw[: int(cut * end) if isinstance(cut, float) else cut])
    with pytest.raises(ArchiveError, match="is damaged or no archive"):
        unpack(archive, tmp_path / "cache")
    assert nothing_is_left(tmp_path / "cache")


def test_tar_with_a_broken_middle_header_is_refused(tmp_path):
    archive = make_tar(tmp_path / "x.tar", {f"{number}.png": os.urandom(512) for number in range(4)})
    raw = bytearray(archive.read_bytes())
    raw[2 * 1024 + 5] ^= 0xFF  # third header
    archive.write_bytes(raw)
    with pytest.raises(ArchiveError, match="damaged"):
        unpack(archive, tmp_path / "cache")


def test_tar_whose_extended_header_fills_the_memory_is_refused(tmp_path):
    archive = tmp_path / "x.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        add_to_tar(file, "x", bytes(4 * 2**20), type=tarfile.GNUTYPE_LONGNAME)
    with pytest.raises(ArchiveError, match="extended header of 4,194,304 bytes"):
        unpack(archive, tmp_path / "cache")


def test_flipped_byte_is_found_by_the_checksum(tmp_path):
    archive = make_zip(tmp_path / "x.zip", {"a.png": b"0123456789" * 50}, zipfile.ZIP_STORED)
    archive.write_bytes(archive.read_bytes().replace(b"0123456789", b"0123456780", 1))
    with pytest.raises(ArchiveError, match="damaged"):
        unpack(archive, tmp_path / "cache")
    assert nothing_is_left(tmp_path / "cache")


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    archive, cache = make_zip(tmp_path / "x.zip", FILES), tmp_path / "cache"
    folder = unpack(archive, cache)
    left_over = folder.parent / f".{folder.name}.12345678.part"
    folder.rename(left_over)  # as it stands when the process dies before the last step
    (left_over / "x.png").unlink()
    assert contents(unpack(archive, cache)) == FILES
    assert not left_over.exists()


def test_two_that_ask_at_once_unpack_once(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"x")
    calls: list[int] = []
    begun, go = threading.Event(), threading.Event()

    def write(folder: Path) -> None:
        calls.append(1)
        begun.set()
        go.wait(10)
        (folder / "done").touch()

    found: list[Path] = []
    ask: Callable[[], None] = lambda: found.append(unpack_once([source], tmp_path / "cache", "test", "testing", write))  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(2)]
    threads[0].start()
    assert begun.wait(10)
    threads[1].start()
    go.set()
    for thread in threads:
        thread.join(20)
    assert len(calls) == 1
    assert found[0] == found[1]
    assert (found[0] / "done").exists()


def test_file_where_the_cache_should_be_is_named(tmp_path):
    archive = make_zip(tmp_path / "x.zip", FILES)
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(StorageError, match="a file is where a folder is needed"):
        unpack(archive, tmp_path / "cache")


@pytest.mark.parametrize("kind", ["x.zip", "x.tar", "x.tar.gz", "x.npz"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_archive_is_unpacked_or_refused_and_nothing_else(kind, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    make = {"x.zip": make_zip, "x.npz": lambda path, _: medmnist(path)}.get(kind, make_tar)
    archive = make(folder / kind, {"NORMAL/a.png": b"picture" * 40, "b/c.png": b"x", "d/": b""} if kind != "x.tar" else FILES)
    raw = bytearray(archive.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place : place + 1] = data.draw(st.binary(max_size=4))
    archive.write_bytes(raw)
    try:
        unpack_medmnist(archive, folder / "cache") if kind == "x.npz" else unpack(archive, folder / "cache")
    except ArchiveError:
        assert nothing_is_left(folder / "cache")
    assert {path.name for path in folder.iterdir()} == {kind, "cache"}
