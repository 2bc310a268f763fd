"""Recognises a release by its layout and names, and says for each image its class, patient and subset.

Kaggle and Mendeley v3 (Kermany et al., 2018), MedMNIST, Parquet files of Hugging Face, folders with a table of labels,
DICOM files; as a folder, or as one file that is unpacked first. Folders of subsets are train, val (validation, valid) and
test; folders of classes NORMAL and PNEUMONIA (BACTERIA, VIRUS); what neither says, the file names say.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pneumonia.config.validation import check_root
from pneumonia.data.images.dicom import dicom_patient
from pneumonia.data.sources.archives import SUFFIXES, is_archive, unpack
from pneumonia.data.sources.file_names import NAMES, UNKNOWN_PATIENT, agrees, bare_name, read_name
from pneumonia.data.sources.folders import Seen, Tree, arrays_inside, find_top, names_say_all, tables_inside, walk
from pneumonia.data.sources.label_table import Row, match, read_table
from pneumonia.data.sources.medmnist import unpack_medmnist
from pneumonia.data.sources.parquet_shards import shards_inside, unpack_shards
from pneumonia.data.sources.release_notes import notes_on_images, notes_on_tree
from pneumonia.errors import UNPRINTABLE, LabelError, LayoutError, printable, some

EXPECTED: Final = (
    "{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg, or {NORMAL,PNEUMONIA}/*.jpeg; the folder names carry the labels. Or "
    "files named as in the Kaggle or Mendeley release, or one table of labels (.csv) beside the images."
)


@dataclass(frozen=True)
class Found:
    """One image file of a release and what its name, its folder or a table says."""

    path: Path
    image_id: str
    label: str
    patient_id: str
    source_split: str


@dataclass(frozen=True)
class Release:
    """What a source turned out to be.

    Attributes:
        kind: ``Kaggle``, ``Mendeley v3``, ``labels table``, ``DICOM``, ``MedMNIST``, ``Hugging Face``, or ``mixed``.
        images: In a stable order.
        notes: What a person should know about it, a sentence or two each.
    """

    kind: str
    images: list[Found]
    notes: list[str]


def recognise(root: Path, cache_dir: Path, labels: Path | None = None) -> Release:
    """What a source is, and all its images.

    Args:
        root: A folder, a MedMNIST ``.npz``, or a ``.zip`` or ``.tar(.gz)`` of either.
        cache_dir: Where single files are unpacked to, once.
        labels: A table of labels that overrides what names and folders say; see :mod:`pneumonia.data.sources.label_table`.

    Raises:
        LayoutError: Missing, empty, or arranged in a way that we do not know.
        LabelError: A label is missing, unknown or contradicted, or two files have one id.
        ArchiveError: An archive is damaged, or unsafe to unpack.
        StorageError: ``cache_dir`` can not be written.
    """
    if UNPRINTABLE.search(str(root.absolute())):
        raise LayoutError(
            f"The path {printable(root)} holds control characters, or is not UTF-8. Rename the folder or file."
        )
    if root.is_file() and root.suffix.lower() == ".npz":
        return _medmnist(root, cache_dir, labels)
    if root.is_file() and is_archive(root):
        folder = unpack(root, cache_dir)
        release = recognise(folder, cache_dir, labels)
        return replace(release, notes=[f"{root.name} was unpacked to {folder}.", *release.notes])
    _check_folder(root)
    arrays = arrays_inside(root)
    if arrays:
        return _medmnist(arrays, cache_dir, labels)
    shards = shards_inside(root)
    if shards:
        return _shards(shards, root, cache_dir, labels)
    return _in_folder(root, labels)


def find(root: Path) -> list[Found]:
    """All images of a folder, as :func:`recognise` finds them; it unpacks nothing, so it needs no cache.

    Raises:
        LayoutError, LabelError: See :func:`recognise`.
    """
    _check_folder(root)
    return _in_folder(root, None).images


def check_classes(images: Counter[str], classes: Sequence[str], where: str) -> None:
    """Refuses data in which a class has no image.

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


def _in_folder(root: Path, labels: Path | None) -> Release:
    if labels is not None:
        return _from_table(root, labels)
    top = find_top(root)
    table = _only_table(root, top)
    if top is None and table is None:
        raise _unknown(root)
    if table is None:
        assert top is not None
        return _from_names(walk(top), root)
    if top is None or not names_say_all(top):
        return _from_table(root, table)
    release = _from_names(walk(top), root)
    unused = f"{table.name} was not used, since names and folders say all labels. Say --labels {table.name} to use it."
    return replace(release, notes=[*release.notes, unused])


def _medmnist(path: Path, cache_dir: Path, labels: Path | None) -> Release:
    if labels is not None:
        raise LabelError(f"{path} holds its own labels, so --labels {labels} has nothing to add. Leave it out.")
    tree = walk(unpack_medmnist(path, cache_dir))
    images = [_found(seen, seen.class_folder, "") for seen in tree.files]
    return _release("MedMNIST", images, tree, path)


def _shards(shards: list[Path], root: Path, cache_dir: Path, labels: Path | None) -> Release:
    if labels is not None:
        raise LabelError(f"{root} holds its own labels, so --labels {labels} has nothing to add. Leave it out.")
    tree = walk(unpack_shards(shards, cache_dir))
    if all(read_name(bare_name(seen.path)) for seen in tree.files):
        return _from_names(tree, root)
    return _release("Hugging Face", [_found(seen, seen.class_folder, "") for seen in tree.files], tree, root)


