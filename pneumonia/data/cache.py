"""Decodes every image once, keeps the pixels in one file, and maps that file into memory ever after."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pneumonia.data.duplicates import perceptual_hash
from pneumonia.data.images.decode import DECODER, KEEP_SCALE, LEAST, UnreadableImageError, fit, read_grey, read_image
from pneumonia.data.images.limits import read_image_file
from pneumonia.errors import ManifestError, some
from pneumonia.system.checksums import find_damage, write_checksums
from pneumonia.system.console import track, warn
from pneumonia.system.files import digest, one_at_a_time, publish, replacing, scratch
from pneumonia.system.parallel import in_threads

LOOKS: Final = {
    "width": "int64",
    "height": "int64",
    "mode": "str",
    "bytes": "int64",
    "sha256": "str",
    "phash": "str",
    "problem": "str",
}


@dataclass(frozen=True)
class Shape:
    """How images are cut to squares: pixels a side, and ``squash`` or ``pad``."""

    size: int
    resize: str = "squash"


@dataclass(frozen=True)
class Cache:
    """Decoded images in manifest order.

    Attributes:
        pixels: ``(N, size, size)`` uint8, memory-mapped, read-only.
        problems: Path of each image that could not be decoded, with the reason; its pixels are black.
    """

    pixels: NDArray[np.uint8]
    problems: dict[str, str]


@dataclass(frozen=True)
class Look:
    """What one decoding of a file says of it; ``problem`` is empty where it can be read."""

    header: tuple[int, int, str]
    bytes: int
    sha256: str
    phash: str
    problem: str
    square: NDArray[np.uint8] | None


def load_cache(manifest: pd.DataFrame, size: int, resize: str, cache_dir: Path) -> Cache:
    """The decoded images of a manifest at one size; decoded now if they never were, or if the files are damaged.

    Safe when several processes ask at once: one decodes, the others wait. The file appears whole or not at all. Its bytes
    are compared with their checksum here, once; what changes them while they are mapped is not noticed.

    Args:
        manifest: As :func:`pneumonia.data.manifest.load_manifest` returns it.
        size: Pixels a side.
        resize: ``squash`` or ``pad``.
        cache_dir: Where to keep the cache.

    Raises:
        StorageError: ``cache_dir`` is full or read-only.
        ManifestError: A file is gone, or is not the one that the manifest describes.
    """
    paths, expected, shape = manifest["path"].tolist(), manifest["sha256"].tolist(), Shape(size, resize)
    files = _files(expected, shape, cache_dir)
    if find_damage(files.checksums, files.key):
        with one_at_a_time(files.pixels.with_suffix(".lock"), "decoding these images"):
            damage = find_damage(files.checksums, files.key)  # another process may have decoded them meanwhile
            if damage:
                if files.any_exists():
                    warn(f"{damage}. The images are decoded again.")
                look_at(paths, shape, cache_dir, expected)
    problems = pd.read_parquet(files.index)["problem"]
    found = {path: str(text) for path, text in zip(paths, problems, strict=True) if text}
    return Cache(np.load(files.pixels, mmap_mode="r", allow_pickle=False), found)


def look_at(
    paths: Sequence[str], shape: Shape | None, cache_dir: Path, expected: Sequence[str] | None = None
) -> pd.DataFrame:
    """What the files hold; each is read and decoded once, which also fills the cache of a shape.

    Args:
        paths: ``(N,)`` files.
        shape: Of the squares to keep; ``None`` keeps none.
        cache_dir: Where to keep them.
        expected: ``(N,)`` SHA-256 that the files must have, where they are known.

    Returns:
        ``(N,)`` rows with ``width``, ``height`` (pixels), ``mode``, ``bytes``, ``sha256``, ``phash`` and ``problem``.

    Raises:
        StorageError: ``cache_dir`` is full or read-only.
        ManifestError: A file has not the content that is expected of it.
    """

    def work(path: str) -> Look:
        try:
            raw = read_image_file(path)
        except UnreadableImageError as error:
            return _unread(b"", shape, str(error))
        return look(raw, shape)

    what = "Looking at images" if shape is None else f"Decoding images to {shape.size} px"
    rows = []
    with scratch(cache_dir / "decoded.npy") as part:
        with _array_file(len(paths), shape, part) as file:
            for seen in track(in_threads(work, paths), len(paths), what):
                if file is not None and seen.square is not None:
                    file.write(seen.square.tobytes())
                rows.append((*seen.header, seen.bytes, seen.sha256, seen.phash, seen.problem))
        table = pd.DataFrame(rows, columns=list(LOOKS)).astype(LOOKS)
        if expected is not None:
            _check_contents(paths, table["sha256"].tolist(), expected)
        if shape is not None:
            files = _files(table["sha256"].tolist(), shape, cache_dir)
            publish(part, files.pixels)
            with replacing(files.index) as rows_part:
                table.to_parquet(rows_part, index=False)
            write_checksums(files.checksums, [files.pixels, files.index], files.key)
    return table


@dataclass(frozen=True)
class _Files:
    """The files of a cache, named by the images' contents and the shape, wherever the images lie."""

    cache_dir: Path
    key: str

    @property
    def pixels(self) -> Path:
        return self.cache_dir / f"{self.key}.npy"

    @property
    def index(self) -> Path:
        return self.cache_dir / f"{self.key}.parquet"

    @property
    def checksums(self) -> Path:
        return self.cache_dir / f"{self.key}.json"

    def any_exists(self) -> bool:
        return any(path.exists() for path in (self.pixels, self.index, self.checksums))


