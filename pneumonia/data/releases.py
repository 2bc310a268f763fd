"""Recognises how a release lays out its files and reads class, patient and part from each name.

The Kaggle layout of Kermany et al. (2018): ``chest_xray/{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg``, sometimes nested
twice, with junk that macOS left behind.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pneumonia.errors import LabelError, LayoutError, some
from pneumonia.labels import BACTERIA, NORMAL, VIRUS

PARTS: Final = ("train", "val", "test")
CLASS_FOLDERS: Final = ("NORMAL", "PNEUMONIA")
IMAGE_SUFFIXES: Final = {".jpeg", ".jpg", ".png", ".bmp", ".tif", ".tiff"}
NAMES: Final = "person<N>_bacteria_<N>, person<N>_virus_<N>, IM-<N>-<N> or NORMAL2-IM-<N>-<N>"
PNEUMONIA_NAME: Final = re.compile(r"person(?P<number>\d+)_(?P<kind>bacteria|virus)_\d+(?:_\d+)*", re.IGNORECASE)
NORMAL_NAME: Final = re.compile(r"(?P<series>(?:NORMAL\d*-)?IM)-(?P<number>\d+)(?:-\d+)+", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """One image file of a release and what its name says."""

    path: Path
    image_id: str
    label: str
    patient_id: str
    source_split: str


def find(root: Path) -> list[Found]:
    """All images of a folder in the Kaggle layout, in a stable order.

    Args:
        root: The folder that holds ``train``, ``val`` or ``test``, or one that holds such a folder, or one that holds
            ``NORMAL`` and ``PNEUMONIA`` directly (then ``source_split`` is empty).

    Raises:
        LayoutError: The folder is missing, empty, or arranged in another way.
        LabelError: A file's name is not one of the release's, or contradicts its folder.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise LayoutError(f"data.root={root} {what}; it must be the folder that holds the X-rays. Check the path.")
    top = _descend(root)
    if top is None:
        entries = sorted(entry.name for entry in root.iterdir())
        holds = f"it holds {some(entries)}" if entries else "it is empty"
        raise LayoutError(
            f"data.root={root} is in no layout that we know: {holds}. Expected "
            "{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg, or {NORMAL,PNEUMONIA}/*.jpeg; the folder names carry the labels."
        )
    found, strange, contradictory = _read(top)
    if strange:
        raise LabelError(
            f"{len(strange)} files under {root} have names that say no class or patient, for example "
            f"{some(strange, 3)}. Names must be like {NAMES}: the patient is read from them, and without patients a "
            "split can leak. Rename them, or move them away."
        )
    if contradictory:
        raise LabelError(
            f"{len(contradictory)} files under {root} lie in a folder that contradicts their names, for example "
            f"{some(contradictory, 3)}. Their label would be a guess. Move them to the right folder."
        )
    if not found:
        raise LayoutError(
            f"data.root={root} has the right folders but no image in them. Check that the copy is complete."
        )
    _check_ids(found)
    return found


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


def _descend(root: Path) -> Path | None:
    """The folder that holds parts or classes: ``root``, or the first such one or two levels below."""
    level = [root]
    for _ in range(3):
        for folder in level:
            names = {entry.name for entry in _folders(folder)}
            if names & set(PARTS) and any({e.name for e in _folders(folder / p)} & set(CLASS_FOLDERS) for p in PARTS):
                return folder
            if names & set(CLASS_FOLDERS):
                return folder
        level = [entry for folder in level for entry in _folders(folder)]
    return None


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not _is_junk(entry.name))


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name in {"__MACOSX", "Thumbs.db", "desktop.ini"}


def _read(top: Path) -> tuple[list[Found], list[str], list[str]]:
    found: list[Found] = []
    strange: list[str] = []
    contradictory: list[str] = []
    has_parts = any((top / part).is_dir() for part in PARTS)
    for part in PARTS if has_parts else ("",):
        for class_folder in CLASS_FOLDERS:
            folder = top / part / class_folder
            if not folder.is_dir():
                continue
            for entry in sorted(os.scandir(folder), key=lambda item: item.name):
                if _is_junk(entry.name) or not entry.is_file():
                    continue
                path = Path(entry.path)
                read = _read_name(path.stem) if path.suffix.lower() in IMAGE_SUFFIXES else None
                shown = str(path.relative_to(top))
                if read is None:
                    strange.append(shown)
                elif (read[0] == NORMAL) != (class_folder == NORMAL):
                    contradictory.append(shown)
                else:
                    found.append(Found(path, path.stem, read[0], read[1], part))
    return found, strange, contradictory


def _read_name(stem: str) -> tuple[str, str] | None:
    """Class and patient of a file name; the patient key is (class, number), since the classes count separately."""
    if match := PNEUMONIA_NAME.fullmatch(stem):
        label = BACTERIA if match["kind"].lower() == "bacteria" else VIRUS
        return label, f"{label}-{int(match['number'])}"
    if match := NORMAL_NAME.fullmatch(stem):
        return NORMAL, f"{match['series'].upper()}-{int(match['number'])}"
    return None


def _check_ids(found: list[Found]) -> None:
    twice = [image_id for image_id, count in Counter(item.image_id for item in found).items() if count > 1]
    if twice:
        raise LabelError(
            f"{len(twice)} image names stand in more than one place, for example {some(twice, 3)}. Predictions are kept by "
            "name, so each must be unique. Remove the copies."
        )
