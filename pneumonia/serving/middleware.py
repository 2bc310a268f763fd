"""Checks every request before the app: who may ask, how much, for how long; names it, logs it and counts it."""

import asyncio
import base64
import binascii
import hmac
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from pneumonia.serving.limits import Limits
from pneumonia.serving.problem import LINGER_S, Problem, busy
from pneumonia.serving.telemetry import LOGGER, OTHER, PAGE, PAGE_FILES, ROUTES, Metrics, log_event

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PING: Final = "/ping"
METHODS: Final = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}
REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
CHALLENGES: Final = (  # a program answers the first, a browser the second
    (b"www-authenticate", b'Bearer realm="pneumonia"'),
    (b"www-authenticate", b'Basic realm="pneumonia: any name, the token as password", charset="UTF-8"'),
)
SINGLE: Final = (b"authorization", b"content-type", b"content-encoding", b"content-length", b"transfer-encoding")
LINGER_BYTES: Final = 2**28
GONE: Final = 499  # in logs and metrics alone: the client hung up before its answer
COMMON: Final = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; "
)
POLICY: Final = (COMMON + "style-src 'self'; img-src 'self' data: blob:").encode()
DOCS: Final = "/docs"
DOCS_POLICY: Final = (COMMON + "style-src 'self' 'unsafe-inline'; img-src 'self' data:").encode()  # Swagger UI's styles
SECURITY: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


class ClientGoneError(Exception):
    """The client hung up, so that there is no one to answer."""


