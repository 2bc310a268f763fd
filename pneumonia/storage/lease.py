"""A lease that one machine holds at a time; it expires a minute after the machine vanishes."""

import socket
import threading
import time
from collections.abc import Callable
from typing import Final

from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobLeaseClient, ContainerClient
from rich.markup import escape

from pneumonia.errors import BlobError
from pneumonia.storage.client import with_retries
from pneumonia.system.console import say

LASTS_S: Final = 60  # without renewal; Azure's maximum
RENEW_S: Final = 20.0
POLL_S: Final = 5.0  # between attempts to take a lease
TAKEN: Final = {"LeaseAlreadyPresent", "LeaseIdMissing"}
LOST: Final = {"LeaseIdMismatchWithLeaseOperation", "LeaseLost", "LeaseNotPresentWithLeaseOperation", "BlobNotFound"}
THERE: Final = {"BlobAlreadyExists", "LeaseIdMissing"}  # the blob exists already, or is leased
HOLDER: Final = "holder"


class Lease:
    """An exclusive lease on a blob, which is created if missing, and kept."""

    def __init__(self, container: ContainerClient, name: str) -> None:
        self.blob = container.get_blob_client(name)
        self.name = name
        self.stop = threading.Event()  # once set, failures are not retried
        self._held: BlobLeaseClient | None = None

    @property
    def held(self) -> bool:
        """Return whether this process held it at the last renewal."""
        return self._held is not None

    def take(self, wait_s: float) -> None:
        """Acquire the lease, waiting for its holder for at most ``wait_s`` seconds.

        Raises:
            BlobError: Another machine still holds it.
            AccessError, TransferError: See :func:`pneumonia.storage.client.translated_errors`.
        """
        end, announced = time.monotonic() + wait_s, False
        while not self._try():
            left = end - time.monotonic()
            if left <= 0:
                raise BlobError(
                    f"Another machine ({self._holder()}) works on {self.name.rpartition('/')[0]} in the container "
                    f"{self.blob.container_name}, and two would run the same jobs. Wait until it ends, stop it, or use "
                    "another backup.place."
                )
            if not announced:
                say(
                    f"{escape(self._holder())} holds the lease of this backup, or vanished within the last minute; waiting up to "
                    f"{wait_s:.0f} s"
                )
                announced = True
            time.sleep(min(POLL_S, left))

    def renew(self) -> bool:
        """Renew the lease for a minute; return False where another machine has taken it meanwhile."""
        held = self._held
        if held is None:
            return False
        if _refused(f"renew the lease on {self.name}", held.renew, LOST | TAKEN, self.stop):
            self._held = None
        return self.held

    def release(self) -> None:
        """Release the lease."""
        held, self._held = self._held, None
        if held is not None:
            _refused(f"release the lease on {self.name}", held.release, LOST | TAKEN, self.stop)

    def _try(self) -> bool:
        _refused(f"create {self.name}", lambda: self.blob.upload_blob(b"", overwrite=False), THERE, self.stop)
        lease = BlobLeaseClient(self.blob)
        if _refused(f"take the lease on {self.name}", lambda: lease.acquire(LASTS_S), TAKEN, self.stop):
            return False
        self._held = lease
        host = socket.gethostname().encode("ascii", "replace").decode()
        holder = {HOLDER: f"{host} since {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC"}
        with_retries(f"write the holder of {self.name}", lambda: self.blob.set_blob_metadata(holder, lease=lease))
        return True

    def _holder(self) -> str:
        """Return the holder that is written in the blob's metadata."""
        metadata = with_retries(f"read {self.name}", self.blob.get_blob_properties).metadata or {}
        return str(metadata.get(HOLDER, "unknown"))


def _refused(what: str, work: Callable[[], object], codes: set[str], stop: threading.Event) -> bool:
    """Call a function; return whether Azure refused it with one of the expected codes."""

    def attempt() -> bool:
        try:
            work()
        except HttpResponseError as error:
            code = getattr(error, "error_code", None)
            if str(getattr(code, "value", code)) in codes:
                return True
            raise
        return False

    return with_retries(what, attempt, stop)
