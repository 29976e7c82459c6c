"""One event stream (Server-Sent Events, HTML section 9.2), for where WebSockets are blocked."""

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from typing import Final

from gateway.admission.admit import Admitted
from gateway.admission.handshake import event_stream
from gateway.close_codes import CloseCode
from gateway.connection import Connection, Connections
from gateway.control_frames import Error
from gateway.cursor import START, Cursor
from gateway.frames import Variant, event_id, frame_control
from gateway.group import Due, is_conflated, with_ids

RETRY_MS: Final = 2_000
"""After how long a browser comes again when its stream has ended."""

NEVER_MS: Final = 86_400_000
"""The same for one that is not to come again, which a browser cannot be told: a day."""

_MAX_INBOUND_BYTES: Final = 16 * 1024
"""What a client may send after its request. There is nothing to say, but a proxy may."""


class EventSource(Connection):
    """A client of `/events`. What it was written last is its cursor, said after each event."""

    __slots__ = ("_cursor", "_inbound_bytes")

    def __init__(self, connections: Connections, transport: asyncio.Transport, admitted: Admitted) -> None:
        super().__init__(connections, transport, admitted)
        self._cursor = Cursor(START, START)
        self._inbound_bytes = 0
        # There is no ping in an event stream. A client that has gone without a word is found out by
        # what is written to it, a heartbeat at least, and not acknowledged by its host in time.
        dead_after_ms = 1000 * (connections.settings.ping_interval_seconds + connections.settings.ping_timeout_seconds)
        raw = transport.get_extra_info("socket")
        if raw is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            with contextlib.suppress(OSError):  # no TCP socket
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, dead_after_ms)

    def _greeting(self, starts_at: Cursor, *, recovered: bool, replayed: int) -> bytes:  # noqa: ARG002
        self._cursor = starts_at
        return event_stream(RETRY_MS, self._origin) + event_id(starts_at)

    def seated(self, at: Cursor) -> None:
        self._cursor = at

    def write_events(self, due: Sequence[Due], *, is_global: bool) -> None:
        if not self._lags or not is_conflated(due):
            data, self._cursor = with_ids(due, self._cursor, is_global=is_global)
            self.write(data)
            return
        for one in due:
            data, self._cursor = with_ids((one,), self._cursor, is_global=is_global)
            self._hold_due(one, data, is_global=is_global)

    def _last_words(self, code: CloseCode, reason: str | None) -> bytes:
        frame = frame_control(Variant.EVENTS, Error(code.reason, reason or code.reason))
        return frame if code.retry else b"retry: %d\n\n%s" % (NEVER_MS, frame)

    def _end(self, last_bytes: bytes) -> None:
        super()._end(last_bytes)
        self._transport.close()  # when all is written

    def _look_after(self) -> None:
        self._connections.wheel.set(self, self._connections.settings.ping_interval_seconds)

    def data_received(self, data: bytes) -> None:
        self._inbound_bytes += len(data)
        if self._inbound_bytes > _MAX_INBOUND_BYTES:
            self._transport.abort()

    def eof_received(self) -> None:
        """The client has gone: the transport closes."""
