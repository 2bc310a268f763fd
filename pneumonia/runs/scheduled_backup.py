"""A copy in Blob Storage of the folder of a sweep or a run, from which another machine goes on where this one was cut."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pneumonia.errors import PneumoniaError
from pneumonia.system.console import warn
from pneumonia.system.signals import sigterm_as_interrupt


@contextmanager
def backed_up(
    folder: Path, settings: Mapping[str, Any], name: str, belongs: Callable[[Path, str], None] | None = None
) -> Iterator[None]:
    """Fetches what is further in the backup; within it, and once more at its end, brings the backup to what the folder holds.

    Args:
        folder: Of a sweep, with run folders in it, or of one run.
        settings: The config's ``backup`` node; without a place nothing is done.
        name: What is added to the place, so that each folder has its own.
        belongs: Is shown the ``sweep.json`` of the backup (in a folder, and what the place is called) before anything is fetched,
            where there are runs in it; it raises where the backup is another's.

    Raises:
        BlobError: Another machine is at work on the same backup.
        AccessError, ConfigError, TransferError: Azure can't be reached; before any work, or at its end.
    """
    if settings["place"] is None:
        yield
        return
    from pneumonia.runs.backup import BlobBackup  # heavy: only where there is a place

    backup = BlobBackup(folder, settings, name, belongs)
    with sigterm_as_interrupt():
        backup.open()
        try:
            yield
        except BaseException:
            try:
                backup.close(hurry=True)
            except PneumoniaError as error:
                warn(f"What was done since the last backup is in {folder} alone: {error}")
            raise
        try:
            backup.close()
        except PneumoniaError as error:
            raise type(error)(
                f"{error} The work itself is done, and kept in {folder}: the same command backs it up again."
            ) from error
