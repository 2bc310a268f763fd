"""Brings a container to what a local folder holds: only what is new or changed, and never over someone else's change."""

import mimetypes
import os
from pathlib import Path
from typing import Any

from azure.core import MatchConditions
from azure.core.exceptions import ResourceExistsError
from azure.storage.blob import BlobServiceClient, ContainerClient, ContentSettings

from pneumonia.console import say, track
from pneumonia.errors import BlobError, ConfigError, some
from pneumonia.storage.azure import Blob, ChangedError, Place, list_blobs, look_up, patiently
from pneumonia.storage.transfers import Transfer, at_once, md5


def push(service: BlobServiceClient, folder: Path, place: Place, workers: int = 16) -> Transfer:
    """Uploads the files of a folder: X-rays, a run folder, a bundle.

    One listing says what is there; a file whose size and MD5 are those of its blob costs nothing more. Hidden files, lock
    files and links stay here. Blobs that have no file here are left alone.

    Args:
        service: From :func:`pneumonia.storage.azure.connect`.
        folder: What to upload; its own name does not become part of the blobs'.
        place: Where to; the container is made if it is missing.
        workers: Transfers at once.

    Raises:
        ConfigError: The folder is missing or holds no file.
        AccessError, BlobError, TransferError: See :func:`pneumonia.storage.azure.explained`. What was uploaded is kept.
    """
    files = _files(folder)
    container = service.get_container_client(place.container)
    _make(container, place)
    there = {blob.name: blob for blob in list_blobs(container, place)}

    def work(item: tuple[str, Path]) -> int:
        name, path = item
        return _upload(container, place, name, path, there.get(name))

    sizes = list(track(at_once(work, files.items(), workers), len(files), f"Pushing to {place}"))
    moved = [size for size in sizes if size >= 0]
    return Transfer(len(files), len(moved), len(files) - len(moved), 0, sum(moved))


def _files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {folder} to push. Name one that exists.")
    files: dict[str, Path] = {}
    odd: list[str] = []
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(here, name)
            if name.startswith(".") or name == "lock" or path.is_symlink() or not path.is_file():
                continue
            blob = path.relative_to(folder).as_posix()
            try:
                blob.encode("utf-8")
            except UnicodeEncodeError:
                odd.append(repr(blob))
            files[blob] = path
    if odd:
        raise BlobError(f"{len(odd)} files in {folder} have names that are no text: {some(odd, 3)}. Rename them.")
    if not files:
        raise ConfigError(f"{folder} holds no file to push. Check the path.")
    return files


def _make(container: ContainerClient, place: Place) -> None:
    def work() -> bool:
        if container.exists():
            return False
        try:
            container.create_container()
        except ResourceExistsError:
            return False  # another process was faster
        return True

    if patiently(f"find or make the container {place.container}", work):
        say(f"The container {place.container} was made.")


def _upload(container: ContainerClient, place: Place, name: str, path: Path, there: Blob | None) -> int:
    """The bytes that were sent; -1 where nothing had to be."""
    size = path.stat().st_size
    digest = md5(path)
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
        patiently(f"push {place.prefix}{name}", work)
    except ChangedError:
        # An upload that arrived while its answer was lost looks like someone else's: it is ours if it is the same.
        now = patiently(f"look at {place.prefix}{name}", lambda: look_up(container, place, name))
        if (now.size, now.md5) != (size, digest):
            raise
    return size
