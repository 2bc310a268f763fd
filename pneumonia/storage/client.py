"""Azure Blob Storage: who we are to it, and its refusals in our words. Secrets stay in the environment."""

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
READ_S: Final = 30  # between two pieces of an answer
PAUSES_S: Final = (0.5, 2.0, 6.0, 15.0)  # between tries, where the server does not ask for another time
TRIES: Final = len(PAUSES_S) + 1
SKEW_S: Final = 300  # that clocks may differ
LONGEST_WAIT_S: Final = 60.0  # however long a server asks for
T = TypeVar("T")
CONTAINER: Final = re.compile(r"\$(root|web|logs)|(?=.{3,63}$)[a-z0-9](?:-?[a-z0-9])+")
ACCOUNT_NAME: Final = re.compile(r"[a-z0-9]{3,24}")
URL: Final = re.compile(r"https?://[^/\s]+(/[^/\s]+)?/?")  # with a path where the account is one, as at the emulator
SECRETS: Final = re.compile(
    r"((?:sig|AccountKey|SharedAccessSignature)=)[^&;\s]+|[A-Za-z0-9+/%_-]{40,}=*", re.IGNORECASE
)
REMEDIES: Final = {
    "AuthorizationPermissionMismatch": "the token or account lacks the right (to write, perhaps).",
    "AuthorizationFailure": "the key is wrong, the token or account lacks the right, or the firewall keeps you out.",
    "InsufficientAccountPermissions": "the token or account lacks the right (to write, perhaps).",
    "AuthenticationFailed": "the key is wrong, the token has expired or was cut in copying, or this machine's clock is wrong.",
    "InvalidAuthenticationInfo": "the key is wrong, or the token has expired or was cut in copying.",
    "NoAuthenticationInformation": "the token has expired or was cut in copying.",
    "AzureSigningError": "the key was cut in copying; it is no base64.",
    "KeyBasedAuthenticationNotPermitted": "the account takes no keys; sign in with `az login` instead.",
}
STATES: Final = {
    "BlobArchived": "it is in the archive tier. Bring it back to the hot or cool tier first",
    "BlobBeingRehydrated": "it is on its way from the archive tier. Wait until it is there",
    "ContainerBeingDeleted": "a container of this name is being deleted. Wait a minute, or take another name",
    "LeaseIdMissing": "someone holds a lease on it. Wait until it is free, or break the lease",
}


class ChangedError(BlobError):
    """A blob is no longer the one that was listed."""


@dataclass(frozen=True)
class Place:
    """Where blobs lie: a container, and what their names begin with (empty, or ending in ``/``)."""

    container: str
    prefix: str = ""

    @classmethod
    def parse(cls, text: str) -> "Place":
        """``CONTAINER`` or ``CONTAINER/PREFIX``.

        Raises:
            ConfigError: No container of Azure can be called so, the prefix would lead out of it, or there is a token in it.
        """
        if "sig=" in text:
            raise ConfigError(
                f"The place holds a token, which is not shown here. Put it into {SAS}, and say CONTAINER/PREFIX."
            )
        container, _, prefix = text.strip("/").partition("/")
        if not CONTAINER.fullmatch(container):
            raise ConfigError(
                f"'{redacted(container)}' can not be a container: Azure's are 3 to 63 lower-case letters, digits and single "
                "hyphens. Say CONTAINER or CONTAINER/PREFIX."
            )
        # An address with .. in it would be shortened on its way, and name another container.
        if prefix and ({"", ".", ".."} & set(prefix.split("/")) or re.search(r"[\\\x00-\x1f]", prefix)):
            raise ConfigError(
                f"{prefix!r} can not be a prefix: it has an empty part, . or .., a backslash or a control character."
            )
        return cls(container, f"{prefix}/" if prefix else "")

    def __str__(self) -> str:
        return f"{self.container}/{self.prefix}".rstrip("/")


def redacted(text: str) -> str:
    """A text from elsewhere without what may be a key or a signature in it."""
    return SECRETS.sub(lambda found: f"{found[1] or ''}***", text)


