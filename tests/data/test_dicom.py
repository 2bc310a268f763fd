"""Compare decoded DICOM files with closed forms and with pydicom's own windowing."""

import io
import resource
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from builders import dicom, tree
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_windowing
from pydicom.pixels.utils import pack_bits
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    RLELossless,
)

from pneumonia.data.images import dicom_pixels, jpeg2000
from pneumonia.data.images.decode import Header, decode, read_header, read_image
from pneumonia.data.images.dicom import dicom_header, dicom_patient
from pneumonia.data.images.dicom_files import is_dicom_file
from pneumonia.data.images.limits import UnreadableImageError

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


def test_sixteen_bits_are_stretched_to_the_levels_in_use():
    narrow = (RAMP // 2 + 100).astype(np.uint16)
    wanted = np.rint((narrow - 100.0) / 2047 * 255)
    assert np.array_equal(grey(dicom(narrow, BitsStored=16)), wanted)


def test_signed_values_are_read_with_their_sign():
    signed = RAMP.astype(np.int16) - 2048
    assert np.array_equal(grey(dicom(signed)), np.rint(RAMP / 4095 * 255))


def test_window_follows_the_closed_form_of_the_standard():
    centre, width = 2000.0, 1000.0
    wanted = np.clip((RAMP - (centre - 0.5)) / (width - 1) + 0.5, 0, 1) * 255  # PS3.3 C.11.2.1.2.1
    assert np.array_equal(grey(dicom(RAMP, WindowCenter=centre, WindowWidth=width)), np.rint(wanted))


def test_first_of_several_windows_counts():
    one = grey(dicom(RAMP, WindowCenter=1000, WindowWidth=500))
    assert np.array_equal(grey(dicom(RAMP, WindowCenter=[1000, 3000], WindowWidth=[500, 50])), one)


def test_window_applies_to_rescaled_values():
    plain = grey(dicom(RAMP, WindowCenter=1000, WindowWidth=500))
    rescaled = dicom(RAMP, RescaleSlope=2, RescaleIntercept=-100, WindowCenter=1900.5 - 1 + 0.5, WindowWidth=999)
    wanted = np.clip((RAMP * 2.0 - 100 - 1899.5) / 998 + 0.5, 0, 1) * 255
    assert np.array_equal(grey(rescaled), np.rint(wanted))
    assert np.abs(grey(rescaled).astype(int) - plain).max() <= 1, "the same window in the other unit"


def test_rescale_alone_leaves_eight_bits_alone():
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


def test_lookup_table_of_values_is_applied():
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
    raw = dicom(pixels, JPEG2000Lossless, PixelData=encapsulate([_jpeg_2000(pixels)]))
    assert np.array_equal(grey(raw), pixels)


def test_dicom_file_is_resized_like_any_other_image():
    pixels = cv2.GaussianBlur(np.random.default_rng(4).integers(0, 256, (200, 300)).astype(np.uint8), (0, 0), 5)
    png = cv2.imencode(".png", pixels)[1].tobytes()
    for resize in ("stretch", "pad"):
        assert np.array_equal(decode(dicom(pixels), 75, resize), decode(png, 75, resize))


@pytest.mark.parametrize(("stored", "high"), [(12, 11), (12, 15), (10, 13), (8, 15), (16, 15)])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_bits_outside_the_stored_ones_are_ignored(stored, high, signed, syntax):
    mask, shift = (1 << stored) - 1, high + 1 - stored
    bits = (np.arange(4096) * 13 % (mask + 1)).reshape(64, 64)
    noise = np.random.default_rng(7).integers(0, 1 << 16, bits.shape) & ~(mask << shift)  # an overlay of an older file
    words = (bits << shift | noise).astype(np.uint16)
    values = np.where(bits > mask >> 1, bits - mask - 1, bits) if signed else bits
    tags = {"BitsStored": stored, "HighBit": high, "PixelRepresentation": int(signed)}
    data = pydicom.dcmread(io.BytesIO(dicom(words, BitsStored=16, WindowCenter=20, WindowWidth=301)))
    if syntax == RLELossless:
        data.compress(RLELossless)  # whole words, before the header says which bits count
    for name, value in tags.items():
        setattr(data, name, value)
    raw = _bytes(data)
    wanted = np.clip((values - 19.5) / 300 + 0.5, 0, 1) * 255
    assert np.array_equal(grey(raw), np.rint(wanted))


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 1500, "WindowWidth": 1001}])
@pytest.mark.parametrize(
    ("padding", "limit"), [(0, None), (4095, None), (4000, 4095), (4095, 4000), (63536, None), (61440, 65535)]
)
def test_padding_is_black_and_excluded_from_the_contrast(padding, limit, window, inverted):
    inside = np.linspace(1000, 2000, 2048).round().astype(np.uint16)
    pixels = np.concatenate([inside, np.full(2048, padding, np.uint16)]).reshape(64, 64)
    tags = {"PixelPaddingValue": padding, **({} if limit is None else {"PixelPaddingRangeLimit": limit}), **window}
    got = grey(dicom(pixels, PhotometricInterpretation="MONOCHROME1" if inverted else "MONOCHROME2", **tags)).ravel()
    shares = (inside - 1499.5) / 1000 + 0.5 if window else (inside - 1000.0) / 1000
    wanted = np.clip(shares, 0, 1) * 255
    assert np.array_equal(got[:2048], np.rint(255 - wanted if inverted else wanted))
    assert (got[2048:] == 0).all()


