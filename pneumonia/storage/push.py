"""Upload a local folder to a container: what is new or changed, never over another client's change."""

import mimetypes
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from threading import Event
from typing import Final

from azure.core import MatchConditions
from azure.storage.blob import BlobServiceClient, ContainerClient, ContentSettings
from rich.markup import escape

from pneumonia.errors import BlobError, ConfigError, TransferError, some
from pneumonia.storage.blob_names import check_uploads
from pneumonia.storage.client import ChangedError, Place, with_retries
from pneumonia.storage.transfers import Blob, Transfer, list_blobs, look_up, run_concurrently
from pneumonia.system.checksums import file_hash
from pneumonia.system.console import say, track, warn

TEMPORARY: Final = (".part", ".lock")


def push(service: BlobServiceClient, folder: Path, place: Place, workers: int = 16) -> Transfer:
    """Upload the files of a folder: X-rays, a run folder, a bundle.

    Files whose size and MD5 equal their blobs are skipped. Hidden files, temporary files, locks and links (with a warning)
    are not uploaded. Blobs without a local file are not touched. The name of the folder is not part of the blob names; the
    container is created if missing.

    Raises:
        ConfigError: The folder is missing or contains no file.
        AccessError, BlobError, TransferError: See :mod:`pneumonia.storage.client`. Completed transfers are kept.
    """
    if not folder.is_dir():
        raise ConfigError(f"The folder {folder} does not exist, so there is nothing to push. Check the path.")
    files, links = files_of(folder)
    if links:
        warn(f"{len(links)} links were not followed: {some(links, 3)}. Push their targets if you need them.")
    if not files:
        raise ConfigError(f"{folder} contains no file to push. Check the path.")
    container = service.get_container_client(place.container)
    check_uploads(files, place.prefix)
    there = list_or_create(container, place)
    sending = send(container, place, files, there, workers)
    sizes = list(track(sending, len(files), f"Pushing to {escape(str(place))}"))
    moved = [size for size in sizes if size >= 0]
    return Transfer(len(files), len(moved), len(files) - len(moved), 0, sum(moved))


def send(
    container: ContainerClient, place: Place, files: Mapping[str, Path], there: Mapping[str, Blob], workers: int
) -> Iterator[int]:
    """Upload files and yield the bytes sent for each; -1 where its blob is the same already.

    Blobs that changed since the listing ``there`` are not overwritten. Names are without the prefix of the place.

    Raises:
        AccessError, BlobError, TransferError: See :mod:`pneumonia.storage.client`. Completed transfers are kept.
    """
    stop = Event()

    def work(item: tuple[str, Path]) -> int:
        name, path = item
        return _upload(container, place, name, path, there.get(name), stop)

    return run_concurrently(work, files.items(), workers, stop)


def files_of(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the files of a folder to push, by relative name, and the links, which are not followed."""
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


def list_or_create(container: ContainerClient, place: Place) -> dict[str, Blob]:
    """List a place; create its container if missing."""
    try:  # a token for one container may not ask whether the container exists
        return list_blobs(container, place)
    except BlobError:  # missing, or being deleted
        pass
    try:
        with_retries(f"create the container {place.container}", container.create_container)
    except ChangedError:  # another process was faster
        return list_blobs(container, place)
    say(f"Created the container {place.container}.")
    return {}


def _upload(container: ContainerClient, place: Place, name: str, path: Path, there: Blob | None, stop: Event) -> int:
    """Upload one file and return the bytes sent; -1 where the blob is the same already."""
    before = path.stat()
    size, digest = before.st_size, file_hash(path, "md5")
    if there is not None and (there.size, there.md5) == (size, digest):
        return -1
    settings = ContentSettings(mimetypes.guess_type(name)[0] or "application/octet-stream", content_md5=bytearray.fromhex(digest))
    upload = partial(container.upload_blob, overwrite=False)
    if there is not None:  # only over the listed version
        condition = MatchConditions.IfNotModified
        upload = partial(container.upload_blob, overwrite=True, etag=there.etag, match_condition=condition)

    def work() -> None:
        with path.open("rb") as file:
            upload(place.prefix + name, file, length=size, content_settings=settings, validate_content=True)

    try:
        with_retries(f"push {place.prefix}{name}", work, stop)
    except ChangedError:
        # An upload whose response was lost looks like another client's change: compare the content.
        now = with_retries(f"look at {place.prefix}{name}", lambda: look_up(container, place, name), stop)
        if (now.size, now.md5) != (size, digest):
            raise
    except TransferError:
        _check_unchanged(path, before)  # the likelier reason
        raise
    _check_unchanged(path, before)
    return size


def _check_unchanged(path: Path, before: os.stat_result) -> None:
    after = path.stat()
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise TransferError(
            f"{path} changed during the upload, so its blob may be inconsistent. Push again when the file is complete."
        )
