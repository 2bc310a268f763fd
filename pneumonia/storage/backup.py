"""Keep a copy of a folder in Blob Storage, from which another machine resumes the work in it."""

import contextlib
import errno
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Protocol

from azure.storage.blob import ContainerClient
from filelock import FileLock, Timeout
from rich.markup import escape

from pneumonia.errors import BlobError, PneumoniaError, RunError
from pneumonia.storage.blob_names import check_names
from pneumonia.storage.client import Place, with_retries
from pneumonia.storage.lease import LASTS_S, RENEW_S, Lease
from pneumonia.storage.pull import fetch
from pneumonia.storage.push import list_or_create, send
from pneumonia.storage.snapshot import DATABASE, Stamp, capture, in_order
from pneumonia.storage.transfers import Blob, run_concurrently
from pneumonia.system.checksums import file_hash
from pneumonia.system.console import say, track, warn
from pneumonia.system.files import translated_os_errors

LEASE: Final = ".lease"
WAIT_S: Final = LASTS_S + 15.0  # for the lease of a machine that has vanished
WORKERS: Final = 16
WHOLE: Final = "."  # the unit of a folder that is one itself
Blobs = Mapping[str, Blob]


class Units(Protocol):
    """The sub-folders (or the folder itself) whose files belong together, for example runs."""

    marker: str  # the file that makes a folder a unit
    last: tuple[str, ...]  # files sent after the others of a unit, in this order; the very last marks a finished unit
    plan: str  # the file that says what all units together are

    def progress(self, unit: Path) -> int:
        """Return how far the work on an unfinished unit is."""

    def emptied(self, unit: Path) -> AbstractContextManager[None]:
        """Lock a unit and remove its files; raise ``RunError`` where another process holds it."""

    def is_newer(self, fetched: Path, existing: Path) -> bool:
        """Whether a fetched file outside of the units should replace an existing one."""