def connect(
    account_url: str | None = None,
    workers: int = 16,
    environ: Mapping[str, str] = os.environ,
    credential: Any = None,
) -> BlobServiceClient:
    """A client with the credentials of the environment; nothing is sent yet.

    Certificates of one's own are named by REQUESTS_CA_BUNDLE, and proxies by HTTPS_PROXY, as anywhere.

    Args:
        account_url: ``https://ACCOUNT.blob.core.windows.net``; ``None`` takes the environment's.
        workers: Transfers at once, which want as many connections.
        environ: Where credentials are looked for.
        credential: A token credential instead of all that.

    Raises:
        ConfigError: There is no account, or a secret where it would be kept in plain sight.
    """
    logging.getLogger("azure").setLevel(logging.ERROR)  # what it warns of we name ourselves, with what to do
    session = Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_connections=workers, pool_maxsize=workers))
    options: dict[str, Any] = {
        "transport": RequestsTransport(session=session),
        "retry_total": 0,  # we try again ourselves: the client's own policy gives up at 429 and restarts no stream
        "connection_timeout": CONNECT_S,
        "read_timeout": READ_S,
    }
    if account_url is None and credential is None and environ.get(CONNECTION_STRING):
        try:
            return BlobServiceClient.from_connection_string(environ[CONNECTION_STRING], **options)
        except (ValueError, KeyError):
            raise ConfigError(
                f"{CONNECTION_STRING} is not a connection string (it is not shown here). Copy it anew from the portal, "
                "under Access keys."
            ) from None
    account_url = account_url or environ.get(ADDRESS) or _address(environ.get(ACCOUNT))
    if account_url is None:
        raise ConfigError(f"There is no Azure account to ask. {WAYS}")
    _check_url(account_url)
    if credential is None:
        credential = environ.get(KEY) or environ.get(SAS, "").lstrip("?") or _default_credential()
    try:
        return BlobServiceClient(account_url, credential=credential, **options)
    except ValueError:
        raise ConfigError(
            f"account_url={redacted(account_url)} does not go with these credentials: `az login` and managed identities want "
            f"https. {WAYS}"
        ) from None


@contextmanager
def explained(what: str, tries: int = 1) -> Iterator[None]:
    """Turns Azure's errors into ours, by their code alone: their texts may quote signatures and addresses.

    Args:
        what: What was tried, for the message: ``"list train"``.
        tries: How often so far.

    Raises:
        AccessError: A wrong key, an expired or insufficient token.
        BlobError: Something is missing, or was changed by someone else meanwhile.
        TransferError: The connection failed for good, or the service did.
    """
    again = f", also after {tries} tries" if tries > 1 else ""
    try:
        yield
    except ClientAuthenticationError as error:
        raise AccessError(f"Azure refuses to {what} ({_code(error)}): {_remedy(error)} {WAYS}") from None
    except ResourceNotFoundError as error:
        raise BlobError(f"Can't {what}: it is not there ({_code(error)}). Check the account and the name.") from None
    except HttpResponseError as error:
        code = _code(error)
        if code in STATES:
            raise BlobError(f"Can't {what} ({code}): {STATES[code]}.") from None
        if isinstance(error, ResourceModifiedError | ResourceExistsError):
            raise ChangedError(
                f"Can't {what}: someone else changed it meanwhile ({code}). Nothing was overwritten; run it again."
            ) from None
        if error.status_code in {401, 403}:
            raise AccessError(f"Azure refuses to {what} ({code}): {_remedy(error)} {WAYS}") from None
        raise TransferError(
            f"Can't {what}: the service answers {error.status_code} ({code}){again}. What was done is kept; run it again later."
        ) from None
    except AzureError as error:
        raise TransferError(
            f"Can't {what}: the connection fails ({type(error).__name__}){again}. Check the network, the account's name and "
            "its firewall. What was done is kept; run it again and it goes on."
        ) from None


