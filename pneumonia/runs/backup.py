"""The copy in Blob Storage that a folder of runs has: what is fetched from it, what is pushed to it, and who may."""

import contextlib
import errno
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from filelock import FileLock, Timeout
from rich.markup import escape

from pneumonia.errors import BlobError, PneumoniaError, RunError
from pneumonia.runs.folder import RunFolder
from pneumonia.runs.snapshot import DATABASE, Stamp, capture, epochs_of, in_order, trials_of
from pneumonia.storage.blob_names import check_names
from pneumonia.storage.client import Place, connect, with_retries
from pneumonia.storage.lease import LASTS_S, RENEW_S, Lease
from pneumonia.storage.pull import fetch
from pneumonia.storage.push import list_or_create, send
from pneumonia.storage.transfers import Blob, md5, run_concurrently
from pneumonia.system.console import say, track, warn
from pneumonia.system.files import translated_os_errors

LEASE: Final = ".lease"
PLAN: Final = "sweep.json"
WAIT_S: Final = LASTS_S + 15.0  # for a machine that has vanished
WORKERS: Final = 16
WHOLE: Final = "."  # the run of a folder that is one run's


class BlobBackup:
    """See :func:`pneumonia.runs.scheduled_backup.backed_up`.

    The folder is the truth while a machine holds the lease, and of several processes of one machine the first one pushes.

    Args:
        folder: What is backed up.
        settings: The config's ``backup`` node.
        name: What is added to the place.
        belongs: See :func:`pneumonia.runs.scheduled_backup.backed_up`.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        name: str,
        belongs: Callable[[Path, str], None] | None = None,
    ) -> None:
        self.folder = folder
        self.belongs = belongs
        self.place = Place.parse(f"{settings['place'].strip('/')}/{name}")
        self.every_s = 60 * float(settings["every_min"])
        self.container = connect(settings["account_url"], WORKERS).get_container_client(self.place.container)
        self.lease = Lease(self.container, self.place.prefix + LEASE)
        self.work = folder.parent / f".{folder.name}.backup"  # beside it, or its copies would be taken for runs
        self._lock = FileLock(self.work / "lock", thread_local=False)
        self._sent: dict[str, Stamp] = {}
        self._overtaken = False
        self._done = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="backup", daemon=True)

    def open(self) -> None:
        """Takes the lease, fetches, and goes on pushing in a thread."""
        with translated_os_errors(self.work):
            self.work.mkdir(parents=True, exist_ok=True)
        if self._locked():
            try:
                list_or_create(self.container, self.place)
                self.lease.take(WAIT_S)
                self.fetch()
            except BaseException:
                self._let_go()
                raise
        else:
            say(f"Another process of this machine backs {escape(str(self.folder))} up already.")
        self._keeper.start()

    def close(self, hurry: bool = False) -> None:
        """Pushes for the last time.

        Args:
            hurry: Ask once, and do not wait for a network that is away: a spot machine has half a minute.
        """
        if hurry:
            self.lease.stop.set()
        self._done.set()
        self._keeper.join()
        try:
            if self._ours():
                self.push()
                say(f"Backed up to {escape(str(self.place))}")
        finally:
            self._let_go()

    def push(self) -> None:
        """Brings the backup to what the folder holds.

        Raises:
            AccessError, BlobError, TransferError: See :func:`pneumonia.storage.client.translated_errors`.
        """
        try:
            self._push_by(self.work)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            # Where the disk of the runs is full, what they have done must get away all the same.
            with translated_os_errors(self.work):
                self._push_by(None)

    def _push_by(self, place: Path | None) -> None:
        """Pushes what is captured in a folder of a place, or of the system's own place for such."""
        there = list_or_create(self.container, self.place)
        with TemporaryDirectory(dir=place) as scratch:
            waves = capture(self.folder, Path(scratch), self._sent)
            self._remove(self._trained_anew(there))
            for wave in waves:
                copies = {name: captured.copy for name, captured in wave.items()}
                for _ in send(self.container, self.place, copies, there, WORKERS):
                    pass
                self._sent |= {name: captured.stamp for name, captured in wave.items()}

    def fetch(self) -> None:
        """Fetches the runs that are further in the backup than here, and whatever else is missing here.

        Raises:
            BlobError, TransferError, StorageError: What could not be fetched; what is here is no worse than before.
        """
        there = list_or_create(self.container, self.place)
        there.pop(LEASE, None)
        check_names(there, self.folder)
        self._check_whose(there)
        runs: dict[str, dict[str, Blob]] = defaultdict(dict)
        for name, blob in there.items():
            runs[_run_of(name, there)][name] = blob
        papers = {name: blob for name, blob in runs.pop("", {}).items() if self._is_wanted(name)}
        runs = {run: blobs for run, blobs in runs.items() if self._may_be_further(run, blobs)}
        wanted = papers | {name: blob for blobs in runs.values() for name, blob in blobs.items()}
        if not wanted:
            return
        with translated_os_errors(self.work), TemporaryDirectory(dir=self.work) as scratch:
            self._download(wanted, Path(scratch))
            gone_on = [run for run in runs if self._adopt(run, Path(scratch))]
            for name in papers:
                self._put(Path(scratch, name), self.folder / name)
        done = sum(RunFolder(self.folder / run).result.is_file() for run in gone_on)
        say(f"Of the backup {escape(str(self.place))}: {len(gone_on)} runs go on here, {done} of them finished")

    def _check_whose(self, there: Mapping[str, Blob]) -> None:
        """Refuses another's backup before anything of it is here."""
        if self.belongs is None or PLAN not in there or not any(_run_of(name, there) for name in there):
            return
        with TemporaryDirectory(dir=self.work) as scratch:
            fetch(self.container, self.place, there[PLAN], Path(scratch, PLAN), threading.Event())
            self.belongs(Path(scratch), str(self.place))

    def _keep(self) -> None:
        pushed = time.monotonic()
        while not self._done.wait(min(RENEW_S, self.every_s)):
            try:
                if self._ours() and time.monotonic() - pushed >= self.every_s:
                    self.push()
                    pushed = time.monotonic()
            except (PneumoniaError, OSError) as error:
                warn(f"The backup could not be brought up to date, and will be tried again: {error}")

    def _ours(self) -> bool:
        """Whether it is on us to push: no other process of this machine does, and no other machine."""
        if self.lease.held and not self.lease.renew():
            self._overtaken = True  # for good: its runs may be further than ours
            warn(
                f"The network was away for so long that another machine has taken over the backup {self.place}; nothing more is "
                f"pushed from here. End one of the two. What is done here stays in {self.folder}."
            )
        if self._overtaken or self.lease.held:
            return self.lease.held
        if self._locked():  # the process that did has ended
            with contextlib.suppress(BlobError):
                self.lease.take(0)
        return self.lease.held

    def _locked(self) -> bool:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        return True

    def _let_go(self) -> None:
        try:
            with contextlib.suppress(PneumoniaError):  # it runs out by itself
                self.lease.release()
        finally:
            self._lock.release(force=True)

    def _trained_anew(self, there: Mapping[str, Blob]) -> list[str]:
        """Blobs of runs that were finished and are trained again here, where they have no file any more."""
        runs = {_run_of(name, there) for name in there if name.endswith("result.json")} - {""}
        folders = {run: RunFolder(self.folder / run) for run in runs}
        anew = {run for run, folder in folders.items() if folder.config.is_file() and not folder.result.is_file()}
        return [name for name in there if _run_of(name, there) in anew and not (self.folder / name).is_file()]

    def _remove(self, names: list[str]) -> None:
        for name in reversed(in_order(names)):
            blob = self.container.get_blob_client(self.place.prefix + name)
            with contextlib.suppress(BlobError):
                with_retries(f"remove {self.place.prefix}{name}", blob.delete_blob)

    def _is_wanted(self, name: str) -> bool:
        """Whether a file of the sweep itself is fetched: where it is missing, or a database, which may know more."""
        return name.endswith(DATABASE) or not (self.folder / name).exists()

    def _may_be_further(self, run: str, blobs: Mapping[str, Blob]) -> bool:
        if RunFolder(self.folder / run).result.is_file():
            return False
        paths = {name: self.folder / name for name in blobs}
        same = all(path.is_file() and path.stat().st_size == blobs[name].size for name, path in paths.items())
        return not (same and all(md5(path) == blobs[name].md5 for name, path in paths.items()))

    def _download(self, wanted: Mapping[str, Blob], scratch: Path) -> None:
        stop = threading.Event()

        def work(blob: Blob) -> None:
            path = scratch / blob.name
            path.parent.mkdir(parents=True, exist_ok=True)
            fetch(self.container, self.place, blob, path, stop)

        told = f"Fetching the backup {escape(str(self.place))}"
        for _ in track(run_concurrently(work, wanted.values(), WORKERS, stop), len(wanted), told):
            pass

    def _adopt(self, run: str, scratch: Path) -> bool:
        """Puts a fetched run in the place of ours, unless ours is as far; whether it did."""
        mine, theirs = RunFolder(self.folder / run), RunFolder(scratch / run)
        if not theirs.result.is_file() and epochs_of(theirs) <= epochs_of(mine):
            return False
        try:
            with mine.held():
                mine.clear()
                names = [path.relative_to(theirs.path).as_posix() for path in theirs.path.rglob("*") if path.is_file()]
                for name in in_order(names):  # killed in here, ours is less far, and the backup is asked again
                    self._put(theirs.path / name, mine.path / name)
        except RunError:  # another process trains it at this moment
            return False
        return True

    def _put(self, fetched: Path, path: Path) -> None:
        """Moves a fetched file to where it belongs; a database only where it knows of more trials."""
        if path.suffix == DATABASE and path.exists() and trials_of(path) >= trials_of(fetched):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(fetched, path)


def _run_of(name: str, there: Mapping[str, Blob]) -> str:
    """The run folder that a file belongs to; empty where to none."""
    if "config.yaml" in there:
        return WHOLE
    first = name.partition("/")[0]
    return first if f"{first}/config.yaml" in there else ""
