"""Client of Azure Blob Storage: credentials from the environment, retries, and named errors without secrets."""

import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from threading import Event
from typing import Any, Final, TypeVar

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.core.pipeline.transport import RequestsTransport
from azure.storage.blob import BlobServiceClient
from requests import Session
from requests.adapters import HTTPAdapter
from rich.markup import escape

from pneumonia.errors import AccessError, BlobError, ConfigError, PneumoniaError, TransferError
from pneumonia.system.console import say

CONNECTION_STRING: Final = "AZURE_STORAGE_CONNECTION_STRING"
ADDRESS: Final = "AZURE_STORAGE_ACCOUNT_URL"
ACCOUNT: Final = "AZURE_STORAGE_ACCOUNT"
KEY: Final = "AZURE_STORAGE_KEY"
SAS: Final = "AZURE_STORAGE_SAS_TOKEN"
WAYS: Final = (
    f"Set {CONNECTION_STRING}; or {ACCOUNT}, {ADDRESS} or data.azure.account_url=https://ACCOUNT.blob.core.windows.net with "
    f"{KEY} or {SAS}, or with what DefaultAzureCredential finds (`az login`, a managed identity)."
)
CONNECT_S: Final = 10  # to open a connection
READ_S: Final = 30  # between two chunks of a response
PAUSES_S: Final = (0.5, 2.0, 6.0, 15.0)  # between attempts, unless the server sends Retry-After
TRIES: Final = len(PAUSES_S) + 1
SKEW_S: Final = 300  # tolerated difference of clocks
LONGEST_WAIT_S: Final = 60.0  # upper limit of Retry-After
T = TypeVar("T")
CONTAINER: Final = re.compile(r"\$(root|web|logs)|(?=.{3,63}$)[a-z0-9](?:-?[a-z0-9])+")
ACCOUNT_NAME: Final = re.compile(r"[a-z0-9]{3,24}")
URL: Final = re.compile(r"https?://[^/\s]+(/[^/\s]+)?/?")  # the emulator has the account in the path
SECRETS: Final = re.compile(r"((?:sig|AccountKey|SharedAccessSignature)=)[^&;\s]+|[A-Za-z0-9+/%_-]{40,}=*", re.IGNORECASE)
REMEDIES: Final = {
    "AuthorizationPermissionMismatch": "the token or account lacks the right (to write, perhaps).",
    "AuthorizationFailure": "the key is wrong, the token or account lacks the right, or the firewall blocks you.",
    "InsufficientAccountPermissions": "the token or account lacks the right (to write, perhaps).",
    "AuthenticationFailed": "the key is wrong, the token has expired or is incomplete, or this machine's clock is wrong.",
    "InvalidAuthenticationInfo": "the key is wrong, or the token has expired or is incomplete.",
    "NoAuthenticationInformation": "the token has expired or is incomplete.",
    "AzureSigningError": "the key is incomplete; it is not valid base64.",
    "KeyBasedAuthenticationNotPermitted": "the account takes no keys; sign in with `az login` instead.",
}
STATES: Final = {
    "BlobArchived": "it is in the archive tier. Move it to the hot or cool tier first",
    "BlobBeingRehydrated": "it is being moved from the archive tier. Wait until that is done",
    "ContainerBeingDeleted": "a container of this name is being deleted. Wait a minute, or choose another name",
    "LeaseIdMissing": "another client holds a lease on it. Wait until it is released, or break the lease",
}


class ChangedError(BlobError):
    """A blob has changed since it was listed."""


@dataclass(frozen=True)
class Place:
    """A container and a prefix of blob names (empty, or ending in ``/``)."""

    container: str
    prefix: str = ""

    @classmethod
    def parse(cls, text: str) -> "Place":
        """Parse ``CONTAINER`` or ``CONTAINER/PREFIX``.

        Raises:
            ConfigError: Not a valid container name or prefix, or it contains a token.
        """
        if "sig=" in text:
            raise ConfigError(f"The place contains a token, which is not shown here. Set {SAS} to it, and use CONTAINER/PREFIX.")
        container, _, prefix = text.strip("/").partition("/")
        if not CONTAINER.fullmatch(container):
            raise ConfigError(
                f"'{redacted(container)}' can not be a container: Azure's are 3 to 63 lower-case letters, digits and single "
                "hyphens. Use CONTAINER or CONTAINER/PREFIX."
            )
        # HTTP clients normalise .. in a URL, which would then name another container.
        if prefix and ({"", ".", ".."} & set(prefix.split("/")) or re.search(r"[\\\x00-\x1f]", prefix)):
            raise ConfigError(
                f"{prefix!r} can not be a prefix: it has an empty segment, . or .., a backslash or a control character."
            )
        return cls(container, f"{prefix}/" if prefix else "")

    def __str__(self) -> str:
        return f"{self.container}/{self.prefix}".rstrip("/")


