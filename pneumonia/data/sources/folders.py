"""Walk a data folder: list its files with the subset and class that the folders above them name."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from pneumonia.data.images.dicom_files import is_dicom_file
from pneumonia.data.sources.class_names import ClassNames
from pneumonia.data.sources.file_names import DICOM_SUFFIXES, IMAGE_SUFFIXES, bare_name, is_junk, read_name, subset_of
from pneumonia.data.sources.phantom_detection import MARK
from pneumonia.errors import UNPRINTABLE, LayoutError, printable
from pneumonia.tasks import SUBSETS

ORDER: Final = (*SUBSETS, "")
DEPTH: Final = 3  # levels that are searched for the release: archives often nest it twice
MAX_DEPTH: Final = 64  # nested folders; releases have five
MAX_ENTRIES: Final = 1_000_000  # files and folders; the largest public chest X-ray sets have about 400,000
UNPRINTABLE_NAME: Final = "its name holds control characters, or is not UTF-8"
Identity = tuple[int, int]  # device and inode, which identify a folder under any name


@dataclass(frozen=True)
class SourceFile:
    """A file of a data folder, with what the folders above it name."""

    path: Path
    subset: str  # train, val, test or ""
    class_folder: str  # NORMAL, PNEUMONIA, BACTERIA, VIRUS, a class of the user's own, or ""
    name: str  # without suffix, after the names of the folders that are neither subset nor class
    kind: str  # image, DICOM or other


@dataclass
class FolderTree:
    """Result of a walk from ``top``."""

    top: Path
    names: ClassNames = field(default_factory=ClassNames)
    files: list[SourceFile] = field(default_factory=list)  # in the order of subsets, classes and names
    junk: int = 0  # files and folders that macOS or Windows left behind
    ignored: list[str] = field(default_factory=list)  # folders and loose images outside of subsets and classes
    loops: list[str] = field(default_factory=list)  # links to a folder above themselves
    unusable: dict[str, str] = field(default_factory=dict)  # why an entry that might hold images can't be used

    def below(self, path: Path) -> str:
        """Return the path relative to the start folder."""
        return str(path.relative_to(self.top))


@dataclass(frozen=True)
class _Folder:
    """A folder to walk, and what the folders above it name; it is ``depth`` levels below the start folder."""

    path: Path
    above: frozenset[Identity]
    subset: str = ""
    class_folder: str = ""
    between: tuple[str, ...] = ()
    depth: int = 0


def find_top(root: Path, names: ClassNames) -> Path | None:
    """Find the folder with subset folders, class folders or named images: ``root``, or one up to two levels below.

    Raises:
        LayoutError: There is none, and a folder that might be one can't be opened.
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
            if any(names.in_folder(entry.name) for entry in entries):
                return folder
            if any(_is_subset(Path(entry.path), names) for entry in entries if subset_of(entry.name)):
                return folder
        if named := next(filter(_has_named_images, level), None):
            return named
        level = [Path(entry.path) for entries in folders.values() for entry in entries]
    if closed:
        raise closed[0]
    return None


def walk(top: Path, names: ClassNames | None = None, enter_all: bool = False) -> FolderTree:
    """List all files of a release.

    Unreadable image files are included; decoding them reports the reason.

    Args:
        top: From :func:`find_top`.
        names: Of the classes; ``None`` for those of the releases.
        enter_all: Also enter folders that are neither subset nor class, as a table of labels requires.

    Raises:
        LayoutError: A folder can't be opened, a link is broken, a name is not printable, or the tree is too large. All
            unusable entries are listed.
    """
    tree = FolderTree(top, names or ClassNames())
    take_loose = enter_all or not any(subset_of(entry.name) or tree.names.in_folder(entry.name) for entry in _folders(top))
    pending = [_Folder(top, frozenset(_identity(folder.stat()) for folder in top.resolve().parents))]
    visited, count = dict[Identity, Path](), 0
    while pending:
        folder = pending.pop()
        try:
            identity, entries = _identity(folder.path.stat()), _entries(folder.path)
        except (LayoutError, OSError) as error:
            if folder.path == top:
                raise
            tree.unusable[tree.below(folder.path)] = _reason(error)
            continue
        if identity in visited:
            tree.unusable[tree.below(folder.path)] = f"leads to {printable(tree.below(visited[identity]))} again"
            continue
        visited[identity] = folder.path
        count += len(entries)
        if count > MAX_ENTRIES:
            raise _too_large(top)
        folder = replace(folder, above=folder.above | {identity})
        for entry in entries:
            if _is_folder(entry) and not is_junk(entry.name):
                pending += _enter(tree, folder, entry, enter_all)
            else:
                _take(tree, folder, entry, take_loose or folder.path != top)
    if tree.unusable:
        lines = "\n".join(f"  {printable(path)}: {reason}" for path, reason in tree.unusable.items())
        noun = "entry" if len(tree.unusable) == 1 else "entries"
        raise LayoutError(
            f"{len(tree.unusable)} {noun} of {top} can't be used:\n{lines}\nImages that they hold or lead to would be missing "
            "without notice. Rename, repair or remove them."
        )
    tree.files.sort(key=lambda item: (ORDER.index(item.subset), item.class_folder, item.path.name, str(item.path)))
    return tree


