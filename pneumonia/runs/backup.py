"""Back up the folder of a sweep or a run to Blob Storage, so that another machine can resume it."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pneumonia.config.schema import BackupConfig
from pneumonia.errors import PneumoniaError
from pneumonia.runs.folder import RunFolder, read_metrics
from pneumonia.system.console import warn
from pneumonia.system.signals import sigterm_as_interrupt


class RunUnits:
    """What :class:`pneumonia.storage.backup.BlobBackup` must know about run folders."""

    marker: str = "config.yaml"
    last: tuple[str, ...] = ("checkpoints/best.ckpt", "checkpoints/last.ckpt", "result.json")
    plan: str = "sweep.json"

    def progress(self, unit: Path) -> int:
        """Return the epochs after which training can resume."""
        folder = RunFolder(unit)
        return len(read_metrics(folder)) if folder.last.is_file() else 0

    @contextmanager
    def emptied(self, unit: Path) -> Iterator[None]:
        """Lock a run folder and remove its files."""
        folder = RunFolder(unit)
        with folder.held():
            folder.clear()
            yield

    def is_newer(self, fetched: Path, existing: Path) -> bool:
        """Whether a fetched database of a search has more trials than the existing one."""
        return finished_trials(fetched) > finished_trials(existing)


@contextmanager
def backed_up(
    folder: Path, settings: BackupConfig, name: str, check: Callable[[Path, str], None] | None = None
) -> Iterator[None]:
    """Fetch what is further in the backup, then push regularly during the block and once more at its end.

    Args:
        folder: Folder of a sweep, which contains run folders, or of one run.
        settings: Without a place nothing is backed up.
        name: Appended to the place, so that each folder has its own.
        check: Called before anything is fetched with a folder that contains the ``sweep.json`` of the backup, and the name of the
            place; it raises if the backup belongs to another sweep.

    Raises:
        BlobError: Another machine works on the same backup.
        AccessError, ConfigError, TransferError: Azure is not reachable, before any work or at its end.
    """
    if settings.place is None:
        yield
        return
    from pneumonia.storage.backup import WORKERS, BlobBackup  # imports the Azure client
    from pneumonia.storage.client import Place, connect

    place = Place.parse(f"{settings.place.strip('/')}/{name}")
    container = connect(settings.account_url, WORKERS).get_container_client(place.container)
    backup = BlobBackup(folder, place, container, 60 * settings.every_min, RunUnits(), check)
    with sigterm_as_interrupt():
        backup.open()
        try:
            yield
        except BaseException:
            try:
                backup.close(hurry=True)
            except PneumoniaError as error:
                warn(f"The work since the last backup is only in {folder}: {error}")
            raise
        try:
            backup.close()
        except PneumoniaError as error:
            message = f"{error} The work itself is finished and in {folder}: run the same command again to back it up."
            raise type(error)(message) from error


def finished_trials(database: Path) -> int:
    """Return the number of finished trials of a search; -1 if the file is not its database."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as study:
            found = study.execute("SELECT count(*) FROM trials WHERE state NOT IN ('RUNNING', 'WAITING')").fetchone()
    except sqlite3.Error:
        return -1
    return int(found[0])
