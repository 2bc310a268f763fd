"""A request that is not answered: which status, what is wrong, what to do. Always JSON, never a stack trace."""

import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

JSON_TYPE: Final = (b"content-type", b"application/json")
# Python 3.13 renamed these, and a caller may compare them.
NAMES: Final = {413: "request_entity_too_large", 416: "requested_range_not_satisfiable", 422: "unprocessable_entity"}
LINGER_S: Final = 2.0  # for what is refused to run out, so that its sender reads the refusal instead of a reset


@dataclass(eq=False)
class Problem(Exception):
    """Why a request is not answered.

    Attributes:
        status: Of HTTP; 4xx where the caller can mend it, 503 where the service is too busy.
        reason: What is wrong, with the value.
        remedy: What to do.
        headers: More headers of the answer.
        close: The connection can't go on, since the rest of the request is not read.
    """

    status: int
    reason: str
    remedy: str
    headers: dict[str, str] = field(default_factory=dict)
    close: bool = False

    @property
    def body(self) -> bytes:
        """The answer, as JSON."""
        name = NAMES.get(self.status) or HTTPStatus(self.status).name.lower()
        return json.dumps({"error": name, "reason": self.reason, "remedy": self.remedy}).encode()

    @property
    def reason_phrase(self) -> bytes:
        """HTTP's own words for the status."""
        return HTTPStatus(self.status).phrase.encode()

    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of the answer, as ASGI takes them."""
        found = [JSON_TYPE, (b"content-length", str(len(self.body)).encode())]
        found += [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()]
        return [*found, (b"connection", b"close")] if self.close else found


def busy(reason: str, status: int = 429) -> Problem:
    """Too much at once: come back in a second."""
    return Problem(status, reason, "Send it again after the seconds that Retry-After names.", {"Retry-After": "1"})
