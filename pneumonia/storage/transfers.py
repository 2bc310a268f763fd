"""Listing, concurrent transfers and their counts, for pulls and pushes."""

import xml.etree.ElementTree as ET
from base64 import b64decode
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event
from typing import Any, Final, TypeVar
from urllib.parse import unquote

from azure.core.exceptions import DecodeError
from azure.storage.blob import ContainerClient

from pneumonia.storage.client import Place, with_retries

T = TypeVar("T")
R = TypeVar("R")
PER_PAGE: Final = 5000  # names that one call lists: the most that Azure gives


@dataclass(frozen=True)
class Blob:
    """A listed blob."""

    name: str  # without the place's prefix
    etag: str  # in quotes, as conditions need it
    size: int  # bytes
    md5: str  # in hexadecimal; empty where Azure has none


@dataclass(frozen=True)
class Transfer:
    """Counts of a pull or push: all files, moved, unchanged and removed ones, moved bytes, files without a checksum."""

    listed: int
    moved: int
    unchanged: int
    deleted: int
    bytes: int
    unverified: int = 0

    def __str__(self) -> str:
        text = f"{self.listed} files: {self.moved} moved ({self.bytes / 1e6:.1f} MB), {self.unchanged} unchanged"
        text += f", {self.deleted} removed" if self.deleted else ""
        return text + (f"; {self.unverified} without MD5, only their size was checked" if self.unverified else "")


def list_blobs(container: ContainerClient, place: Place) -> dict[str, Blob]:
    """List all blobs of a place by name, one call for each 5,000; leave out empty blobs that mark folders.

    Raises:
        AccessError, BlobError, TransferError: See :func:`pneumonia.storage.client.with_retries`.
    """

    def work() -> dict[str, Blob]:
        found, marker = dict[str, Blob](), ""
        while True:
            page, marker = _page(container, place, marker)
            found |= {blob.name: blob for blob in page}
            if not marker:
                return found

    return with_retries(f"list {place}", work)


def look_up(container: ContainerClient, place: Place, name: str) -> Blob:
    """Return the current properties of one blob."""
    now = container.get_blob_client(place.prefix + name).get_blob_properties()
    return Blob(name, _quoted(now.etag), int(now.size), bytes(now.content_settings.content_md5 or b"").hex())


def run_concurrently(work: Callable[[T], R], items: Iterable[T], workers: int, stop: Event) -> Iterator[R]:
    """Yield results of calls in threads as they complete; raise the first failure, which cancels pending work.

    ``stop`` is set on failure, so that no thread waits for a retry.
    """
    queue, running = deque(items), set[Future[R]]()
    with ThreadPoolExecutor(workers) as pool:
        try:
            while queue or running:
                while queue and len(running) < 2 * workers:
                    running.add(pool.submit(work, queue.popleft()))
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BaseException:
            stop.set()
            raise
        finally:
            for future in running:
                future.cancel()


class _Arrived(Exception):
    """Carries a response past the client's own parsing."""

    def __init__(self, body: bytes) -> None:
        self.body = body


def _page(container: ContainerClient, place: Place, marker: str) -> tuple[list[Blob], str]:
    """Return one page of a listing and the marker of the next.

    The XML is parsed here: the client's own objects take four times as long as the request.
    """

    def take(answer: Any) -> None:
        if answer.http_response.status_code == 200:  # the client raises on any other status
            raise _Arrived(answer.http_response.body())

    pages = container.list_blobs(
        name_starts_with=place.prefix or None, include=["metadata"], results_per_page=PER_PAGE, raw_response_hook=take
    ).by_page(marker or None)
    try:
        next(pages)
        raise AssertionError("the hook handles every successful response")
    except _Arrived as arrived:
        try:
            root = ET.fromstring(arrived.body)
        except ET.ParseError as error:
            raise DecodeError("the listing is not XML", error=error) from error
    blobs = [_read(item, place.prefix) for item in root.iter("Blob") if not _marks_folder(item)]
    return blobs, root.findtext("NextMarker") or ""


def _read(item: ET.Element, prefix: str) -> Blob:
    properties = {child.tag: child.text or "" for child in item.iterfind("Properties/*")}
    checksum = b64decode(properties.get("Content-MD5", "")).hex()
    size = int(properties["Content-Length"])
    return Blob(_name(item).removeprefix(prefix), _quoted(properties["Etag"]), size, checksum)


def _name(item: ET.Element) -> str:
    name = item.find("Name")
    assert name is not None
    text = name.text or ""
    return unquote(text) if name.get("Encoded") == "true" else text  # encoded where XML can't represent a character


def _marks_folder(item: ET.Element) -> bool:
    marked = item.findtext("Metadata/hdi_isfolder") == "true" or _name(item).endswith("/")
    return marked and item.findtext("Properties/Content-Length") == "0"


def _quoted(etag: str) -> str:
    """Quote an ETag, as conditions need it: headers quote it, listings do not."""
    return '"' + etag.strip('"') + '"'
