"""Walks a data folder: which files lie in which part and class folder, and what was passed by."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pneumonia.data.dicom import is_dicom_file
from pneumonia.data.names import (
    DICOM_SUFFIXES,
    IMAGE_SUFFIXES,
    agrees,
    bare_name,
    class_of,
    is_junk,
    part_of,
    read_name,
)
from pneumonia.errors import LayoutError, some

ORDER: Final = ("train", "val", "test", "")
DEPTH: Final = 3  # levels that are searched for the release: it is often nested twice


@dataclass(frozen=True)
class Seen:
    """One file.

    Attributes:
        path: Where it is.
        part: ``train``, ``val``, ``test`` or ``""``, from the folders above it.
        class_folder: ``NORMAL``, ``PNEUMONIA``, ``BACTERIA``, ``VIRUS`` or ``""``, from the folders above it.
        name: The file's name without suffix, after the names of the folders that are neither part nor class.
        kind: ``image``, ``DICOM`` or ``other``.
    """

    path: Path
    part: str
    class_folder: str
    name: str
    kind: str


@dataclass
class Tree:
    """What a walk found.

    Attributes:
        top: Where it began.
        files: In the order of parts, classes and names.
        junk: Files and folders that macOS or Windows left behind.
        passed_by: Folders (and loose images) that are no part and no class.
        dangling: Links that lead nowhere.
    """

    top: Path
    files: list[Seen] = field(default_factory=list)
    junk: int = 0
    passed_by: list[str] = field(default_factory=list)
    dangling: list[str] = field(default_factory=list)


def find_top(root: Path) -> Path | None:
    """The folder that holds parts, classes or files with the names of a release: ``root``, or one up to two levels below."""
    level = [root]
    for _ in range(DEPTH):
        for folder in level:
            if any(class_of(entry.name) for entry in _folders(folder)):
                return folder
            parts = [Path(entry.path) for entry in _folders(folder) if part_of(entry.name)]
            if any(_is_part(part) for part in parts):
                return folder
        for folder in level:
            if _has_named_images(folder):
                return folder
        level = [Path(entry.path) for folder in level for entry in _folders(folder)]
    return None


def walk(top: Path, everything: bool = False) -> Tree:
    """All files of a release.

    Args:
        top: From :func:`find_top`.
        everything: Also enter folders that are neither part nor class, as a table of labels needs it.

    Raises:
        LayoutError: A folder can't be opened, or a link leads nowhere.
    """
    tree = Tree(top)
    sorted_in = any(part_of(entry.name) or class_of(entry.name) for entry in _folders(top))
    _walk(tree, top, "", "", (), everything, loose=everything or not sorted_in, visited=set())
    if tree.dangling:
        raise LayoutError(
            f"{len(tree.dangling)} links under {top} lead nowhere, for example {some(tree.dangling, 3)}, so images would be "
            "missing without a word. Mount what they lead to, or remove them."
        )
    tree.files.sort(key=lambda item: (ORDER.index(item.part), item.class_folder, item.path.name, str(item.path)))
    return tree


def names_say_all(top: Path) -> bool:
    """Whether every image's class and patient can be read from its name, or a DICOM file's class from its folder."""
    images = [seen for seen in walk(top).files if seen.kind != "other"]
    named = (read_name(bare_name(seen.path)) or (seen.kind == "DICOM" and seen.class_folder) for seen in images)
    return bool(images) and all(named)


def arrays_inside(root: Path) -> Path | None:
    """The one ``.npz`` of a folder that holds nothing else."""
    entries = [Path(entry.path) for entry in _visible(root)]
    return entries[0] if len(entries) == 1 and entries[0].is_file() and entries[0].suffix.lower() == ".npz" else None


def tables_inside(root: Path, top: Path | None) -> list[Path]:
    """The ``.csv`` files of a folder, and of the release in it."""
    paths = [Path(entry.path) for folder in dict.fromkeys((root, top or root)) for entry in _visible(folder)]
    return [path for path in paths if path.suffix.lower() == ".csv" and path.is_file()]


def _walk(
    tree: Tree,
    folder: Path,
    part: str,
    class_folder: str,
    between: tuple[str, ...],
    everything: bool,
    loose: bool,
    visited: set[tuple[int, int]],
) -> None:
    state = folder.stat()
    if (state.st_dev, state.st_ino) in visited:
        return  # a link back to where we have been
    visited.add((state.st_dev, state.st_ino))
    for entry in _entries(folder):
        if is_junk(entry.name):
            tree.junk += 1
        elif entry.is_dir():
            its_part = "" if part else part_of(entry.name)
            its_class = class_of(entry.name) if agrees(class_of(entry.name), class_folder) else ""
            if not (its_part or its_class or class_folder or everything):
                tree.passed_by.append(str(Path(entry.path).relative_to(tree.top)))
                continue
            inner = between if its_part or its_class else (*between, entry.name)
            _walk(tree, Path(entry.path), part or its_part, its_class or class_folder, inner, everything, True, visited)
        elif entry.is_file():
            path = Path(entry.path)
            kind = _kind(path)
            if loose:
                tree.files.append(Seen(path, part, class_folder, "-".join((*between, bare_name(path))), kind))
            elif kind != "other":
                tree.passed_by.append(entry.name)
        elif entry.is_symlink():
            tree.dangling.append(str(Path(entry.path).relative_to(tree.top)))


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return "image"
    if suffix in DICOM_SUFFIXES or ((not suffix or suffix[1:].isdigit()) and is_dicom_file(path)):
        return "DICOM"
    return "other"


def _is_part(folder: Path) -> bool:
    """Whether a folder named like a part holds classes, or images themselves."""
    if any(class_of(entry.name) for entry in _folders(folder)):
        return True
    return any(entry.is_file() and _kind(Path(entry.path)) != "other" for entry in _visible(folder))


def _has_named_images(folder: Path) -> bool:
    files = (Path(entry.path) for entry in _visible(folder) if entry.is_file())
    return any(read_name(bare_name(path)) is not None and _kind(path) != "other" for path in files)


def _folders(folder: Path) -> list[os.DirEntry[str]]:
    return [entry for entry in _visible(folder) if entry.is_dir()]


def _visible(folder: Path) -> Iterator[os.DirEntry[str]]:
    return (entry for entry in _entries(folder) if not is_junk(entry.name))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda item: item.name)
    except OSError as error:
        raise LayoutError(f"{folder} can't be opened ({error.strerror}). Check its permissions.") from error
