"""Builds image files that are damaged or disguised: a seeded stream for tests of whatever decodes images."""

import io
import random
import struct
import warnings
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from builders import dicom
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

SUFFIXES = (".jpeg", ".png", ".dcm")
MODES = ("L", "RGB", "P", "1", "RGBA", "LA", "I;16", "F", "CMYK")
SIDE = 24
READ_HERE = {"JPEG", "MPO", "PNG", "BMP", "DIB", "TIFF", "DICOM"}
# Headers of formats that Pillow opens and does not write; each as far as its reader looks before it believes it.
HEADERS = {
    "BUFR": b"BUFR",
    "CUR": b"\0\0\2\0\1\0" + struct.pack("<BBBBHHII", SIDE, SIDE, 0, 0, 1, 1, 200, 22) + struct.pack("<Iii", 40, SIDE, 2 * SIDE),
    "DCX": struct.pack("<III", 0x3ADE68B1, 12, 0) + b"\x0a\x05\x01\x08" + bytes(60),
    "DDS": b"DDS "
    + struct.pack("<7I44x", 124, 0x1007, 64, 64, 256, 0, 0)
    + struct.pack("<2I4s5I", 32, 4, b"DX10", *[0] * 5)
    + struct.pack("<5I", 0x1000, 0, 0, 0, 0)
    + struct.pack("<5I", 93, 3, 0, 1, 0),
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 24\n%%EndComments\nshowpage\n",
    "FITS": b"".join(
        word.ljust(80)
        for word in (
            b"SIMPLE  =                    T",
            b"BITPIX  = 8",
            b"NAXIS   = 2",
            b"NAXIS1  = 24",
            b"NAXIS2  = 24",
            b"END",
        )
    ).ljust(2880),
    "FLI": struct.pack("<IHHHHHHI", 2000, 0xAF12, 3, SIDE, SIDE, 8, 3, 70) + bytes(108) + struct.pack("<IHH", 300, 0xF1FA, 1),
    "FTEX": b"FTEX" + struct.pack("<I2I2I4I", 0x40001, SIDE, SIDE, 1, 1, 0, 48, 300, 0),
    "GBR": struct.pack(">5I", 28, 2, SIDE, SIDE, 1) + b"GIMP" + struct.pack(">I", 10),
    "GRIB": b"GRIB\0\0\0\1",
    "HDF5": b"\x89HDF\r\n\x1a\n",
    "ICNS": b"icns" + struct.pack(">I4sI", 300, b"ic07", 292) + b"\x89PNG\r\n\x1a\n",
    "IPTC": b"\x1c\x03\x3c\0\2\1\1" + b"\x1c\x03\x41\0\1\1" + b"\x1c\x08\x0a\0\x10",
    "MCIDAS": bytes(7) + b"\4" + bytes(248),
    "MPEG": b"\0\0\1\xb3" + b"\1\x80\x18",
    "PCD": bytes(2048) + b"PCD_" + bytes(1500),
    "PIXAR": b"\x80\xe8\0\0" + bytes(412) + struct.pack("<8H", SIDE, SIDE, 0, 0, 14, 0, 0, 0),
    "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, SIDE, SIDE, 8, 3) + struct.pack(">3I", 0, 0, 0) + b"\0\1",
    "QOI": b"qoif" + struct.pack(">IIBB", SIDE, SIDE, 3, 0),
    "SUN": struct.pack(">8I", 0x59A66A95, SIDE, SIDE, 8, 576, 1, 0, 0),
    "WMF": b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<4hH", 0, 0, 100, 100, 96) + bytes(6) + b"\1\0\t\0",
    "XPM": b'/* XPM */\nstatic char *x[] = {\n"24 24 2 1",\n"a c #000000",\n"b c None",\n'
    + b'"abababababababababababab",\n' * 24,
    "XVTHUMB": b"P7 332\n#END_OF_COMMENTS\n24 24 255\n",
}


