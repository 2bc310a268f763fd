"""Recognise the release in a source by its layout, and list its images with class, patient and subset.

Layouts: Kaggle and Mendeley v3 (Kermany et al., 2018), MedMNIST, Parquet files of Hugging Face, folders with a table of labels,
and DICOM files; as a folder, or as one file that is unpacked first. Subset folders are train, val (validation, valid) and test;
class folders are NORMAL and PNEUMONIA (BACTERIA, VIRUS), or those of a task of the user's own. File names give the rest. A new
layout gets its branch in :func:`recognise`; new names of files and of folders go into
:mod:`pneumonia.data.sources.file_names`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pneumonia.config.validation import check_root
from pneumonia.data.images.dicom import dicom_patient
from pneumonia.data.sources.archives import SUFFIXES, is_archive, unpack
from pneumonia.data.sources.class_names import ClassNames
from pneumonia.data.sources.file_names import NAMES, UNKNOWN_PATIENT, bare_name, read_name
from pneumonia.data.sources.folders import (
    FolderTree,
    SourceFile,
    array_file_in,
    find_top,
    names_give_labels,
    tables_in,
    walk,
)
from pneumonia.data.sources.label_table import Row, match, read_table
from pneumonia.data.sources.medmnist import unpack_medmnist
from pneumonia.data.sources.parquet_shards import shards_in, unpack_shards
from pneumonia.data.sources.release_notes import notes_on_images, notes_on_tree
from pneumonia.errors import UNPRINTABLE, LabelError, LayoutError, printable, some
from pneumonia.tasks import SUBTYPE, TASKS, Task

EXPECTED: Final = (
    "{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg, or {NORMAL,PNEUMONIA}/*.jpeg; the folder names carry the labels. Or "
    "files named as in the Kaggle or Mendeley release, or one table of labels (.csv) beside the images."
)


@dataclass(frozen=True)
class FoundImage:
    """An image file of a release, with what its name, its folder or a table gives."""

    path: Path
    image_id: str
    label: str
    patient_id: str
    source_split: str


@dataclass(frozen=True)
class Release:
    """A recognised source."""

    kind: str  # Kaggle, Mendeley v3, labels table, DICOM, MedMNIST, Hugging Face or mixed
    images: list[FoundImage]  # in a stable order
    notes: list[str]  # facts to know before training, a sentence or two each


def recognise(root: Path, cache_dir: Path, labels: Path | None = None, task: Task = SUBTYPE) -> Release:
    """Recognise a source and list all its images.

    Args:
        root: A folder, a MedMNIST ``.npz``, or a ``.zip`` or ``.tar(.gz)`` of either.
        cache_dir: Where single files are unpacked to, once.
        labels: A table of labels that overrides names and folders; see :mod:`pneumonia.data.sources.label_table`.
        task: One of the user's own adds the names of its classes, which become the labels.

    Raises:
        LayoutError: The source is missing, empty, or in an unknown layout.
        LabelError: A label is missing, unknown or contradictory, two files have one id, or the user's own task has no class
            for a label.
        ArchiveError: An archive is damaged, or unsafe to unpack.
        StorageError: ``cache_dir`` can not be written.
    """
    if UNPRINTABLE.search(str(root.absolute())):
        raise LayoutError(f"The path {printable(root)} holds control characters, or is not UTF-8. Rename the folder or file.")
    if root.is_file() and is_archive(root):
        folder = unpack(root, cache_dir)
        release = recognise(folder, cache_dir, labels, task)
        return replace(release, notes=[f"{root.name} was unpacked to {folder}.", *release.notes])
    release = _recognised(root, cache_dir, labels, ClassNames.of(task))
    if task.name not in TASKS:
        task.indices(image.label for image in release.images)
    return release


def _recognised(root: Path, cache_dir: Path, labels: Path | None, names: ClassNames) -> Release:
    arrays = root if root.is_file() and root.suffix.lower() == ".npz" else None
    if arrays is None:
        _check_folder(root)
        arrays = array_file_in(root)
    shards = [] if arrays else shards_in(root)
    if arrays is None and not shards:
        return _from_folder(root, labels, names)
    place = arrays or root
    if labels is not None:
        raise LabelError(f"{place} holds its own labels, so --labels {labels} has nothing to add. Leave it out.")
    tree = walk(unpack_medmnist(arrays, cache_dir) if arrays else unpack_shards(shards, cache_dir, names), names)
    if shards and all(read_name(bare_name(file.path)) for file in tree.files):
        return _from_names(tree, root)
    images = [_image(file, file.class_folder, "") for file in tree.files]
    return _release("MedMNIST" if arrays else "Hugging Face", images, tree, place)


def find(root: Path) -> list[FoundImage]:
    """List the images of a folder as :func:`recognise` does, but unpack nothing, so no cache is needed.

    Raises:
        LayoutError, LabelError: See :func:`recognise`.
    """
    _check_folder(root)
    return _from_folder(root, None, ClassNames()).images


def check_classes(images: Counter[str], classes: Sequence[str], where: str) -> None:
    """Refuse data in which a class has no image.

    Raises:
        LabelError: One of ``classes`` is absent.
    """
    absent = [name for name in classes if not images[name]]
    if absent:
        counts = ", ".join(f"{name} {images[name]}" for name in classes)
        raise LabelError(
            f"{where} has no image of class {', '.join(absent)} ({counts}). A model can not learn a class that it never "
            "sees. Check that the copy is complete."
        )


def _from_folder(root: Path, labels: Path | None, names: ClassNames) -> Release:
    if labels is not None:
        return _from_table(root, labels, names)
    top = find_top(root, names)
    table = _only_table(root, top, names)
    if table is not None and (top is None or not names_give_labels(top, names)):
        return _from_table(root, table, names)
    if top is None:
        entries = sorted(entry.name for entry in root.iterdir())
        holds = f"it holds {some(entries)}" if entries else "it is empty"
        raise LayoutError(f"{root} has an unknown layout: {holds}. Expected {_expected(names)}")
    release = _from_names(walk(top, names), root)
    if table is None:
        return release
    unused = f"{table.name} was not used, since names and folders give all labels. Use --labels {table.name} to read it."
    return replace(release, notes=[*release.notes, unused])


def _expected(names: ClassNames) -> str:
    if not names.own:
        return EXPECTED
    classes = ", ".join(dict.fromkeys(names.own.values()))
    return f"folders named by class ({classes}, in any case, or their synonyms), or one table of labels (.csv) beside the images."


def _from_names(tree: FolderTree, root: Path) -> Release:
    """Take labels from file names and folders, which must agree; folders alone give classes of the user's own."""
    names, distinct = tree.names, dict[Path, str]()
    if names.own:
        distinct = _distinct_names([file for file in tree.files if file.kind != "other"], tree.top)
    found, kinds, unnamed, contradictory = list[FoundImage](), set[str](), list[str](), list[str]()
    for file in tree.files:
        parsed = names.in_file(bare_name(file.path), file.class_folder) if file.kind != "other" else None
        is_dicom = file.kind == "DICOM"
        folder_suffices = file.class_folder and (is_dicom or (names.own and file.kind == "image"))
        if parsed is not None and not names.agrees(parsed.label, file.class_folder):
            contradictory.append(tree.below(file.path))
        elif parsed is not None or folder_suffices:
            label, patient = (parsed.label, parsed.patient_id) if parsed else (file.class_folder, "")
            found.append(_image(file, label, patient, name=distinct.get(file.path, "")))
            kinds.add("DICOM" if is_dicom else parsed.release if parsed else "class folders")
        elif file.kind != "other" or file.class_folder:
            unnamed.append(tree.below(file.path))
    if unnamed:
        raise LabelError(
            f"{len(unnamed)} files under {root} have names without class or patient, for example {some(unnamed, 3)}. Names "
            f"must be like {NAMES}: the patient is read from them, and without patients a split can leak. Rename them, move "
            "them away, or name classes and patients in a table: --labels FILE.csv."
        )
    if contradictory:
        raise LabelError(
            f"{len(contradictory)} files under {root} lie in a folder that contradicts their names, for example "
            f"{some(contradictory, 3)}. Their label would be a guess. Move them to the right folder."
        )
    if not found:
        raise LayoutError(f"{root} has the right folders but no image in them. Check that the copy is complete.")
    return _release(kinds.pop() if len(kinds) == 1 else "mixed", found, tree, root)


