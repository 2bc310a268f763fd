"""HTTP/1.1 that waits for no one's headers for ever, and says what is wrong with a request in JSON."""

import asyncio
from typing import TYPE_CHECKING, Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from pneumonia.serve.refusal import LINGER_S, Refusal
from pneumonia.serve.telemetry import tell

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

BAD_HTTP: Final = Refusal(
    400, "The request is not HTTP/1.1, or its headers are too long.", "Send valid HTTP.", close=True
)
HEADERS_LATE: Final = Refusal(408, "The headers of the request did not arrive in time.", "Send it again.", close=True)


class Protocol(H11Protocol):
    """Uvicorn's, with a deadline from the first byte of a request (or the connection) to the end of its headers."""

    header_s = 10.0

    def __init__(
        self,
        config: "Config",
        server_state: "ServerState",
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._deadline: asyncio.TimerHandle | None = None
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return  # unread bytes at the end would turn our answer into a reset
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        self._forget()  # until the next request begins, the time between two requests is the keep-alive's
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Uvicorn's answer to what is no HTTP, as JSON."""
        self._refuse(BAD_HTTP)

    def _watch(self) -> None:
        """The clock runs while headers are awaited, and only then."""
        if self.transport.is_closing() or self.conn.their_state is not h11.IDLE:
            self._forget()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.header_s, self._refuse, HEADERS_LATE)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, refusal: Refusal) -> None:
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        tell("refused before any request", status=refusal.status, client=self.client and self.client[0])
        if self.cycle is not None and not self.cycle.response_complete:
            if self.cycle.response_started:  # another answer is on its way
                self.transport.close()
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        head = b"".join(b"%b: %b\r\n" % pair for pair in refusal.raw_headers())
        self.transport.write(b"HTTP/1.1 %d %b\r\n%b\r\n" % (refusal.status, refusal.reason_phrase, head) + refusal.body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)


def with_deadline(header_s: float) -> type[Protocol]:
    """The protocol, with this many seconds for headers."""
    return type("Protocol", (Protocol,), {"header_s": header_s})
