"""Brings a container to what a local folder holds: only what is new or changed, and never over someone else's change."""

import mimetypes
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Event
from typing import Any, Final

from azure.core import MatchConditions
from azure.storage.blob import BlobServiceClient, ContainerClient, ContentSettings
from rich.markup import escape

from pneumonia.errors import BlobError, ConfigError, TransferError, some
from pneumonia.storage.blob_names import check_uploads
from pneumonia.storage.client import ChangedError, Place, patiently
from pneumonia.storage.transfers import Blob, Transfer, at_once, list_blobs, look_up, md5
from pneumonia.system.console import say, track, warn

TEMPORARY: Final = (".part", ".lock")


def push(service: BlobServiceClient, folder: Path, place: Place, workers: int = 16) -> Transfer:
    """Uploads the files of a folder: X-rays, a run folder, a bundle.

    One listing says what is there; a file whose size and MD5 are those of its blob costs nothing more. Hidden files,
    half-written files and locks stay here, and so do links, of which it warns. Blobs that have no file here are left alone.

    Args:
        service: From :func:`pneumonia.storage.client.connect`.
        folder: What to upload; its own name does not become part of the blobs'.
        place: Where to; the container is made if it is missing.
        workers: Transfers at once.

    Raises:
        ConfigError: The folder is missing or holds no file.
        AccessError, BlobError, TransferError: See :func:`pneumonia.storage.client.explained`. What was uploaded is kept.
    """
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {folder} to push. Name one that exists.")
    files, links = files_of(folder)
    if links:
        warn(
            f"{len(links)} links were left out, with what they lead to: {some(links, 3)}. Push their targets if you need them."
        )
    if not files:
        raise ConfigError(f"{folder} holds no file to push. Check the path.")
    container = service.get_container_client(place.container)
    check_uploads(files, place.prefix)
    there = list_or_make(container, place)
    sending = send(container, place, files, there, workers)
    sizes = list(track(sending, len(files), f"Pushing to {escape(str(place))}"))
    moved = [size for size in sizes if size >= 0]
    return Transfer(len(files), len(moved), len(files) - len(moved), 0, sum(moved))


def send(
    container: ContainerClient, place: Place, files: Mapping[str, Path], there: Mapping[str, Blob], workers: int
) -> Iterator[int]:
    """Uploads files under their names, and yields for each the bytes that were sent; -1 where its blob is the same already.

    Args:
        container: That exists.
        place: Where to.
        files: By the names of their blobs, without the place's prefix.
        there: What a listing has just said; what was changed since is not overwritten.
        workers: Transfers at once.

    Raises:
        AccessError, BlobError, TransferError: See :func:`pneumonia.storage.client.explained`. What was uploaded is kept.
    """
    stop = Event()

    def work(item: tuple[str, Path]) -> int:
        name, path = item
        return _upload(container, place, name, path, there.get(name), stop)

    return at_once(work, files.items(), workers, stop)


def files_of(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The files below a folder that may be pushed, by their names in it; and the links, which are not followed."""
    files: dict[str, Path] = {}
    links: list[str] = []
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links += [str(Path(here, name)) for name in [*folders, *names] if Path(here, name).is_symlink()]
        for name in sorted(names):
            path = Path(here, name)
            if name.startswith(".") or name == "lock" or name.endswith(TEMPORARY) or path.is_symlink():
                continue
            if path.is_file():
                files[path.relative_to(folder).as_posix()] = path
    return files, links


def list_or_make(container: ContainerClient, place: Place) -> dict[str, Blob]:
    """What a place holds; a container that is missing is made."""
    try:  # to ask whether the container exists takes rights that a token for one container never has
        return list_blobs(container, place)
    except BlobError:  # it is not there, or going
        pass
    try:
        patiently(f"make the container {place.container}", container.create_container)
    except ChangedError:  # another process was faster
        return list_blobs(container, place)
    say(f"The container {place.container} was made.")
    return {}


def _upload(container: ContainerClient, place: Place, name: str, path: Path, there: Blob | None, stop: Event) -> int:
    """The bytes that were sent; -1 where nothing had to be."""
    before = path.stat()
    size, digest = before.st_size, md5(path)
    if there is not None and (there.size, there.md5) == (size, digest):
        return -1
    settings = ContentSettings(
        mimetypes.guess_type(name)[0] or "application/octet-stream", content_md5=bytearray.fromhex(digest)
    )
    condition: dict[str, Any] = {"overwrite": False}
    if there is not None:  # only over the very blob that was listed
        condition = {"overwrite": True, "etag": there.etag, "match_condition": MatchConditions.IfNotModified}

    def work() -> None:
        with path.open("rb") as file:
            container.upload_blob(
                place.prefix + name, file, length=size, content_settings=settings, validate_content=True, **condition
            )

    try:
        patiently(f"push {place.prefix}{name}", work, stop)
    except ChangedError:
        # An upload that arrived while its answer was lost looks like someone else's: it is ours if it is the same.
        now = patiently(f"look at {place.prefix}{name}", lambda: look_up(container, place, name), stop)
        if (now.size, now.md5) != (size, digest):
            raise
    except TransferError:
        _check_still(path, before)  # the likelier reason
        raise
    _check_still(path, before)
    return size


def _check_still(path: Path, before: os.stat_result) -> None:
    after = path.stat()
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise TransferError(
            f"{path} was written while it was pushed, so its blob may be a mixture. Push again when it is done."
        )
