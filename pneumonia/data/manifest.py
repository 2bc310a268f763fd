"""The one-row-an-image table that every later stage reads."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pandas as pd

from pneumonia.data.cache import Shape, look_at
from pneumonia.data.sources.releases import Found, recognise
from pneumonia.errors import UNPRINTABLE, BrokenImagesError, ManifestError, broken_images, printable, some
from pneumonia.system.checksums import find_damage, write_checksums
from pneumonia.system.console import warn
from pneumonia.system.files import digest, one_at_a_time, replacing

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
    "phash": "str",  # 256 bits in hexadecimal, see pneumonia.data.duplicates; empty where the image can't be read
    "problem": "str",  # why the image can't be read; empty where it can
}
VERSION: Final = "3"  # raise it when a column changes its meaning
MOST: Final = 2**53  # of a number in it: what every program keeps exactly


def load_manifest(root: Path, cache_dir: Path, labels: Path | None = None, shape: Shape | None = None) -> pd.DataFrame:
    """The manifest of a source; made on first use, again when a file's name, size or time changed or the manifest is damaged.

    Broken images keep their row, with a ``problem``: whoever uses them reports them all.

    Args:
        root: A folder, an archive or array file (see :mod:`pneumonia.data.sources.releases`), or a ``manifest.parquet``.
        cache_dir: Where it is kept.
        labels: A table of labels; ``None`` where names, folders or the one table in the folder say them.
        shape: Of squares that will be wanted next, decoded on the way so that each file is decoded once.

    Returns:
        One row per image with the columns of ``COLUMNS``; ``width`` and ``height`` in pixels.

    Raises:
        LayoutError, LabelError, ArchiveError: See :func:`pneumonia.data.sources.releases.recognise`.
        ManifestError: ``root`` is a manifest that can't be used.
        StorageError: ``cache_dir`` can not be written.
    """
    if root.suffix == ".parquet":
        return read_manifest(root)
    found = recognise(root.resolve(), cache_dir, labels).images
    state = [
        [str(item.path), item.label, item.patient_id, item.source_split, *_file_state(item.path)] for item in found
    ]
    key = digest([VERSION, state])[:16]
    path = cache_dir / "manifests" / key / "manifest.parquet"
    checksums = path.with_name("checksums.json")
    if find_damage(checksums, key):
        with one_at_a_time(path.with_suffix(".lock"), "looking at these images"):
            damage = find_damage(checksums, key)  # another process may have looked at them meanwhile
            if damage:
                if path.exists() or checksums.exists():
                    warn(f"{damage}. The images are looked at again.")
                manifest = _describe(found, cache_dir, shape)
                with replacing(path) as part:
                    manifest.to_parquet(part, index=False)
                write_checksums(checksums, [path], key)
                return manifest
    return pd.read_parquet(path)


def _file_state(path: Path) -> tuple[int, int, bool]:
    """What changes when a file does: its size, its time, and whether it can be read."""
    try:
        state = os.stat(path)
    except OSError:  # gone, or a link that leads nowhere; whoever decodes it says so
        return -1, -1, False
    return state.st_size, state.st_mtime_ns, os.access(path, os.R_OK)


def read_manifest(path: Path) -> pd.DataFrame:
    """A manifest that `pneumonia data import` wrote, checked before it is believed.

    Raises:
        ManifestError: Missing, no parquet, columns missing, an id twice, or images that are gone.
    """
    if not path.is_file():
        raise ManifestError(f"There is no manifest {path}. `pneumonia data import SOURCE --out {path}` writes one.")
    try:
        manifest = pd.read_parquet(path)
    except Exception as error:
        raise ManifestError(
            f"{path} is not a manifest: it can't be read as parquet ({error}). Import the data again."
        ) from error
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
            f"{path} names {len(twice)} images twice, for example {some(twice, 3)}. Predictions are kept by name, so each "
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
    """The manifest with the types of ``COLUMNS``.

    Raises:
        ManifestError: A cell is empty, of another type, out of range or no printable text; all such columns are listed.
    """
    problems = []
    for name, kind in COLUMNS.items():
        cells = manifest[name].tolist()
        check = _whole_number if kind == "int64" else TEXTS.get(name, _text)
        wrong = [(row, cell) for row, cell in enumerate(cells) if not check(cell)]
        if wrong:
            row, cell = wrong[0]
            problems.append(
                f"  {name}: {len(wrong)} of {len(cells)}, for example {printable(repr(cell)[:80])} in row {row}"
            )
    if problems:
        listed = "\n".join(problems)
        raise ManifestError(
            f"{path} is not a sound manifest. Columns with cells that are empty, of another type or out of range:\n{listed}\n"
            "Import the data again, or correct the program that wrote it."
        )
    return manifest.astype(COLUMNS)


def _whole_number(cell: object) -> bool:
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        return False
    return 0 <= cell <= MOST and cell == int(cell)  # NaN is neither


def _text(cell: object) -> bool:
    return isinstance(cell, str) and UNPRINTABLE.search(cell) is None


def _named(cell: object) -> bool:
    return _text(cell) and bool(cell)


def _hexadecimal(digits: int) -> Callable[[object], bool]:
    return lambda cell: isinstance(cell, str) and re.fullmatch(rf"[0-9a-f]{{{digits}}}", cell) is not None


TEXTS: Final[dict[str, Callable[[object], bool]]] = {
    **dict.fromkeys(("image_id", "path", "label", "patient_id"), _named),
    "sha256": _hexadecimal(64),
    "phash": lambda cell: cell == "" or _hexadecimal(64)(cell),
}


def write_manifest(manifest: pd.DataFrame, path: Path) -> None:
    """Writes a manifest atomically."""
    with replacing(path) as part:
        manifest.astype(COLUMNS).to_parquet(part, index=False)


def manifest_sha256(manifest: pd.DataFrame) -> str:
    """What the images and their labels are, wherever they lie: equal for two copies of one release."""
    rows = manifest[["image_id", "label", "patient_id", "source_split", "sha256"]].sort_values("image_id")
    return digest(rows.to_numpy(dtype=str).tolist())


def broken(problems: dict[str, str]) -> BrokenImagesError:
    """The error for a training whose images can't all be read."""
    return broken_images(
        dict(sorted(problems.items())),
        "A model trained without them answers another question. Replace them, or say data.on_bad_image=skip to go on "
        "without them (the result will say so).",
    )


def _describe(found: list[Found], cache_dir: Path, shape: Shape | None) -> pd.DataFrame:
    paths = [str(item.path) for item in found]
    named = pd.DataFrame([vars(item) for item in found])
    named["path"] = paths
    return pd.concat([named, look_at(paths, shape, cache_dir)], axis=1)[list(COLUMNS)].astype(COLUMNS)
