"""The one-row-an-image table that every later stage reads."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import pandas as pd

from pneumonia.console import track
from pneumonia.data.images import Header, UnreadableImageError, read_header
from pneumonia.data.releases import Found, find
from pneumonia.errors import BrokenImagesError
from pneumonia.storage.local import digest, replacing

COLUMNS: Final = {
    "image_id": "str",
    "path": "str",
    "label": "str",
    "patient_id": "str",
    "source_split": "str",
    "width": "int64",
    "height": "int64",
    "mode": "str",
    "bytes": "int64",
    "sha256": "str",
}
T = TypeVar("T")
R = TypeVar("R")


def load_manifest(root: Path, cache_dir: Path) -> pd.DataFrame:
    """The manifest of a data folder; made on first use, again when a file's name, size or time changed.

    Broken images keep their row with an empty ``mode``: whoever decodes them reports them all.

    Returns:
        One row per image with the columns of ``COLUMNS``; ``width`` and ``height`` in pixels.

    Raises:
        LayoutError, LabelError: See :func:`pneumonia.data.releases.find`.
        StorageError: ``cache_dir`` can not be written.
    """
    found = find(root)
    stats = [os.stat(item.path) for item in found]
    state = [
        [str(item.path.resolve()), stat.st_size, stat.st_mtime_ns] for item, stat in zip(found, stats, strict=True)
    ]
    path = cache_dir / "manifests" / digest(["1", state])[:16] / "manifest.parquet"
    if not path.exists():
        rows = list(track(in_threads(_row, found), len(found), "Reading image headers"))
        with replacing(path) as part:
            pd.DataFrame(rows).astype(COLUMNS).to_parquet(part, index=False)
    return pd.read_parquet(path)


def manifest_sha256(manifest: pd.DataFrame) -> str:
    """What the images and their labels are, wherever they lie: equal for two copies of one release."""
    rows = manifest[["image_id", "label", "patient_id", "source_split", "sha256"]].sort_values("image_id")
    return digest(rows.to_numpy(dtype=str).tolist())


def in_threads(work: Callable[[T], R], items: list[T]) -> Any:
    """Maps with a thread a core, in order; decoding and hashing release Python's lock. Ctrl-C ends it at once."""
    pool = ThreadPoolExecutor(max_workers=available_cores())
    try:
        yield from pool.map(work, items)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def available_cores() -> int:
    """Cores that this process may use, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def broken(problems: dict[str, str]) -> BrokenImagesError:
    """The error that lists every image that can't be read."""
    lines = "\n".join(f"  {path}: {reason}" for path, reason in sorted(problems.items()))
    noun = "image" if len(problems) == 1 else "images"
    return BrokenImagesError(
        f"{len(problems)} {noun} can't be read:\n{lines}\n"
        "A model trained without them answers another question. Replace them, or say data.on_bad_image=skip to go on "
        "without them (the result will say so)."
    )


def _row(item: Found) -> dict[str, Any]:
    raw = item.path.read_bytes()
    try:
        header = read_header(raw)
    except UnreadableImageError:
        header = Header(0, 0, "")
    return {
        "image_id": item.image_id,
        "path": str(item.path.resolve()),
        "label": item.label,
        "patient_id": item.patient_id,
        "source_split": item.source_split,
        "width": header.width,
        "height": header.height,
        "mode": header.mode,
        "bytes": len(raw),
        "sha256": hashlib.sha256(raw).hexdigest(),
    }