def test_signed_padding_written_as_unsigned_is_padding_all_the_same():
    pixels = np.concatenate([np.full(2048, -2000), np.linspace(-500, 500, 2048).round()]).astype(np.int16)
    raw = dicom(pixels.reshape(64, 64), PixelPaddingValue=-2000)
    data = pydicom.dcmread(io.BytesIO(raw))
    data["PixelPaddingValue"].VR = "US"
    data.PixelPaddingValue = 63536
    for file in (raw, _bytes(data)):
        got = grey(file).ravel()
        assert (got[:2048] == 0).all()
        assert np.array_equal(got[2048:], np.rint((pixels[2048:] + 500.0) / 1000 * 255))


@pytest.mark.parametrize(("depth", "first"), [(8, 0), (10, -100), (12, 300), (16, 40000)])
@pytest.mark.parametrize("packed", [False, True])
def test_lookup_table_of_any_depth_matches_the_closed_form(depth, first, packed):
    entries = 512
    table = np.arange(entries) * (2**depth - 1) // (entries - 1)
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [entries, first, depth])
    item.add_new("LUTData", "OW", table.astype(np.uint8 if packed and depth == 8 else "<u2").tobytes())
    pixels = (RAMP * 16 if first == 40000 else RAMP).astype(np.uint16)
    wanted = table[np.clip(pixels.astype(int) - first, 0, entries - 1)]
    shown = np.rint(wanted * (255 / (2**depth - 1)))
    assert np.array_equal(grey(dicom(pixels, BitsStored=16, VOILUTSequence=[item])), shown)
    stretched = np.rint((wanted - wanted.min()) / np.ptp(wanted) * 255)
    assert np.array_equal(grey(dicom(pixels, BitsStored=16, ModalityLUTSequence=[item])), stretched)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16])
