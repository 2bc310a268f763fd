"""Write the folder of an export: refuse to overwrite anything else, and replace an older export atomically."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pneumonia.errors import BundleError
from pneumonia.export.contract import ARCHIVE, CONTRACT, MODEL, OOD_DETECTOR
from pneumonia.system.files import translated_os_errors


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that an export writes.

    Attributes:
        noun: Of the folder, for messages.
        option: Names the folder on the command line.
        files: Names of all files that it may hold.
        example: A name for such a folder.
    """

    noun: str
    option: str
    files: frozenset[str]
    example: str


BUNDLE: Final = FolderKind("bundle", "--out", frozenset({MODEL, OOD_DETECTOR, CONTRACT, ARCHIVE}), "bundle")


def check_folder(out: Path, force: bool, kind: FolderKind = BUNDLE) -> None:
    """Refuse a folder for an export before any work is done; with ``force`` an older export of its kind is replaced.

    Raises:
        BundleError: It holds something that must not be overwritten, or is no name of a new folder.
    """
    if not out.name or out.resolve() == Path.cwd().resolve():
        raise BundleError(
            f"{kind.option} {out} can't be replaced by a {kind.noun}. Name a folder of its own, for example {kind.option} "
            f"{kind.example}."
        )
    if not os.path.lexists(out):
        return
    if not out.is_dir() or out.is_symlink():
        raise BundleError(f"{out} is a file; a {kind.noun} is a folder. Name another one with {kind.option}.")
    content = {path.name for path in out.iterdir()}
    foreign = sorted(content - kind.files)
    if foreign:
        raise BundleError(
            f"{out} holds files that belong to no {kind.noun}, for example {foreign[0]}, and is not overwritten. Name another "
            f"folder with {kind.option}."
        )
    if content and not force:
        raise BundleError(f"{out} already holds a {kind.noun}. Use --force to replace it, or name another folder.")


@contextmanager
def replacing_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces ``out`` when the block ends without an error, and is deleted otherwise.

    Raises:
        StorageError: The disk is full, or the folder can't be written.
    """
    with translated_os_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        mark = secrets.token_hex(4)
        new, old = (out.with_name(f".{out.name}.{mark}.{kind}") for kind in ("part", "old"))
        try:
            new.mkdir()
            yield new
            for path in new.iterdir():
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
            if out.exists():
                out.rename(old)
            try:
                new.rename(out)
            except OSError:
                if old.exists():
                    old.rename(out)
                raise
        finally:
            shutil.rmtree(new, ignore_errors=True)
            if out.exists():
                shutil.rmtree(old, ignore_errors=True)