class Exchange:
    """One request and its answer, as far as they have come."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope, self._send = scope, send
        self.headers = {name: value for name, value in scope["headers"]}
        self.path, self.method = scope["path"], scope["method"]
        said = self.headers.get(b"x-request-id", b"").decode("latin-1")
        self.id = said if REQUEST_ID.fullmatch(said) else secrets.token_hex(8)
        self.told: dict[str, Any] = scope.setdefault("told", {})
        self.began = time.perf_counter()
        self.status = 0
        self.size = 0
        self.started = self.ended = False

    @property
    def has_body(self) -> bool:
        return self.headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in self.headers

    @property
    def route(self) -> str:
        if self.path in ROUTES:
            return str(self.path)
        return PAGE if self.path.startswith(PAGE_FILES) else OTHER

    async def send(self, message: Message) -> None:
        """Passes a message of the app on, with our headers."""
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            policy = DOCS_POLICY if self.path == DOCS else POLICY
            extra = [(b"x-request-id", self.id.encode()), (b"content-security-policy", policy), *SECURITY]
            message = {**message, "headers": [*message.get("headers", ()), *extra]}
        elif message["type"] == "http.response.body":
            self.ended = not message.get("more_body", False)
            if self.method == "HEAD":
                message = {**message, "body": b""}
        await self._send(message)

    async def refuse(self, refusal: Problem, more: bool = False) -> None:
        """Answers with a refusal; ``more`` leaves the answer open, so that the connection does."""
        headers = refusal.raw_headers() + (list(CHALLENGES) if refusal.status == 401 else [])
        self.told.setdefault("reason", refusal.reason)
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": refusal.body, "more_body": more})


class Middleware:
    """An ASGI app around another.

    Args:
        app: That answers what is let through.
        limits: Of size, time and number.
        metrics: Where requests are counted.
        token: That callers must know; ``None`` where any may ask.
    """

    def __init__(self, app: App, limits: Limits, metrics: Metrics, token: str | None = None) -> None:
        self.app, self.limits, self.metrics = app, limits, metrics
        self._token = token.encode() if token else None
        self._answering = 0
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = Exchange(scope, send)
        self.metrics.in_flight.inc()
        try:
            await self._serve(exchange, receive)
        except Problem as refusal:
            if not exchange.started:
                await self._turn_away(exchange, refusal, receive)
        except ClientGoneError:
            exchange.status = GONE
        except asyncio.CancelledError:  # the service stops, and the request has not ended within drain_s
            exchange.told["cut"] = True
            if not exchange.started:
                stopping = busy("The service is stopping.", 503)
                stopping.close = True
                await exchange.refuse(stopping)
        except Exception:
            LOGGER.exception("failed", extra={"told": {"request_id": exchange.id}})
            if not exchange.started:
                await exchange.refuse(
                    Problem(500, "The service failed.", f"Report it with the request id {exchange.id}.", close=True)
                )
        finally:
            self.metrics.in_flight.dec()
            self._record(exchange)

    async def _serve(self, exchange: Exchange, receive: Receive) -> None:
        _check_headers(exchange)
        self._check_token(exchange)
        scope = exchange.scope
        if exchange.method == "HEAD":  # what GET would answer, without its body
            scope = {**scope, "method": "GET"}
        if exchange.method == "POST" or exchange.has_body:
            await self._serve_body(exchange, scope, receive)
        else:
            await self.app(scope, receive, exchange.send)

    async def _serve_body(self, exchange: Exchange, scope: Scope, receive: Receive) -> None:
        """Read the whole body, then answer it; on any route and with any method, so that none can take memory unseen."""
        self._check_size(exchange)
        self._check_room()
        counted = False
        try:
            try:
                async with asyncio.timeout(self.limits.body_s):
                    body = await self._read(exchange, receive)
            except TimeoutError:
                reason = f"The body did not arrive within {self.limits.body_s:g} s."
                raise Problem(408, reason, "Send it again over a faster line, or send less.", close=True) from None
            self._check_room()
            self._answering += 1
            counted = True
            await self._answer(exchange, scope, body, receive)
        finally:
            self._answering -= counted
            self._held -= exchange.size
            self.metrics.held.set(self._held)

    async def _answer(self, exchange: Exchange, scope: Scope, body: bytes, receive: Receive) -> None:
        """Let the app answer, until its time is over or its client is gone."""
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
            raise busy(f"There was no answer within {self.limits.answer_s:g} s.", 503) from None

    async def _read(self, exchange: Exchange, receive: Receive) -> bytes:
        chunks: list[bytes] = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunk = message.get("body", b"")
            chunks.append(chunk)
            exchange.size += len(chunk)
            self._held += len(chunk)
            self.metrics.held.set(self._held)
            if exchange.size > self.limits.body_bytes:
                raise self._too_long(f"more than {self.limits.body_bytes:,} bytes")
            if self._held > self.limits.held_bytes:
                refusal = busy(f"All requests together hold more than {self.limits.held_mib:g} MiB.")
                refusal.close = True
                raise refusal
            if not message.get("more_body", False):
                return b"".join(chunks)

    def _check_token(self, exchange: Exchange) -> None:
        if self._token is None or exchange.path == PING:
            return
        given = _credentials(exchange.headers.get(b"authorization", b""))
        if given is None or not hmac.compare_digest(given, self._token):
            what = "The token is wrong." if given is not None else "A token is needed, and none was sent."
            raise Problem(401, what, "Send the header 'Authorization: Bearer TOKEN'.", close=exchange.has_body)

    def _check_size(self, exchange: Exchange) -> None:
        length = exchange.headers.get(b"content-length", b"0")
        if int(length) > self.limits.body_bytes:  # h11 lets digits through alone
            raise self._too_long(f"{int(length):,} bytes")

    def _check_room(self) -> None:
        if self._answering >= self.limits.at_once:
            refusal = busy(f"{self._answering} requests are being answered, as many as are taken at once.")
            refusal.close = True
            raise refusal

    def _too_long(self, said: str) -> Problem:
        reason = f"The body has {said}, and at most {self.limits.body_mib:g} MiB are read."
        return Problem(413, reason, "Send fewer images at once, or smaller ones.", close=True)

    async def _turn_away(self, exchange: Exchange, refusal: Problem, receive: Receive) -> None:
        """Answers at once, then lets the rest of the body run out unread for a moment."""
        linger = refusal.close and exchange.has_body and exchange.headers.get(b"expect", b"").lower() != b"100-continue"
        await exchange.refuse(refusal, more=linger)
        if not linger:
            return
        left = LINGER_BYTES
        try:
            async with asyncio.timeout(LINGER_S):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            pass
        await exchange.send({"type": "http.response.body", "body": b""})

    def _record(self, exchange: Exchange) -> None:
        seconds = time.perf_counter() - exchange.began
        self.metrics.requests.labels(exchange.route, str(exchange.status)).inc()
        self.metrics.seconds.labels(exchange.route).observe(seconds)
        if exchange.status == 200 and (exchange.path == PING or exchange.route == PAGE):
            return  # every few seconds, and nothing to say
        log_event(
            "request",
            request_id=exchange.id,
            method=exchange.method if exchange.method in METHODS else OTHER,
            route=exchange.route,
            status=exchange.status,
            ms=round(seconds * 1000, 2),
            bytes=exchange.size,
            **exchange.told,
        )


def _check_headers(exchange: Exchange) -> None:
    """Refuse headers that a reverse proxy may interpret differently (RFC 9112, 6.1 and RFC 9110, 5.3).

    Raises:
        Problem: 400.
    """
    names = [name for name, _ in exchange.scope["headers"]]
    twice = next((name for name in SINGLE if names.count(name) > 1), None)
    if twice is not None:
        reason = f"The request has more than one header {twice.decode()}."
    elif b"transfer-encoding" in names and b"content-length" in names:
        reason = "The request has both Content-Length and Transfer-Encoding."
    else:
        return
    raise Problem(400, reason, "Send one of them.", close=True)


def _credentials(header: bytes) -> bytes | None:
    """The token of an ``Authorization`` header: of Bearer, or the password of Basic (RFC 6750, RFC 7617)."""
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
    """Bring a time limit forward to the moment in which the client hangs up."""
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.set()
    if not exchange.ended and not limit.expired():
        limit.reschedule(asyncio.get_running_loop().time())


def _replay(body: bytes, gone: asyncio.Event) -> Receive:
    """A body that has been read, as if it were still to come; after it the end of the connection."""
    waiting = [body]

    async def again() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    return again
