"""Unpack a PneumoniaMNIST array file into PNG files, pixel for pixel.

Source: Yang et al. (2023), MedMNIST v2, Scientific Data 10:41; sizes above 28 are the MedMNIST+ release.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from pneumonia.data.sources.archives import archive_errors, unpack_once
from pneumonia.errors import ArchiveError, some
from pneumonia.system.arrays import Ints, Pixels
from pneumonia.system.console import track
from pneumonia.system.parallel import in_threads
from pneumonia.tasks import NORMAL, SUBSETS, UNKNOWN_KIND

SIDES: Final = (28, 64, 128, 224)
LABELS: Final = (NORMAL, UNKNOWN_KIND)  # 0 and 1 in the file
MAX_IMAGES: Final = 10_000  # a subset; PneumoniaMNIST has 5,856 in all
VERSION: Final = "1"  # raise it when the same file unpacks differently


def unpack_medmnist(path: Path, cache_dir: Path) -> Path:
    """Return the folder ``{train,val,test}/{NORMAL,PNEUMONIA}/medmnist-<subset>-<number>.png`` of a ``.npz``.

    It is built on first use. Numbers count from 0 in the order of the file, over both classes.

    Args:
        path: With ``{train,val,test}_images``, ``(N, S, S)`` or ``(N, S, S, 1)`` uint8, S one of 28, 64, 128 and 224,
            and ``{train,val,test}_labels``, ``(N, 1)`` or ``(N,)`` of 0 and 1. Subsets may be missing.
        cache_dir: Where to keep the folder.

    Raises:
        ArchiveError: Damaged, with pickled objects, too large, or not these arrays.
        StorageError: ``cache_dir`` can not be written.
    """
    method, what = f"medmnist-{VERSION}", f"unpacking {path.name}"
    return unpack_once([path], cache_dir, method, what, lambda folder: _write(path, folder))


def _write(path: Path, folder: Path) -> None:
    import cv2

    counts = _counts(path)

    def write_png(item: tuple[Path, Pixels]) -> None:
        item[0].write_bytes(cv2.imencode(".png", np.ascontiguousarray(item[1]))[1].tobytes())

    def files() -> Iterator[tuple[Path, Pixels]]:
        for subset in counts:
            images, labels = _arrays(path, subset)
            for name in LABELS:
                (folder / subset / name).mkdir(parents=True, exist_ok=True)
            for number, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield folder / subset / LABELS[label] / f"medmnist-{subset}-{number:05d}.png", image

    for _ in track(in_threads(write_png, list(files())), sum(counts.values()), f"Unpacking {path.name}"):
        pass


def _counts(path: Path) -> dict[str, int]:
    """Return the number of images by subset, from the checked headers alone: nothing is unpacked."""
    headers = _headers(path)
    counts = {}
    for subset in SUBSETS:
        pair = {f"{subset}_images", f"{subset}_labels"}
        present = pair & set(headers)
        if not present:
            continue
        if present != pair:
            raise _wrong(path, f"it holds {', '.join(present)} without {', '.join(pair - present)}")
        images, image_type = headers[f"{subset}_images"]
        labels, label_type = headers[f"{subset}_labels"]
        side = images[1] if len(images) > 1 else 0
        if image_type != np.uint8 or images[1:] not in ((side, side), (side, side, 1)) or side not in SIDES:
            wanted = f"grey images are uint8 of shape (N, S, S) with S one of {', '.join(map(str, SIDES))}"
            raise _wrong(path, f"{subset}_images is {image_type} of shape {images}; {wanted}")
        if len(labels) not in (1, 2) or labels[1:] not in ((), (1,)) or label_type.kind not in "iu":
            wanted = "one whole number an image is needed"
            raise _wrong(path, f"{subset}_labels is {label_type} of shape {labels}; {wanted}")
        if images[0] != labels[0]:
            raise _wrong(path, f"{subset} has {images[0]} images and {labels[0]} labels")
        if images[0] > MAX_IMAGES:
            raise _wrong(path, f"{subset} has {images[0]:,} images, and PneumoniaMNIST has 5,856 in all (a zip bomb?)")
        counts[subset] = images[0]
    if not sum(counts.values()):
        held = f"it holds {some(sorted(headers))}" if headers else "it is empty"
        raise _wrong(path, f"{held}; expected are train_images, train_labels and the same of val and test")
    return counts


def _headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return shape and type of each array, and check that it has as many bytes as its header says."""
    headers: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    with archive_errors(path, ".npz file"), zipfile.ZipFile(path) as file:
        for member in file.infolist():
            name = member.filename.removesuffix(".npy")
            with file.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                if version != (1, 0):  # later ones allow headers of gigabytes, which numpy reads whole
                    raise _wrong(path, f"{name} is an array of format {version}, which MedMNIST never uses")
                shape, _, kind = np.lib.format.read_array_header_1_0(stream)
                begins = stream.tell()
            if kind.hasobject:
                raise _wrong(path, f"{name} holds pickled objects, which can run any program when they are read")
            size = int(np.prod([int(side) for side in shape], dtype=object)) * kind.itemsize
            if member.file_size != begins + size:
                raise _wrong(path, f"{name} declares {size:,} bytes and has {member.file_size - begins:,}")
            if name in headers:
                raise _wrong(path, f"{name} occurs twice")
            headers[name] = (tuple(int(side) for side in shape), kind)
    return headers


def _arrays(path: Path, subset: str) -> tuple[Pixels, Ints]:
    with archive_errors(path, ".npz file"), np.load(path, allow_pickle=False) as arrays:
        images, labels = arrays[f"{subset}_images"], arrays[f"{subset}_labels"].reshape(-1).astype(np.int64)
    odd = sorted(set(labels.tolist()) - {0, 1})
    if odd:
        raise _wrong(path, f"{subset}_labels has the values {some(odd)} beside 0 (normal) and 1 (pneumonia)")
    return images.reshape(images.shape[:3]), labels


def _wrong(path: Path, reason: str) -> ArchiveError:
    return ArchiveError(f"{path} is no PneumoniaMNIST file: {reason}. Nothing was kept. Get pneumoniamnist.npz again.")
