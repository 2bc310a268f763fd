"""HTTP/1.1 that waits for no client for ever, notices when one is gone, and says what is wrong with a request in JSON."""

import asyncio
import select
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from pneumonia.serving.problem import LINGER_S, Problem
from pneumonia.serving.telemetry import log_event

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

BAD_HTTP: Final = Problem(
    400, "The request is not HTTP/1.1, or its headers are too long.", "Send valid HTTP.", close=True
)
HEADERS_LATE: Final = Problem(408, "The headers of the request did not arrive in time.", "Send it again.", close=True)
HANG_UP: Final = getattr(select, "POLLRDHUP", 0)  # of Linux; elsewhere the time limit ends such a request
LOOK_S: Final = 0.25  # between two looks at a connection that is not read


class Protocol(H11Protocol):
    """Uvicorn's, with deadlines for its client.

    One from the first byte of a request (or the connection) to the end of its headers, and one for an answer that waits to be
    read. A client that sends its next request ahead is not read until the first is answered, and its leaving is looked for.
    """

    header_s = 10.0
    send_s = 30.0

    def __init__(
        self,
        config: "Config",
        server_state: "ServerState",
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._look: asyncio.TimerHandle | None = None
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return  # unread bytes at the end would turn our answer into a reset
        super().data_received(data)
        self._watch()
        if HANG_UP and self.flow.read_paused and self._look is None:
            self._look = self.loop.call_later(LOOK_S, self._look_for_client)

    def on_response_complete(self) -> None:
        self._forget()  # until the next request begins, the time between two requests is the keep-alive's
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        for timer in (self._unread, self._look):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        self._unread = self.loop.call_later(self.send_s, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():  # closing would wait for a client that does not read
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """Uvicorn's answer to what is no HTTP, as JSON."""
        self._refuse(BAD_HTTP)

    def _look_for_client(self) -> None:
        self._look = None
        if self.transport.is_closing() or not self.flow.read_paused:
            return
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), HANG_UP)
        if poll.poll(0):
            self.transport.abort()
        else:
            self._look = self.loop.call_later(LOOK_S, self._look_for_client)

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

    def _refuse(self, refusal: Problem) -> None:
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        log_event("refused before any request", status=refusal.status)
        if self.cycle is not None and not self.cycle.response_complete:
            if self.cycle.response_started:  # another answer is on its way
                self.transport.close()
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        head = b"".join(b"%b: %b\r\n" % pair for pair in refusal.raw_headers())
        self.transport.write(b"HTTP/1.1 %d %b\r\n%b\r\n" % (refusal.status, refusal.reason_phrase, head) + refusal.body)
        if self.transport.can_write_eof():
            with suppress(OSError):  # the client may be gone by now
                self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)


def with_deadlines(header_s: float, send_s: float) -> type[Protocol]:
    """The protocol, with this many seconds for headers, and for an answer to be read."""
    return type("Protocol", (Protocol,), {"header_s": header_s, "send_s": send_s})