def hostile_images(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Damaged image files of every format that Pillow opens, and DICOM files.

    Args:
        count: How many.
        seed: Of the damage; the first files of two counts are alike.

    Yields:
        A name with the suffix of a format that is read here, and the bytes.
    """
    chance = random.Random(seed)
    bases = sound_images()
    bases = bases + 4 * [base for base in bases if base[0] in READ_HERE]
    for number in range(count):
        kind, raw = bases[number % len(bases)]
        yield f"{number:05d}-{kind}{SUFFIXES[number % 3]}", _damaged(raw, chance, bases)


@cache
def sound_images() -> list[tuple[str, bytes]]:
    """Format and bytes of small files of every format; those that Pillow can't write are a header and noise."""
    Image.init()
    noise = np.random.default_rng(0).integers(0, 256, 3000, dtype=np.uint8).tobytes()
    found = [(kind, header + noise) for kind, header in HEADERS.items()]
    grey = Image.fromarray(np.random.default_rng(1).integers(0, 256, (SIDE, SIDE), dtype=np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's advice on odd combinations of mode and format
        for kind in sorted(Image.SAVE):
            found += [(kind, raw) for mode in MODES if (raw := _saved(grey, mode, kind))]
    found += [
        ("JPEG", _saved(grey, "RGB", "JPEG", progressive=True)),
        ("TIFF", _saved(grey, "L", "TIFF", compression="tiff_lzw")),
    ]
    return [*found, *_costly(), *_dicoms()]


def _saved(grey: Image.Image, mode: str, kind: str, **options: object) -> bytes:
    image = grey.convert("L") if mode == "I;16" else grey.convert(mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    out = io.BytesIO()
    try:
        image.save(out, kind, **options)
    except Exception:  # this format does not take this mode, or needs a program that is not here
        return b""
    return out.getvalue()


def _costly() -> Iterator[tuple[str, bytes]]:
    """Files whose headers ask for far more than they hold."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    def png(side: int, *extra: bytes) -> bytes:
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        pixels = chunk(b"IDAT", zlib.compress(bytes(side * (side + 1)) if side < 100 else bytes(100)))
        return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + pixels + chunk(b"IEND", b"")

    bomb = zlib.compress(bytes(2**26), 9)
    yield "PNG", png(60_000)
    yield "PNG", png(SIDE, chunk(b"iCCP", b"x\0\0" + bomb))
    yield "PNG", png(SIDE, chunk(b"zTXt", b"x\0\0" + bomb))
    yield "PNG", png(SIDE, chunk(b"iTXt", b"x\0\1\0\0\0" + bomb))
    yield "TIFF", shared_tags(20_000, 250_000)
    yield "TIFF", struct.pack("<2sHIH", b"II", 42, 8, 1) + struct.pack("<HHII", 273, 4, 2**28, 8) + bytes(1000)
    yield (
        "BMP",
        b"BM" + struct.pack("<IIIIiiHHIIIIII", 200, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 8, 1, 0, 0, 0, 0, 0) + bytes(146),
    )


def shared_tags(count: int, size: int) -> bytes:
    """A small TIFF file of which ``count`` tags all claim the same ``size`` bytes."""
    width = [
        (256, 3, 1, SIDE),
        (257, 3, 1, SIDE),
        (258, 3, 1, 8),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (279, 4, 1, SIDE * SIDE),
    ]
    tags = width + [(30_000 + number, 7, size, 8) for number in range(count)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return struct.pack("<2sHI", b"II", 42, 8 + size) + bytes(size) + struct.pack("<H", len(tags)) + entries + bytes(4)


def _dicoms() -> Iterator[tuple[str, bytes]]:
    pixels = np.random.default_rng(2).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    grey = Image.fromarray(pixels)
    code, wavelets = _saved(grey, "L", "JPEG"), _saved(grey, "L", "JPEG2000", no_jp2=True)
    runs = struct.pack("<16L", 1, 64, *[0] * 14) + b"".join(b"\x17" + row.tobytes() for row in pixels)
    window = {"WindowCenter": 100, "WindowWidth": 50}
    yield "DICOM", dicom(pixels, **window)
    yield "DICOM", dicom(pixels.astype(np.uint16) * 16, RescaleSlope=2, RescaleIntercept=-7, PixelPaddingValue=0)
    yield "DICOM", dicom(pixels, **window)[132:]
    yield "DICOM", dicom(pixels, JPEGBaseline8Bit, PixelData=encapsulate([code]))
    yield "DICOM", dicom(pixels, JPEG2000Lossless, PixelData=encapsulate([wavelets]))
    yield "DICOM", dicom(pixels, RLELossless, PixelData=encapsulate([runs]))


def _damaged(raw: bytes, chance: random.Random, bases: list[tuple[str, bytes]]) -> bytes:
    """One to four changes: bytes, numbers, cuts, repeats, and parts of another file."""
    data = bytearray(raw)
    for _ in range(chance.randint(0, 4)):
        place = min(chance.randrange(len(data) + 1), chance.randrange(len(data) + 1), 4096)
        kind = chance.randrange(7)
        if kind == 0:
            del data[place:]
        elif kind == 1:
            data[place : place + 4] = struct.pack(chance.choice("<>") + "I", chance.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**16)))
        elif kind == 2:
            data[place:place] = data[place : place + chance.randint(1, 64)] * chance.randint(1, 20)
        elif kind == 3:
            other = chance.choice(bases)[1]
            data[place:] = other[place:]
        else:
            for at in range(place, min(place + kind, len(data))):
                data[at] = chance.randrange(256)
    return bytes(data)


def write_hostile_folder(root: Path, count: int, seed: int = 0) -> Path:
    """A folder ``NORMAL`` of hostile images with the names of a release."""
    folder = root / "NORMAL"
    folder.mkdir(parents=True)
    for number, (name, raw) in enumerate(hostile_images(count, seed)):
        (folder / f"IM-{number:05d}-0001{Path(name).suffix}").write_bytes(raw)
    return root
