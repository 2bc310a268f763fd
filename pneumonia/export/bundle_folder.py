"""Write the folder of a bundle: refuse to overwrite anything else, and replace an older bundle atomically."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pneumonia.errors import BundleError
from pneumonia.export.contract import ARCHIVE, CONTRACT, MODEL, OOD_DETECTOR
from pneumonia.system.files import translated_os_errors


def check_folder(out: Path, force: bool) -> None:
    """Refuse a folder for a bundle before any work is done; with ``force`` an older bundle is replaced.

    Raises:
        BundleError: It holds something that must not be overwritten, or is no name of a new folder.
    """
    if not out.name or out.resolve() == Path.cwd().resolve():
        raise BundleError(f"--out {out} can't be replaced by a bundle. Name a folder of its own, for example --out bundle.")
    if not os.path.lexists(out):
        return
    if not out.is_dir() or out.is_symlink():
        raise BundleError(f"{out} is a file; a bundle is a folder. Name another one with --out.")
    content = {path.name for path in out.iterdir()}
    foreign = sorted(content - {MODEL, OOD_DETECTOR, CONTRACT, ARCHIVE})
    if foreign:
        raise BundleError(
            f"{out} holds files that belong to no bundle, for example {foreign[0]}, and is not overwritten. Name another folder "
            "with --out."
        )
    if content and not force:
        raise BundleError(f"{out} already holds a bundle. Use --force to replace it, or name another folder.")


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
