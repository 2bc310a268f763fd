"""Recognise drawn phantoms: by path, by a marker file that copies keep, or by content."""

import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from pneumonia.system.checksums import recorded_hashes

INSIDE: Final = "chest_xray"
MARK: Final = ".phantoms"  # a file in the folder of that name
DEPTH: Final = 3  # folders above an image: class, subset, and the one with the marker
RECORD: Final = "checksums.json"  # SHA-256 of every image, beside the folder
NAME: Final = re.compile(r"phantom-[0-9a-f]{12}", re.ASCII)


def folder_name(digest: str) -> str:
    """Return the name of the cache folder of phantoms with these settings."""
    return f"phantom-{digest[:12]}"


def is_phantom(path: Path) -> bool:
    """Return whether a path is or is in a folder of drawn phantoms, or a copy of one."""
    real = Path(os.path.realpath(path))
    if any(NAME.fullmatch(one) and after == INSIDE for one, after in pairwise(real.parts)):
        return True
    return any((folder / MARK).is_file() for folder in (real, *real.parents[:DEPTH]))


def mostly_phantoms(paths: Sequence[str], sha256: Sequence[str], cache_dir: Path) -> bool:
    """Return whether more than half of some images are drawn phantoms.

    Args:
        paths: Image files.
        sha256: Their checksums, in the same order.
        cache_dir: Where phantoms were drawn; images with the same bytes are phantoms in any folder.
    """
    records = (path for path in cache_dir.glob(f"phantom-*/{RECORD}") if NAME.fullmatch(path.parent.name))
    drawn = set[str]().union(*map(recorded_hashes, records))
    folders = [os.path.dirname(path) for path in paths]
    marked = {folder for folder in set(folders) if is_phantom(Path(folder))}
    count = sum(one in drawn or folder in marked for one, folder in zip(sha256, folders, strict=True))
    return 2 * count > len(paths)
