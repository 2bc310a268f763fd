"""A blob that one machine holds at a time; a machine that vanishes has lost it within a minute."""

import socket
import threading
import time
from collections.abc import Callable
from typing import Final

from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobLeaseClient, ContainerClient
from rich.markup import escape

from pneumonia.errors import BlobError
from pneumonia.storage.client import patiently
from pneumonia.system.console import say

LASTS_S: Final = 60  # unless it is renewed; the longest that Azure gives
RENEW_S: Final = 20.0
AGAIN_S: Final = 5.0  # between two looks at a lease that someone holds
TAKEN: Final = {"LeaseAlreadyPresent", "LeaseIdMissing"}
LOST: Final = {"LeaseIdMismatchWithLeaseOperation", "LeaseLost", "LeaseNotPresentWithLeaseOperation", "BlobNotFound"}
THERE: Final = {"BlobAlreadyExists", "LeaseIdMissing"}  # it stays from an earlier time; one that is held refuses too
HOLDER: Final = "holder"


class Lease:
    """The right to write below a name of a container.

    Args:
        container: That exists.
        name: Of the blob that is held; it is made if it is missing, and stays.
    """

    def __init__(self, container: ContainerClient, name: str) -> None:
        self.blob = container.get_blob_client(name)
        self.name = name
        self.stop = threading.Event()  # once it is set, what fails is not tried again
        self._held: BlobLeaseClient | None = None

    @property
    def held(self) -> bool:
        """Whether it was ours when last looked at."""
        return self._held is not None

    def take(self, wait_s: float) -> None:
        """Waits for the lease, which a machine that has vanished holds for up to a minute.

        Args:
            wait_s: How long.

        Raises:
            BlobError: Another machine still holds it.
            AccessError, TransferError: See :func:`pneumonia.storage.client.explained`.
        """
        end, told = time.monotonic() + wait_s, False
        while not self._try():
            left = end - time.monotonic()
            if left <= 0:
                raise BlobError(
                    f"Another machine ({self._holder()}) is at work on {self.name.rpartition('/')[0]} in the container "
                    f"{self.blob.container_name}, and two would do the same jobs twice. Wait until it is done, end it, or take "
                    "another backup.place."
                )
            if not told:
                say(
                    f"{escape(self._holder())} holds this backup, or has vanished within the last minute; waiting up to "
                    f"{wait_s:.0f} s for it"
                )
                told = True
            time.sleep(min(AGAIN_S, left))

    def renew(self) -> bool:
        """Holds it for another minute; false where another machine has taken it meanwhile, after a long break of the network."""
        held = self._held
        if held is None:
            return False
        if _refused(f"renew the lease on {self.name}", held.renew, LOST | TAKEN, self.stop):
            self._held = None
        return self.held

    def let_go(self) -> None:
        """Gives it back, so that nobody has to wait."""
        held, self._held = self._held, None
        if held is not None:
            _refused(f"give back the lease on {self.name}", held.release, LOST | TAKEN, self.stop)

    def _try(self) -> bool:
        _refused(f"make {self.name}", lambda: self.blob.upload_blob(b"", overwrite=False), THERE, self.stop)
        lease = BlobLeaseClient(self.blob)
        if _refused(f"take the lease on {self.name}", lambda: lease.acquire(LASTS_S), TAKEN, self.stop):
            return False
        self._held = lease
        since = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        patiently(
            f"sign {self.name}",
            lambda: self.blob.set_blob_metadata({HOLDER: f"{_host()} since {since} UTC"}, lease=lease),
        )
        return True

    def _holder(self) -> str:
        """Who holds it, as it was signed."""
        told = patiently(f"look at {self.name}", self.blob.get_blob_properties).metadata or {}
        return str(told.get(HOLDER, "unknown"))


def _host() -> str:
    """This machine's name, as far as a header can hold it."""
    return socket.gethostname().encode("ascii", "replace").decode()


def _refused(what: str, work: Callable[[], object], codes: set[str], stop: threading.Event) -> bool:
    """Does something unless Azure refuses with one of some codes, which is an answer and no failure."""

    def attempt() -> bool:
        try:
            work()
        except HttpResponseError as error:
            code = getattr(error, "error_code", None)
            if str(getattr(code, "value", code)) in codes:
                return True
            raise
        return False

    return patiently(what, attempt, stop)
