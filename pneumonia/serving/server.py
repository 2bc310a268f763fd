"""From a bundle to a process that listens, and ends well when it is told to."""

import contextlib
import logging
import os
import signal
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn

from pneumonia.errors import ConfigError, ServiceError
from pneumonia.export.runtime import Bundle
from pneumonia.serving.app import Service
from pneumonia.serving.http_protocol import with_deadlines
from pneumonia.serving.inference_pool import InferencePool
from pneumonia.serving.limits import Limits
from pneumonia.serving.telemetry import log_event, log_to, standard_error

BACKLOG: Final = 1024
KEEP_ALIVE_S: Final = 60  # longer than the usual proxy's, so that it is the proxy that closes
INTERRUPTED: Final = 130
GRACE_S: Final = 1.0  # after drain_s
LOCAL: Final = {"127.0.0.1", "::1", "localhost"}


@dataclass(frozen=True)
class ServerOptions:
    """Where a service listens, and who may ask it.

    Attributes:
        host: Name or address.
        port: 0 takes any that is free.
        token: That callers must know.
        certificate: A PEM file with the certificate and what vouches for it.
        key: A PEM file with its key.
        page: Whether there is a page at ``/``.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = field(default=None, repr=False)
    certificate: Path | None = None
    key: Path | None = None
    page: bool = True

    @property
    def scheme(self) -> str:
        return "https" if self.certificate else "http"


class Server(uvicorn.Server):
    """Uvicorn's, which after a signal ends like any program that did what it was told, instead of by the signal again."""

    def __init__(self, config: uvicorn.Config, pool: InferencePool) -> None:
        super().__init__(config)
        self._pool = pool
        self.exit_code = 0

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log_event("stopping")
        await super().shutdown(sockets)
        if not await self._pool.is_idle(GRACE_S):  # a decoder can't be interrupted, and drain_s is over
            log_event("stopped while an image was being read", logging.WARNING)
            os._exit(self.exit_code)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.exit_code = INTERRUPTED if sig == signal.SIGINT else self.exit_code
        super().handle_exit(sig, frame)


def serve(folder: Path, place: ServerOptions, limits: Limits) -> int:
    """Answer until SIGTERM or Ctrl-C, then finish what is in flight.

    Returns:
        The exit code: 0, or 130 after Ctrl-C.

    Raises:
        BundleError: The bundle can't be served.
        ConfigError: The certificate or its key can't be used.
        ServiceError: The address can't be had.
    """
    check_tls(place)
    bundle = Bundle.load(folder)
    with standard_error() as stream:
        log_to(stream)
        try:
            return _answer(bundle, place, limits)
        except KeyboardInterrupt:  # before the server takes signals
            log_event("stopped")
            return INTERRUPTED


def _answer(bundle: Bundle, place: ServerOptions, limits: Limits) -> int:
    """Serve a bundle; returns the exit code."""
    service = Service(bundle, limits, place.token, place.page)
    service.pool.warm_up()
    config = uvicorn.Config(
        service.middleware,
        http=with_deadlines(limits.header_s, limits.body_s),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(max(limits.drain_s, 1)),
        ssl_certfile=place.certificate,
        ssl_keyfile=place.key,
    )
    with listening(place) as listener:
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        contract = bundle.contract
        log_event(
            "serving",
            url=f"{place.scheme}://{shown}:{port}",
            bundle=contract.bundle_version,
            model=contract.model.version,
        )
        if place.token is None and place.host not in LOCAL:
            log_event("any caller who reaches this address is answered: no token is set", logging.WARNING)
        server = Server(config, service.pool)
        server.run(sockets=[listener])
    log_event("stopped")
    return server.exit_code


def check_tls(place: ServerOptions) -> None:
    """Refuses a certificate that can't be used, before anything is loaded.

    Raises:
        ConfigError: Which file, and why.
    """
    if (place.certificate is None) != (place.key is None):
        raise ConfigError(
            "--tls-cert and --tls-key go together: a certificate is of no use without its key. Give both."
        )
    if place.certificate is None or place.key is None:
        return
    for path in (place.certificate, place.key):
        if not path.is_file():
            raise ConfigError(f"There is no file {path}, so no one could be answered over TLS. Check the path.")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(place.certificate, place.key, password=_no_password)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise ConfigError(
            f"{place.certificate} and {place.key} are no certificate and key that fit together ({type(error).__name__}). "
            "Give PEM files, the key without a password."
        ) from error


def _no_password() -> str:
    raise ValueError("the key has a password")


@contextlib.contextmanager
def listening(place: ServerOptions) -> Iterator[socket.socket]:
    """A socket that listens at an address.

    Raises:
        ServiceError: It is taken, not ours, or not to be had.
    """
    try:
        family = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((place.host, place.port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ServiceError(
            f"Can't listen at {place.host} port {place.port}: {reason}. Choose another with --host or --port; "
            "--port 0 takes any that is free."
        ) from error
    # asyncio sets it only on sockets that name their protocol, and without it every answer waits 40 ms for an acknowledgement
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with listener:
        yield listener