def _from_table(root: Path, table: Path, class_names: ClassNames) -> Release:
    """Take labels from a table, which names and folders must not contradict."""
    rows = read_table(table, class_names)
    tree = walk(root, class_names, enter_all=True)
    files = [file for file in tree.files if file.kind != "other"]
    if not files:
        raise LayoutError(f"{root} holds no image, so the rows of {table} name nothing. Check the path.")
    matched = match(rows, [file.path for file in files], root, table)
    names = _distinct_names(files, root)
    found, contradictory = [], []
    for file in files:
        row = matched[file.path]
        parsed = class_names.in_file(bare_name(file.path), row.label)
        others = [file.class_folder, *([parsed.label] if parsed else [])]
        if not all(class_names.agrees(row.label, other) or class_names.agrees(other, row.label) for other in others):
            contradictory.append(f"{file.path.relative_to(root)} ({row.label} in line {row.line})")
        patient = row.patient_id or (parsed.patient_id if parsed else "")
        found.append(_image(file, row.label, patient, row, names[file.path]))
    if contradictory:
        raise LabelError(
            f"{table} contradicts the names or folders of {len(contradictory)} images, for example {some(contradictory, 3)}. "
            "Their label would be a guess. Correct the table, or move the images."
        )
    release = _release("labels table", found, tree, root)
    return replace(release, notes=[f"Labels come from {table}.", *release.notes])


