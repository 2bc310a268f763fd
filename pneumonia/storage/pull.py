"""Mirror a container into a local folder: fetch what is new, verify it, write it atomically."""

import hashlib
import os
import shutil
from functools import partial
from pathlib import Path
from threading import Event
from typing import Final

from azure.core import MatchConditions
from azure.storage.blob import BlobServiceClient, ContainerClient
from rich.markup import escape

from pneumonia.errors import BlobError, StorageError, TransferError, some
from pneumonia.storage.blob_names import OWN, check_names, links_outside, unsafe
from pneumonia.storage.client import ChangedError, Place, with_retries
from pneumonia.storage.journal import NAME, Entry, Journal, read_journal, writing_journal
from pneumonia.storage.transfers import Blob, Transfer, list_blobs, look_up, run_concurrently
from pneumonia.system.checksums import file_hash
from pneumonia.system.console import track, warn
from pneumonia.system.files import one_at_a_time
from pneumonia.system.files import translated_os_errors as on_disk

PARTS: Final = f"{OWN}-parts"  # folder of incomplete files, apart from the images
CHANGES: Final = 3  # changes or corrupt transfers of one blob before a pull fails


def pull(service: BlobServiceClient, place: Place, folder: Path, workers: int = 16) -> Transfer:
    """Make a folder equal to a place.

    The journal tells which files are current. Every other blob is fetched under the ETag of the listing into a temporary
    file, checked against its MD5 and renamed. Local copies of deleted blobs are removed; other files are never touched. The
    folder is created if missing; another process that pulls into it is waited for.

    Raises:
        AccessError, BlobError, TransferError: See :func:`pneumonia.storage.client.with_retries`. Completed transfers are kept.
        StorageError: The disk is full, or the folder is not writable.
    """
    container = service.get_container_client(place.container)
    written = _written(folder)
    blobs = _list(container, place, folder)
    with one_at_a_time(folder / f"{OWN}.lock", "pulling into this folder"), on_disk(folder):
        if _written(folder) != written:  # another process has pulled meanwhile, perhaps newer blobs
            blobs = _list(container, place, folder)
        recorded = _ours(place, folder)
        fresh = {name: entry for name, entry in recorded.items() if entry.matches(folder / name)}
        shutil.rmtree(folder / PARTS, ignore_errors=True)
        same = {name: entry for name, entry in fresh.items() if name in blobs and entry.etag == blobs[name].etag}
        same |= _adopt(folder, [blob for name, blob in blobs.items() if name not in same], recorded)
        todo = [blob for name, blob in blobs.items() if name not in same]
        _check_room(folder, sum(blob.size for blob in todo))
        # A file stays in the journal until it is replaced or removed, however this pull ends. A file that was changed locally
        # and whose blob is gone is not removed.
        ours = {name: entry for name, entry in recorded.items() if name in blobs or name in fresh}
        if todo or ours | same != recorded:
            with writing_journal(folder, str(place), ours | same) as journal:
                _fetch_all(container, place, folder, todo, journal, workers)
        gone = [name for name in fresh if name not in blobs]
        _remove(folder, gone)
        shutil.rmtree(folder / PARTS, ignore_errors=True)
    unverified = sum(not blob.md5 for blob in todo)
    return Transfer(len(blobs), len(todo), len(same), len(gone), sum(blob.size for blob in todo), unverified)


def warn_of_foreign_files(folder: Path) -> None:
    """Warn about files of a mirror that did not come from the container, since they are read too."""
    _, known = read_journal(folder)
    strangers = [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not path.relative_to(folder).parts[0].startswith(OWN)
        and path.relative_to(folder).as_posix() not in known
    ]
    if strangers:
        warn(f"{len(strangers)} files in {folder} did not come from the container and are read too: {some(strangers, 3)}")


def _written(folder: Path) -> int:
    """Return the modification time of the journal in ns; 0 without one."""
    try:
        return (folder / NAME).stat().st_mtime_ns
    except OSError:
        return 0


def _list(container: ContainerClient, place: Place, folder: Path) -> dict[str, Blob]:
    blobs = list_blobs(container, place)
    if not blobs:
        raise BlobError(
            f"{place} contains no blob. Nothing was pulled, and nothing was removed from {folder}. Check the container and the "
            "prefix."
        )
    check_names(blobs, folder)
    return blobs


