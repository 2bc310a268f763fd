"""Unpack the Parquet files of an image data set on Hugging Face, byte for byte, into subset and class folders."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pneumonia.data.images.dicom_files import is_dicom
from pneumonia.data.sources.archives import MAX_BYTES, archive_errors, unpack_once
from pneumonia.data.sources.class_names import FOLDERS, ClassNames
from pneumonia.data.sources.file_names import bare_name, is_junk, read_name, subset_of
from pneumonia.errors import ArchiveError, some
from pneumonia.system.console import track
from pneumonia.system.files import digest

SHARD: Final = re.compile(r"(?P<subset>[a-z]+)(?:-\d+-of-\d+)?(?:-[0-9a-f]+)?\.parquet", re.IGNORECASE)
ROWS: Final = 64  # of a batch: about 15 MB of the release's largest images
MAGIC: Final = {b"\xff\xd8\xff": ".jpeg", b"\x89PNG": ".png", b"BM": ".bmp", b"II*\0": ".tif", b"MM\0*": ".tif"}
VERSION: Final = "1"  # raise it when the same files unpack differently


def shards_in(root: Path) -> list[Path]:
    """Return the Parquet files of a data set's folder (or of its ``data`` folder) that are named by their subset."""
    files = [path for folder in (root, root / "data") for path in sorted(folder.glob("*.parquet"))]
    return [path for path in files if path.is_file() and not is_junk(path.name) and _subset(path)]


def unpack_shards(shards: list[Path], cache_dir: Path, names: ClassNames) -> Path:
    """Return the folder ``{train,val,test}/{NORMAL,PNEUMONIA,...}/<file>``, built on first use.

    Images keep the names of a known release; others are numbered by subset, in the order of the rows.

    Args:
        shards: Parquet files with a column of images, ``{bytes, path}``, and a column ``label`` of class names, or of
            numbers whose names are in the file's metadata.
        cache_dir: Where to keep the folder.
        names: Of the classes.

    Raises:
        ArchiveError: Damaged, too large, or not these columns.
        StorageError: ``cache_dir`` can not be written.
    """
    method, what = f"shards-{VERSION}", "unpacking Parquet files"
    if names.own:
        method += f"-{digest(dict(names.own))}"
    return unpack_once(shards, cache_dir, method, what, lambda folder: _write(shards, folder, names))


def _write(shards: list[Path], folder: Path, names: ClassNames) -> None:
    import pyarrow.parquet as pq

    with archive_errors(shards[0], "Parquet file of images"):
        described = [pq.read_metadata(path) for path in shards]
        size = sum(file.row_group(group).total_byte_size for file in described for group in range(file.num_row_groups))
        if size > MAX_BYTES:
            limit = MAX_BYTES // 2**30
            raise ArchiveError(f"{shards[0].parent} would unpack to more than {limit} GiB. Nothing was written.")
        total = sum(file.num_rows for file in described)
        for shard, target, raw in track(_images(shards, folder, names), total, "Unpacking Parquet files"):
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                raise ArchiveError(f"{shard} is not sound: two images are named {target.name}. Nothing was kept.")
            target.write_bytes(raw)


def _images(shards: list[Path], folder: Path, class_names: ClassNames) -> Iterator[tuple[Path, Path, bytes]]:
    """Yield shard, target and bytes of every image."""
    import pyarrow.parquet as pq

    numbers: dict[str, int] = {}
    for shard in shards:
        subset = _subset(shard)
        with pq.ParquetFile(shard) as file:
            image, classes = _columns(shard, file.schema_arrow, class_names)
            for batch in file.iter_batches(ROWS, columns=[image, "label"]):
                for row in batch.to_pylist():
                    number = numbers[subset] = numbers.get(subset, -1) + 1
                    raw, label = (row[image] or {}).get("bytes"), classes.get(row["label"])
                    if not raw or label is None:
                        lacks = "no bytes" if label else f"the label {row['label']!r}"
                        raise ArchiveError(f"{shard}: image {number} of {subset} has {lacks}. Nothing was kept.")
                    yield shard, folder / subset / label / _name(row[image].get("path"), raw, subset, number), raw


def _columns(shard: Path, schema: Any, class_names: ClassNames) -> tuple[str, dict[Any, str]]:
    """Return the column of images, and the class folder of each value of the column ``label``."""
    import pyarrow as pa

    structs = [field for field in schema if pa.types.is_struct(field.type)]
    images = [field.name for field in structs if "bytes" in {inner.name for inner in field.type}]
    if len(images) != 1 or "label" not in schema.names:
        raise ArchiveError(f"{shard} has the columns {some(schema.names)}; one column of images and 'label' are needed.")
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = described.get("info", {}).get("features", {}).get("label", {}).get("names")
    if names is None and pa.types.is_integer(schema.field("label").type):
        raise ArchiveError(f"{shard} has numbers for labels without their meaning. Use another data set.")
    known = list(dict.fromkeys((*class_names.own.values(), *FOLDERS)))
    values: dict[Any, str] = dict(enumerate(names)) if names else {name: name for name in known}
    classes = {value: class_names.in_folder(name) for value, name in values.items()}
    unknown = [values[value] for value, label in classes.items() if not label]
    if unknown:
        raise ArchiveError(f"{shard} has the classes {some(unknown)} beside {', '.join(known)}: not this data set.")
    return images[0], classes


def _name(path: str | None, raw: bytes, subset: str, number: int) -> str:
    suffix = next((kind for magic, kind in MAGIC.items() if raw.startswith(magic)), ".dcm" if is_dicom(raw) else "")
    if not suffix:
        raise ArchiveError(f"Image {number} of {subset} is no JPEG, PNG, BMP, TIFF or DICOM. Nothing was kept.")
    known = bare_name(Path(path)) if path else ""
    return f"{known if read_name(known) else f'huggingface-{subset}-{number:05d}'}{suffix}"


def _subset(path: Path) -> str:
    match = SHARD.fullmatch(path.name)
    return subset_of(match["subset"]) if match else ""
