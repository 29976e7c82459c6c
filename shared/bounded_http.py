"""uvicorn's HTTP protocol with the bounds that it lacks: one request on a socket, of bounded size, in
bounded time. uvicorn alone waits for the rest of a request, and for a client to take its answer, for ever.
"""

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from shared.http_head import END_OF_HEAD, find_end

HEAD_SECONDS: Final = 5
"""For a socket's request to come, body included."""

ANSWER_SECONDS: Final = 30
"""For a request to be answered and its answer to be taken."""

LINGER_SECONDS: Final = 2
"""After a refusal the rest of what the client sends is read and dropped for this long (gateway/door.py)."""

LINGER_BYTES: Final = 262_144
"""So much of it; then nothing is read any more."""

MAX_HEAD_BYTES: Final = 16_384
MAX_HEADERS: Final = 100
MAX_BODY_BYTES: Final = 65_536

MAX_SOCKETS: Final = 32
"""On a port of its own. For one more the one goes whose request is awaited longest, so that those who
say nothing keep nobody out; above twice as many new ones are cut off."""


class BoundedHttp(HttpToolsProtocol):
    """A socket for one request and its answer.

    The parser is given one head and as much of a body as the head says, and nothing that follows:
    another request on the socket is dropped. Without `is_alone` whoever hands the socket over has
    read the head within bounds of its own, and counts the sockets.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        is_alone: bool = True,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._is_alone = is_alone
        self._head: bytes | None = b""
        self._body_left = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._was_read = False
        self._dropped_bytes = 0
        self._is_refused = False
        self.came_at = self.loop.time()
        self.is_evicted = False
        self.on_gone: Callable[[], None] | None = None
        """Told when the socket is gone."""

    @property
    def is_awaited(self) -> bool:
        """The request has not come yet, or not all of it."""
        return self._head is not None or self._body_left > 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))  # uvloop's own is no subclass of it
        self._end_in(HEAD_SECONDS)
        if self._is_alone and len(self.connections) > MAX_SOCKETS:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)
        if self.on_gone is not None:
            self.on_gone()
            self.on_gone = None

    def data_received(self, data: bytes) -> None:
        if not self.is_awaited:
            self._dropped_bytes += len(data)
            if self._dropped_bytes > LINGER_BYTES:
                self.transport.pause_reading()
            return
        if self._head is not None and not self.transport.is_closing():
            searched_bytes = len(self._head)
            self._head += data
            end = find_end(self._head, searched_bytes)
            if self._is_alone and (len(self._head) if end < 0 else end) > MAX_HEAD_BYTES:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a head of at most {MAX_HEAD_BYTES} bytes")
            elif end >= 0:
                end += len(END_OF_HEAD)
                head, data, self._head = self._head[:end], self._head[end:], None
                self._parse(head)
                if not self._was_read:  # nothing but empty lines, for one
                    self._refuse(HTTPStatus.BAD_REQUEST, "HTTP/1")
        if self._body_left > 0:
            body = data[: self._body_left]
            self._body_left -= len(body)
            self._parse(body)

    def on_headers_complete(self) -> None:
        self._was_read = True
        headers = dict(self.headers)
        length = headers.get(b"content-length", b"0")  # the parser has seen that it is a number, and one
        if len(self.headers) > MAX_HEADERS:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"at most {MAX_HEADERS} headers")
        elif b"transfer-encoding" in headers:
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "a body with its Content-Length")
        elif len(length) > 9 or int(length) > MAX_BODY_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body of at most {MAX_BODY_BYTES} bytes")
        else:
            super().on_headers_complete()
            self._body_left = int(length)
            self.cycle.keep_alive = False  # the answer is to say so, and to close

    def on_message_complete(self) -> None:
        if not self._is_refused:
            self._end_in(ANSWER_SECONDS)
            super().on_message_complete()

    def _parse(self, data: bytes) -> None:
        # What uvicorn does here writes a line of log for each request that is none.
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # it is served as the request that it is, too
        except httptools.HttpParserError:
            self._refuse(HTTPStatus.BAD_REQUEST, "HTTP/1")

    def _refuse(self, status: HTTPStatus, takes: str) -> None:
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
        self._head, self._body_left = None, 0
        body = json.dumps({"error": "bad_request", "message": f"This port takes {takes}."}).encode()
        self.transport.write(
            b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
            % (status.value, status.phrase.encode(), len(body), body)
        )
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._end_in(LINGER_SECONDS)

    def _make_room(self) -> None:
        evicted: BoundedHttp = self
        if len(self.connections) <= 2 * MAX_SOCKETS:
            awaited = [one for one in self.connections if isinstance(one, BoundedHttp) and one.is_awaited]
            evicted = min((one for one in awaited if not one.is_evicted), key=lambda one: one.came_at, default=self)
        evicted.is_evicted = True
        evicted.transport.abort()

    def _end_in(self, seconds: int) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self.transport.abort)
