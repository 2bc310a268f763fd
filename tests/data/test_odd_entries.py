"""Test that each odd entry of a source is listed with its path, and that none hangs, crashes or fills the memory."""

import os
import re
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import dicom, make_tar, make_zip, medmnist, png, tree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pneumonia.cli import main
from pneumonia.data.manifest import load_manifest, read_manifest
from pneumonia.data.sources import folders
from pneumonia.data.sources.file_names import IMAGE_SUFFIXES
from pneumonia.errors import LayoutError, PneumoniaError, printable

SOUND = {f"train/NORMAL/IM-{number:04d}-0001.png": png(number) for number in range(6)}
SOUND |= {f"train/PNEUMONIA/person{number}_virus_{number}.png": png(number + 50) for number in range(6)}
LONGEST_S = 20.0


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    """Run `pneumonia VERB ...` in an empty folder: exit code, standard output, standard error."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pneumonia", *map(str, arguments)])
        before = time.monotonic()
        with pytest.raises(SystemExit) as stop:
            main()
        assert time.monotonic() - before < LONGEST_S
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", captured.out + captured.err), "printed raw"
        return int(stop.value.code or 0), captured.out, captured.err

    return call


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(5 * 2**30)


def unix_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket has at most 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(here)


ODD_IMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "5 GB": (huge, "5,368,709,120 bytes are more than the 268,435,456 that are read"),
    "an endless device": (lambda path: path.symlink_to("/dev/zero"), "it is no regular file"),
    "a terminal": (lambda path: path.symlink_to("/dev/tty"), "it is no regular file"),
    "a pipe": (os.mkfifo, "it is no regular file"),
    "a socket": (unix_socket, "it is no regular file"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
    "a link to nothing": (lambda path: path.symlink_to("gone.png"), "No such file or directory"),
    "an empty file": (lambda path: path.write_bytes(b""), "empty file (0 bytes)"),
}


def test_each_odd_image_is_one_listed_problem(run, tmp_path):
    root = tree(tmp_path / "data", SOUND)
    lines = []
    for number, (make, reason) in enumerate(ODD_IMAGES.values()):
        path = root / "train" / "NORMAL" / f"IM-9{number:03d}-0001.jpeg"
        make(path)
        lines.append(f"{path}: {reason}")
    code, out, err = run("data", "import", root)
    assert (code, out) == (2, "")
    assert f"BrokenImagesError: {len(lines)} images can't be read:" in err
    assert [line for line in lines if line not in err] == []
    code, _, err = run("data", "import", root, "--on-bad-image", "skip")
    assert code == 0, err
    assert [line for line in lines if line not in err] == []
    assert len(read_manifest(Path("manifest.parquet"))) == len(SOUND)
    code, _, err = run("data", "audit", root, "--on-bad-image", "skip")
    assert code == 0, err
    assert [line for line in lines if line not in err] == []


def test_odd_images_are_left_out_of_a_training_that_may(tmp_path, compose):
    from pneumonia.config.schema import DataConfig
    from pneumonia.data.decoded_images import load_images
    from pneumonia.errors import BrokenImagesError

    root = tree(tmp_path / "data", SOUND)
    for number, (make, _) in enumerate(ODD_IMAGES.values()):
        make(root / "train" / "NORMAL" / f"IM-9{number:03d}-0001.jpeg")
    config = DataConfig(source="folder", root=str(root), on_bad_image="skip")
    images = load_images(config, 32, tmp_path / "cache")
    assert len(images.manifest) == len(SOUND)
    assert len(images.skipped) == len(ODD_IMAGES)
    config.on_bad_image = "error"
    with pytest.raises(BrokenImagesError, match=f"{len(ODD_IMAGES)} images can't be read"):
        load_images(config, 32, tmp_path / "cache")


def test_predict_lists_odd_images_and_answers_for_the_others(run, tmp_path, finished):
    root = tree(tmp_path / "data", {"a.png": png(1), "x\x1b[31m\n.png": png(2)})
    (root / os.fsdecode(b"caf\xe9.png")).write_bytes(png(3))
    for number, (make, _) in enumerate(ODD_IMAGES.values()):
        make(root / f"odd{number}.jpeg")
    code, out, err = run("predict", finished, root)
    assert code == 2
    assert f"{len(ODD_IMAGES)} images can't be read" in err
    for name in ("a.png", r"x\x1b[31m\n.png", r"caf\udce9.png"):
        assert f"{root}/{name}" in out
    assert len(out.splitlines()) == 3
    code, _, err = run("predict", finished, root, "--csv", tmp_path / "out.csv")
    assert code == 2
    assert len(pd.read_csv(tmp_path / "out.csv")) == 3 + len(ODD_IMAGES)
    assert run("predict", finished, root, "--json")[0] == 2


def nested(path: Path, depth: int = 1200) -> None:
    here = os.getcwd()
    path.mkdir()
    os.chdir(path)
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
    os.chdir(here)


def flatten(path: Path) -> None:
    """Remove nested folders, which neither shutil nor pytest can."""
    while (path / "d" / "d").is_dir():
        (path / "d" / "d").rename(path / "e")
        (path / "d").rmdir()
        (path / "e").rename(path / "d")


ODD_ENTRIES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "deep folders": ("deep", nested, "lies more than 64 folders deep"),
    "a link to nothing": ("more", lambda path: path.symlink_to("gone"), r"leads nowhere \(No such file or directory\)"),
    "a link to itself": (
        "more",
        lambda path: path.symlink_to("more"),
        r"leads nowhere \(Too many levels of symbolic links\)",
    ),
    "a second link to a folder": (
        "more",
        lambda path: path.symlink_to(path.parent.parent / "PNEUMONIA"),
        "leads to train/(NORMAL/more|PNEUMONIA) again",
    ),
    "bytes that are no text": (os.fsdecode(b"IM-\xff-0001.png"), lambda path: path.write_bytes(png(9)), "is not UTF-8"),
    "a colour code": (
        "IM-\x1b[31m-0001.png",
        lambda path: path.write_bytes(png(9)),
        "its name holds control characters",
    ),
    "a line break": ("IM-0001\n-0001.png", lambda path: path.write_bytes(png(9)), "its name holds control characters"),
    "a folder with a line break": ("more\n", lambda path: path.mkdir(), "its name holds control characters"),
}


@pytest.mark.parametrize("name", ODD_ENTRIES)
def test_entry_that_may_hide_images_is_refused_by_path(name, run, tmp_path):
    entry, make, reason = ODD_ENTRIES[name]
    root = tree(tmp_path / "data", SOUND)
    make(root / "train" / "NORMAL" / entry)
    code, out, err = run("data", "import", root, "--on-bad-image", "skip")
    flatten(root / "train" / "NORMAL" / entry)
    assert (code, out) == (2, "")
    assert re.search(rf"LayoutError: 1 entry of \S+ can't be used:\n  train/\S+: {'.*' + reason}", err), err
    assert printable(entry)[:4] in err or name == "a second link to a folder"
    assert not Path("manifest.parquet").exists()


def test_predict_finds_images_below_deep_folders(tmp_path):
    nested(tmp_path / "deep")
    tree(tmp_path, {"a.png": png(1), "deep/b.png": png(2)})
    found = folders.files_below(tmp_path)
    flatten(tmp_path / "deep")
    assert found == [tmp_path / "a.png", tmp_path / "deep" / "b.png"]


def test_all_refused_entries_are_listed_together(run, tmp_path):
    root = tree(tmp_path / "data", SOUND)
    for number in range(30):
        (root / "train" / "NORMAL" / f"more{number}").symlink_to("gone")
    code, _, err = run("data", "import", root)
    assert code == 2
    assert "LayoutError: 30 entries of" in err
    assert len(re.findall(r"train/NORMAL/more\d+: leads nowhere", err)) == 30


@pytest.mark.parametrize("target", ["/", "..", "."])
def test_link_to_parent_folder_is_left_out_with_note(target, run, tmp_path):
    root = tree(tmp_path / "data", SOUND)
    (root / "train" / "NORMAL" / "loop").symlink_to(target)
    (root / "loop").symlink_to(target)
    code, _, err = run("data", "import", root)
    assert code == 0, err
    assert "- 1 link to a folder above left out: train/NORMAL/loop." in err
    assert len(read_manifest(Path("manifest.parquet"))) == len(SOUND)


def test_unreadable_folders_are_refused_together(tmp_path, monkeypatch):
    root = tree(tmp_path / "data", SOUND)
    closed = {str(root / "train" / kind / "closed") for kind in ("NORMAL", "PNEUMONIA")}
    for path in closed:
        Path(path).mkdir()
    real = os.scandir

    def scandir(path: str | Path) -> object:
        if str(path) in closed:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(folders.os, "scandir", scandir)
    with pytest.raises(LayoutError) as refused:
        load_manifest(root, tmp_path / "cache")
    assert "2 entries of" in str(refused.value)
    assert str(refused.value).count("closed: can't be opened (Permission denied)") == 2
    closed.add(str(root / "train"))
    with pytest.raises(LayoutError, match=r"1 entry of (.|\n)*  train: can't be opened \(Permission denied\)"):
        load_manifest(root, tmp_path / "cache")
    closed.add(str(root))
    with pytest.raises(LayoutError, match=r"can't be opened \(Permission denied\)\. Check its permissions"):
        load_manifest(root, tmp_path / "cache")


def test_file_that_can_not_be_opened_says_so(tmp_path, monkeypatch):
    root = tree(tmp_path / "data", SOUND)
    closed = str(root / "train/NORMAL/IM-0003-0001.png")
    real = os.open

    def opened(path: str | Path, *rest: int, **options: int) -> int:
        if str(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *rest, **options)

    monkeypatch.setattr("pneumonia.data.images.limits.os.open", opened)
    manifest = load_manifest(root, tmp_path / "cache").set_index("path")
    assert manifest.loc[closed, "problem"] == "Permission denied"
    assert (manifest["problem"] == "").sum() == len(SOUND) - 1


def test_file_that_vanishes_meanwhile_is_one_listed_problem(tmp_path, monkeypatch):
    from pneumonia.data import manifest as module

    root = tree(tmp_path / "data", SOUND)
    real = module.recognise

    def recognise(*arguments: object) -> object:
        release = real(*arguments)
        (root / "train/NORMAL/IM-0003-0001.png").unlink()
        return release

    monkeypatch.setattr(module, "recognise", recognise)
    manifest = load_manifest(root, tmp_path / "cache")
    assert manifest["problem"].tolist().count("No such file or directory") == 1


def test_source_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "MAX_ENTRIES", 10)
    with pytest.raises(LayoutError, match="more than 10 files and folders"):
        load_manifest(tree(tmp_path / "data", SOUND), tmp_path / "cache")
    with pytest.raises(LayoutError, match="more than 10 files and folders"):
        folders.files_below(tmp_path / "data")


def test_source_whose_own_path_is_unprintable_is_refused(run, tmp_path):
    root = tree(tmp_path / "da\x1b[31mta\n", SOUND)
    code, _, err = run("data", "import", root)
    assert code == 2
    assert r"da\x1b[31mta\n holds control characters" in err


def test_names_with_control_characters_in_an_archive_are_refused(run, tmp_path):
    for make, name in ((make_zip, "x.zip"), (make_tar, "x.tar"), (make_tar, "x.tar.gz")):
        archive = make(tmp_path / name, {**SOUND, "train/NORMAL/IM-\x1b[31m-0001.png": png(1)})
        code, _, err = run("data", "import", archive)
        assert code == 2
        assert "holds control characters" in err


def test_longest_name_that_a_disk_takes_is_imported(run, tmp_path):
    name = f"IM-0001-{'0' * 200}1.png"
    code, _, err = run("data", "import", tree(tmp_path / "data", {**SOUND, f"train/NORMAL/{name}": png(99)}))
    assert code == 0, err


def _bytes(kind: str, number: int) -> bytes:
    return dicom(np.full((16, 16), number, np.uint8)) if kind == "dicom" else png(number)[: 40 if kind == "cut" else None]


ENTRY = st.tuples(
    st.sampled_from(["file", "cut", "dicom", "text", "pipe", "loop", "dangling", "device", "folder", "up", "huge", "raw"]),
    st.sampled_from(["", "train", "train/NORMAL", "NORMAL", "PNEUMONIA", "x/y", "__MACOSX"]),
    st.sampled_from(["IM-0001-0001", "person1_virus_1", "VIRUS-1-1", "a", "\x1b[2J", "é", "e\u0301", "a\nb", "x" * 200, "-"]),
    st.sampled_from([*sorted(IMAGE_SUFFIXES), ".dcm", "", ".csv", ".npz", ".parquet", ".zip"]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ENTRY, min_size=1, max_size=8))
def test_any_folder_gives_a_manifest_or_a_named_error(tmp_path_factory, entries):
    root = tmp_path_factory.mktemp("data")
    for number, (kind, folder, name, suffix) in enumerate(entries):
        path = root / folder / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() or path.is_symlink():
            continue
        match kind:
            case "pipe":
                os.mkfifo(path)
            case "loop" | "dangling" | "device" | "up":
                path.symlink_to({"loop": path.name, "dangling": "gone", "device": "/dev/zero", "up": "/"}[kind])
            case "folder":
                path.mkdir()
            case "huge":
                huge(path)
            case "raw":
                Path(os.fsdecode(os.fsencode(path) + b"\xff")).write_bytes(b"x")
            case "text":
                path.write_bytes(b"image,label\na,normal\n")
            case _:
                path.write_bytes(_bytes(kind, number))
    before = time.monotonic()
    try:
        manifest = load_manifest(root, root.parent / "cache")
    except PneumoniaError:  # any other exception fails the test
        manifest = None
    assert manifest is None or (len(manifest) and manifest["image_id"].is_unique)
    assert time.monotonic() - before < LONGEST_S


def test_medmnist_file_of_a_wrong_size_is_named(run, tmp_path):
    huge(tmp_path / "x.npz")
    assert "ArchiveError" in run("data", "import", tmp_path / "x.npz")[2]
    path = medmnist(tmp_path / "y.npz")
    path.write_bytes(path.read_bytes()[:500])
    assert "ArchiveError" in run("data", "import", path)[2]