class BlobBackup:
    """Back up a folder and restore it.

    The folder is the truth while this machine holds the lease. Of several processes of a machine, the first pushes.

    Args:
        folder: What is backed up.
        place: Where to.
        container: Container of the place.
        every_s: Seconds between pushes.
        units: The sub-folders whose files belong together.
        check: Called with a folder that contains the plan of the backup, and the name of the place, before anything is fetched;
            it raises if the backup belongs to other work.
    """

    def __init__(
        self,
        folder: Path,
        place: Place,
        container: ContainerClient,
        every_s: float,
        units: Units,
        check: Callable[[Path, str], None] | None = None,
    ) -> None:
        self.folder, self.place, self.container, self.units = folder, place, container, units
        self.every_s, self.check = every_s, check
        self.lease = Lease(container, place.prefix + LEASE)
        self.work = folder.parent / f".{folder.name}.backup"  # beside it, or its copies would be taken for units
        self._lock = FileLock(self.work / "lock", thread_local=False)
        self._sent: dict[str, Stamp] = {}
        self._overtaken = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._push_regularly, name="backup", daemon=True)

    def open(self) -> None:
        """Take the lease, fetch, and start a thread that pushes."""
        with translated_os_errors(self.work):
            self.work.mkdir(parents=True, exist_ok=True)
        if self._try_lock():
            try:
                list_or_create(self.container, self.place)
                self.lease.take(WAIT_S)
                self.fetch()
            except BaseException:
                self._release()
                raise
        else:
            say(f"Another process of this machine already backs up {escape(str(self.folder))}.")
        self._thread.start()

    def close(self, hurry: bool = False) -> None:
        """Push for the last time; in a ``hurry``, as on a spot machine with half a minute, without retries."""
        if hurry:
            self.lease.stop.set()
        self._done.set()
        self._thread.join()
        try:
            if self._may_push():
                self.push()
                say(f"Backed up to {escape(str(self.place))}")
        finally:
            self._release()

    def push(self) -> None:
        """Bring the backup up to date with the folder.

        Raises:
            AccessError, BlobError, TransferError: See :func:`pneumonia.storage.client.translated_errors`.
        """
        try:
            self._push_copies(self.work)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            with translated_os_errors(self.work):  # the disk is full: copy to the system's temporary folder
                self._push_copies(None)

    def fetch(self) -> None:
        """Fetch the units that are further in the backup than here, and other files that are missing here.

        Raises:
            BlobError, TransferError, StorageError: Files could not be fetched; the folder is no worse than before.
        """
        there = list_or_create(self.container, self.place)
        there.pop(LEASE, None)
        check_names(there, self.folder)
        self._check_plan(there)
        units: dict[str, dict[str, Blob]] = defaultdict(dict)
        for name, blob in there.items():
            units[self._unit_of(name, there)][name] = blob
        others = units.pop("", {})
        others = {name: others[name] for name in others if name.endswith(DATABASE) or not (self.folder / name).exists()}
        units = {unit: blobs for unit, blobs in units.items() if self._may_be_further(unit, blobs)}
        wanted = others | {name: blob for blobs in units.values() for name, blob in blobs.items()}
        if not wanted:
            return
        with translated_os_errors(self.work), TemporaryDirectory(dir=self.work) as scratch:
            self._download(wanted, Path(scratch))
            adopted = [unit for unit in units if self._adopt(unit, Path(scratch))]
            for name in others:
                existing, fetched = self.folder / name, Path(scratch, name)
                if not existing.exists() or self.units.is_newer(fetched, existing):
                    _move(fetched, existing)
        finished = sum(self._is_finished(self.folder / unit) for unit in adopted)
        say(f"From the backup {escape(str(self.place))}: {len(adopted)} runs resume here, {finished} of them finished")

    def _push_copies(self, parent: Path | None) -> None:
        """Push a snapshot that is taken in a new folder in ``parent``, or in the system's temporary folder."""
        there = list_or_create(self.container, self.place)
        marked = (self.folder / self.units.marker, *self.folder.glob(f"*/{self.units.marker}"))
        with TemporaryDirectory(dir=parent) as scratch:
            units = [path.parent for path in marked]
            groups = capture(self.folder, units, self.units.last, Path(scratch), self._sent)
            self._remove(self._outdated(there))
            for group in groups:
                copies = {name: captured.copy for name, captured in group.items()}
                for _ in send(self.container, self.place, copies, there, WORKERS):
                    pass
                self._sent |= {name: captured.stamp for name, captured in group.items()}

    def _push_regularly(self) -> None:
        pushed = time.monotonic()
        while not self._done.wait(min(RENEW_S, self.every_s)):
            try:
                if self._may_push() and time.monotonic() - pushed >= self.every_s:
                    self.push()
                    pushed = time.monotonic()
            except (PneumoniaError, OSError) as error:
                warn(f"The backup could not be updated and will be tried again: {error}")

    def _may_push(self) -> bool:
        """Whether this process pushes: neither another process of this machine nor another machine does."""
        if self.lease.held and not self.lease.renew():
            self._overtaken = True  # for good: the other machine may be further
            warn(
                f"The network was down for so long that another machine has taken over the backup {self.place}; nothing more is "
                f"pushed from here. Stop one of the two. The results of this machine are in {self.folder}."
            )
        if self._overtaken or self.lease.held:
            return self.lease.held
        if self._try_lock():  # the process that pushed has ended
            with contextlib.suppress(BlobError):
                self.lease.take(0)
        return self.lease.held

    def _try_lock(self) -> bool:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        return True

    def _release(self) -> None:
        try:
            with contextlib.suppress(PneumoniaError):  # the lease expires by itself
                self.lease.release()
        finally:
            self._lock.release(force=True)

    def _check_plan(self, there: Blobs) -> None:
        """Refuse the backup of other work before anything is fetched."""
        plan = self.units.plan
        if self.check is None or plan not in there or not any(self._unit_of(name, there) for name in there):
            return
        with TemporaryDirectory(dir=self.work) as scratch:
            fetch(self.container, self.place, there[plan], Path(scratch, plan), threading.Event())
            self.check(Path(scratch), str(self.place))

    def _outdated(self, there: Blobs) -> list[str]:
        """Return blobs without a local file, of units that were finished and are being repeated here."""
        finished = {self._unit_of(name, there) for name in there if name.endswith(self.units.last[-1])} - {""}
        repeated = {
            unit
            for unit in finished
            if (self.folder / unit / self.units.marker).is_file() and not self._is_finished(self.folder / unit)
        }
        return [name for name in there if self._unit_of(name, there) in repeated and not (self.folder / name).is_file()]

    def _remove(self, names: list[str]) -> None:
        for name in reversed(in_order(names, self.units.last)):
            blob = self.container.get_blob_client(self.place.prefix + name)
            with contextlib.suppress(BlobError):
                with_retries(f"remove {self.place.prefix}{name}", blob.delete_blob)

    def _is_finished(self, unit: Path) -> bool:
        return (unit / self.units.last[-1]).is_file()

    def _may_be_further(self, unit: str, blobs: Blobs) -> bool:
        if self._is_finished(self.folder / unit):
            return False
        paths = {name: self.folder / name for name in blobs}
        same = all(path.is_file() and path.stat().st_size == blobs[name].size for name, path in paths.items())
        return not (same and all(file_hash(path, "md5") == blobs[name].md5 for name, path in paths.items()))

    def _download(self, wanted: Blobs, scratch: Path) -> None:
        stop = threading.Event()

        def work(blob: Blob) -> None:
            path = scratch / blob.name
            path.parent.mkdir(parents=True, exist_ok=True)
            fetch(self.container, self.place, blob, path, stop)

        transfers = run_concurrently(work, wanted.values(), WORKERS, stop)
        for _ in track(transfers, len(wanted), f"Fetching the backup {escape(str(self.place))}"):
            pass

    def _adopt(self, unit: str, scratch: Path) -> bool:
        """Replace a unit by the fetched one unless the local one is as far; return whether it was replaced."""
        mine, fetched = self.folder / unit, scratch / unit
        if not self._is_finished(fetched) and self.units.progress(fetched) <= self.units.progress(mine):
            return False
        try:
            with self.units.emptied(mine):
                names = [path.relative_to(fetched).as_posix() for path in fetched.rglob("*") if path.is_file()]
                for name in in_order(names, self.units.last):  # if killed here, the next call fetches the unit again
                    _move(fetched / name, mine / name)
        except RunError:  # another process works on it now
            return False
        return True

    def _unit_of(self, name: str, there: Blobs) -> str:
        """Return the unit that a file belongs to; empty if to none."""
        if self.units.marker in there:
            return WHOLE
        first = name.partition("/")[0]
        return first if f"{first}/{self.units.marker}" in there else ""


def _move(fetched: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(fetched, path)