def _from_names(tree: Tree, root: Path) -> Release:
    """Labels from names and folders, which must agree."""
    found: list[Found] = []
    kinds: set[str] = set()
    strange, contradictory = [], []
    for seen in tree.files:
        said = read_name(bare_name(seen.path)) if seen.kind != "other" else None
        if said is not None and agrees(said.label, seen.class_folder):
            found.append(_found(seen, said.label, said.patient_id))
            kinds.add("DICOM" if seen.kind == "DICOM" else said.release)
        elif said is not None:
            contradictory.append(str(seen.path.relative_to(tree.top)))
        elif seen.kind == "DICOM" and seen.class_folder:
            found.append(_found(seen, seen.class_folder, ""))
            kinds.add("DICOM")
        elif seen.kind != "other" or seen.class_folder:
            strange.append(str(seen.path.relative_to(tree.top)))
    if strange:
        raise LabelError(
            f"{len(strange)} files under {root} have names that say no class or patient, for example "
            f"{some(strange, 3)}. Names must be like {NAMES}: the patient is read from them, and without patients a "
            "split can leak. Rename them, move them away, or name classes and patients in a table: --labels FILE.csv."
        )
    if contradictory:
        raise LabelError(
            f"{len(contradictory)} files under {root} lie in a folder that contradicts their names, for example "
            f"{some(contradictory, 3)}. Their label would be a guess. Move them to the right folder."
        )
    if not found:
        raise LayoutError(f"{root} has the right folders but no image in them. Check that the copy is complete.")
    return _release(kinds.pop() if len(kinds) == 1 else "mixed", found, tree, root)


def _from_table(root: Path, table: Path) -> Release:
    """Labels from a table; names and folders that say something must not contradict it."""
    rows = read_table(table)
    tree = walk(root, everything=True)
    images = [seen for seen in tree.files if seen.kind != "other"]
    if not images:
        raise LayoutError(f"{root} holds no image, so the rows of {table} name nothing. Check the path.")
    matched = match(rows, [seen.path for seen in images], root, table)
    names = _distinct_names(images, root)
    found, contradictory = [], []
    for seen in images:
        row, said = matched[seen.path], read_name(bare_name(seen.path))
        if not _can_be(row.label, seen.class_folder) or (said and not _can_be(row.label, said.label)):
            contradictory.append(f"{seen.path.relative_to(root)} ({row.label} in line {row.line})")
        patient = row.patient_id or (said.patient_id if said else "")
        found.append(_found(seen, row.label, patient, row, names[seen.path]))
    if contradictory:
        raise LabelError(
            f"{table} contradicts the names or folders of {len(contradictory)} images, for example {some(contradictory, 3)}. "
            "Their label would be a guess. Correct the table, or move the images."
        )
    release = _release("labels table", found, tree, root)
    return replace(release, notes=[f"Labels come from {table}.", *release.notes])


def _can_be(one: str, other: str) -> bool:
    """Whether two sources that say a class can both be right; one may say only that it is pneumonia."""
    return agrees(one, other) or agrees(other, one)


def _found(seen: Seen, label: str, patient: str, row: Row | None = None, name: str = "") -> Found:
    name = name or _name(seen)
    if not patient and seen.kind == "DICOM":
        patient = dicom_patient(seen.path) or ""
    subset = row.subset if row and row.subset else seen.subset
    return Found(seen.path, name, label, patient or UNKNOWN_PATIENT + name, subset)


def _name(seen: Seen) -> str:
    bare = bare_name(seen.path)
    return bare if seen.kind == "image" or read_name(bare) else seen.name  # scanners number files anew in each folder


def _distinct_names(images: list[Seen], root: Path) -> dict[Path, str]:
    """A name of each image, by its path: with the folders where two are named alike, and then with the suffix."""
    names = {seen.path: _name(seen) for seen in images}
    for with_suffix in (False, True):
        count = Counter(names.values())
        for path in [path for path, name in names.items() if count[name] > 1]:
            below = path.relative_to(root)
            names[path] = "-".join((below if with_suffix else below.with_name(bare_name(path))).parts)
    return names


def _release(kind: str, images: list[Found], tree: Tree, root: Path) -> Release:
    _check_ids(images)
    rows = [(item.label, item.patient_id, item.source_split) for item in images]
    return Release(kind, images, notes_on_tree(tree, root) + notes_on_images(kind, rows))


def _check_folder(root: Path) -> None:
    if root.is_dir():
        return
    check_root(root)
    raise LayoutError(
        f"data.root={root} is a file that we can't read as data; it must be a folder of X-rays, a MedMNIST .npz, or an "
        f"archive ({', '.join(SUFFIXES)}). Check the path."
    )


def _unknown(root: Path) -> LayoutError:
    entries = sorted(entry.name for entry in root.iterdir())
    holds = f"it holds {some(entries)}" if entries else "it is empty"
    return LayoutError(f"{root} is in no layout that we know: {holds}. Expected {EXPECTED}")


def _only_table(root: Path, top: Path | None) -> Path | None:
    """The one table of a folder; more than one is nobody's to choose, unless none is needed."""
    tables = tables_inside(root, top)
    if len(tables) > 1 and (top is None or not names_say_all(top)):
        names = ", ".join(path.name for path in tables)
        raise LayoutError(
            f"{root} holds several tables ({names}), and which one has the labels is not said. Say --labels FILE."
        )
    return tables[0] if len(tables) == 1 else None


def _check_ids(found: list[Found]) -> None:
    twice = [image_id for image_id, count in Counter(item.image_id for item in found).items() if count > 1]
    if twice:
        raise LabelError(
            f"{len(twice)} image names stand in more than one place, for example {some(twice, 3)}. Predictions are kept by "
            "name, so each must be unique. Remove the copies."
        )
