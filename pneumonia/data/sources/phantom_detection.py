"""How drawn phantoms are recognised, whichever way they were reached: by path, by a mark that travels with a copy, by content."""

import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from pneumonia.system.files import read_json

INSIDE: Final = "chest_xray"
MARK: Final = ".phantoms"  # a file in the folder of that name
DEPTH: Final = 3  # folders above an image: class, subset, and the one with the mark
RECORD: Final = "checksums.json"  # SHA-256 of every film, beside the folder
NAME: Final = re.compile(r"phantom-[0-9a-f]{12}", re.ASCII)


def folder_name(digest: str) -> str:
    """The folder of the phantoms of these settings, under the cache's."""
    return f"phantom-{digest[:12]}"


def is_phantom(path: Path) -> bool:
    """Whether a path lies in a folder of drawn phantoms or in a copy of one, or is one."""
    real = Path(os.path.realpath(path))
    if any(NAME.fullmatch(one) and after == INSIDE for one, after in pairwise(real.parts)):
        return True
    return any((folder / MARK).is_file() for folder in (real, *real.parents[:DEPTH]))


def mostly_phantoms(paths: Sequence[str], sha256: Sequence[str], cache_dir: Path) -> bool:
    """Whether more than half of some images are drawn phantoms.

    Args:
        paths: Where the images lie.
        sha256: Of their files, in the same order.
        cache_dir: Where phantoms were drawn: an image with the bytes of one of these is one, wherever it lies.
    """
    drawn = {
        entry[-1]
        for record in cache_dir.glob(f"phantom-*/{RECORD}")
        if NAME.fullmatch(record.parent.name)
        for entry in read_json(record).get("files", {}).values()
    }
    folders = [os.path.dirname(path) for path in paths]
    marked = {folder for folder in set(folders) if is_phantom(Path(folder))}
    count = sum(one in drawn or folder in marked for one, folder in zip(sha256, folders, strict=True))
    return 2 * count > len(paths)
