"""Brings a local folder to what a container holds: only what is new, verified, and whole or not at all."""

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
from pneumonia.storage.blob_names import OWN, check_names, led_away, unsafe
from pneumonia.storage.client import ChangedError, Place, patiently
from pneumonia.storage.journal import NAME, Entry, Journal, read_journal, writing_journal
from pneumonia.storage.transfers import Blob, Transfer, at_once, list_blobs, look_up, md5
from pneumonia.system.console import track, warn
from pneumonia.system.files import explained as on_disk
from pneumonia.system.files import one_at_a_time

PARTS: Final = f"{OWN}-parts"  # half-fetched files, out of the way of who reads the folder
CHANGES: Final = 3  # how often a blob may change, or come wrongly, before a pull gives up


def pull(service: BlobServiceClient, place: Place, folder: Path, workers: int = 16) -> Transfer:
    """Makes a folder hold what a place holds.

    One listing says what is there; what the journal knows as fetched, and is untouched since, costs nothing more. Each
    blob is fetched under the ETag of the listing into a part file, held against its MD5, and renamed. Blobs that are gone
    take their local copies with them; files that no pull has put there are never touched.

    Args:
        service: From :func:`pneumonia.storage.client.connect`.
        place: What to fetch.
        folder: Where to; made if it is missing. Another process that pulls into it is waited for.
        workers: Transfers at once.

    Raises:
        AccessError, BlobError, TransferError: See :func:`pneumonia.storage.client.patiently`. What was fetched is kept.
        StorageError: The disk is full, or the folder can not be written.
    """
    container = service.get_container_client(place.container)
    written = _written(folder)
    blobs = _list(container, place, folder)
    with one_at_a_time(folder / f"{OWN}.lock", "pulling into this folder"), on_disk(folder):
        if _written(folder) != written:  # another process was faster, and may have seen newer blobs
            blobs = _list(container, place, folder)
        recorded = _ours(place, folder)
        fresh = {name: entry for name, entry in recorded.items() if entry.matches(folder / name)}
        shutil.rmtree(folder / PARTS, ignore_errors=True)
        same = {name: entry for name, entry in fresh.items() if name in blobs and entry.etag == blobs[name].etag}
        same |= _adopt(folder, [blob for name, blob in blobs.items() if name not in same], recorded)
        todo = [blob for name, blob in blobs.items() if name not in same]
        _check_room(folder, sum(blob.size for blob in todo))
        # A file that will be replaced or removed stays in the journal until it is: it is ours, however this pull ends. One
        # that was changed here, and whose blob is gone, is no longer ours to remove.
        ours = {name: entry for name, entry in recorded.items() if name in blobs or name in fresh}
        if todo or ours | same != recorded:
            with writing_journal(folder, str(place), ours | same) as journal:
                _fetch_all(container, place, folder, todo, journal, workers)
        gone = [name for name in fresh if name not in blobs]
        _remove(folder, gone)
        shutil.rmtree(folder / PARTS, ignore_errors=True)
    unverified = sum(not blob.md5 for blob in todo)
    return Transfer(len(blobs), len(todo), len(same), len(gone), sum(blob.size for blob in todo), unverified)


def warn_of_strangers(folder: Path) -> None:
    """Says that files lie in a mirror which no pull has put there: whoever reads the folder reads them too."""
    _, known = read_journal(folder)
    strangers = [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not path.relative_to(folder).parts[0].startswith(OWN)
        and path.relative_to(folder).as_posix() not in known
    ]
    if strangers:
        warn(
            f"{len(strangers)} files in {folder} are not from the container, and are read all the same: {some(strangers, 3)}"
        )


def _written(folder: Path) -> int:
    """When the journal was last written; 0 if there is none."""
    try:
        return (folder / NAME).stat().st_mtime_ns
    except OSError:
        return 0


def _list(container: ContainerClient, place: Place, folder: Path) -> dict[str, Blob]:
    blobs = list_blobs(container, place)
    if not blobs:
        raise BlobError(
            f"{place} holds no blob, so nothing was pulled, and nothing removed from {folder}. Check the container and the "
            "prefix."
        )
    check_names(blobs, folder)
    return blobs


def _ours(place: Place, folder: Path) -> dict[str, Entry]:
    """What earlier pulls have put here, as far as it is still in the folder.

    Raises:
        BlobError: They were pulls of another place, whose files this one would remove.
    """
    before, entries = read_journal(folder)
    if before and before != str(place):
        raise BlobError(
            f"{folder} mirrors {before}, and pulling {place} into it would remove those files. Nothing was touched. Name "
            "another folder, or delete this one first."
        )
    refused = set(led_away(folder, list(entries)))
    return {
        name: entry
        for name, entry in entries.items()
        if name not in refused and not unsafe(name) and (folder / name).is_file()
    }