def _ours(place: Place, folder: Path) -> dict[str, Entry]:
    """Return the files of earlier pulls that still exist.

    Raises:
        BlobError: The folder mirrors another place.
    """
    before, entries = read_journal(folder)
    if before and before != str(place):
        raise BlobError(
            f"{folder} mirrors {before}, and pulling {place} into it would remove those files. Nothing was changed. Use "
            "another folder, or delete this one first."
        )
    refused = set(links_outside(folder, list(entries)))
    return {
        name: entry for name, entry in entries.items() if name not in refused and not unsafe(name) and (folder / name).is_file()
    }


def _adopt(folder: Path, blobs: list[Blob], recorded: dict[str, Entry]) -> dict[str, Entry]:
    """Return existing files whose content equals their blobs.

    Raises:
        BlobError: A foreign file is in the place of a blob.
    """
    there = [blob for blob in blobs if os.path.lexists(folder / blob.name)]
    adopted, strangers = {}, []
    for blob in track(there, len(there), "Checking existing files") if there else []:
        path = folder / blob.name
        if path.is_file() and blob.md5 and path.stat().st_size == blob.size and file_hash(path, "md5") == blob.md5:
            adopted[blob.name] = Entry(blob.name, blob.etag, blob.size, path.stat().st_mtime_ns)
        elif blob.name not in recorded:
            strangers.append(blob.name)
    if strangers:
        raise BlobError(
            f"{len(strangers)} files in {folder} are in the place of blobs, differ from them, and did not come from a "
            f"pull: {some(strangers, 3)}. Nothing was changed. Move them away, or pull into another folder."
        )
    return adopted


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(
            f"{needed / 1e9:,.2f} GB have to be pulled, and the disk of {folder} has {free / 1e9:,.2f} GB free. Nothing was "
            "pulled. Free some space, or choose another disk."
        )


def _fetch_all(container: ContainerClient, place: Place, folder: Path, blobs: list[Blob], journal: Journal, workers: int) -> None:
    if not blobs:
        return
    (folder / PARTS).mkdir()
    for parent in {(folder / blob.name).parent for blob in blobs}:
        parent.mkdir(parents=True, exist_ok=True)
    stop = Event()

    def work(blob: Blob) -> None:
        part = folder / PARTS / hashlib.sha256(blob.name.encode()).hexdigest()
        blob = fetch(container, place, blob, part, stop)
        stat = part.stat()
        # Journal first: after a kill between the two, the next pull misses the file and fetches it again.
        journal.add(Entry(blob.name, blob.etag, stat.st_size, stat.st_mtime_ns))
        os.replace(part, folder / blob.name)

    for _ in track(run_concurrently(work, blobs, workers, stop), len(blobs), f"Pulling {escape(str(place))}"):
        pass


def fetch(container: ContainerClient, place: Place, blob: Blob, path: Path, stop: Event) -> Blob:
    """Fetch one listed blob into a file, which is incomplete until this returns.

    It is fetched again if it changes meanwhile or the bytes are wrong, so that the returned blob may be newer than the listing.
    ``stop`` ends pauses and retries once it is set.

    Raises:
        AccessError, BlobError, TransferError: See :func:`pneumonia.storage.client.with_retries`.
    """
    what = f"pull {place.prefix}{blob.name}"
    for _ in range(CHANGES + 1):
        try:
            with_retries(what, partial(_download, container, place, blob, path), stop)
        except ChangedError:
            wrong = "it changes during the transfer"
            blob = with_retries(what, partial(look_up, container, place, blob.name), stop)
            continue
        wrong = _difference(path, blob)
        if not wrong:
            return blob
    raise TransferError(
        f"Can't {what}, after {CHANGES} retries: {wrong}. The local copy is unchanged. Upload the blob again, "
        "or wait until it is no longer written."
    )


def _download(container: ContainerClient, place: Place, blob: Blob, part: Path) -> None:
    stream = container.download_blob(
        place.prefix + blob.name,
        etag=blob.etag,
        match_condition=MatchConditions.IfNotModified,
        max_concurrency=1,
        decompress=False,  # size and MD5 refer to the stored bytes
    )
    with part.open("wb") as file:
        stream.readinto(file)


def _difference(part: Path, blob: Blob) -> str:
    """Return what is wrong with a fetched file, or an empty string."""
    size = part.stat().st_size
    if size != blob.size:
        return f"{size} bytes arrived instead of {blob.size}"
    if blob.md5 and (found := file_hash(part, "md5")) != blob.md5:
        return f"the MD5 of the bytes is {found}, and that of the blob {blob.md5}"
    return ""


def _remove(folder: Path, names: list[str]) -> None:
    """Remove files and folders that become empty."""
    for name in names:
        (folder / name).unlink()
        for parent in list((folder / name).parents):
            if parent == folder or any(parent.iterdir()):
                break
            parent.rmdir()
