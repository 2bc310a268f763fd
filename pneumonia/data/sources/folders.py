"""Walks a data folder: which files lie in which subset and class folder, and what was passed by."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pneumonia.data.images.dicom import is_dicom_file
from pneumonia.data.sources.file_names import (
    DICOM_SUFFIXES,
    IMAGE_SUFFIXES,
    agrees,
    bare_name,
    class_of,
    is_junk,
    read_name,
    subset_of,
)
from pneumonia.data.sources.phantom_detection import MARK
from pneumonia.errors import UNPRINTABLE, LayoutError, printable

ORDER: Final = ("train", "val", "test", "")
DEPTH: Final = 3  # levels that are searched for the release: it is often nested twice
MAX_DEPTH: Final = 64  # folders within folders; releases have five
MAX_ENTRIES: Final = 1_000_000  # files and folders; the largest public chest X-ray sets have about 400,000
UNPRINTABLE_NAME: Final = "its name holds control characters, or is not UTF-8"
Identity = tuple[int, int]  # device and inode: what tells two folders apart whatever they are called


@dataclass(frozen=True)
class Seen:
    """One file.

    Attributes:
        path: Where it is.
        subset: ``train``, ``val``, ``test`` or ``""``, from the folders above it.
        class_folder: ``NORMAL``, ``PNEUMONIA``, ``BACTERIA``, ``VIRUS`` or ``""``, from the folders above it.
        name: The file's name without suffix, after the names of the folders that are neither subset nor class.
        kind: ``image``, ``DICOM`` or ``other``.
    """

    path: Path
    subset: str
    class_folder: str
    name: str
    kind: str


@dataclass
class Tree:
    """What a walk found.

    Attributes:
        top: Where it began.
        files: In the order of subsets, classes and names.
        junk: Files and folders that macOS or Windows left behind.
        passed_by: Folders (and loose images) that are no subset and no class.
        looped: Links to a folder that holds them.
        refused: Entries that can't be used and might hold images, with the reason.
    """

    top: Path
    files: list[Seen] = field(default_factory=list)
    junk: int = 0
    passed_by: list[str] = field(default_factory=list)
    looped: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Place:
    """A folder that is still to be walked, with what the folders ``above`` say of it; they are ``depth`` below the top."""

    path: Path
    subset: str
    class_folder: str
    between: tuple[str, ...]
    above: frozenset[Identity]
    depth: int = 0


def find_top(root: Path) -> Path | None:
    """The folder that holds subsets, classes or files with the names of a release: ``root``, or one up to two levels below.

    Raises:
        LayoutError: There is none, and a folder where it might be can't be opened.
    """
    level, closed = [root], list[LayoutError]()
    above = {_identity(folder.stat()) for folder in (root, *root.resolve().parents)}

    def inside(folder: Path) -> list[os.DirEntry[str]]:
        try:
            found = _folders(folder)
        except LayoutError as error:
            closed.append(error)
            return []
        return [entry for entry in found if not (entry.is_symlink() and _identity(entry.stat()) in above)]

    for _ in range(DEPTH):
        folders = {folder: inside(folder) for folder in level}
        for folder, entries in folders.items():
            if any(class_of(entry.name) for entry in entries):
                return folder
            if any(_is_subset(Path(entry.path)) for entry in entries if subset_of(entry.name)):
                return folder
        for folder in level:
            if _has_named_images(folder):
                return folder
        level = [Path(entry.path) for entries in folders.values() for entry in entries]
    if closed:
        raise closed[0]
    return None


def walk(top: Path, everything: bool = False) -> Tree:
    """All files of a release.

    An image file that can't be read is among them: whoever decodes it says why. Other entries that can't be used are
    refused, all at once.

    Args:
        top: From :func:`find_top`.
        everything: Also enter folders that are neither subset nor class, as a table of labels needs it.

    Raises:
        LayoutError: A folder can't be opened, a link leads nowhere, a name is no printable text, or there is no end of it.
    """
    tree = Tree(top)
    sorted_in = any(subset_of(entry.name) or class_of(entry.name) for entry in _folders(top))
    _walk(tree, everything, everything or not sorted_in)
    if tree.refused:
        lines = "\n".join(f"  {printable(path)}: {reason}" for path, reason in tree.refused.items())
        noun = "entry" if len(tree.refused) == 1 else "entries"
        raise LayoutError(
            f"{len(tree.refused)} {noun} of {top} can't be used:\n{lines}\nImages that they hold or lead to would be missing "
            "without notice. Rename, repair or remove them."
        )
    tree.files.sort(key=lambda item: (ORDER.index(item.subset), item.class_folder, item.path.name, str(item.path)))
    return tree


def files_below(root: Path) -> list[Path]:
    """The files below a folder, sorted by path, without what systems leave behind; links to folders are not followed.

    Raises:
        LayoutError: A folder can't be opened, or there are more than ``MAX_ENTRIES`` entries.
    """
    files, pending, count = list[Path](), [root], 0
    while pending:
        for entry in _visible(pending.pop()):
            count += 1
            if count > MAX_ENTRIES:
                raise _endless(root)
            if not _is_folder(entry):
                files.append(Path(entry.path))
            elif not entry.is_symlink():
                pending.append(Path(entry.path))
    return sorted(files)


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


def _walk(tree: Tree, everything: bool, loose: bool) -> None:
    outside = frozenset(_identity(folder.stat()) for folder in tree.top.resolve().parents)
    pending, visited, count = [_Place(tree.top, "", "", (), outside)], dict[Identity, Path](), 0
    while pending:
        place = pending.pop()
        try:
            identity, entries = _identity(place.path.stat()), _entries(place.path)
        except (LayoutError, OSError) as error:
            if place.path == tree.top:
                raise
            tree.refused[_below(tree, place.path)] = _reason(error)
            continue
        if identity in visited:
            tree.refused[_below(tree, place.path)] = f"leads to {printable(_below(tree, visited[identity]))} again"
            continue
        visited[identity] = place.path
        count += len(entries)
        if count > MAX_ENTRIES:
            raise _endless(tree.top)
        for entry in entries:
            _take(tree, place, entry, everything, loose or place.path != tree.top, pending, place.above | {identity})


def _take(
    tree: Tree,
    place: _Place,
    entry: os.DirEntry[str],
    everything: bool,
    loose: bool,
    pending: list[_Place],
    above: frozenset[Identity],
) -> None:
    """Put one entry where it belongs: the files, the folders still to be walked, or what is left out or refused."""
    path = Path(entry.path)
    if is_junk(entry.name):
        tree.junk += entry.name != MARK
    elif _is_folder(entry):
        its_subset = "" if place.subset else subset_of(entry.name)
        its_class = class_of(entry.name) if agrees(class_of(entry.name), place.class_folder) else ""
        inner = place.between if its_subset or its_class else (*place.between, entry.name)
        if not (its_subset or its_class or place.class_folder or everything):
            tree.passed_by.append(_below(tree, path))
        elif entry.is_symlink() and _identity(entry.stat()) in above:
            tree.looped.append(_below(tree, path))
        elif UNPRINTABLE.search(entry.name):
            tree.refused[_below(tree, path)] = UNPRINTABLE_NAME
        elif place.depth >= MAX_DEPTH:
            tree.refused[_below(tree, path)] = f"lies more than {MAX_DEPTH} folders deep"
        else:
            its_class = its_class or place.class_folder
            pending.append(_Place(path, place.subset or its_subset, its_class, inner, above, place.depth + 1))
    elif (kind := _kind(path)) == "other" and (problem := _problem(entry)):
        tree.refused[_below(tree, path)] = problem
    elif kind != "other" and UNPRINTABLE.search(entry.name):
        tree.refused[_below(tree, path)] = UNPRINTABLE_NAME
    elif loose:
        name = "-".join((*place.between, bare_name(path)))
        tree.files.append(Seen(path, place.subset, place.class_folder, name, kind))
    elif kind != "other":
        tree.passed_by.append(entry.name)


def _below(tree: Tree, path: Path) -> str:
    return str(path.relative_to(tree.top))


def _identity(state: os.stat_result) -> Identity:
    return state.st_dev, state.st_ino


def _problem(entry: os.DirEntry[str]) -> str:
    """Why a link can't be followed; empty where it can, and where there is none."""
    try:
        entry.stat()
    except OSError as error:
        return f"leads nowhere ({error.strerror})" if entry.is_symlink() else _reason(error)
    return ""