def test_every_uncompressed_syntax_gives_the_same_grey_levels(syntax, kind):
    pixels = (RAMP // 16 if kind == np.uint8 else RAMP).astype(kind)
    plain = pydicom.dcmread(io.BytesIO(dicom(pixels, WindowCenter=100, WindowWidth=180)))
    plain.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        order = pixels.astype(pixels.dtype.newbyteorder(">"))
        plain.PixelData = order.tobytes()
    if kind == np.uint8:
        plain["PixelData"].VR = "OB"
    out = io.BytesIO()
    pydicom.dcmwrite(out, plain, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    wanted = np.clip((pixels - 99.5) / 179 + 0.5, 0, 1) * 255
    assert np.array_equal(grey(out.getvalue()), np.rint(wanted))


@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
def test_data_set_without_preamble_is_read_like_its_file(implicit, little, tmp_path):
    pixels = np.random.default_rng(5).integers(0, 256, (50, 70), dtype=np.uint8)
    whole = pydicom.dcmread(io.BytesIO(dicom(pixels)))
    bare = Dataset()
    bare.update(whole)
    bare["PixelData"].VR = "OB"
    out = io.BytesIO()
    bare.save_as(out, implicit_vr=implicit, little_endian=little)
    raw = out.getvalue()
    assert b"DICM" not in raw[:200]
    assert read_header(raw) == Header(70, 50, "DICOM MONOCHROME2")
    assert np.array_equal(grey(raw), pixels)
    tree(tmp_path, {"NORMAL/1.2.3": raw, "NORMAL/notes": b"text"})
    assert is_dicom_file(tmp_path / "NORMAL" / "1.2.3")
    assert not is_dicom_file(tmp_path / "NORMAL" / "notes")
    assert dicom_patient(tmp_path / "NORMAL" / "1.2.3") == "DICOM-" + "".join(f"{b:02x}" for b in _sha256(b"4711"))[:12]


def test_file_header_without_preamble_is_read():
    pixels = np.random.default_rng(6).integers(0, 256, (50, 70), dtype=np.uint8)
    assert np.array_equal(grey(dicom(pixels)[132:]), pixels)


def test_one_bit_pixels_are_black_and_white():
    bits = np.random.default_rng(8).integers(0, 2, (40, 48), dtype=np.uint8)
    raw = dicom(bits, BitsAllocated=1, BitsStored=1, PixelData=pack_bits(bits))
    assert np.array_equal(grey(raw), bits * 255)


def test_thirty_two_bit_pixels_keep_their_order():
    pixels = (RAMP.astype(np.uint32) * 100_003) + 70_000
    shown = np.rint(RAMP / 4095 * 255)
    assert np.array_equal(grey(dicom(pixels, BitsStored=32)), shown)


def test_baseline_jpeg_is_decoded():
    smooth = cv2.GaussianBlur(np.random.default_rng(9).integers(0, 256, (64, 96)).astype(np.uint8), (0, 0), 3)
    code = cv2.imencode(".jpg", smooth, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    raw = dicom(smooth, JPEGBaseline8Bit, PixelData=encapsulate([code]), PhotometricInterpretation="MONOCHROME1")
    wanted = 255 - cv2.imdecode(np.frombuffer(code, np.uint8), cv2.IMREAD_GRAYSCALE).astype(int)
    assert np.abs(grey(raw).astype(int) - wanted).max() <= 1


def test_twelve_bit_jpeg_2000_is_decoded_without_loss():
    code = encapsulate([_jpeg_2000(RAMP)])
    raw = dicom(
        RAMP,
        JPEG2000Lossless,
        BitsStored=16,
        PixelData=code,
        WindowCenter=2048,
        WindowWidth=4096,
    )
    assert np.array_equal(grey(raw), np.rint(np.clip((RAMP - 2047.5) / 4095 + 0.5, 0, 1) * 255))
    with pytest.raises(UnreadableImageError, match="compressed values from 0 to 4095 do not fit BitsStored 11"):
        grey(dicom(RAMP, JPEG2000Lossless, BitsStored=11, PixelData=code))


def _jpeg_2000(pixels, **options) -> bytes:
    code = io.BytesIO()
    Image.fromarray(pixels).save(code, "JPEG2000", irreversible=False, no_jp2=True, **options)
    return code.getvalue()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("precision", [8, 10, 12, 14, 16])
def test_jpeg_2000_is_lossless_at_any_depth_and_sign(precision, signed):
    values = np.random.default_rng(precision).integers(0, 2**precision, (64, 48))
    held = 8 if precision == 8 else 16  # Pillow writes these alone: move the values, then say the true depth
    moved = values + 2 ** (held - 1) - 2 ** (precision - 1)
    code = bytearray(_jpeg_2000(moved.astype(f"u{held // 8}")))
    code[42] = precision - 1 | signed << 7
    assert np.array_equal(jpeg2000.decode_code(jpeg2000.read_code(bytes(code))), values - signed * 2 ** (precision - 1))


@pytest.mark.parametrize("name", ["693_J2KI.dcm", "JPEG2000.dcm", "J2K_pixelrep_mismatch.dcm"])
def test_jpeg_2000_of_others_gives_the_values_of_pydicom(name):
    data = pydicom.dcmread(get_testdata_file(name, download=False))
    ours = dicom_pixels._jpeg2000_values(data)
    difference = np.abs(ours - data.pixel_array.astype(int))
    assert difference.max() <= 1  # rounding of the lossy ones
    assert difference.mean() < 0.01


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"quality_layers": [1] * 100}, "100 layers"),
        ({"codeblock_size": (4, 4)}, "blocks of 4x4"),
        ({"tile_size": (16, 16)}, "tiles of 16x16"),
    ],
)
def test_jpeg_2000_costlier_than_its_size_is_refused(options, reason):
    raw = dicom(RAMP, JPEG2000Lossless, BitsStored=16, PixelData=encapsulate([_jpeg_2000(RAMP, **options)]))
    with pytest.raises(UnreadableImageError, match=reason):
        dicom_header(raw)


