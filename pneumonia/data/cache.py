"""Decode every image once into a file that is memory-mapped from then on."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import pandas as pd

from pneumonia.data.build_once import build_once
from pneumonia.data.duplicates import perceptual_hash
from pneumonia.data.images.decode import DECODER, KEEP_SCALE, LEAST, fit, read_image
from pneumonia.data.images.limits import UnreadableImageError, read_image_file
from pneumonia.errors import ManifestError, some
from pneumonia.system.arrays import Pixels
from pneumonia.system.checksums import write_checksums
from pneumonia.system.console import track
from pneumonia.system.files import digest, publish, replacing, scratch
from pneumonia.system.parallel import in_threads

FILE_COLUMNS: Final = {
    "width": "int64",
    "height": "int64",
    "mode": "str",
    "bytes": "int64",
    "sha256": "str",
    "phash": "str",  # 256 bits in hexadecimal, see pneumonia.data.duplicates; empty if the image can't be read
    "problem": "str",  # why the image can't be read; empty if it can
}


@dataclass(frozen=True)
class Shape:
    """How images become squares: pixels a side, and ``stretch`` or ``pad``."""

    size: int
    resize: str = "stretch"


@dataclass(frozen=True)
class Cache:
    """Decoded images in manifest order."""

    pixels: Pixels  # (N, size, size), memory-mapped, read-only
    problems: dict[str, str]  # reason, by path, of each image that could not be decoded; its pixels are black


@dataclass(frozen=True)
class DecodedFile:
    """The columns of ``FILE_COLUMNS`` for one file, and its square."""

    bytes: int
    sha256: str
    width: int = 0
    height: int = 0
    mode: str = ""
    phash: str = ""
    problem: str = ""
    square: Pixels | None = None


def load_cache(manifest: pd.DataFrame, size: int, resize: str, cache_dir: Path) -> Cache:
    """Return the decoded images of a manifest at one size; decode them on first use, or if the files are damaged.

    Several processes may call it at once: one decodes, the others wait. The checksum is compared here, once; changes while the
    file is mapped are not noticed. See :class:`Shape` for ``size`` and ``resize``.

    Raises:
        StorageError: ``cache_dir`` is full or read-only.
        ManifestError: A file is gone, or is not the one that the manifest describes.
    """
    paths, expected, shape = manifest["path"].tolist(), manifest["sha256"].tolist(), Shape(size, resize)
    files = _Files.of(cache_dir, expected, shape)

    def build() -> None:
        decode_files(paths, shape, cache_dir, expected)

    lock, remedy = files.pixels.with_suffix(".lock"), "The images are decoded again."
    what, built = "decoding these images", [files.pixels, files.index]
    build_once(files.checksums, files.key, build, lock=lock, what=what, remedy=remedy, built=built)
    problems = pd.read_parquet(files.index)["problem"]
    found = {path: str(text) for path, text in zip(paths, problems, strict=True) if text}
    return Cache(np.load(files.pixels, mmap_mode="r", allow_pickle=False), found)


def decode_files(
    paths: Sequence[str], shape: Shape | None, cache_dir: Path, expected: Sequence[str] | None = None
) -> pd.DataFrame:
    """Read and decode each of ``N`` files once; fill the cache of a shape, if there is one.

    Args:
        paths: ``(N,)`` files.
        shape: Shape of the squares to keep; ``None`` keeps none.
        cache_dir: Where to keep them.
        expected: ``(N,)`` SHA-256 that the files must have, if known.

    Returns:
        ``(N,)`` rows with the columns of ``FILE_COLUMNS``; sizes in pixels.

    Raises:
        StorageError: ``cache_dir`` is full or read-only.
        ManifestError: A file has other content than expected.
    """

    def work(path: str) -> DecodedFile:
        try:
            return decode_file(read_image_file(path), shape)
        except UnreadableImageError as error:
            return _unreadable(b"", shape, str(error))

    what = "Reading images" if shape is None else f"Decoding images to {shape.size} px"
    rows = []
    with scratch(cache_dir / "decoded.npy") as part:
        with _array_file(len(paths), shape, part) as file:
            for decoded in track(in_threads(work, paths), len(paths), what):
                if file is not None and decoded.square is not None:
                    file.write(decoded.square.tobytes())
                rows.append([getattr(decoded, name) for name in FILE_COLUMNS])
        table = pd.DataFrame(rows, columns=list(FILE_COLUMNS)).astype(FILE_COLUMNS)
        if expected is not None:
            _check_contents(paths, table["sha256"].tolist(), expected)
        if shape is not None:
            files = _Files.of(cache_dir, table["sha256"].tolist(), shape)
            publish(part, files.pixels)
            with replacing(files.index) as rows_part:
                table.to_parquet(rows_part, index=False)
            write_checksums(files.checksums, [files.pixels, files.index], files.key)
    return table


def decode_file(raw: bytes, shape: Shape | None) -> DecodedFile:
    """Decode one file for its header, its perceptual hash and its square."""
    try:
        header, grey = read_image(raw, 0 if shape is None else shape.size)
        square = None if shape is None else fit(grey, shape.size, shape.resize)
        # The hash must not depend on the requested size: only decodes at the least scale serve it.
        coarse = grey if shape is None or shape.size * KEEP_SCALE <= LEAST else read_image(raw)[1]
    except UnreadableImageError as error:
        return _unreadable(raw, shape, str(error))
    return DecodedFile(len(raw), _sha256(raw), **vars(header), phash=perceptual_hash(coarse.pixels), square=square)


def _unreadable(raw: bytes, shape: Shape | None, problem: str) -> DecodedFile:
    blank = None if shape is None else np.zeros((shape.size, shape.size), dtype=np.uint8)
    return DecodedFile(len(raw), _sha256(raw), problem=problem, square=blank)


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


@dataclass(frozen=True)
class _Files:
    """The files of a cache, named by the images' contents and the shape, in whatever folder the images are."""

    key: str
    pixels: Path
    index: Path
    checksums: Path

    @classmethod
    def of(cls, cache_dir: Path, sha256: Sequence[str], shape: Shape) -> "_Files":
        key = digest([DECODER, shape.size, shape.resize, list(sha256)])[:16]
        return cls(key, *(cache_dir / f"{key}.{suffix}" for suffix in ("npy", "parquet", "json")))


def _check_contents(paths: Sequence[str], found: Sequence[str], expected: Sequence[str]) -> None:
    changed = [path for path, ours, theirs in zip(paths, found, expected, strict=True) if ours != theirs]
    if changed:
        raise ManifestError(
            f"{len(changed)} files are gone or hold other bytes than the manifest says, for example {some(changed, 3)}. Their "
            "size, hash and duplicates in the manifest may be wrong. Put the files back; if they were changed on purpose, import "
            "the data again. Files inside the cache folder are rebuilt after they are deleted."
        )


@contextmanager
def _array_file(count: int, shape: Shape | None, path: Path) -> Iterator[BinaryIO | None]:
    """Open a ``.npy`` file of ``(count, size, size)`` uint8 to append squares to; ``None`` without a shape."""
    if shape is None:
        yield None
        return
    with path.open("wb") as file:
        # Plain writes: a full disk raises here, where a memory map would kill the process.
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, shape.size, shape.size)}
        np.lib.format.write_array_header_1_0(file, header)
        yield file
