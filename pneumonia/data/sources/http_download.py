"""Downloads one file over HTTP so that a broken transfer goes on where it was, and only the right bytes count."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final
from urllib.parse import urlsplit

from pneumonia.errors import AccessError, TransferError
from pneumonia.system.console import track
from pneumonia.system.files import one_at_a_time, translated_os_errors

TIMEOUT_S: Final = 30.0  # of silence; a server that says nothing for so long is gone
TRIES: Final = 4
CHUNK: Final = 2**20
USER_AGENT: Final = "pneumonia"  # some servers refuse Python's own


def download(url: str, target: Path, md5: str) -> Path:
    """A file with the right checksum at ``target``; nothing is asked of the network if it is there already.

    Bytes go to ``<target>.part`` first. A later call, or the next of a few tries, asks the server for the rest only.

    Args:
        url: ``https`` (or ``http``); what follows a ``?`` is never shown.
        target: Where the file ends up.
        md5: Of the whole file, in hexadecimal.

    Raises:
        TransferError: No network, the server is silent or refuses, or the bytes are not those with this checksum.
        AccessError: The server wants a login.
        StorageError: The disk is full or can't be written.
    """
    if target.is_file() and _md5(target) == md5:
        return target
    part = target.with_name(f".{target.name}.part")
    with (
        one_at_a_time(target.with_name(f".{target.name}.lock"), f"downloading {target.name}"),
        translated_os_errors(target),
    ):
        for attempt in range(1, TRIES + 1):
            try:
                _go_on(url, part)
            except AccessError:
                raise
            except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
                if attempt == TRIES or not _may_mend(error):
                    raise _broken(url, part, error) from None  # the cause may hold a signed address
                continue
            if _md5(part) == md5:
                os.replace(part, target)
                return target
            part.unlink()  # the wrong bytes can't be mended by more of them
        raise TransferError(
            f"{target.name} from {urlsplit(url).hostname} does not have the checksum {md5} of the release, {TRIES} times. "
            "Nothing was kept. Try again later, or from another network."
        )


def _go_on(url: str, part: Path) -> None:
    """Appends what is missing; begins anew where the server can't continue."""
    there = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": USER_AGENT} | ({"Range": f"bytes={there}-"} if there else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as answer:
            begins = there if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0
            length = int(answer.headers.get("Content-Length") or 0)
            with part.open("r+b" if begins else "wb") as file:
                file.seek(begins)
                what = f"Downloading {part.name[1:].removesuffix('.part')}, MiB"
                written = sum(track(_copy(answer, file), max(1, -(-length // CHUNK)), what))
            if length and written < length:
                raise ConnectionError(f"the connection ended after {begins + written:,} of {begins + length:,} bytes")
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # all of it is there
        if error.code in {http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN}:
            raise AccessError(f"{urlsplit(url).hostname} refuses to hand out the file ({error.code}).") from None
        raise


def _copy(answer: IO[bytes], file: IO[bytes]) -> Iterator[int]:
    """Bytes written, chunk by chunk."""
    while chunk := answer.read(CHUNK):
        yield file.write(chunk)


def _may_mend(error: Exception) -> bool:
    """Whether trying again at once can help: after broken connections and server errors, not where there is no network."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500
    return not isinstance(error, urllib.error.URLError)


def _broken(url: str, part: Path, error: Exception) -> TransferError:
    reason = f"HTTP {error.code}" if isinstance(error, urllib.error.HTTPError) else str(getattr(error, "reason", error))
    kept = f" {part.stat().st_size:,} bytes are kept, and the same command goes on from there." if part.exists() else ""
    return TransferError(
        f"{urlsplit(url).hostname} can't be reached, or broke off ({reason}). Check the network, and HTTPS_PROXY if you are "
        f"behind a proxy.{kept}"
    )


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
