"""HTTP/1.1 with deadlines for slow clients, detection of closed connections, and protocol errors as JSON."""

import asyncio
import select
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from pneumonia.serving.problem import LINGER_S, Problem
from pneumonia.serving.telemetry import log_event

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

BAD_HTTP: Final = Problem(400, "The request is not HTTP/1.1, or its headers are too long.", "Send valid HTTP.", close=True)
HEADERS_LATE: Final = Problem(408, "The headers of the request did not arrive in time.", "Send it again.", close=True)
HANG_UP: Final = getattr(select, "POLLRDHUP", 0)  # of Linux; elsewhere the time limit ends such a request
POLL_S: Final = 0.25  # between two looks at a connection that is not read


class Protocol(H11Protocol):
    """Uvicorn's protocol with two deadlines: for the headers of a request to arrive, and for a response to be read.

    A pipelined request is not read until the one before it has its response; meanwhile the connection is polled.
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
        self._poll: asyncio.TimerHandle | None = None
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_headers()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return  # read on: unread bytes would turn our response into a reset
        super().data_received(data)
        self._watch_headers()
        if HANG_UP and self.flow.read_paused and self._poll is None:
            self._poll = self.loop.call_later(POLL_S, self._poll_client)

    def on_response_complete(self) -> None:
        self._cancel_deadline()  # the time between two requests is limited by keep-alive
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        for timer in (self._unread, self._poll):
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
        """Respond to invalid HTTP in JSON instead of text."""
        self._refuse(BAD_HTTP)

    def _poll_client(self) -> None:
        self._poll = None
        if self.transport.is_closing() or not self.flow.read_paused:
            return
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), HANG_UP)
        if poll.poll(0):
            self.transport.abort()
        else:
            self._poll = self.loop.call_later(POLL_S, self._poll_client)

    def _watch_headers(self) -> None:
        """Run the deadline while headers are awaited, and only then."""
        if self.transport.is_closing() or self.conn.their_state is not h11.IDLE:
            self._cancel_deadline()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.header_s, self._refuse, HEADERS_LATE)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, problem: Problem) -> None:
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        log_event("invalid request", status=problem.status)
        if self.cycle is not None and not self.cycle.response_complete:
            if self.cycle.response_started:  # another response is being sent
                self.transport.close()
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        phrase = HTTPStatus(problem.status).phrase.encode()
        head = b"".join(b"%b: %b\r\n" % pair for pair in problem.raw_headers())
        self.transport.write(b"HTTP/1.1 %d %b\r\n%b\r\n" % (problem.status, phrase, head) + problem.body)
        if self.transport.can_write_eof():
            with suppress(OSError):  # the client may be gone
                self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)


def with_deadlines(header_s: float, send_s: float) -> type[Protocol]:
    """Return the protocol with this many seconds for headers, and for a response to be read."""
    return type("Protocol", (Protocol,), {"header_s": header_s, "send_s": send_s})