def redacted(text: str) -> str:
    """Replace what may be a key or a signature by ``***``."""
    return SECRETS.sub(lambda found: f"{found[1] or ''}***", text)


def connect(
    account_url: str | None = None, workers: int = 16, environ: Mapping[str, str] = os.environ, credential: Any = None
) -> BlobServiceClient:
    """Create a client with a credential or those of the environment, without a request.

    REQUESTS_CA_BUNDLE and HTTPS_PROXY are respected. The connection pool has the size of the concurrent transfers, ``workers``.

    Raises:
        ConfigError: There is no account, or the URL contains a secret.
    """
    logging.getLogger("azure").setLevel(logging.ERROR)  # raised as our own errors instead
    session = Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_connections=workers, pool_maxsize=workers))
    options: dict[str, Any] = {
        "transport": RequestsTransport(session=session),
        "retry_total": 0,  # see with_retries: the client's own policy gives up at 429 and restarts no stream
        "connection_timeout": CONNECT_S,
        "read_timeout": READ_S,
    }
    if account_url is None and credential is None and environ.get(CONNECTION_STRING):
        try:
            return BlobServiceClient.from_connection_string(environ[CONNECTION_STRING], **options)
        except (ValueError, KeyError):
            raise ConfigError(
                f"{CONNECTION_STRING} is not a connection string (it is not shown here). Copy it again from the portal, "
                "under Access keys."
            ) from None
    account_url = account_url or environ.get(ADDRESS) or _address(environ.get(ACCOUNT))
    if account_url is None:
        raise ConfigError(f"No Azure account is configured. {WAYS}")
    _check_url(account_url)
    credential = credential or environ.get(KEY) or environ.get(SAS, "").lstrip("?")
    if not credential:
        from azure.identity import DefaultAzureCredential

        credential = DefaultAzureCredential()
    try:
        return BlobServiceClient(account_url, credential=credential, **options)
    except ValueError:
        raise ConfigError(
            f"account_url={redacted(account_url)} does not work with these credentials: `az login` and managed identities need "
            f"https. {WAYS}"
        ) from None


@contextmanager
def translated_errors(what: str, attempts: int = 1) -> Iterator[None]:
    """Turn Azure's errors into named ones, by their code alone: their texts may quote signatures and addresses.

    The message names the operation, such as ``"list train"``.

    Raises:
        AccessError: A wrong key, an expired or insufficient token.
        BlobError: A blob or container is missing, or was changed by another client.
        TransferError: The connection or the service failed.
    """
    again = f", after {attempts} attempts" if attempts > 1 else ""
    try:
        yield
    except ClientAuthenticationError as error:
        raise AccessError(f"Azure refuses to {what} ({_code(error)}): {_remedy(error)} {WAYS}") from None
    except ResourceNotFoundError as error:
        raise BlobError(f"Can't {what}: it does not exist ({_code(error)}). Check the account and the name.") from None
    except HttpResponseError as error:
        code = _code(error)
        if code in STATES:
            raise BlobError(f"Can't {what} ({code}): {STATES[code]}.") from None
        if isinstance(error, ResourceModifiedError | ResourceExistsError):
            raise ChangedError(
                f"Can't {what}: another client changed it meanwhile ({code}). Nothing was overwritten; rerun the command."
            ) from None
        if error.status_code in {401, 403}:
            raise AccessError(f"Azure refuses to {what} ({code}): {_remedy(error)} {WAYS}") from None
        raise TransferError(
            f"Can't {what}: the service responds with {error.status_code} ({code}){again}. "
            "Completed transfers are kept; rerun the command later."
        ) from None
    except AzureError as error:
        raise TransferError(
            f"Can't {what}: the connection fails ({type(error).__name__}){again}. Check the network, the account's name and "
            "its firewall. Completed transfers are kept; rerun the command to resume."
        ) from None


