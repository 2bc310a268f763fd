"""Download one file over HTTP: a broken transfer resumes, and the checksum must be right."""

import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pneumonia.errors import AccessError, TransferError
from pneumonia.system.checksums import file_hash
from pneumonia.system.console import track
from pneumonia.system.files import one_at_a_time, translated_os_errors

TIMEOUT_S: Final = 30.0  # of silence, after which a server counts as gone
TRIES: Final = 4
CHUNK: Final = 2**20
USER_AGENT: Final = "pneumonia"  # some servers refuse Python's own


def download(url: str, target: Path, md5: str) -> Path:
    """Return ``target`` with the right checksum; an existing file is not downloaded again.

    Bytes go to ``.<target>.part`` first; the next try or call requests the rest only. The query of the address is never shown.

    Raises:
        TransferError: No network, the server is silent or refuses, or the bytes have another checksum.
        AccessError: The server requires a login.
        StorageError: The disk is full or can't be written.
    """
    if target.is_file() and file_hash(target, "md5") == md5:
        return target
    part, lock = (target.with_name(f".{target.name}.{suffix}") for suffix in ("part", "lock"))
    host = urlsplit(url).hostname
    with one_at_a_time(lock, f"downloading {target.name}"), translated_os_errors(target):
        for attempt in range(1, TRIES + 1):
            try:
                _resume(url, part)
            except AccessError:
                raise
            except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
                if attempt == TRIES or not _is_temporary(error):
                    code = getattr(error, "code", None)
                    reason = f"HTTP {code}" if code else getattr(error, "reason", error)
                    kept = f"{part.stat().st_size:,} bytes are" if part.exists() else ""
                    raise unreachable(host, reason, kept) from None  # the cause may hold a signed address
                continue
            if file_hash(part, "md5") == md5:
                os.replace(part, target)
                return target
            part.unlink()  # resuming can not correct wrong bytes
        raise TransferError(
            f"{target.name} from {host} does not have the checksum {md5} of the release, {TRIES} times. Nothing was kept. Try "
            "again later, or from another network."
        )


def unreachable(host: str | None, reason: object, kept: str) -> TransferError:
    """Return the error for a host that can't be reached or broke off; ``kept`` is the subject of what is resumed."""
    resumes = f" {kept} kept, and the same command resumes." if kept else ""
    return TransferError(
        f"{host} can't be reached, or broke off ({reason}). Check the network, and HTTPS_PROXY if you are behind a "
        f"proxy.{resumes}"
    )


def _resume(url: str, part: Path) -> None:
    """Append the missing bytes; start again if the server does not support ranges."""
    size = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": USER_AGENT} | ({"Range": f"bytes={size}-"} if size else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as answer:
            begins = size if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0
            length = int(answer.headers.get("Content-Length") or 0)
            with part.open("r+b" if begins else "wb") as file:
                file.seek(begins)
                what = f"Downloading {part.name[1:].removesuffix('.part')}, MiB"
                chunks = iter(lambda: answer.read(CHUNK), b"")
                written = sum(file.write(chunk) for chunk in track(chunks, max(1, -(-length // CHUNK)), what))
            if length and written < length:
                raise ConnectionError(f"the connection ended after {begins + written:,} of {begins + length:,} bytes")
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # the file is complete
        if error.code in {http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN}:
            raise AccessError(f"{urlsplit(url).hostname} refuses access to the file ({error.code}).") from None
        raise


def _is_temporary(error: Exception) -> bool:
    """Return whether another try can help: after broken connections and server errors, not without a network."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500
    return not isinstance(error, urllib.error.URLError)
