"""Brings a local folder to what a container holds: only what is new, verified, and whole or not at all."""

import hashlib
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Final

from azure.core import MatchConditions
from azure.storage.blob import BlobServiceClient, ContainerClient

from pneumonia.console import track, warn
from pneumonia.errors import BlobError, TransferError, some
from pneumonia.storage.azure import Blob, ChangedError, Place, list_blobs, look_up, patiently
from pneumonia.storage.blob_names import OWN, check_names
from pneumonia.storage.journal import Entry, Journal, read_journal, writing_journal
from pneumonia.storage.local import explained as on_disk
from pneumonia.storage.local import one_at_a_time
from pneumonia.storage.transfers import Transfer, at_once, md5

PARTS: Final = f"{OWN}-parts"  # half-fetched files, out of the way of who reads the folder
CHANGES: Final = 3  # how often a blob may change, or come wrongly, before a pull gives up


def pull(service: BlobServiceClient, place: Place, folder: Path, workers: int = 16) -> Transfer:
    """Makes a folder hold what a place holds.

    One listing says what is there; what the journal knows as fetched, and is untouched since, costs nothing more. Each
    blob is fetched under the ETag of the listing into a part file, held against its MD5, and renamed. Blobs that are gone
    take their local copies with them; files that no pull has put there are never touched.

    Args:
        service: From :func:`pneumonia.storage.azure.connect`.
        place: What to fetch.
        folder: Where to; made if it is missing. Another process that pulls into it is waited for.
        workers: Transfers at once.

    Raises:
        AccessError, BlobError, TransferError: See :func:`pneumonia.storage.azure.patiently`. What was fetched is kept.
        StorageError: The disk is full, or the folder can not be written.
    """
    container = service.get_container_client(place.container)
    blobs = {blob.name: blob for blob in list_blobs(container, place)}
    check_names(blobs, folder)
    with one_at_a_time(folder / f"{OWN}.lock", "pulling into this folder"), on_disk(folder):
        recorded = read_journal(folder)
        known = {name: entry for name, entry in recorded.items() if entry.matches(folder / name)}
        shutil.rmtree(folder / PARTS, ignore_errors=True)
        same = {name: entry for name, entry in known.items() if name in blobs and entry.etag == blobs[name].etag}
        same |= _adopt(folder, [blob for name, blob in blobs.items() if name not in recorded])
        todo = [blob for name, blob in blobs.items() if name not in same]
        # What is known of files that will be replaced or removed stays in the journal until they are.
        with writing_journal(folder, known | same) as journal:
            if todo:
                _fetch_all(container, place, folder, todo, journal, workers)
        gone = [name for name in known if name not in blobs]
        for name in gone:
            (folder / name).unlink()
        _prune(folder, gone)
        shutil.rmtree(folder / PARTS, ignore_errors=True)
    unverified = sum(not blob.md5 for blob in todo)
    return Transfer(len(blobs), len(todo), len(same), len(gone), sum(blob.size for blob in todo), unverified)


def _adopt(folder: Path, blobs: list[Blob]) -> dict[str, Entry]:
    """Files that stand there already with the very content of their blobs.

    Raises:
        BlobError: A file of someone else's stands where a blob belongs.
    """
    adopted, strangers = {}, []
    for blob in blobs:
        path = folder / blob.name
        if path.is_file() and blob.md5 and path.stat().st_size == blob.size and md5(path) == blob.md5:
            adopted[blob.name] = Entry(blob.name, blob.etag, blob.size, path.stat().st_mtime_ns)
        elif path.exists():
            strangers.append(blob.name)
    if strangers:
        raise BlobError(
            f"{len(strangers)} files in {folder} stand where blobs belong, hold something else, and were not put there by a "
            f"pull: {some(strangers, 3)}. Nothing was touched. Move them away, or pull into another folder."
        )
    return adopted


def _fetch_all(
    container: ContainerClient, place: Place, folder: Path, blobs: list[Blob], journal: Journal, workers: int
) -> None:
    (folder / PARTS).mkdir()
    for parent in {(folder / blob.name).parent for blob in blobs}:
        parent.mkdir(parents=True, exist_ok=True)

    def work(blob: Blob) -> None:
        _fetch(container, place, folder, blob, journal)

    for _ in track(at_once(work, blobs, workers), len(blobs), f"Pulling {place}"):
        pass


def _fetch(container: ContainerClient, place: Place, folder: Path, blob: Blob, journal: Journal) -> None:
    """One blob into its file; fetched again where it changes meanwhile, or the bytes are not those of the listing."""
    what = f"pull {place.prefix}{blob.name}"
    part = folder / PARTS / hashlib.sha256(blob.name.encode()).hexdigest()
    for _ in range(CHANGES + 1):
        try:
            patiently(what, partial(_download, container, place, blob, part))
        except ChangedError:
            wrong = "it changes faster than it can be read"
            blob = patiently(what, partial(look_up, container, place, blob.name))
            continue
        wrong = _difference(part, blob)
        if not wrong:
            break
    else:
        raise TransferError(
            f"Can't {what}, also after {CHANGES} more tries: {wrong}. The local copy was left as it was. Upload the blob again, "
            "or wait until no one writes it."
        )
    stat = part.stat()
    # The journal comes first: killed between the two, the next pull sees no such file and fetches it again.
    journal.add(Entry(blob.name, blob.etag, stat.st_size, stat.st_mtime_ns))
    os.replace(part, folder / blob.name)


def _download(container: ContainerClient, place: Place, blob: Blob, part: Path) -> None:
    stream = container.download_blob(
        place.prefix + blob.name, etag=blob.etag, match_condition=MatchConditions.IfNotModified, max_concurrency=1
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


def _prune(folder: Path, names: list[str]) -> None:
    """Removes folders that the removal of files left empty."""
    for name in names:
        for parent in list((folder / name).parents):
            if parent == folder or not parent.is_dir() or any(parent.iterdir()):
                break
            parent.rmdir()


def warn_of_strangers(folder: Path) -> None:
    """Says that files lie in a mirror which no pull has put there: whoever reads the folder reads them too."""
    known = read_journal(folder)
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
