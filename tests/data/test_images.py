import io
import struct
import zlib
from itertools import pairwise

import cv2
import numpy as np
import pytest
from PIL import Image

from pneumonia.data.images.decode import Grey, decode, fit, read_header
from pneumonia.data.images.limits import UnreadableImageError


def _bytes(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.fixture(scope="module")
def ramp() -> np.ndarray:
    """Return a smooth grey picture, for which all resizing methods agree."""
    y, x = np.mgrid[0:240, 0:320]
    return (60 + 0.3 * x + 0.2 * y).astype(np.uint8)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK", "LA", "1"])
def test_every_sound_mode_becomes_grey(mode, ramp):
    image = Image.fromarray(ramp if mode != "1" else (ramp > 100).astype(np.uint8) * 255).convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    wanted = cv2.resize(np.asarray(image.convert("RGB").convert("L")), (60, 60), interpolation=cv2.INTER_AREA)
    got = decode(_bytes(image, kind), 60)
    assert got.shape == (60, 60)
    assert got.dtype == np.uint8
    assert np.abs(got.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize(("top", "scale"), [(65535, 257), (4095, 16.06)])
def test_sixteen_bits_are_scaled_by_the_bits_in_use(top, scale, ramp):
    deep = np.round(ramp.astype(float) * scale).astype(np.uint16)
    deep[0, 0] = top
    got = decode(_bytes(Image.fromarray(deep)), 60)
    wanted = cv2.resize(ramp, (60, 60), interpolation=cv2.INTER_AREA)
    assert np.abs(got.astype(int) - wanted)[1:, 1:].max() <= 2


def test_transparency_lies_on_black(ramp):
    rgba = np.dstack([ramp, ramp, ramp, np.zeros_like(ramp)])
    assert decode(_bytes(Image.fromarray(rgba)), 32).max() == 0


@pytest.mark.parametrize("shape", [(960, 1280), (957, 1283), (1001, 1499), (904, 911), (113, 120)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_scaled_jpeg_decode_is_within_half_a_grey_level(shape, mode):
    rng = np.random.default_rng(0)
    noise = [cv2.GaussianBlur(rng.integers(0, 255, shape).astype(np.float32), (0, 0), sigma) for sigma in (40, 6)]
    coarse, fine = (cv2.normalize(layer, None, 0, 255, cv2.NORM_MINMAX) for layer in noise)
    film = (0.9 * coarse + 0.1 * fine).astype(np.uint8)
    raw = _bytes(Image.fromarray(film).convert(mode), "JPEG", quality=95)
    grey = np.asarray(Image.open(io.BytesIO(raw)).convert("L"))
    full = cv2.resize(grey, (75, 75), interpolation=cv2.INTER_AREA)
    error = np.abs(decode(raw, 75).astype(float) - full)
    assert error.mean() <= 0.5
    assert error.max() <= 6  # a shift by one pixel of the result would change far more


@pytest.mark.parametrize("extent", [(20, 30), (19.25, 29.5), (19.0001, 29.125)])
def test_area_means_over_partial_pixels_are_exact(extent):
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30)).astype(np.uint8)
    got = fit(Grey(pixels, *extent), 7, "stretch")

    def overlap(edge: float, count: int) -> np.ndarray:
        edges = np.linspace(0, edge, 8)
        cells = [np.clip(np.minimum(b, i + 1) - np.maximum(a, i), 0, 1) for a, b in pairwise(edges) for i in range(count)]
        return np.reshape(cells, (7, count)) / (edge / 7)

    wanted = overlap(extent[0], 20) @ pixels @ overlap(extent[1], 30).T
    assert np.abs(got - wanted).max() <= 0.5 + 1e-9


def test_jpeg_cut_short_is_refused_wherever_it_was_cut():
    noise = np.random.default_rng(0).integers(0, 255, (300, 400)).astype(np.uint8)
    raw = _bytes(Image.fromarray(noise), "JPEG", quality=90)
    for end in (len(raw) - 1, len(raw) - 2, len(raw) // 2, 700):
        with pytest.raises(UnreadableImageError, match=r"cut short|not an image"):
            decode(raw[:end], 75)
    assert decode(raw + b"\0" * 10, 75).shape == (75, 75)  # padding after the end is harmless


def test_rotated_jpeg_is_turned_upright_at_any_scale():
    grey = np.zeros((640, 800), np.uint8)
    grey[:, :80] = 250  # a bright left margin
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown with that margin on top
    got = decode(_bytes(Image.fromarray(grey), "JPEG", exif=exif), 75)
    assert got[:5].mean() > 200
    assert got[20:].mean() < 20


def test_pad_keeps_the_aspect_ratio_with_black_margins(ramp):
    got = decode(_bytes(Image.fromarray(ramp)), 64, "pad")
    assert got[:8].max() == 0
    assert got[-8:].max() == 0
    assert got[8:56].min() > 0


def test_exif_rotation_is_applied(ramp):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate 90 degrees clockwise to show
    raw = _bytes(Image.fromarray(ramp), "JPEG", exif=exif.tobytes(), quality=95)
    wanted = cv2.resize(np.rot90(ramp, -1), (48, 48), interpolation=cv2.INTER_AREA)
    assert np.abs(decode(raw, 48).astype(int) - wanted).mean() < 1.5


def _png_header(width: int, height: int) -> bytes:
    """Return a small PNG file that claims any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


BROKEN = {
    "empty": (b"", "empty file"),
    "bomb of 110 megapixels": (_png_header(11_000, 10_000), "more than 89,000,000 pixels"),
    "text": (b"this is no picture", "not an image"),
    "bomb": (_png_header(60_000, 60_000), "pixels"),
    "one pixel": (_bytes(Image.new("L", (1, 1))), "too small"),
    "cut short": (_bytes(Image.effect_noise((300, 300), 80), "JPEG")[:4000], "cut short"),
    "float": (_bytes(Image.new("F", (64, 64), 0.5), "TIFF"), "floating-point"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_image_is_refused_with_its_reason(name):
    raw, reason = BROKEN[name]
    with pytest.raises(UnreadableImageError, match=reason):
        read_header(raw) and decode(raw, 32)