def _image(file: SourceFile, label: str, patient: str, row: Row | None = None, name: str = "") -> FoundImage:
    name = name or _name(file)
    if not patient and file.kind == "DICOM":
        patient = dicom_patient(file.path) or ""
    subset = row.subset if row and row.subset else file.subset
    return FoundImage(file.path, name, label, patient or UNKNOWN_PATIENT + name, subset)


def _name(file: SourceFile) -> str:
    bare = bare_name(file.path)
    return bare if file.kind == "image" or read_name(bare) else file.name  # scanners restart numbering in each folder


def _distinct_names(files: list[SourceFile], root: Path) -> dict[Path, str]:
    """Return a unique name by path: prefixed with the folders where two names are equal, then with the suffix added."""
    names = {file.path: _name(file) for file in files}
    for with_suffix in (False, True):
        count = Counter(names.values())
        for path in [path for path, name in names.items() if count[name] > 1]:
            below = path.relative_to(root)
            names[path] = "-".join((below if with_suffix else below.with_name(bare_name(path))).parts)
    return names


def _release(kind: str, images: list[FoundImage], tree: FolderTree, root: Path) -> Release:
    twice = [image_id for image_id, count in Counter(item.image_id for item in images).items() if count > 1]
    if twice:
        raise LabelError(
            f"{len(twice)} image names occur in more than one place, for example {some(twice, 3)}. Predictions are stored by "
            "name, so each must be unique. Remove the copies."
        )
    rows = [(item.label, item.patient_id, item.source_split) for item in images]
    return Release(kind, images, notes_on_tree(tree, root) + notes_on_images(kind, rows, own=bool(tree.names.own)))


def _check_folder(root: Path) -> None:
    if root.is_dir():
        return
    check_root(root)
    raise LayoutError(
        f"data.root={root} is a file that can't be read as data; it must be a folder of X-rays, a MedMNIST .npz, an archive "
        f"({', '.join(SUFFIXES)}), or a manifest.parquet of `pneumonia data import`. Check the path."
    )


def _only_table(root: Path, top: Path | None, names: ClassNames) -> Path | None:
    """Return the one table of a folder, if any; several are ambiguous unless none is needed."""
    tables = tables_in(root, top)
    if len(tables) > 1 and (top is None or not names_give_labels(top, names)):
        found = ", ".join(path.name for path in tables)
        raise LayoutError(f"{root} holds several tables ({found}), and which has the labels is not clear. Use --labels FILE.")
    return tables[0] if len(tables) == 1 else None
