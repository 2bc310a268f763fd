"""Azure Blob Storage: who we are to it, what it holds, and its refusals in our words. Secrets stay in the environment."""

import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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
from azure.storage.blob import BlobServiceClient, ContainerClient
from requests import Session
from requests.adapters import HTTPAdapter

from pneumonia.console import say
from pneumonia.errors import AccessError, BlobError, ConfigError, TransferError

CONNECTION_STRING: Final = "AZURE_STORAGE_CONNECTION_STRING"
ACCOUNT: Final = "AZURE_STORAGE_ACCOUNT"
KEY: Final = "AZURE_STORAGE_KEY"
SAS: Final = "AZURE_STORAGE_SAS_TOKEN"
WAYS: Final = (
    f"Set {CONNECTION_STRING}; or {ACCOUNT} (or data.azure.account_url=https://ACCOUNT.blob.core.windows.net) with {KEY} or "
    f"{SAS}, or with what DefaultAzureCredential finds (`az login`, a managed identity)."
)
CONNECT_S: Final = 10  # to open a connection
READ_S: Final = 60  # between two pieces of an answer
PAUSES_S: Final = (0.5, 2.0, 6.0, 15.0)  # between tries, where the server does not ask for another time
TRIES: Final = len(PAUSES_S) + 1
LONGEST_WAIT_S: Final = 60.0  # however long a server asks for
T = TypeVar("T")
CONTAINER: Final = re.compile(r"\$(root|web|logs)|[a-z0-9](?:-?[a-z0-9]){2,62}")


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
            ConfigError: No container of Azure can be called so.
        """
        container, _, prefix = text.strip("/").partition("/")
        if not CONTAINER.fullmatch(container):
            raise ConfigError(
                f"'{container}' can not be a container: Azure's are 3 to 63 lower-case letters, digits and single hyphens. "
                "Say CONTAINER or CONTAINER/PREFIX."
            )
        return cls(container, f"{prefix}/" if prefix else "")

    def __str__(self) -> str:
        return f"{self.container}/{self.prefix}".rstrip("/")


@dataclass(frozen=True)
class Blob:
    """What a listing says of one blob; ``name`` is without the place's prefix, ``md5`` is empty where Azure has none."""

    name: str
    etag: str
    size: int
    md5: str


def connect(
    account_url: str | None = None,
    workers: int = 16,
    environ: Mapping[str, str] = os.environ,
    credential: Any = None,
) -> BlobServiceClient:
    """A client with the credentials of the environment; nothing is sent yet.

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
    if account_url is None and environ.get(ACCOUNT):
        account_url = f"https://{environ[ACCOUNT]}.blob.core.windows.net"
    if account_url is None:
        raise ConfigError(f"There is no Azure account to ask. {WAYS}")
    _check_url(account_url)
    if credential is None:
        credential = environ.get(KEY) or environ.get(SAS, "").lstrip("?") or _default_credential()
    try:
        return BlobServiceClient(account_url, credential=credential, **options)
    except ValueError as error:
        raise ConfigError(f"account_url={account_url} is not understood ({type(error).__name__}). {WAYS}") from None


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns Azure's errors into ours, by their code alone: their texts may quote signatures and addresses.

    Args:
        what: What was tried, for the message: ``"list train"``.

    Raises:
        AccessError: A wrong key, an expired or insufficient token.
        BlobError: Something is missing, or was changed by someone else meanwhile.
        TransferError: The connection failed for good, or the service did.
    """
    try:
        yield
    except ClientAuthenticationError as error:
        raise AccessError(f"Azure refuses to {what} ({_code(error)}): {_remedy(error)} {WAYS}") from None
    except ResourceNotFoundError as error:
        raise BlobError(f"Can't {what}: it is not there ({_code(error)}). Check the account and the name.") from None
    except (ResourceModifiedError, ResourceExistsError) as error:
        raise ChangedError(
            f"Can't {what}: someone else changed it meanwhile ({_code(error)}). Nothing was overwritten; run it again."
        ) from None
    except HttpResponseError as error:
        if error.status_code in {401, 403}:
            raise AccessError(f"Azure refuses to {what} ({_code(error)}): {_remedy(error)} {WAYS}") from None
        raise TransferError(
            f"Can't {what}: the service answers {error.status_code} ({_code(error)}), also after {TRIES} tries. What was done "
            "is kept; run it again later."
        ) from None
    except AzureError as error:
        raise TransferError(
            f"Can't {what}: the connection fails ({type(error).__name__}), also after {TRIES} tries. Check the network, the "
            "account's name and its firewall. What was done is kept; run it again and it goes on."
        ) from None


