"""DICOM files, written with pydicom and compared with closed forms and with pydicom's own windowing."""

import io
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from builders import dicom
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_windowing
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from pneumonia.data.dicom import dicom_patient
from pneumonia.data.images import Header, UnreadableImageError, decode, read_header, read_image

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)  # every 12-bit value once


def grey(raw: bytes) -> np.ndarray:
    return read_image(raw)[1].pixels


def test_eight_bits_without_a_window_stay_as_they_are():
    pixels = np.random.default_rng(0).integers(20, 200, (50, 70), dtype=np.uint8)
    raw = dicom(pixels)
    assert np.array_equal(grey(raw), pixels)
    assert read_header(raw) == Header(70, 50, "DICOM MONOCHROME2")


def test_monochrome1_is_the_negative_of_monochrome2():
    pixels = np.random.default_rng(1).integers(0, 256, (50, 70), dtype=np.uint8)
    raw = dicom(pixels, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(grey(raw), 255 - pixels)
    assert read_header(raw).mode == "DICOM MONOCHROME1"


def test_twelve_bits_without_a_window_span_all_grey_levels():
    assert np.array_equal(grey(dicom(RAMP)), np.rint(RAMP / 4095 * 255))


def test_sixteen_bits_that_use_fewer_are_stretched_to_what_is_there():
    narrow = (RAMP // 2 + 100).astype(np.uint16)
    wanted = np.rint((narrow - 100.0) / 2047 * 255)
    assert np.array_equal(grey(dicom(narrow, BitsStored=16)), wanted)


def test_signed_values_are_read_with_their_sign():
    signed = RAMP.astype(np.int16) - 2048
    assert np.array_equal(grey(dicom(signed)), np.rint(RAMP / 4095 * 255))


def test_the_window_follows_the_closed_form_of_the_standard():
    centre, width = 2000.0, 1000.0
    wanted = np.clip((RAMP - (centre - 0.5)) / (width - 1) + 0.5, 0, 1) * 255  # PS3.3 C.11.2.1.2.1
    assert np.array_equal(grey(dicom(RAMP, WindowCenter=centre, WindowWidth=width)), np.rint(wanted))


def test_the_first_of_several_windows_counts():
    one = grey(dicom(RAMP, WindowCenter=1000, WindowWidth=500))
    assert np.array_equal(grey(dicom(RAMP, WindowCenter=[1000, 3000], WindowWidth=[500, 50])), one)


def test_the_window_applies_to_rescaled_values():
    plain = grey(dicom(RAMP, WindowCenter=1000, WindowWidth=500))
    rescaled = dicom(RAMP, RescaleSlope=2, RescaleIntercept=-100, WindowCenter=1900.5 - 1 + 0.5, WindowWidth=999)
    wanted = np.clip((RAMP * 2.0 - 100 - 1899.5) / 998 + 0.5, 0, 1) * 255
    assert np.array_equal(grey(rescaled), np.rint(wanted))
    assert np.abs(grey(rescaled).astype(int) - plain).max() <= 1, "the same window in the other unit"


def test_a_rescale_alone_leaves_eight_bits_alone():
    pixels = np.random.default_rng(2).integers(0, 256, (50, 70), dtype=np.uint8)
    assert np.array_equal(grey(dicom(pixels, RescaleSlope=3.5, RescaleIntercept=-1024)), pixels)


@settings(max_examples=40, deadline=None)
@given(
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    centre=st.integers(-500, 4500),
    width=st.integers(2, 5000),
    inverted=st.booleans(),
)
def test_any_window_agrees_with_pydicom(function, centre, width, inverted):
    kind = "MONOCHROME1" if inverted else "MONOCHROME2"
    tags = {"WindowCenter": centre, "WindowWidth": width, "VOILUTFunction": function}
    raw = dicom(RAMP, PhotometricInterpretation=kind, **tags)
    with np.errstate(over="ignore"):  # pydicom's sigmoid of a narrow window
        theirs = apply_windowing(RAMP, pydicom.dcmread(io.BytesIO(raw))) / 4095 * 255  # pydicom gives the stored range
    theirs = 255 - theirs if inverted else theirs
    assert np.abs(grey(raw) - theirs).max() <= 0.5 + 1e-6


def test_a_lookup_table_of_values_is_applied():
    item = Dataset()
    item.LUTDescriptor = [4096, 0, 16]
    table = (65535 * (np.arange(4096) / 4095) ** 2).astype(np.uint16)  # darkens the middle
    item.LUTData = table.tobytes()
    assert np.array_equal(grey(dicom(RAMP, VOILUTSequence=[item])), np.rint(table[RAMP] * (255 / 65535)))


def test_run_length_and_jpeg_2000_compression_lose_nothing():
    pixels = np.random.default_rng(3).integers(0, 256, (64, 64), dtype=np.uint8)
    plain = pydicom.dcmread(io.BytesIO(dicom(pixels)))
    plain.compress(RLELossless)
    out = io.BytesIO()
    plain.save_as(out)
    assert np.array_equal(grey(out.getvalue()), pixels)
    from PIL import Image

    code = io.BytesIO()
    Image.fromarray(pixels).save(code, "JPEG2000", irreversible=False, no_jp2=True)
    raw = dicom(pixels, JPEG2000Lossless, PixelData=encapsulate([code.getvalue()]))
    assert np.array_equal(grey(raw), pixels)


def test_a_dicom_file_is_resized_like_any_other_image():
    pixels = cv2.GaussianBlur(np.random.default_rng(4).integers(0, 256, (200, 300)).astype(np.uint8), (0, 0), 5)
    png = cv2.imencode(".png", pixels)[1].tobytes()
    for resize in ("squash", "pad"):
        assert np.array_equal(decode(dicom(pixels), 75, resize), decode(png, 75, resize))


SMALL = np.zeros((64, 64), dtype=np.uint8)
BROKEN = {
    "no pixels": (dicom(SMALL, PixelData=None), "without pixels"),
    "colour": (
        dicom(
            SMALL, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0, PixelData=bytes(3 * 4096)
        ),
        r"colour or unknown DICOM \(RGB\)",
    ),
    "palette": (dicom(SMALL, PhotometricInterpretation="PALETTE COLOR"), "PALETTE COLOR"),
    "frames": (dicom(SMALL, NumberOfFrames=2, PixelData=bytes(2 * 4096)), "2 frames"),
    "huge": (dicom(SMALL, Rows=60000, Columns=60000), r"60000x60000 is more than [0-9,]+ pixels"),
    "tiny": (dicom(np.zeros((4, 4), dtype=np.uint8)), "4x4 pixels is too small"),
    "cut short": (dicom(SMALL, Rows=65), r"broken or cut short"),
    "half a file": (dicom(np.zeros((512, 512), dtype=np.uint8))[:5000], r"broken|without pixels"),
    "only the magic": (bytes(128) + b"DICM", "without pixels|broken"),
    "a codec that is not here": (
        dicom(SMALL, JPEGLSLossless, PixelData=encapsulate([b"x" * 100])),
        "no decoder is installed",
    ),
    "garbage in a codec": (dicom(SMALL, JPEG2000Lossless, PixelData=encapsulate([b"x" * 100])), "broken or cut short"),
    "larger frame than header": (
        dicom(
            SMALL,
            JPEGBaseline8Bit,
            PixelData=encapsulate([cv2.imencode(".jpeg", np.zeros((300, 200), np.uint8))[1].tobytes()]),
        ),
        "its compressed pixels are 200x300, and its header says 64x64",
    ),
    "deflated": (dicom(SMALL, DeflatedExplicitVRLittleEndian), "deflated DICOM, which may unpack to any size"),
    "window of no width": (dicom(SMALL, WindowCenter=10, WindowWidth=0), "its window .*width 0.* means nothing"),
    "unknown window": (dicom(SMALL, WindowCenter=1, WindowWidth=9, VOILUTFunction="BENT"), "function BENT"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_dicom_file_that_is_no_radiograph_is_refused_with_its_reason(name):
    raw, reason = BROKEN[name]
    with pytest.raises(UnreadableImageError, match=reason):
        read_header(raw) and decode(raw, 32)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_file_is_read_or_refused_and_nothing_else(data):
    raw = bytearray(dicom(np.full((32, 32), 7, dtype=np.uint8), WindowCenter=100, WindowWidth=50))
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(132, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = decode(bytes(raw), 16)
    except UnreadableImageError:
        return
    assert pixels.shape == (16, 16)


def test_a_patient_is_a_digest_and_never_the_id_itself(tmp_path: Path):
    files = {name: tmp_path / f"{name}.dcm" for name in ("a", "b", "c", "none", "broken", "deflated")}
    files["a"].write_bytes(dicom(SMALL, PatientID="4711"))
    files["b"].write_bytes(dicom(SMALL, PatientID="4711 "))
    files["c"].write_bytes(dicom(SMALL, PatientID="4712"))
    files["none"].write_bytes(dicom(SMALL, PatientID=""))
    files["broken"].write_bytes(b"x")
    files["deflated"].write_bytes(dicom(SMALL, DeflatedExplicitVRLittleEndian))
    told = {name: dicom_patient(path) for name, path in files.items()}
    assert told["a"] == told["b"] == "DICOM-" + "".join(f"{byte:02x}" for byte in _sha256(b"4711"))[:12]
    assert told["c"] not in {told["a"], None}
    assert told["none"] is told["broken"] is told["deflated"] is None


def _sha256(text: bytes) -> bytes:
    import hashlib

    return hashlib.sha256(text).digest()
