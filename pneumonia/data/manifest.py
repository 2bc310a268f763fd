"""Load the manifest: the table with one row per image that every later stage reads."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pandas as pd

from pneumonia.data.build_once import build_once
from pneumonia.data.cache import FILE_COLUMNS, Shape, decode_files
from pneumonia.data.sources.releases import FoundImage, check_classes, recognise
from pneumonia.errors import UNPRINTABLE, BrokenImagesError, ManifestError, broken_images, printable, some
from pneumonia.system.files import digest, replacing
from pneumonia.tasks import SUBTYPE, Task

COLUMNS: Final = {**dict.fromkeys(("image_id", "path", "label", "patient_id", "source_split"), "str"), **FILE_COLUMNS}
VERSION: Final = "3"  # raise it when a column changes its meaning
MOST: Final = 2**53  # largest number in it, which every program represents exactly


def load_manifest(
    root: Path,
    cache_dir: Path,
    labels: Path | None = None,
    shape: Shape | None = None,
    task: Task = SUBTYPE,
    every_class: bool = False,
) -> pd.DataFrame:
    """Return the manifest of a source, built on first use, or when a file's name, size or time changed.

    Broken images keep their row, with a ``problem``: the caller reports them all.

    Args:
        root: A folder, an archive or array file (see :mod:`pneumonia.data.sources.releases`), or a ``manifest.parquet``.
        cache_dir: Where it is kept.
        labels: A table of labels; ``None`` if names, folders or the one table in the folder give them.
        shape: Shape of squares that are needed next, so that each file is decoded once.
        task: One of the user's own adds the names of its classes, which become the labels.
        every_class: Whether to refuse files without an image of each class of the task before they are decoded.

    Returns:
        One row per image with the columns of ``COLUMNS``; ``width`` and ``height`` in pixels.

    Raises:
        LayoutError, LabelError, ArchiveError: See :func:`pneumonia.data.sources.releases.recognise`.
        ManifestError: ``root`` is an invalid manifest.
        StorageError: ``cache_dir`` can not be written.
    """
    if root.suffix == ".parquet":
        return read_manifest(root)
    found = recognise(root.resolve(), cache_dir, labels, task).images
    if every_class:
        check_classes(task.counts(item.label for item in found), task.classes, "The data")
    state = [[str(item.path), item.label, item.patient_id, item.source_split, *_file_state(item.path)] for item in found]
    key = digest([VERSION, state])[:16]
    path = cache_dir / "manifests" / key / "manifest.parquet"

    def build() -> list[Path]:
        write_manifest(_described(found, cache_dir, shape), path)
        return [path]

    record, lock, remedy = path.with_name("checksums.json"), path.with_suffix(".lock"), "The images are read again."
    build_once(record, key, build, lock=lock, what="reading these images", remedy=remedy, built=[path])
    return pd.read_parquet(path)


def _file_state(path: Path) -> tuple[int, int, bool]:
    """Return size, time and readability of a file."""
    try:
        state = os.stat(path)
    except OSError:  # gone, or a broken link; decoding reports it
        return -1, -1, False
    return state.st_size, state.st_mtime_ns, os.access(path, os.R_OK)


def _described(found: list[FoundImage], cache_dir: Path, shape: Shape | None) -> pd.DataFrame:
    paths = [str(item.path) for item in found]
    named = pd.DataFrame([vars(item) for item in found]).assign(path=paths)
    return pd.concat([named, decode_files(paths, shape, cache_dir)], axis=1)[list(COLUMNS)]


def read_manifest(path: Path) -> pd.DataFrame:
    """Read and check a manifest that `pneumonia data import` wrote.

    Raises:
        ManifestError: Missing, no parquet, missing columns, invalid cells, a duplicate id, or images that are gone.
    """
    if not path.is_file():
        raise ManifestError(f"There is no manifest {path}. `pneumonia data import SOURCE --out {path}` writes one.")
    try:
        manifest = pd.read_parquet(path)
    except Exception as error:
        raise ManifestError(f"{path} is not a manifest: it is no parquet file ({error}). Import the data again.") from error
    missing = [name for name in COLUMNS if name not in manifest]
    if missing:
        raise ManifestError(
            f"{path} is not a manifest: it lacks the columns {some(missing)}. `pneumonia data import` writes them all."
        )
    if not len(manifest):
        raise ManifestError(f"The manifest {path} holds no image. Import the data again.")
    manifest = _checked_cells(manifest[list(COLUMNS)], path)
    twice = manifest["image_id"][manifest["image_id"].duplicated()]
    if len(twice):
        raise ManifestError(
            f"{path} names {len(twice)} images twice, for example {some(twice, 3)}. Predictions are stored by name, so each "
            "must be unique."
        )
    gone = [name for name in manifest["path"] if not os.path.isfile(name)]
    if gone:
        raise ManifestError(
            f"{len(gone)} of {len(manifest)} images of {path} are gone, for example {some(gone, 3)}. Put them back, or "
            "import the data again from where they are now."
        )
    return manifest


def _checked_cells(manifest: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return the manifest with the types of ``COLUMNS``; refuse it if a cell is empty, of another type or out of range."""
    problems = []
    for name, kind in COLUMNS.items():
        cells = manifest[name].tolist()
        check = _whole_number if kind == "int64" else TEXTS.get(name, _text)
        wrong = [(row, cell) for row, cell in enumerate(cells) if not check(cell)]
        if wrong:
            example = f"{printable(repr(wrong[0][1])[:80])} in row {wrong[0][0]}"
            problems.append(f"\n  {name}: {len(wrong)} of {len(cells)}, for example {example}")
    if problems:
        raise ManifestError(
            f"{path} is not a sound manifest. Columns with cells that are empty, of another type or out of range:"
            f"{''.join(problems)}\nImport the data again, or correct the program that wrote it."
        )
    return manifest.astype(COLUMNS)


def _whole_number(cell: object) -> bool:
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        return False
    return 0 <= cell <= MOST and cell == int(cell)  # NaN is neither


def _text(cell: object) -> bool:
    return isinstance(cell, str) and UNPRINTABLE.search(cell) is None


def _name(cell: object) -> bool:
    return _text(cell) and bool(cell)


def _digest(cell: object) -> bool:
    return isinstance(cell, str) and re.fullmatch(r"[0-9a-f]{64}", cell) is not None


TEXTS: Final[dict[str, Callable[[object], bool]]] = {
    **dict.fromkeys(("image_id", "path", "label", "patient_id"), _name),
    "sha256": _digest,
    "phash": lambda cell: cell == "" or _digest(cell),
}


def write_manifest(manifest: pd.DataFrame, path: Path) -> None:
    """Write a manifest atomically."""
    with replacing(path) as part:
        manifest.astype(COLUMNS).to_parquet(part, index=False)


def manifest_sha256(manifest: pd.DataFrame) -> str:
    """Return the hash of images and labels, which is equal for copies of a release in other folders."""
    rows = manifest[["image_id", "label", "patient_id", "source_split", "sha256"]].sort_values("image_id")
    return digest(rows.to_numpy(dtype=str).tolist())


def broken(problems: dict[str, str]) -> BrokenImagesError:
    """Return the error for a training on images that can't all be read."""
    return broken_images(
        dict(sorted(problems.items())),
        "A model trained without them is a different experiment. Replace them, or set data.on_bad_image=skip to leave them "
        "out (the result records it).",
    )