def with_retries(what: str, work: Callable[[], T], stop: Event | None = None) -> T:
    """Call a function, with retries and growing pauses where the network or the service fails, until ``stop`` is set.

    Raises:
        AccessError, BlobError, TransferError: See :func:`translated_errors`; permanent failures are not retried.
    """
    stop = stop or Event()
    for attempts, pause in enumerate((*PAUSES_S, None), start=1):
        with translated_errors(what, attempts):
            try:
                return work()
            except AzureError as error:
                if pause is None or stop.is_set() or not _is_transient(error):
                    raise
                wait_s = _retry_after_s(error) or pause * random.uniform(0.8, 1.2)
        if wait_s > 1:
            say(f"Can't {escape(what)} now; retrying in {wait_s:.0f} s")
        _pause(wait_s, stop)
    raise AssertionError("the last attempt returns or raises")


def check_access(account_url: str | None, places: Mapping[str, str | None]) -> tuple[bool, str]:
    """Check that places can be listed, for `pneumonia doctor`; return success and a message."""
    try:
        service = connect(account_url)
        for text in filter(None, places.values()):
            place = Place.parse(text)
            with translated_errors(f"list {place}"):
                next(iter(service.get_container_client(place.container).list_blobs(place.prefix or None)), None)
    except PneumoniaError as error:
        return False, f"{type(error).__name__}: {error}"
    return True, f"{service.account_name}: {', '.join(filter(None, places.values()))} can be listed"


def check_writing(account_url: str | None, place: str) -> tuple[bool, str]:
    """Check that a place is writable, with a temporary blob, and that the clocks agree; return success and a message."""
    try:
        where = Place.parse(place)
        container = connect(account_url).get_container_client(where.container)
        headers: dict[str, str] = {}
        blob = container.get_blob_client(f"{where.prefix}.doctor-{os.getpid()}")
        with translated_errors(f"write into {where}"):
            try:
                blob.upload_blob(b"", raw_response_hook=lambda answer: headers.update(answer.http_response.headers))
            except ResourceNotFoundError:
                text = f"the container {where.container} does not exist yet; the first run creates it if permitted"
                return True, text
            blob.delete_blob()
    except PneumoniaError as error:
        return False, f"{type(error).__name__}: {error}"
    date = next((value for name, value in headers.items() if name.lower() == "date"), None)
    off_s = abs(time.time() - parsedate_to_datetime(date).timestamp()) if date else 0.0
    if off_s > SKEW_S:
        return False, (
            f"{where} can be written, but this machine's clock is {off_s / 60:.0f} minutes from Azure's, which refuses keys "
            "and tokens at 15. Set it: `sudo timedatectl set-ntp true`."
        )
    return True, f"{where} can be written"


def _address(account: str | None) -> str | None:
    """Return the public address of an account."""
    if account and not ACCOUNT_NAME.fullmatch(account):
        raise ConfigError(
            f"{ACCOUNT}={redacted(account)} can not be an account: names are 3 to 24 lower-case letters and digits. Set "
            f"{ADDRESS} to an address."
        )
    return f"https://{account}.blob.core.windows.net" if account else None


def _check_url(url: str) -> None:
    if "?" in url or "sig=" in url or "AccountKey" in url or "@" in url:
        raise ConfigError(
            f"The account's URL holds a secret (it is not shown here), and the config is kept beside every run. Put the token "
            f"into {SAS} or the key into {KEY}, and say only https://ACCOUNT.blob.core.windows.net."
        )
    found = URL.fullmatch(url)
    if not found or (".blob." in url and (found[1] or not url.startswith("https://"))):
        raise ConfigError(
            f"account_url={redacted(url)} is not a URL of an account. Say https://ACCOUNT.blob.core.windows.net, without a "
            "container."
        )


def _is_transient(error: AzureError) -> bool:
    """Return whether a retry can help: connection errors, a busy or failing service, an interrupted stream."""
    if isinstance(error, ClientAuthenticationError):
        return False  # a key that is not base64 fails before the request
    status = error.status_code if isinstance(error, HttpResponseError) else None
    return status is None or status in {408, 429} or status >= 500 or status < 300


def _pause(wait_s: float, stop: Event) -> None:
    stop.wait(wait_s)


def _retry_after_s(error: AzureError) -> float:
    """Return the server's Retry-After in seconds; 0 without one."""
    response = getattr(error, "response", None)
    asked = str(response.headers.get("Retry-After", "")) if response is not None else ""
    return min(float(asked), LONGEST_WAIT_S) if asked.isdigit() else 0.0


def _code(error: HttpResponseError) -> str:
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or error.status_code or type(error).__name__)


def _remedy(error: HttpResponseError) -> str:
    return REMEDIES.get(_code(error), "these credentials do not open it.")