def patiently(what: str, work: Callable[[], T]) -> T:
    """Does what the network or a busy service may refuse, and tries again with growing pauses.

    Args:
        what: What is tried, for the message.
        work: May be called several times.

    Raises:
        AccessError, BlobError, TransferError: See :func:`explained`; what can't mend is not tried again.
    """
    for pause in (*PAUSES_S, None):
        with explained(what):
            try:
                return work()
            except AzureError as error:
                if pause is None or not _may_mend(error):
                    raise
                wait_s = _wanted_pause(error) or pause * random.uniform(0.8, 1.2)
        if wait_s > 1:
            say(f"Can't {what} now; trying again in {wait_s:.0f} s")
        time.sleep(wait_s)
    raise AssertionError("the last try returns or raises")


def list_blobs(container: ContainerClient, place: Place) -> list[Blob]:
    """All blobs of a place, one call for each 5,000; markers that stand for folders are left out.

    Raises:
        AccessError, BlobError, TransferError: See :func:`explained`.
    """

    def work() -> list[Blob]:
        found = container.list_blobs(name_starts_with=place.prefix or None, include=["metadata"])
        return [
            Blob(item.name.removeprefix(place.prefix), _etag(item), int(item.size), _md5_of(item))
            for item in found
            if (item.metadata or {}).get("hdi_isfolder") != "true" and not item.name.endswith("/")
        ]

    return patiently(f"list {place}", work)


def look_up(container: ContainerClient, place: Place, name: str) -> Blob:
    """What one blob is now."""
    found = container.get_blob_client(place.prefix + name).get_blob_properties()
    return Blob(name, _etag(found), int(found.size), _md5_of(found))


def check_access(account_url: str | None, places: Mapping[str, str | None]) -> tuple[bool, str]:
    """Whether the places can be listed, and what to do if not; for `pneumonia doctor`."""
    from pneumonia.errors import PneumoniaError

    try:
        service = connect(account_url)
        for text in filter(None, places.values()):
            place = Place.parse(text)
            with explained(f"list {place}"):
                next(iter(service.get_container_client(place.container).list_blobs(place.prefix or None)), None)
    except PneumoniaError as error:
        return False, f"{type(error).__name__}: {error}"
    return True, f"{service.account_name}: {', '.join(filter(None, places.values()))} can be listed"


def _check_url(url: str) -> None:
    if "?" in url or "sig=" in url or "AccountKey" in url or "@" in url:
        raise ConfigError(
            f"The account's URL holds a secret (it is not shown here), and the config is kept beside every run. Put the token "
            f"into {SAS} or the key into {KEY}, and say only https://ACCOUNT.blob.core.windows.net."
        )
    if not re.match(r"https?://[^/]+", url):
        raise ConfigError(f"account_url={url} is not a URL. Say https://ACCOUNT.blob.core.windows.net.")


def _default_credential() -> Any:
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential()


def _etag(properties: Any) -> str:
    return str(properties.etag).strip('"')  # quoted in headers, bare in listings


def _md5_of(properties: Any) -> str:
    return bytes(properties.content_settings.content_md5 or b"").hex()


def _may_mend(error: AzureError) -> bool:
    """Whether trying again can help: the connection, a busy or broken service, a stream that was cut."""
    status = error.status_code if isinstance(error, HttpResponseError) else None
    return status is None or status in {408, 429} or status >= 500 or status < 300


def _wanted_pause(error: AzureError) -> float:
    """Seconds that the server asks us to wait; 0 where it does not say."""
    response = getattr(error, "response", None)
    asked = str(response.headers.get("Retry-After", "")) if response is not None else ""
    return min(float(asked), LONGEST_WAIT_S) if asked.isdigit() else 0.0


def _code(error: HttpResponseError) -> str:
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or error.status_code or type(error).__name__)


def _remedy(error: HttpResponseError) -> str:
    code = _code(error)
    if code in {"AuthorizationPermissionMismatch", "AuthorizationFailure", "InsufficientAccountPermissions"}:
        return "the token or account lacks the right (to write, perhaps) or the address is blocked by the firewall."
    if code in {"AuthenticationFailed", "InvalidAuthenticationInfo", "NoAuthenticationInformation"}:
        return "the key is wrong, or the token has expired or was cut in copying."
    return "these credentials do not open it."