def _reason(error: Exception) -> str:
    strerror = error.strerror if isinstance(error, OSError) else getattr(error.__cause__, "strerror", None)
    return f"can't be opened ({strerror or error})"


def _endless(top: Path) -> LayoutError:
    return LayoutError(
        f"{top} holds more than {MAX_ENTRIES:,} files and folders, links followed. Name the folder of the X-rays alone."
    )


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return "image"
    if suffix in DICOM_SUFFIXES or ((not suffix or suffix[1:].isdigit()) and is_dicom_file(path)):
        return "DICOM"
    return "other"


def _is_subset(folder: Path) -> bool:
    """Whether a folder named like a subset holds classes, or images themselves; one that can't be opened may."""
    try:
        if any(class_of(entry.name) for entry in _folders(folder)):
            return True
    except LayoutError:
        return True  # the walk reports it with all others
    return any(not _is_folder(entry) and _kind(Path(entry.path)) != "other" for entry in _visible(folder))


def _has_named_images(folder: Path) -> bool:
    try:
        files = [Path(entry.path) for entry in _visible(folder) if not _is_folder(entry)]
    except LayoutError:
        return False  # find_top has noted it
    return any(read_name(bare_name(path)) is not None and _kind(path) != "other" for path in files)


def _folders(folder: Path) -> list[os.DirEntry[str]]:
    return [entry for entry in _visible(folder) if _is_folder(entry)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; a link that leads nowhere or in a circle is none."""
    if not entry.is_symlink():
        return entry.is_dir(follow_symlinks=False)  # known without asking the disk again
    try:
        return stat.S_ISDIR(entry.stat().st_mode)
    except OSError:
        return False


def _visible(folder: Path) -> Iterator[os.DirEntry[str]]:
    return (entry for entry in _entries(folder) if not is_junk(entry.name))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda item: item.name)
    except OSError as error:
        raise LayoutError(f"{folder} can't be opened ({error.strerror}). Check its permissions.") from error
