"""Test that damaged and disguised images are read or refused by one named error, in bounded time and memory."""

import io
import os
import re
import resource
import struct
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from builders import png
from hostile_images import HEADERS, READ_HERE, hostile_images, shared_tags, sound_images, write_hostile_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pneumonia.data.cache import Shape, decode_file
from pneumonia.data.images import limits as readable
from pneumonia.data.images.decode import decode, jpeg_quantisation, read_header, read_image
from pneumonia.data.images.limits import MAX_FILE_BYTES, UnreadableImageError, quietly, read_image_file

FEW, MANY = 600, 10_000
LONGEST_S = 10.0  # for one small file, on a busy machine
MOST_GROWTH = 600 * 2**20  # bytes; one image of the largest size that is read takes half of it
CHILDREN = {
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "pty.spawn",
}
FAILURES = (  # what Pillow's readers raise on damaged files
    *(NotImplementedError, IndexError, RuntimeError, AssertionError, struct.error, SyntaxError, ZeroDivisionError),
    *(OverflowError, MemoryError, EOFError, KeyError, RecursionError, AttributeError, Image.DecompressionBombError),
)
started: list[str] = []


def _note(event: str, _: object) -> None:
    if event in CHILDREN:
        started.append(event)


sys.addaudithook(_note)


def attempt(raw: bytes) -> str:
    """Return ``read``, or the reason of the refusal. Any other exception fails the test."""
    before = time.process_time()  # of this process alone, so that a busy machine changes nothing
    try:
        header = read_header(raw)
        assert min(header.width, header.height) >= readable.MIN_SIDE
        assert decode(raw, 32).shape == (32, 32)
        outcome = "read"
    except UnreadableImageError as error:
        outcome = str(error)
    assert time.process_time() - before < LONGEST_S
    return outcome


def check(count: int) -> None:
    started.clear()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = []
    for name, raw in hostile_images(count):
        try:
            outcomes.append(attempt(raw))
        except Exception as error:  # any at all is the fault that is looked for; the name says which file
            raise AssertionError(f"{name} raised {type(error).__name__}") from error
    assert not started
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert growth < MOST_GROWTH
    assert 0.02 * count < outcomes.count("read") < 0.7 * count, "both outcomes occur"
    assert all(outcomes)


def test_damaged_file_of_any_format_is_read_or_refused():
    check(FEW)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_thousand_damaged_files_are_read_or_refused():
    check(MANY)


def test_every_format_that_pillow_opens_is_among_the_damaged_files():
    Image.init()
    kinds = {kind for kind, _ in sound_images()}
    without = set(Image.ID) - kinds - {"IMT"}  # IMT has no signature, so that no file begins with it
    assert not without
    assert len(HEADERS) > 20


@pytest.mark.parametrize("kind", sorted({kind for kind, _ in sound_images()} - READ_HERE))
def test_formats_that_are_not_read_here_are_refused_by_name(kind):
    for raw in (raw for name, raw in sound_images() if name == kind):
        with pytest.raises(UnreadableImageError, match=r"^not an image that is read here \(JPEG, PNG, BMP, TIFF or DICOM"):
            decode(raw, 32)


