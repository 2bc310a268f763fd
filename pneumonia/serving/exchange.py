"""Track one HTTP request and its response: identity, state, and the headers that every response has."""

import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from pneumonia.serving.problem import Problem

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOG_FIELDS: Final = "log_fields"  # key of the ASGI scope: what routes add to the log line of their request
REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
CHALLENGES: Final = (  # programs use the first, browsers the second
    (b"www-authenticate", b'Bearer realm="pneumonia"'),
    (b"www-authenticate", b'Basic realm="pneumonia: any name, the token as password", charset="UTF-8"'),
)
COMMON: Final = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; "
)
POLICY: Final = (COMMON + "style-src 'self'; img-src 'self' data: blob:").encode()
DOCS: Final = "/docs"
DOCS_POLICY: Final = (COMMON + "style-src 'self' 'unsafe-inline'; img-src 'self' data:").encode()  # for Swagger UI
SECURITY: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


class Exchange:
    """A request and the state of its response."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope, self._send = scope, send
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.path, self.method = scope["path"], scope["method"]
        sent = self.headers.get(b"x-request-id", b"").decode("latin-1")
        self.id = sent if REQUEST_ID.fullmatch(sent) else secrets.token_hex(8)
        self.log_fields: dict[str, object] = scope.setdefault(LOG_FIELDS, {})
        self.start = time.perf_counter()
        self.status = 0
        self.size = 0
        self.started = self.ended = False

    @property
    def has_body(self) -> bool:
        return self.headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in self.headers

    async def send(self, message: Message) -> None:
        """Send a message of the app, with the headers of every response."""
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

    async def send_problem(self, problem: Problem, more: bool = False) -> None:
        """Send a problem, unless a response has started; ``more`` keeps the response, and so the connection, open."""
        if self.started:
            return
        problem = problem.on(self.path)
        headers = problem.raw_headers() + (list(CHALLENGES) if problem.status == 401 else [])
        self.log_fields.setdefault("reason", problem.reason)
        await self.send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": problem.body, "more_body": more})