def files_below(root: Path) -> list[Path]:
    """List the files below a folder by path, without system files; links to folders are not followed.

    Raises:
        LayoutError: A folder can't be opened, or there are more than ``MAX_ENTRIES`` entries.
    """
    files, pending, count = list[Path](), [root], 0
    while pending:
        for entry in _visible(pending.pop()):
            count += 1
            if count > MAX_ENTRIES:
                raise _too_large(root)
            if not _is_folder(entry):
                files.append(Path(entry.path))
            elif not entry.is_symlink():
                pending.append(Path(entry.path))
    return sorted(files)


def names_give_labels(top: Path, names: ClassNames) -> bool:
    """Return whether each image's class and patient is in its name, or a DICOM file's class in its folder."""
    images = [file for file in walk(top, names).files if file.kind != "other"]
    named = (read_name(bare_name(file.path)) or (file.kind == "DICOM" and file.class_folder) for file in images)
    return bool(images) and all(named)


def array_file_in(root: Path) -> Path | None:
    """Return the ``.npz`` of a folder that holds nothing else."""
    entries = [Path(entry.path) for entry in _visible(root)]
    return entries[0] if len(entries) == 1 and entries[0].is_file() and entries[0].suffix.lower() == ".npz" else None


def tables_in(root: Path, top: Path | None) -> list[Path]:
    """Return the ``.csv`` files of a folder, and of the release inside it."""
    paths = [Path(entry.path) for folder in dict.fromkeys((root, top or root)) for entry in _visible(folder)]
    return [path for path in paths if path.suffix.lower() == ".csv" and path.is_file()]


def _enter(tree: FolderTree, above: _Folder, entry: os.DirEntry[str], enter_all: bool) -> list[_Folder]:
    """Return the subfolder to walk, or record in the tree why it is left out."""
    path = Path(entry.path)
    subset = "" if above.subset else subset_of(entry.name)
    class_name = tree.names.in_folder(entry.name)
    class_name = class_name if tree.names.agrees(class_name, above.class_folder) else ""
    if not (subset or class_name or above.class_folder or enter_all):
        tree.ignored.append(tree.below(path))
    elif entry.is_symlink() and _identity(entry.stat()) in above.above:
        tree.loops.append(tree.below(path))
    elif UNPRINTABLE.search(entry.name):
        tree.unusable[tree.below(path)] = UNPRINTABLE_NAME
    elif above.depth >= MAX_DEPTH:
        tree.unusable[tree.below(path)] = f"lies more than {MAX_DEPTH} folders deep"
    else:
        between = above.between if subset or class_name else (*above.between, entry.name)
        subset, class_name = above.subset or subset, class_name or above.class_folder
        return [_Folder(path, above.above, subset, class_name, between, above.depth + 1)]
    return []


def _take(tree: FolderTree, folder: _Folder, entry: os.DirEntry[str], take_loose: bool) -> None:
    """Add a file to the tree, or record why it is left out."""
    path = Path(entry.path)
    if is_junk(entry.name):
        tree.junk += entry.name != MARK
    elif (kind := _kind(path)) == "other" and (problem := _broken_link(entry)):
        tree.unusable[tree.below(path)] = problem
    elif kind != "other" and UNPRINTABLE.search(entry.name):
        tree.unusable[tree.below(path)] = UNPRINTABLE_NAME
    elif take_loose:
        name = "-".join((*folder.between, bare_name(path)))
        tree.files.append(SourceFile(path, folder.subset, folder.class_folder, name, kind))
    elif kind != "other":
        tree.ignored.append(entry.name)


def _identity(state: os.stat_result) -> Identity:
    return state.st_dev, state.st_ino


def _broken_link(entry: os.DirEntry[str]) -> str:
    """Return why a file or link can't be followed; an empty string if it can."""
    try:
        entry.stat()
    except OSError as error:
        return f"leads nowhere ({error.strerror})" if entry.is_symlink() else _reason(error)
    return ""


def _reason(error: Exception) -> str:
    strerror = error.strerror if isinstance(error, OSError) else getattr(error.__cause__, "strerror", None)
    return f"can't be opened ({strerror or error})"


def _too_large(top: Path) -> LayoutError:
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


def _is_subset(folder: Path, names: ClassNames) -> bool:
    """Return whether a folder named like a subset holds classes or images; one that can't be opened may."""
    try:
        if any(names.in_folder(entry.name) for entry in _folders(folder)):
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
    """Return whether an entry is a folder or a link to one; broken and circular links are not."""
    if not entry.is_symlink():
        return entry.is_dir(follow_symlinks=False)  # known without another disk access
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