def test_other_threads_go_on_while_jpeg_2000_is_decoded():
    code = jpeg2000.read_code(_jpeg_2000(np.random.default_rng(0).integers(0, 65536, (700, 700)).astype(np.uint16)))
    with ThreadPoolExecutor(1) as threads:
        decoding, turns = threads.submit(jpeg2000.decode_code, code), 0
        while not decoding.done():
            time.sleep(0.001)
            turns += 1
    assert turns > 10, "a decoder that holds Python's lock allows one or two"


@pytest.mark.parametrize("where", ["main header", "tile part"])
def test_costly_blocks_are_seen_wherever_a_code_sets_them(where):
    code = _jpeg_2000(np.zeros((512, 512), np.uint8), tile_size=(256, 256))
    coding = b"\xff\x52\0\x0c\0\0\0\x01\0\x05\0\0\0\x01"  # one layer, blocks of 4 x 4
    place = code.rindex(b"\xff\x90\0\x0a") + 12 if where == "tile part" else code.index(b"\xff\x52")
    with pytest.raises(UnreadableImageError, match="blocks of 4x4"):
        jpeg2000.read_code(code[:place] + coding + code[place:])


def _bytes(data: pydicom.FileDataset) -> bytes:
    out = io.BytesIO()
    data.save_as(out)
    return out.getvalue()


def _run_length(segment: bytes) -> bytes:
    return encapsulate([struct.pack("<16L", 1, 64, *[0] * 14) + segment])


def _jpeg(side: int) -> bytes:
    return encapsulate([cv2.imencode(".jpg", np.zeros((side, side), np.uint8))[1].tobytes()])


def _item(**tags: object) -> Dataset:
    item = Dataset()
    for name, value in tags.items():
        setattr(item, name, value)
    return item


def _grouped(undefined_length: bool) -> bytes:
    groups = [_item(FrameVOILUTSequence=[_item(WindowCenter=1, WindowWidth=9)])]
    pixels = np.zeros((64, 64), dtype=np.uint8)
    data = pydicom.dcmread(io.BytesIO(dicom(pixels, SharedFunctionalGroupsSequence=groups)))
    data["SharedFunctionalGroupsSequence"].is_undefined_length = undefined_length
    return _bytes(data)


