"""Describe why a request fails: the HTTP status, the problem and a remedy, as JSON and never as a stack trace."""

import json
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Final

OPEN_INFERENCE: Final = "/v2"  # the path below which the Open Inference Protocol is spoken
JSON_TYPE: Final = (b"content-type", b"application/json")
# Python 3.13 renamed these, and clients may compare them.
NAMES: Final = {413: "request_entity_too_large", 416: "requested_range_not_satisfiable", 422: "unprocessable_entity"}
LINGER_S: Final = 2.0  # to read the rest of a refused request, so that its sender reads the response instead of a reset


@dataclass(eq=False)
class Problem(Exception):
    """A request that fails.

    Attributes:
        status: Of HTTP: 4xx where the client can correct it, 503 where the service is too busy.
        reason: What is wrong with which value.
        remedy: What to do.
        headers: More headers of the response.
        close: Whether the connection has to end, since the rest of the request is not read.
        open_inference: Whether the body has the form of the Open Inference Protocol, whose only key is ``error``.
    """

    status: int
    reason: str
    remedy: str
    headers: dict[str, str] = field(default_factory=dict)
    close: bool = False
    open_inference: bool = False

    @property
    def body(self) -> bytes:
        """The response body."""
        name = NAMES.get(self.status) or HTTPStatus(self.status).name.lower()
        if self.open_inference:
            return json.dumps({"error": f"{name}: {self.reason} {self.remedy}"}).encode()
        return json.dumps({"error": name, "reason": self.reason, "remedy": self.remedy}).encode()

    def on(self, path: str) -> "Problem":
        """Return the problem in the form of the protocol to which a path belongs."""
        return replace(self, open_inference=path == OPEN_INFERENCE or path.startswith(f"{OPEN_INFERENCE}/"))

    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers of the response, as ASGI takes them."""
        found = [JSON_TYPE, (b"content-length", str(len(self.body)).encode())]
        found += [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()]
        return [*found, (b"connection", b"close")] if self.close else found


def busy(reason: str, status: int = 429, close: bool = False) -> Problem:
    """Return the problem of a service that is too busy: retry in a second."""
    return Problem(status, reason, "Retry after the seconds in the header Retry-After.", {"Retry-After": "1"}, close)
