"""What the names of files and folders say: class, patient, subset."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pneumonia.tasks import BACTERIA, NORMAL, UNKNOWN_KIND, VIRUS

IMAGE_SUFFIXES: Final = {".jpeg", ".jpg", ".png", ".bmp", ".tif", ".tiff"}
DICOM_SUFFIXES: Final = {".dcm", ".dicom"}
NAMES: Final = "person<N>_bacteria_<N>, person<N>_virus_<N>, IM-<N>-<N> or NORMAL2-IM-<N>-<N>"
KAGGLE_PNEUMONIA: Final = re.compile(r"person(?P<number>\d+)_(?P<kind>bacteria|virus)_\d+(?:_\d+)*", re.IGNORECASE)
KAGGLE_NORMAL: Final = re.compile(r"(?P<series>(?:NORMAL\d*-)?IM)-(?P<number>\d+)(?:-\d+)+", re.IGNORECASE)
MENDELEY: Final = re.compile(r"(?P<kind>BACTERIA|VIRUS|NORMAL)-(?P<number>\d+)-\d+", re.IGNORECASE)
SUBSET_FOLDERS: Final = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}
CLASSES: Final = {name: name for name in (NORMAL, UNKNOWN_KIND, BACTERIA, VIRUS)}
JUNK: Final = {"__MACOSX", "Icon\r", "Thumbs.db", "desktop.ini"}
UNKNOWN_PATIENT: Final = "unknown-"  # before the image's own id, so that no two images share an unknown patient


@dataclass(frozen=True)
class Said:
    """What one file name says, and whose way of naming it is."""

    label: str
    patient_id: str
    release: str


def read_name(name: str) -> Said | None:
    """Class and patient of a file name without suffix; ``None`` where it follows no release that we know.

    The patient key is (class, number): in the Kaggle names bacterial and viral patients are counted separately.
    """
    if match := KAGGLE_PNEUMONIA.fullmatch(name):
        label = match["kind"].upper()
        return Said(label, f"{label}-{int(match['number'])}", "Kaggle")
    if match := KAGGLE_NORMAL.fullmatch(name):
        return Said(NORMAL, f"{match['series'].upper()}-{int(match['number'])}", "Kaggle")
    if match := MENDELEY.fullmatch(name):
        label = match["kind"].upper()
        return Said(label, f"{label}-{int(match['number'])}", "Mendeley v3")
    return None


def bare_name(path: Path) -> str:
    """The file name without an image's suffix; DICOM files are often named by a dotted number, which stays whole."""
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES | DICOM_SUFFIXES else path.name


def subset_of(folder: str) -> str:
    """The subset that a folder's name means (``train``, ``val``, ``test``), or ``""``."""
    return SUBSET_FOLDERS.get(folder.lower(), "")


def class_of(folder: str) -> str:
    """The class that a folder's name means, or ``""``; ``PNEUMONIA`` covers bacteria and viruses."""
    return CLASSES.get(folder.upper(), "")


def agrees(label: str, folder_class: str) -> bool:
    """Whether a label can lie in a class folder (``""``: any can)."""
    if label == folder_class or not folder_class:
        return True
    return folder_class == UNKNOWN_KIND and label in {BACTERIA, VIRUS}


def is_junk(name: str) -> bool:
    """What macOS and Windows leave behind, and hidden files."""
    return name.startswith(".") or name in JUNK
