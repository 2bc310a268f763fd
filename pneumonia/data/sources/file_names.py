"""Read class, patient and subset from the names of files, and subsets from those of folders."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pneumonia.tasks import NORMAL

IMAGE_SUFFIXES: Final = {".jpeg", ".jpg", ".png", ".bmp", ".tif", ".tiff"}
DICOM_SUFFIXES: Final = {".dcm", ".dicom"}
NAMES: Final = "person<N>_bacteria_<N>, person<N>_virus_<N>, IM-<N>-<N> or NORMAL2-IM-<N>-<N>"
SCHEMES: Final = (  # to add the naming scheme of a release, add its name and pattern here
    ("Kaggle", re.compile(r"person(?P<number>\d+)_(?P<kind>bacteria|virus)_\d+(?:_\d+)*", re.IGNORECASE)),
    ("Kaggle", re.compile(r"(?P<series>(?:NORMAL\d*-)?IM)-(?P<number>\d+)(?:-\d+)+", re.IGNORECASE)),
    ("Mendeley v3", re.compile(r"(?P<kind>BACTERIA|VIRUS|NORMAL)-(?P<number>\d+)-\d+", re.IGNORECASE)),
)
SUBSET_FOLDERS: Final = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}
JUNK: Final = {"__MACOSX", "Icon\r", "Thumbs.db", "desktop.ini"}
UNKNOWN_PATIENT: Final = "unknown-"  # prefix of the image's own id, so that no two images share an unknown patient


@dataclass(frozen=True)
class ParsedName:
    """Class and patient in a file name, and the release whose naming scheme it follows."""

    label: str
    patient_id: str
    release: str


def read_name(name: str) -> ParsedName | None:
    """Parse a file name without suffix; return ``None`` if it follows no known naming scheme.

    The patient is (class, number): Kaggle's names count bacterial and viral patients separately.
    """
    for release, pattern in SCHEMES:
        if match := pattern.fullmatch(name):
            found = match.groupdict()
            label = found.get("kind", NORMAL).upper()
            return ParsedName(label, f"{found.get('series', label).upper()}-{int(found['number'])}", release)
    return None


def bare_name(path: Path) -> str:
    """Return a file name without image suffix; the dotted numbers that name many DICOM files stay whole."""
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES | DICOM_SUFFIXES else path.name


def subset_of(folder: str) -> str:
    """Return the subset that a folder name means (``train``, ``val``, ``test``), or ``""``."""
    return SUBSET_FOLDERS.get(folder.lower(), "")


def is_junk(name: str) -> bool:
    """Return whether a name is hidden, or left behind by macOS or Windows."""
    return name.startswith(".") or name in JUNK