def patiently(what: str, work: Callable[[], T], stop: Event | None = None) -> T:
    """Does what the network or a busy service may refuse, and tries again with growing pauses.

    Args:
        what: What is tried, for the message.
        work: May be called several times.
        stop: Ends the pauses, and the tries, once it is set.

    Raises:
        AccessError, BlobError, TransferError: See :func:`explained`; what can't mend is not tried again.
    """
    stop = stop or Event()
    for tries, pause in enumerate((*PAUSES_S, None), start=1):
        with explained(what, tries):
            try:
                return work()
            except AzureError as error:
                if pause is None or stop.is_set() or not _may_mend(error):
                    raise
                wait_s = _wanted_pause(error) or pause * random.uniform(0.8, 1.2)
        if wait_s > 1:
            say(f"Can't {escape(what)} now; trying again in {wait_s:.0f} s")
        _pause(wait_s, stop)
    raise AssertionError("the last try returns or raises")


def check_access(account_url: str | None, places: Mapping[str, str | None]) -> tuple[bool, str]:
    """Whether the places can be listed, and what to do if not; for `pneumonia doctor`."""
    try:
        service = connect(account_url)
        for text in filter(None, places.values()):
            place = Place.parse(text)
            with explained(f"list {place}"):
                next(iter(service.get_container_client(place.container).list_blobs(place.prefix or None)), None)
    except PneumoniaError as error:
        return False, f"{type(error).__name__}: {error}"
    return True, f"{service.account_name}: {', '.join(filter(None, places.values()))} can be listed"


def check_writing(account_url: str | None, place: str) -> tuple[bool, str]:
    """Whether a place can be written, by a blob that is taken away again, and whether this clock goes as Azure's does."""
    try:
        where = Place.parse(place)
        container = connect(account_url).get_container_client(where.container)
        told: dict[str, str] = {}
        blob = container.get_blob_client(f"{where.prefix}.doctor-{os.getpid()}")
        with explained(f"write into {where}"):
            try:
                blob.upload_blob(b"", raw_response_hook=lambda answer: told.update(answer.http_response.headers))
            except ResourceNotFoundError:
                return True, f"the container {where.container} is not there yet; the first run makes it, if it may"
            blob.delete_blob()
    except PneumoniaError as error:
        return False, f"{type(error).__name__}: {error}"
    date = next((value for name, value in told.items() if name.lower() == "date"), None)
    off_s = abs(time.time() - parsedate_to_datetime(date).timestamp()) if date else 0.0
    if off_s > SKEW_S:
        return False, (
            f"{where} can be written, but this machine's clock is {off_s / 60:.0f} minutes from Azure's, which refuses keys "
            "and tokens at 15. Set it: `sudo timedatectl set-ntp true`."
        )
    return True, f"{where} can be written"


def _address(account: str | None) -> str | None:
    """The public address of an account that is named."""
    if account and not ACCOUNT_NAME.fullmatch(account):
        raise ConfigError(
            f"{ACCOUNT}={redacted(account)} can not be an account: names are 3 to 24 lower-case letters and digits. An "
            f"address belongs into {ADDRESS}."
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


def _default_credential() -> Any:
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential()


def _may_mend(error: AzureError) -> bool:
    """Whether trying again can help: the connection, a busy or broken service, a stream that was cut."""
    if isinstance(error, ClientAuthenticationError):
        return False  # a key that is no base64 fails here, before anything is sent
    status = error.status_code if isinstance(error, HttpResponseError) else None
    return status is None or status in {408, 429} or status >= 500 or status < 300


def _pause(wait_s: float, stop: Event) -> None:
    stop.wait(wait_s)


def _wanted_pause(error: AzureError) -> float:
    """Seconds that the server asks us to wait; 0 where it does not say."""
    response = getattr(error, "response", None)
    asked = str(response.headers.get("Retry-After", "")) if response is not None else ""
    return min(float(asked), LONGEST_WAIT_S) if asked.isdigit() else 0.0


def _code(error: HttpResponseError) -> str:
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or error.status_code or type(error).__name__)


def _remedy(error: HttpResponseError) -> str:
    return REMEDIES.get(_code(error), "these credentials do not open it.")