def _bare_compressed() -> bytes:
    whole = pydicom.dcmread(io.BytesIO(dicom(np.zeros((64, 64), dtype=np.uint8), JPEGBaseline8Bit, PixelData=_jpeg(64))))
    bare = Dataset()
    bare.update(whole)
    out = io.BytesIO()
    bare.save_as(out, implicit_vr=False, little_endian=True)
    return out.getvalue()


SMALL = np.zeros((64, 64), dtype=np.uint8)
BROKEN = {
    "no pixels": (dicom(SMALL, PixelData=None), "without pixels"),
    "colour": (
        dicom(SMALL, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0, PixelData=bytes(3 * 4096)),
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
    "deflated": (dicom(SMALL, DeflatedExplicitVRLittleEndian), "deflated DICOM, which may unpack to any size"),
    "a deep jpeg": (
        dicom(RAMP, JPEGExtended12Bit, PixelData=encapsulate([b"\xff\xd8" + b"x" * 100])),
        r"with 12 bits, and the installed decoder reads 8: pip install pylibjpeg.* or decompress .*gdcmconv",
    ),
    "video": (dicom(SMALL, MPEG4HP41, PixelData=encapsulate([b"x" * 100])), "can't be decoded .*gdcmconv"),
    "a jpeg of another size": (
        dicom(SMALL, JPEGBaseline8Bit, PixelData=_jpeg(640)),
        "its compressed pixels are 640x640, its header says 64x64",
    ),
    "a run-length bomb": (dicom(SMALL, RLELossless, PixelData=_run_length(b"\x81\0" * 40_000)), "decompression bomb"),
    "a bare data set with a compression unknown": (_bare_compressed(), "without a file header.* compressed"),
    "more bits stored than allocated": (dicom(SMALL, BitsStored=12), "bit layout .*BitsAllocated 8, BitsStored 12"),
    "a high bit below the stored ones": (dicom(RAMP, HighBit=9), "bit layout .*BitsStored 12, HighBit 9"),
    "a sign that is neither yes nor no": (dicom(SMALL, PixelRepresentation=2), "bit layout .*PixelRepresentation 2"),
    "no bits stored": (dicom(SMALL, BitsStored=None), "its header lacks BitsStored, HighBit"),
    "packed twelve bits": (dicom(SMALL, BitsAllocated=12, BitsStored=12), "broken|bit layout"),
    "padding alone": (dicom(SMALL, PixelPaddingValue=0), "all of its pixels are padding"),
    "half a padding range": (
        dicom(SMALL, PixelPaddingRangeLimit=9),
        "PixelPaddingRangeLimit without PixelPaddingValue",
    ),
    "flat pixels": (dicom(SMALL, PixelAspectRatio=[2, 1]), "pixels are not square .PixelAspectRatio 2 by 1"),
    "flat spacing": (dicom(SMALL, ImagerPixelSpacing=[0.2, 0.1]), "pixels are not square .ImagerPixelSpacing"),
    "an inverse MONOCHROME2": (
        dicom(SMALL, PresentationLUTShape="INVERSE"),
        "MONOCHROME2 and its presentation LUT INVERSE",
    ),
    "an identical MONOCHROME1": (
        dicom(SMALL, PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="IDENTITY"),
        "MONOCHROME1 and its presentation LUT IDENTITY",
    ),
    "half a rescale": (dicom(SMALL, RescaleSlope=2), "RescaleSlope without RescaleIntercept"),
    "a flat rescale": (dicom(SMALL, RescaleSlope=0, RescaleIntercept=1), "RescaleSlope is 0"),
    "half a window": (dicom(SMALL, WindowWidth=2), "WindowWidth without WindowCenter"),
    "a window in functional groups": (_grouped(False), "functional groups"),
    "a window in functional groups of no stated length": (_grouped(True), "functional groups"),
    "a short lookup table": (
        dicom(SMALL, VOILUTSequence=[_item(LUTDescriptor=[4096, 0, 16], LUTData=bytes(100))]),
        "lookup table does not match .* 4096 entries of 16 bits",
    ),
    "YBR": (dicom(SMALL, PhotometricInterpretation="YBR_FULL"), "YBR_FULL.* Export it in grey"),
    "floats": (dicom(SMALL, PixelData=None, FloatPixelData=bytes(64 * 64 * 4)), "floating-point"),
    "window below one": (dicom(SMALL, WindowCenter=10, WindowWidth=0.5), "its window is undefined .*width 0.5"),
    "window of no width": (dicom(SMALL, WindowCenter=10, WindowWidth=0), "its window is undefined .*width 0"),
    "unknown window": (dicom(SMALL, WindowCenter=1, WindowWidth=9, VOILUTFunction="BENT"), "function BENT"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_dicom_file_that_is_no_radiograph_is_refused(name):
    raw, reason = BROKEN[name]
    with pytest.raises(UnreadableImageError, match=reason):
        read_header(raw) and decode(raw, 32)


def test_monochrome1_with_an_inverse_presentation_is_inverted_once():
    pixels = np.random.default_rng(1).integers(0, 256, (50, 70), dtype=np.uint8)
    raw = dicom(pixels, PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE")
    assert np.array_equal(grey(raw), 255 - pixels)


def _many(count: int) -> bytes:
    """Explicit little endian: private elements of no bytes."""
    return b"".join(struct.pack("<HH2sH", 0x0009 + 2 * (n >> 16), n & 0xFFFF, b"LO", 0) for n in range(count))


@pytest.mark.parametrize("inside", ["file", "open sequence", "closed sequence"])
def test_header_of_countless_elements_is_refused_in_little_memory(inside):
    raw, many = dicom(SMALL), _many(300_000)
    place = raw.index(struct.pack("<HH", 0x0028, 0x0002))
    if inside == "open sequence":
        item = struct.pack("<HHL", 0xFFFE, 0xE000, 2**32 - 1) + many + struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
        many = struct.pack("<HH2sxxL", 0x0009, 0x1000, b"SQ", 2**32 - 1) + item + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    if inside == "closed sequence":
        many = struct.pack("<HHL", 0xFFFE, 0xE000, len(many)) + many
        many = struct.pack("<HH2sxxL", 0x0028, 0x3010, b"SQ", len(many)) + many
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnreadableImageError, match=r"its header has far more elements|VOILUTSequence has far more bytes"):
        grey(raw[:place] + many + raw[place:])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 2**10


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_file_is_read_or_refused_and_nothing_else(data):
    raw = bytearray(dicom(np.full((32, 32), 7, dtype=np.uint8), WindowCenter=100, WindowWidth=50))
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(132, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = decode(bytes(raw), 16)
    except UnreadableImageError:
        return
    assert pixels.shape == (16, 16)


def test_patient_is_a_digest_and_never_the_id_itself(tmp_path: Path):
    files = {name: tmp_path / f"{name}.dcm" for name in ("a", "b", "c", "none", "broken", "deflated")}
    files["a"].write_bytes(dicom(SMALL, PatientID="4711"))
    files["b"].write_bytes(dicom(SMALL, PatientID="4711 "))
    files["c"].write_bytes(dicom(SMALL, PatientID="4712"))
    files["none"].write_bytes(dicom(SMALL, PatientID=""))
    files["broken"].write_bytes(b"x")
    files["deflated"].write_bytes(dicom(SMALL, DeflatedExplicitVRLittleEndian))
    patients = {name: dicom_patient(path) for name, path in files.items()}
    assert patients["a"] == patients["b"] == "DICOM-" + "".join(f"{byte:02x}" for byte in _sha256(b"4711"))[:12]
    assert patients["c"] not in {patients["a"], None}
    assert patients["none"] is patients["broken"] is patients["deflated"] is None


def _sha256(text: bytes) -> bytes:
    import hashlib

    return hashlib.sha256(text).digest()
