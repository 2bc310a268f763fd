"""Check that blob names can be local files: none leaves the folder or hides another file."""

import os
import re
import unicodedata
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Final

from pneumonia.errors import BlobError, some

OWN: Final = ".mirror"  # prefix of the mirror's own files
LONGEST_NAME: Final = 255  # bytes of a file name on common file systems
LONGEST_PATH: Final = 4095  # bytes of a whole path on Linux
LONGEST_BLOB: Final = 1024  # characters of a blob's name
DRIVE: Final = re.compile(r"[A-Za-z]:")


def check_names(names: Iterable[str], folder: Path) -> None:
    """Refuse blob names (without the prefix) that can not all be files under one folder.

    Raises:
        BlobError: Lists the names.
    """
    every = list(names)
    bad = _refused(every)
    room = LONGEST_PATH - len(os.fsencode(folder.absolute())) - 100  # for temporary files
    bad += [f"'{name[:40]}...' (its path is too long)" for name in every if len(name.encode("utf-8", "replace")) > room]
    if not bad:
        bad = [f"{name!r} (a link in {folder} leads elsewhere)" for name in links_outside(folder, every)]
    if bad:
        raise BlobError(
            f"{len(bad)} blob names can't be files under {folder}: {some(bad, 5)}. Nothing was written. Rename them in the "
            "container, or use a prefix without them."
        )


def check_uploads(names: Iterable[str], prefix: str) -> None:
    """Refuse file names that Azure would change or that could not be pulled again.

    Raises:
        BlobError: Lists the names.
    """
    every = list(names)
    bad = _refused(every)
    bad += [f"'{name[:40]}...' (longer than 1,024)" for name in every if len(prefix + name) > LONGEST_BLOB]
    if bad:
        raise BlobError(f"{len(bad)} files have names that can't be blobs: {some(bad, 5)}. Nothing was uploaded. Rename them.")


def unsafe(name: str) -> str:
    """Return why a name is refused, or an empty string."""
    parts = name.split("/")
    if not name or name.startswith("/"):
        return "it is empty or absolute"
    if any(part in {"", ".", ".."} for part in parts):
        return "it has an empty segment, . or .."
    if "\\" in name or DRIVE.match(name):
        return "it has a backslash or a drive letter"
    if any(unicodedata.category(letter) in {"Cc", "Cs"} for letter in name):
        return "it has control characters or invalid Unicode"
    if any(len(part.encode("utf-8")) > LONGEST_NAME for part in parts):
        return "a segment is longer than 255 bytes"
    if parts[0].casefold().startswith(OWN):
        return f"names with {OWN} are reserved"
    return ""


def links_outside(folder: Path, names: list[str]) -> list[str]:
    """Return names that are links, or whose folder is a link out of ``folder``."""
    root = folder.resolve()
    parents = {name.rpartition("/")[0] for name in names}
    away = {parent for parent in parents if not (root / parent).resolve().is_relative_to(root)}
    return [name for name in names if name.rpartition("/")[0] in away or (root / name).is_symlink()]


def _refused(names: list[str]) -> list[str]:
    """Return the names that are refused in any folder, with reasons."""
    return [f"{name!r} ({reason})" for name in names if (reason := unsafe(name))] + _collisions(names)


def _collisions(names: list[str]) -> list[str]:
    """Return names that collide on file systems that ignore case or Unicode form, and files that are also folders."""
    bad: list[str] = []
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", name).casefold()
        if key in seen:
            bad.append(f"{name!r} (differs from {seen[key]!r} only in case or accents)")
        seen[key] = name
    folders = {folder for key in seen for folder in accumulate(key.split("/")[:-1], "{}/{}".format)}
    return bad + [f"{name!r} (it is also a folder)" for key, name in seen.items() if key in folders]
