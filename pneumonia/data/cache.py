"""Decodes every image once, keeps the pixels in one file, and maps that file into memory ever after."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pneumonia.console import track
from pneumonia.data.images import UnreadableImageError, decode
from pneumonia.data.manifest import in_threads
from pneumonia.storage.local import digest, one_at_a_time, replacing

DECODER: Final = "1"  # raise it when pneumonia.data.images.decode changes a pixel


@dataclass(frozen=True)
class Cache:
    """Decoded images in manifest order.

    Attributes:
        pixels: ``(N, size, size)`` uint8, memory-mapped, read-only.
        problems: Path of each image that could not be decoded, with the reason; its pixels are black.
    """

    pixels: NDArray[np.uint8]
    problems: dict[str, str]


def load_cache(manifest: pd.DataFrame, size: int, resize: str, cache_dir: Path) -> Cache:
    """The decoded images of a manifest at one size; decoded now if they never were.

    Safe when several processes ask at once: one decodes, the others wait. The file appears whole or not at all.

    Args:
        manifest: As :func:`pneumonia.data.manifest.load_manifest` returns it.
        size: Pixels a side.
        resize: ``squash`` or ``pad``.
        cache_dir: Where to keep the cache.

    Raises:
        StorageError: ``cache_dir`` is full or read-only.
    """
    key = digest([DECODER, size, resize, manifest["sha256"].tolist()])[:16]
    pixels, index = cache_dir / f"{key}.npy", cache_dir / f"{key}.parquet"
    if not (pixels.exists() and index.exists()):
        with one_at_a_time(cache_dir / f"{key}.lock", "decoding these images"):
            if not (pixels.exists() and index.exists()):
                _build(manifest, size, resize, pixels, index)
    rows = pd.read_parquet(index)
    bad = rows[rows["problem"] != ""]
    paths = manifest.set_index("sha256")["path"]
    problems = {
        path: reason for sha, reason in zip(bad["sha256"], bad["problem"], strict=True) for path in _all(paths[sha])
    }
    return Cache(np.load(pixels, mmap_mode="r"), problems)


def _all(value: object) -> list[str]:
    return value.tolist() if isinstance(value, pd.Series) else [str(value)]


def _build(manifest: pd.DataFrame, size: int, resize: str, pixels: Path, index: Path) -> None:
    def work(path: str) -> tuple[NDArray[np.uint8], str]:
        try:
            return decode(Path(path).read_bytes(), size, resize), ""
        except UnreadableImageError as error:
            return np.zeros((size, size), dtype=np.uint8), str(error)

    paths = manifest["path"].tolist()
    problems: list[str] = []
    with replacing(pixels) as part:
        with part.open(
            "wb"
        ) as file:  # plain writes: a full disk raises here, where a memory map would kill the process
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), size, size)}
            np.lib.format.write_array_header_1_0(file, header)
            for image, problem in track(in_threads(work, paths), len(paths), f"Decoding images to {size} px"):
                file.write(image.tobytes())
                problems.append(problem)
    with replacing(index) as part:
        columns = {"image_id": manifest["image_id"], "sha256": manifest["sha256"], "problem": problems}
        pd.DataFrame(columns).to_parquet(part, index=False)
