"""Check every request before the app: who may send it, how much, for how long; log it and count it."""

import asyncio
import base64
import binascii
import hmac
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from pneumonia.serving.exchange import App, Exchange, Message, Receive, Scope, Send
from pneumonia.serving.limits import Limits
from pneumonia.serving.problem import LINGER_S, OPEN_INFERENCE, Problem, busy
from pneumonia.serving.telemetry import LOGGER, OTHER, PAGE, Metrics, log_event

HEALTH: Final = {"/ping", f"{OPEN_INFERENCE}/health/live", f"{OPEN_INFERENCE}/health/ready"}  # for orchestrators: no token
METHODS: Final = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}
UNIQUE: Final = (b"authorization", b"content-type", b"content-encoding", b"content-length", b"transfer-encoding")
LINGER_BYTES: Final = 2**28
CLIENT_GONE: Final = 499  # in logs and metrics alone: the client closed the connection before the response


class ClientGoneError(Exception):
    """The client closed the connection."""


class Middleware:
    """An ASGI app around another.

    Args:
        app: Responds to the requests that pass.
        limits: Of size, time and number.
        metrics: Count the requests.
        token: Callers must send it; ``None`` where anyone may call.
        routes: Names of paths in logs and metrics; all others are one, so that no caller can add time series without end.
    """

    def __init__(
        self,
        app: App,
        limits: Limits,
        metrics: Metrics,
        token: str | None = None,
        routes: Mapping[str, str] | None = None,
    ) -> None:
        self.app, self.limits, self.metrics, self.routes = app, limits, metrics, routes or {}
        self._token = token.encode() if token else None
        self._in_flight = 0
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = Exchange(scope, send)
        self.metrics.in_flight.inc()
        try:
            await self._serve(exchange, receive)
        except Problem as problem:
            await _refuse(exchange, problem, receive)
        except ClientGoneError:
            exchange.status = CLIENT_GONE
        except asyncio.CancelledError:  # the service stops, and the request has not ended within drain_s
            exchange.log_fields["cancelled"] = True
            await exchange.send_problem(busy("The service is stopping.", 503, close=True))
        except Exception:
            LOGGER.exception("failed", extra={"fields": {"request_id": exchange.id}})
            remedy = f"Report it with the request id {exchange.id}."
            await exchange.send_problem(Problem(500, "The service failed.", remedy, close=True))
        finally:
            self.metrics.in_flight.dec()
            self._record(exchange)

    async def _serve(self, exchange: Exchange, receive: Receive) -> None:
        _check_headers(exchange)
        self._check_token(exchange)
        scope = exchange.scope
        if exchange.method == "HEAD":  # the response to GET, without its body
            scope = {**scope, "method": "GET"}
        if exchange.method == "POST" or exchange.has_body:
            await self._serve_body(exchange, scope, receive)
        else:
            await self.app(scope, receive, exchange.send)

    async def _serve_body(self, exchange: Exchange, scope: Scope, receive: Receive) -> None:
        """Read the whole body, then respond; on any route and with any method, so that none can take memory unseen."""
        length = int(exchange.headers.get(b"content-length", b"0"))  # h11 lets digits through alone
        if length > self.limits.body_bytes:
            raise self._too_long(f"{length:,} bytes")
        self._check_load()
        counted = False
        try:
            try:
                async with asyncio.timeout(self.limits.body_s):
                    body = await self._read(exchange, receive)
            except TimeoutError:
                reason = f"The body did not arrive within {self.limits.body_s:g} s."
                raise Problem(408, reason, "Use a faster connection, or send less.", close=True) from None
            self._check_load()
            self._in_flight += 1
            counted = True
            await self._respond(exchange, scope, body, receive)
        finally:
            self._in_flight -= counted
            self._hold(-exchange.size)

    async def _respond(self, exchange: Exchange, scope: Scope, body: bytes, receive: Receive) -> None:
        """Let the app respond, until its time is over or its client is gone."""
        gone = asyncio.Event()
        try:
            async with asyncio.timeout(self.limits.answer_s) as limit:
                watch = asyncio.create_task(_end_when_gone(exchange, receive, gone, limit))
                try:
                    await self.app(scope, _replay(body, gone), exchange.send)
                finally:
                    watch.cancel()
        except TimeoutError:
            if gone.is_set():
                raise ClientGoneError from None
            raise busy(f"There was no response within {self.limits.answer_s:g} s.", 503) from None

    async def _read(self, exchange: Exchange, receive: Receive) -> bytes:
        chunks: list[bytes] = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunks.append(message.get("body", b""))
            exchange.size += len(chunks[-1])
            self._hold(len(chunks[-1]))
            if exchange.size > self.limits.body_bytes:
                raise self._too_long(f"more than {self.limits.body_bytes:,} bytes")
            if self._held > self.limits.held_bytes:
                raise busy(f"All requests together hold more than {self.limits.held_mib:g} MiB.", close=True)
            if not message.get("more_body", False):
                return b"".join(chunks)

    def _hold(self, size: int) -> None:
        """Count bytes of bodies in memory."""
        self._held += size
        self.metrics.held.set(self._held)

    def _check_token(self, exchange: Exchange) -> None:
        if self._token is None or exchange.path in HEALTH:
            return
        sent = _credentials(exchange.headers.get(b"authorization", b""))
        if sent is None or not hmac.compare_digest(sent, self._token):
            reason = "The token is wrong." if sent is not None else "A token is required, and none was sent."
            raise Problem(401, reason, "Send the header 'Authorization: Bearer TOKEN'.", close=exchange.has_body)

    def _check_load(self) -> None:
        if self._in_flight >= self.limits.at_once:
            raise busy(f"{self._in_flight} requests are in flight, which is the limit.", close=True)

    def _too_long(self, size: str) -> Problem:
        reason = f"The body has {size}; the limit is {self.limits.body_mib:g} MiB."
        return Problem(413, reason, "Send fewer images at once, or smaller ones.", close=True)

    def _record(self, exchange: Exchange) -> None:
        seconds = time.perf_counter() - exchange.start
        route = self.routes.get(exchange.path, OTHER)
        self.metrics.requests.labels(route, str(exchange.status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        if exchange.status == 200 and (exchange.path in HEALTH or route == PAGE):
            return  # frequent and of no interest
        log_event(
            "request",
            request_id=exchange.id,
            method=exchange.method if exchange.method in METHODS else OTHER,
            route=route,
            status=exchange.status,
            ms=round(seconds * 1000, 2),
            bytes=exchange.size,
            **exchange.log_fields,
        )


async def _refuse(exchange: Exchange, problem: Problem, receive: Receive) -> None:
    """Respond at once, then discard the rest of the body for a moment."""
    if exchange.started:
        return
    linger = problem.close and exchange.has_body and exchange.headers.get(b"expect", b"").lower() != b"100-continue"
    await exchange.send_problem(problem, more=linger)
    if not linger:
        return
    left = LINGER_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    break
    await exchange.send({"type": "http.response.body", "body": b""})


def _check_headers(exchange: Exchange) -> None:
    """Refuse headers that a reverse proxy may interpret differently (RFC 9112, 6.1 and RFC 9110, 5.3)."""
    names = [name for name, _ in exchange.scope["headers"]]
    repeated = next((name for name in UNIQUE if names.count(name) > 1), None)
    if repeated is not None:
        raise Problem(400, f"The request has more than one header {repeated.decode()}.", "Send one.", close=True)
    if b"transfer-encoding" in names and b"content-length" in names:
        raise Problem(400, "The request has both Content-Length and Transfer-Encoding.", "Send one of them.", close=True)


def _credentials(header: bytes) -> bytes | None:
    """Return the token of an ``Authorization`` header: of Bearer, or the password of Basic (RFC 6750, RFC 7617)."""
    scheme, _, rest = header.strip().partition(b" ")
    if scheme.lower() == b"bearer":
        return rest.strip()
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(rest.strip(), validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return None


async def _end_when_gone(exchange: Exchange, receive: Receive, gone: asyncio.Event, limit: asyncio.Timeout) -> None:
    """End a time limit at the moment in which the client closes the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.set()
    if not exchange.ended and not limit.expired():
        limit.reschedule(asyncio.get_running_loop().time())


def _replay(body: bytes, gone: asyncio.Event) -> Receive:
    """Return the ``receive`` of a body that was read already, followed by the end of the connection."""
    waiting = [body]

    async def receive() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    return receive
