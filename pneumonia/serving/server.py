"""Serve a bundle until SIGTERM or Ctrl-C: check TLS, listen, and stop gracefully."""

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
KEEP_ALIVE_S: Final = 60  # longer than that of usual proxies, so that the proxy closes the connection
INTERRUPTED: Final = 130
GRACE_S: Final = 1.0  # after drain_s
LOCAL: Final = {"127.0.0.1", "::1", "localhost"}


@dataclass(frozen=True)
class ServerOptions:
    """Where a service listens, and who may call it.

    Attributes:
        host: Name or address.
        port: 0 for any free one.
        token: Callers must send it; ``None`` where anyone may call.
        certificate: A PEM file with the certificate chain.
        key: A PEM file with the key of the certificate.
        page: Whether there is a page at ``/``.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = field(default=None, repr=False)
    certificate: Path | None = None
    key: Path | None = None
    page: bool = True


class Server(uvicorn.Server):
    """Uvicorn's server, which after a signal exits with a code instead of raising the signal again."""

    def __init__(self, config: uvicorn.Config, pool: InferencePool) -> None:
        super().__init__(config)
        self._pool = pool
        self.exit_code = 0

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log_event("stopping")
        await super().shutdown(sockets)
        if not await self._pool.is_idle(GRACE_S):  # a decoder can't be interrupted, and drain_s is over
            log_event("stopped while an image was being decoded", logging.WARNING)
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


def serve(folder: Path, options: ServerOptions, limits: Limits) -> int:
    """Serve a bundle until SIGTERM or Ctrl-C, then respond to the requests in flight.

    Returns:
        The exit code: 0, or 130 after Ctrl-C.

    Raises:
        BundleError: The bundle can't be loaded.
        ConfigError: The certificate or its key can't be used.
        ServiceError: The address can't be used.
    """
    check_tls(options)
    bundle = Bundle.load(folder)
    with standard_error() as stream:
        log_to(stream)
        try:
            return _run(bundle, options, limits)
        except KeyboardInterrupt:  # before the server handles signals
            log_event("stopped")
            return INTERRUPTED


def _run(bundle: Bundle, options: ServerOptions, limits: Limits) -> int:
    """Run the server; return the exit code."""
    service = Service(bundle, limits, options.token, options.page)
    service.pool.warm_up()
    config = uvicorn.Config(
        service.asgi,
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
        ssl_certfile=options.certificate,
        ssl_keyfile=options.key,
    )
    with listening(options) as listener:
        host, port = listener.getsockname()[:2]
        url = f"{'https' if options.certificate else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
        contract = bundle.contract
        log_event("serving", url=url, bundle=contract.bundle_version, model=contract.model.version)
        if options.token is None and options.host not in LOCAL:
            log_event("no token is set: anyone who reaches this address may call", logging.WARNING)
        server = Server(config, service.pool)
        server.run(sockets=[listener])
    log_event("stopped")
    return server.exit_code


def check_tls(options: ServerOptions) -> None:
    """Refuse a certificate that can't be used, before anything is loaded.

    Raises:
        ConfigError: With the file and the reason.
    """
    if (options.certificate is None) != (options.key is None):
        raise ConfigError("--tls-cert and --tls-key go together: a certificate is useless without its key. Give both.")
    if options.certificate is None or options.key is None:
        return
    for path in (options.certificate, options.key):
        if not path.is_file():
            raise ConfigError(f"There is no file {path}, so TLS can't be used. Check the path.")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(options.certificate, options.key, password=_no_password)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise ConfigError(
            f"{options.certificate} and {options.key} are not a matching certificate and key ({type(error).__name__}). "
            "Give PEM files, the key without a password."
        ) from error


def _no_password() -> str:
    raise ValueError("the key has a password")


@contextlib.contextmanager
def listening(options: ServerOptions) -> Iterator[socket.socket]:
    """Yield a listening socket.

    Raises:
        ServiceError: The address is in use, unknown, or not allowed.
    """
    try:
        family = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((options.host, options.port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ServiceError(
            f"Can't listen on {options.host} port {options.port}: {reason}. Use another --host or --port; --port 0 takes any "
            "free one."
        ) from error
    # asyncio sets it only on sockets that name their protocol; without it every response waits 40 ms for an acknowledgement
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with listener:
        yield listener