def _files(sha256: Sequence[str], shape: Shape, cache_dir: Path) -> _Files:
    return _Files(cache_dir, digest([DECODER, shape.size, shape.resize, list(sha256)])[:16])


def _check_contents(paths: Sequence[str], found: Sequence[str], expected: Sequence[str]) -> None:
    changed = [path for path, ours, theirs in zip(paths, found, expected, strict=True) if ours != theirs]
    if changed:
        raise ManifestError(
            f"{len(changed)} files are gone or hold other bytes than the manifest says, for example {some(changed, 3)}. What "
            "was known of them may be wrong. Put the files back; if they were changed on purpose, import the data again. Files "
            "inside the cache folder are made again once they are deleted."
        )


def look(raw: bytes, shape: Shape | None) -> Look:
    """Decodes one file for everything that is wanted of it: header, perceptual hash and square."""
    sha256 = hashlib.sha256(raw).hexdigest()
    try:
        header, grey = read_image(raw, 0 if shape is None else shape.size)
        square = None if shape is None else fit(grey, shape.size, shape.resize)
        # The hash must not depend on the size that was asked for: only decodes at the least scale serve it.
        coarse = grey if shape is None or shape.size * KEEP_SCALE <= LEAST else read_grey(raw)
        shown = (header.width, header.height, header.mode)
        return Look(shown, len(raw), sha256, perceptual_hash(coarse.pixels), "", square)
    except UnreadableImageError as error:
        return _unread(raw, shape, str(error))


def _unread(raw: bytes, shape: Shape | None, problem: str) -> Look:
    """What is known of a file that can't be decoded; its square is black."""
    blank = None if shape is None else np.zeros((shape.size, shape.size), dtype=np.uint8)
    return Look((0, 0, ""), len(raw), hashlib.sha256(raw).hexdigest(), "", problem, blank)


@contextmanager
def _array_file(count: int, shape: Shape | None, path: Path) -> Iterator[BinaryIO | None]:
    """A ``.npy`` file of ``(count, size, size)`` uint8 to append squares to; ``None`` where none are wanted."""
    if shape is None:
        yield None
        return
    with path.open("wb") as file:
        # Plain writes: a full disk raises here, where a memory map would kill the process.
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, shape.size, shape.size)}
        np.lib.format.write_array_header_1_0(file, header)
        yield file