def test_postscript_named_as_a_jpeg_starts_no_program(tmp_path, monkeypatch):
    mark = tmp_path / "ran"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {mark}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "x.jpeg").write_bytes(HEADERS["EPS"])
    started.clear()
    assert "not an image" in attempt(read_image_file(tmp_path / "x.jpeg"))
    assert jpeg_quantisation(tmp_path / "x.jpeg") is None
    assert not mark.exists()
    assert not started


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_change_of_a_sound_file_is_read_or_refused(data):
    raw = bytearray(data.draw(st.sampled_from([raw for _, raw in sound_images() if len(raw) < 20_000])))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    attempt(bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw))


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*", b"\x08\0\x05\0CS"]),
    st.binary(max_size=400),
)
def test_any_bytes_behind_a_signature_are_read_or_refused(signature, rest):
    attempt(signature + rest)


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("place", ["open", "load"])
def test_whatever_a_decoder_raises_becomes_the_named_error(failure, place, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise failure("it stumbled")

    if place == "open":
        monkeypatch.setattr(Image, "open", fail)
    else:
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(UnreadableImageError):
        read_image(png(1))


def test_interrupt_passes_through_the_decoder(monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", stop)
    with pytest.raises(KeyboardInterrupt):
        read_image(png(1))


def test_decoder_warning_does_not_change_what_is_read():
    raw = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "x" * 40
    Image.new("L", (32, 32), 7).save(raw, "JPEG", exif=exif.tobytes()[:-20])  # a tag that ends behind the data
    for action in ("error", "ignore"):
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            assert abs(int(decode(raw.getvalue(), 32).mean()) - 7) <= 1


def test_threads_that_silence_warnings_together_restore_them():
    before = list(warnings.filters)
    barrier = threading.Barrier(4)

    def work() -> None:
        for _ in range(50):
            barrier.wait()
            with quietly():
                warnings.warn("silent", stacklevel=1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


def test_jpeg_with_a_thousand_scans_is_refused_before_decoding():
    out = io.BytesIO()
    Image.effect_noise((64, 64), 60).save(out, "JPEG", progressive=True)
    raw = out.getvalue()
    scan = raw[raw.index(b"\xff\xda") : -2]
    with pytest.raises(UnreadableImageError, match="more than 100 scans"):
        decode(raw[:-2] + scan * 1000 + raw[-2:], 32)
    monstrous = raw[:-2] + scan * 30 + raw[-2:]
    start = monstrous.index(b"\xff\xc2")
    monstrous = monstrous[: start + 5] + struct.pack(">2H", 9000, 9000) + monstrous[start + 9 :]
    with pytest.raises(UnreadableImageError, match="more than 21 scans"):
        decode(monstrous, 32)


def test_tags_that_claim_one_place_many_times_are_refused():
    with pytest.raises(UnreadableImageError, match="claim more bytes than the file has"):
        decode(shared_tags(20_000, 250_000), 32)
    exif = b"Exif\0\0" + shared_tags(1000, 40_000)
    out = io.BytesIO()
    Image.new("L", (32, 32)).save(out, "JPEG", exif=exif[:65_000])
    with pytest.raises(UnreadableImageError, match="claim more bytes than the file has"):
        decode(out.getvalue(), 32)
    with pytest.raises(UnreadableImageError, match=r"tag 273 claims 268,435,456 values"):
        decode(struct.pack("<2sHIH", b"II", 42, 8, 1) + struct.pack("<HHII", 273, 4, 2**28, 8) + bytes(1000), 32)


@pytest.mark.parametrize("size", [(8, 2_000_000), (2_000_000, 8)])
@pytest.mark.parametrize("resize", ["stretch", "pad"])
def test_longest_strips_are_read(size, resize):
    out = io.BytesIO()
    Image.new("L", size, 9).save(out, "PNG")
    assert decode(out.getvalue(), 75, resize).max() == 9


def test_first_frame_of_several_is_read():
    frames = [Image.new("L", (32, 32), level) for level in (40, 90, 200)]
    for kind in ("TIFF", "PNG", "MPO"):
        out = io.BytesIO()
        frames[0].save(out, kind, save_all=True, append_images=frames[1:])
        assert abs(int(decode(out.getvalue(), 16).mean()) - 40) <= 1


def test_too_large_file_is_refused_by_its_size_on_disk(tmp_path):
    path = tmp_path / "x.jpeg"
    with path.open("wb") as file:
        file.truncate(5 * 2**30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnreadableImageError, match=rf"5,368,709,120 bytes are more than the {MAX_FILE_BYTES:,} that are read"):
        read_image_file(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**15


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: os.mkfifo(path), "it is no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is no regular file"),
        (lambda path: path.symlink_to("/dev/tty"), "it is no regular file"),
        (lambda path: path.mkdir(), "it is no regular file"),
        (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
        (lambda path: path.symlink_to("gone"), "No such file or directory"),
    ],
)
def test_what_is_no_regular_file_is_refused_without_being_opened(make, reason, tmp_path, monkeypatch):
    make(tmp_path / "x.jpeg")
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(UnreadableImageError, match=reason):
        read_image_file(tmp_path / "x.jpeg")


def test_file_that_grows_while_it_is_read_is_refused(tmp_path, monkeypatch):
    (tmp_path / "x.jpeg").write_bytes(bytes(100))
    monkeypatch.setattr(readable, "MAX_FILE_BYTES", 100)
    assert len(read_image_file(tmp_path / "x.jpeg")) == 100
    state = os.stat(tmp_path / "x.jpeg")
    smaller = os.stat_result((*state[:6], 50, *state[7:]))
    (tmp_path / "x.jpeg").write_bytes(bytes(101))
    monkeypatch.setattr(os, "fstat", lambda _: smaller)
    with pytest.raises(UnreadableImageError, match="101 bytes are more than the 100"):
        read_image_file(tmp_path / "x.jpeg")


def test_sixteen_bit_images_need_no_table_of_floats(tmp_path):
    out = io.BytesIO()
    Image.fromarray(np.arange(2**22, dtype=np.uint32).astype(np.uint16).reshape(2048, 2048)).save(out, "TIFF")
    seen = decode_file(out.getvalue(), Shape(32))
    assert seen.problem == ""
    assert (seen.width, seen.height) == (2048, 2048)


def test_hostile_files_are_listed_by_import_audit_and_predict(tmp_path, monkeypatch, capsys, finished):
    from pneumonia.cli import main

    root = write_hostile_folder(tmp_path / "data", 150)
    for number in range(12):
        (root / "NORMAL" / f"IM-9{number:04d}-0001.png").write_bytes(png(number))
    monkeypatch.chdir(tmp_path)
    started.clear()

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["pneumonia", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0), capsys.readouterr().err

    code, printed = run("data", "import", root)
    assert code == 2
    listed = re.search(r"BrokenImagesError: (\d+) images can't be read", printed)
    assert listed
    code, printed = run("data", "import", root, "--on-bad-image", "skip")
    assert code == 0, printed
    assert f"Left out: {listed[1]} images" in printed
    code, printed = run("data", "audit", root, "--on-bad-image", "skip")
    assert code == 0, printed
    code, printed = run("predict", finished, root, "--json")
    assert code == 2
    assert f"BrokenImagesError: {listed[1]} images can't be read" in printed
    assert not started