def _adopt(folder: Path, blobs: list[Blob], recorded: dict[str, Entry]) -> dict[str, Entry]:
    """Files that stand there already with the very content of their blobs.

    Raises:
        BlobError: A file of someone else's stands where a blob belongs.
    """
    there = [blob for blob in blobs if os.path.lexists(folder / blob.name)]
    adopted, strangers = {}, []
    for blob in track(there, len(there), "Checking files that are there already") if there else []:
        path = folder / blob.name
        if path.is_file() and blob.md5 and path.stat().st_size == blob.size and md5(path) == blob.md5:
            adopted[blob.name] = Entry(blob.name, blob.etag, blob.size, path.stat().st_mtime_ns)
        elif blob.name not in recorded:
            strangers.append(blob.name)
    if strangers:
        raise BlobError(
            f"{len(strangers)} files in {folder} stand where blobs belong, hold something else, and were not put there by a "
            f"pull: {some(strangers, 3)}. Nothing was touched. Move them away, or pull into another folder."
        )
    return adopted


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(
            f"{needed / 1e9:,.2f} GB are to be pulled, and the disk of {folder} has {free / 1e9:,.2f} GB free. Nothing was "
            "pulled. Free some space, or choose another disk."
        )


def _fetch_all(
    container: ContainerClient, place: Place, folder: Path, blobs: list[Blob], journal: Journal, workers: int
) -> None:
    if not blobs:
        return
    (folder / PARTS).mkdir()
    for parent in {(folder / blob.name).parent for blob in blobs}:
        parent.mkdir(parents=True, exist_ok=True)
    stop = Event()

    def work(blob: Blob) -> None:
        _fetch(container, place, folder, blob, journal, stop)

    for _ in track(at_once(work, blobs, workers, stop), len(blobs), f"Pulling {escape(str(place))}"):
        pass


def _fetch(container: ContainerClient, place: Place, folder: Path, blob: Blob, journal: Journal, stop: Event) -> None:
    part = folder / PARTS / hashlib.sha256(blob.name.encode()).hexdigest()
    blob = fetch(container, place, blob, part, stop)
    stat = part.stat()
    # The journal comes first: killed between the two, the next pull sees no such file and fetches it again.
    journal.add(Entry(blob.name, blob.etag, stat.st_size, stat.st_mtime_ns))
    os.replace(part, folder / blob.name)


def fetch(container: ContainerClient, place: Place, blob: Blob, path: Path, stop: Event) -> Blob:
    """One blob into a file; fetched again where it changes meanwhile, or the bytes are not those of the listing.

    Args:
        container: Where it lies.
        place: As it was listed.
        blob: As the listing has it.
        path: Of the file; what it holds is not whole until this returns.
        stop: Ends the pauses between tries once it is set.

    Returns:
        The blob that was fetched, which may be newer than the listing.

    Raises:
        AccessError, BlobError, TransferError: See :func:`pneumonia.storage.client.patiently`.
    """
    what = f"pull {place.prefix}{blob.name}"
    for _ in range(CHANGES + 1):
        try:
            patiently(what, partial(_download, container, place, blob, path), stop)
        except ChangedError:
            wrong = "it changes faster than it can be read"
            blob = patiently(what, partial(look_up, container, place, blob.name), stop)
            continue
        wrong = _difference(path, blob)
        if not wrong:
            return blob
    raise TransferError(
        f"Can't {what}, also after {CHANGES} more tries: {wrong}. The local copy was left as it was. Upload the blob again, "
        "or wait until no one writes it."
    )


def _download(container: ContainerClient, place: Place, blob: Blob, part: Path) -> None:
    stream = container.download_blob(
        place.prefix + blob.name,
        etag=blob.etag,
        match_condition=MatchConditions.IfNotModified,
        max_concurrency=1,
        decompress=False,  # the bytes as they are stored, which the size and the MD5 are of
    )
    with part.open("wb") as file:
        stream.readinto(file)


def _difference(part: Path, blob: Blob) -> str:
    """What is wrong with a fetched file; empty where it is what was listed."""
    size = part.stat().st_size
    if size != blob.size:
        return f"{size} bytes came, and it has {blob.size}"
    if blob.md5 and (found := md5(part)) != blob.md5:
        return f"the MD5 of what came is {found}, and that of the blob {blob.md5}"
    return ""


def _remove(folder: Path, names: list[str]) -> None:
    """Removes files, and the folders that this leaves empty."""
    for name in names:
        (folder / name).unlink()
        for parent in list((folder / name).parents):
            if parent == folder or any(parent.iterdir()):
                break
            parent.rmdir()
