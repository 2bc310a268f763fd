"""Unpacks a PneumoniaMNIST array file into PNG files, pixel for pixel; what is no such file is refused by name.

Source: Yang et al. (2023), MedMNIST v2, Scientific Data 10:41; sizes above 28 are the MedMNIST+ release.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pneumonia.data.sources.archives import named_damage, once
from pneumonia.errors import ArchiveError, some
from pneumonia.system.console import track
from pneumonia.system.parallel import in_threads
from pneumonia.tasks import NORMAL, SUBSETS, UNKNOWN_KIND

SIDES: Final = (28, 64, 128, 224)
LABELS: Final = (NORMAL, UNKNOWN_KIND)  # 0 and 1 in the file
MAX_IMAGES: Final = 10_000  # a subset; PneumoniaMNIST has 5,856 in all
VERSION: Final = "1"  # raise it when the same file unpacks differently
Images = NDArray[np.uint8]


def unpack_medmnist(path: Path, cache_dir: Path) -> Path:
    """The folder ``{train,val,test}/{NORMAL,PNEUMONIA}/medmnist-<subset>-<number>.png`` of a ``.npz``; made on first use.

    Numbers count from 0 in the order of the file, over both classes.

    Args:
        path: With ``{train,val,test}_images``, ``(N, S, S)`` or ``(N, S, S, 1)`` uint8, S one of 28, 64, 128 and 224,
            and ``{train,val,test}_labels``, ``(N, 1)`` or ``(N,)`` of 0 and 1. Subsets may be missing.
        cache_dir: Where to keep the folder.

    Raises:
        ArchiveError: Damaged, with pickled objects, too large, or not these arrays.
        StorageError: ``cache_dir`` can not be written.
    """
    return once([path], cache_dir, f"medmnist-{VERSION}", f"unpacking {path.name}", lambda folder: _write(path, folder))


def _write(path: Path, folder: Path) -> None:
    subsets = _subsets(path)
    total = sum(count for _, count in subsets)

    def work(item: tuple[Path, Images]) -> None:
        _write_png(*item)

    def files() -> Iterator[tuple[Path, Images]]:
        for subset, _ in subsets:
            images, labels = _arrays(path, subset)
            for name in LABELS:
                (folder / subset / name).mkdir(parents=True, exist_ok=True)
            for number, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield folder / subset / LABELS[label] / f"medmnist-{subset}-{number:05d}.png", image

    for _ in track(in_threads(work, list(files())), total, f"Unpacking {path.name}"):
        pass


def _write_png(path: Path, image: Images) -> None:
    import cv2

    encoded = cv2.imencode(".png", np.ascontiguousarray(image))[1]
    path.write_bytes(encoded.tobytes())


def _subsets(path: Path) -> list[tuple[str, int]]:
    """The subsets that a file holds and their numbers of images, from the headers alone: nothing is unpacked."""
    headers = _headers(path)
    subsets = []
    for subset in SUBSETS:
        pair = {f"{subset}_images", f"{subset}_labels"}
        there = pair & set(headers)
        if not there:
            continue
        if there != pair:
            raise _wrong(path, f"it holds {', '.join(there)} without {', '.join(pair - there)}")
        images, image_type = headers[f"{subset}_images"]
        labels, label_type = headers[f"{subset}_labels"]
        side = images[1] if len(images) > 1 else 0
        if image_type != np.uint8 or images[1:] not in ((side, side), (side, side, 1)) or side not in SIDES:
            raise _wrong(
                path,
                f"{subset}_images is {image_type} of shape {images}; grey images are uint8 of shape (N, S, S) with S one "
                f"of {', '.join(map(str, SIDES))}",
            )
        if len(labels) not in (1, 2) or labels[1:] not in ((), (1,)) or label_type.kind not in "iu":
            raise _wrong(
                path, f"{subset}_labels is {label_type} of shape {labels}; one whole number an image is needed"
            )
        if images[0] != labels[0]:
            raise _wrong(path, f"{subset} has {images[0]} images and {labels[0]} labels")
        if images[0] > MAX_IMAGES:
            raise _wrong(path, f"{subset} has {images[0]:,} images, and PneumoniaMNIST has 5,856 in all (a zip bomb?)")
        subsets.append((subset, images[0]))
    if not sum(count for _, count in subsets):
        held = f"it holds {some(sorted(headers))}" if headers else "it is empty"
        raise _wrong(path, f"{held}; expected are train_images, train_labels and the same of val and test")
    return subsets


def _headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of each array, and a check that each has just the bytes that its header says."""
    headers = {}
    with named_damage(path, ".npz file"):
        with zipfile.ZipFile(path) as file:
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
                    raise _wrong(path, f"{name} says {size:,} bytes and has {member.file_size - begins:,}")
                if name in headers:
                    raise _wrong(path, f"{name} stands in it twice")
                headers[name] = (tuple(int(side) for side in shape), kind)
    return headers


def _arrays(path: Path, subset: str) -> tuple[Images, NDArray[np.int64]]:
    with named_damage(path, ".npz file"):
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays[f"{subset}_images"], arrays[f"{subset}_labels"].reshape(-1).astype(np.int64)
    odd = sorted(set(labels.tolist()) - {0, 1})
    if odd:
        raise _wrong(path, f"{subset}_labels has the values {some(odd)} beside 0 (normal) and 1 (pneumonia)")
    return images.reshape(images.shape[:3]), labels


def _wrong(path: Path, reason: str) -> ArchiveError:
    return ArchiveError(f"{path} is no PneumoniaMNIST file: {reason}. Nothing was kept. Get pneumoniamnist.npz again.")
