"""One WebSocket of one client: a protocol on its socket, with no task, queue, timer or lock.

What is written goes straight to the transport while it takes it. Once it does not, frames are held
in a list of the connection's own, within a bound, and go out joined when it takes them again.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from gateway.admission.handshake import Handshake, refusal_answer, switching_protocols
from gateway.admission.refusal import Refusal, spread_ms, unavailable
from gateway.close_codes import CloseCode
from gateway.frames import PING, PONG_HEADER, close_frame
from gateway.hub import Audience, Hub, count_within
from gateway.inbound import Inbound
from gateway.settings import ConnectionSettings
from gateway.wheel import Wheel

CLOSE_SECONDS: Final = 2
"""For a client to answer a close frame; then the socket is gone."""

RESUME_BYTES: Final = 64 * 1024
"""Of what was held, handed to the transport at once: as much as makes it pause again."""

_EMPTY_PONG_BYTES: Final = 6


class Connections:
    """All connections of a replica and what they share: bounds, the hub, the clock, the counts."""

    def __init__(self, settings: ConnectionSettings, hub: Hub, wheel: Wheel) -> None:
        self.settings = settings
        self.hub = hub
        self.wheel = wheel
        self.open: set[Connection] = set()
        self.sockets = 0
        """Sockets of connections in any state, those being closed included."""
        self.joining = 0
        """Handshakes waiting for their stream's subscription."""
        self.holding: set[Connection] = set()
        """Those whose clients read too slowly for the moment."""
        self.held_bytes = 0
        self.handshakes: Counter[int] = Counter()
        """Handshakes answered, by HTTP status."""
        self.closes: Counter[int] = Counter()
        """Connections closed by us, by close code."""

    def held(self, change_bytes: int) -> None:
        """Account for bytes held or let go. Above the bound for all the largest holders go, a few
        more than need be, so that the next ones are not looked for at once."""
        self.held_bytes += change_bytes
        if change_bytes > 0 and self.held_bytes > self.settings.max_buffered_bytes:
            for connection in sorted(self.holding, key=lambda connection: -connection.held_bytes):
                if self.held_bytes <= self.settings.max_buffered_bytes * 7 // 8:
                    break
                connection.close(CloseCode.SLOW_CONSUMER)


class Connection(asyncio.Protocol):
    """A client from its admitted handshake to the end of its socket.

    joining (subscribing) -> open -> closing (our close frame is out) -> gone.
    """

    __slots__ = (
        "_awaits_answer",
        "_connections",
        "_handshake",
        "_heard",
        "_held",
        "_inbound",
        "_is_closing",
        "_transport",
        "audience",
        "held_bytes",
        "place",
        "types",
        "write",
    )

    def __init__(self, connections: Connections, transport: asyncio.Transport, types: frozenset[bytes] | None) -> None:
        self._connections = connections
        connections.sockets += 1
        self._transport = transport
        self.types = types
        self.write: Callable[[bytes], object] = transport.write
        self.audience: Audience | None = None
        self.place = -1
        self.held_bytes = 0
        self._handshake: Handshake | None = None
        self._held: list[bytes] | None = None
        self._inbound: Inbound | None = None
        self._awaits_answer = False
        self._heard = False
        self._is_closing = False

    def join(self, user_id: str, handshake: Handshake) -> None:
        """Take over an admitted handshake; it is answered once the user's stream is subscribed."""
        connections = self._connections
        self._handshake = handshake
        connections.joining += 1
        connections.wheel.set(self, connections.settings.join_seconds)
        connections.hub.join(self, user_id)

    # hub.Member

    def opened(self) -> None:
        handshake, self._handshake = self._handshake, None
        assert handshake is not None
        connections = self._connections
        connections.joining -= 1
        connections.open.add(self)
        connections.handshakes[101] += 1
        # The first ping anywhere within the period: clients that came together are spread.
        connections.wheel.set(self, random.randint(1, connections.settings.ping_interval_seconds))  # noqa: S311
        self._transport.write(switching_protocols(handshake))

    def close(self, code: CloseCode, reason: str | None = None) -> None:
        """Say why and end: the client has a moment to answer, then the socket is gone."""
        if self._is_closing:
            return
        if self._handshake is not None:
            self._refuse(unavailable("This replica is going; connect again.", spread_ms()))
            return
        self._connections.closes[code] += 1
        self._end(close_frame(code, reason))

    # wheel.Timed

    def due(self) -> None:
        if self._is_closing:
            self._transport.abort()
        elif self._handshake is not None:
            self._refuse(unavailable("Redis did not answer in time; connect again.", spread_ms()))
        elif self._awaits_answer and not self._heard:
            self.close(CloseCode.PING_TIMEOUT if self._held is None else CloseCode.SLOW_CONSUMER)
        else:
            self._ask()

    def _ask(self) -> None:
        """Ping, or have the answer of the last ping and wait for the time of the next."""
        settings = self._connections.settings
        self._awaits_answer = not self._awaits_answer
        if self._awaits_answer:
            self._heard = False
            self.write(PING)
            self._connections.wheel.set(self, settings.ping_timeout_seconds)
        else:
            pause_seconds = settings.ping_interval_seconds - settings.ping_timeout_seconds
            self._connections.wheel.set(self, max(1, pause_seconds))

    def _refuse(self, refusal: Refusal) -> None:
        """Answer the handshake with a refusal."""
        self._connections.handshakes[refusal.status.value] += 1
        self._end(refusal_answer(refusal, self._handshake))
        self._transport.close()

    def _end(self, last_bytes: bytes) -> None:
        """Leave, write the last bytes, and give the socket CLOSE_SECONDS."""
        self._is_closing = True
        self._leave()
        self._connections.wheel.set(self, CLOSE_SECONDS)
        self._transport.write(last_bytes)

    def _leave(self) -> None:
        """Be owed nothing, hold nothing. May be called twice."""
        connections = self._connections
        self.write = _discard
        connections.hub.leave(self)
        connections.open.discard(self)
        if self._handshake is not None:
            self._handshake = None
            connections.joining -= 1
        self._let_go()

    # Flow control

    def pause_writing(self) -> None:
        if not self._is_closing:
            self._held = []
            self._connections.holding.add(self)
            self.write = self._hold

    def resume_writing(self) -> None:
        self._heard = True  # it reads: that is an answer, too
        held = self._let_go()
        if self._is_closing:
            return
        self.write = self._transport.write
        while held:
            # A part at a time: what the transport holds is counted nowhere, so it must stay little.
            count = count_within(held, RESUME_BYTES)
            self._transport.write(b"".join(held[:count]))
            held = held[count:]
            if self._held is not None:  # paused again
                for data in held:
                    self._hold(data)
                return

    def _hold(self, data: bytes) -> None:
        assert self._held is not None
        if self.held_bytes + len(data) > self._connections.settings.slow_client_bytes:
            self.close(CloseCode.SLOW_CONSUMER)
            return
        self._held.append(data)
        self.held_bytes += len(data)
        self._connections.held(len(data))

    def _let_go(self) -> list[bytes]:
        held, self._held = self._held or [], None
        self._connections.holding.discard(self)
        self._connections.held(-self.held_bytes)
        self.held_bytes = 0
        return held

    # What comes in

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self._inbound is None:
            # Nearly all that a plain client ever sends is its pong: no parser for that.
            if len(data) == _EMPTY_PONG_BYTES and data.startswith(PONG_HEADER):
                return
            if self._handshake is not None:
                self._refuse(_too_early())
                return
            settings = self._connections.settings
            self._inbound = Inbound(
                max_message_bytes=settings.max_client_message_bytes,
                frames_per_second=settings.client_frames_per_second,
            )
        received = self._inbound.receive(data, self._connections.wheel.second)
        if self._is_closing:
            if received.closed:
                self._transport.close()
        elif received.offence is not None:
            self.close(received.offence)
        elif received.closed:
            self._end(received.answer)
            self._transport.close()
        elif received.answer:
            self.write(received.answer)

    def eof_received(self) -> None:
        """The client will send nothing more, so it can neither pong nor close: the transport closes."""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._is_closing = True
        self._leave()
        self._connections.sockets -= 1
        self._connections.wheel.cancel(self)


def _discard(data: bytes) -> None:
    """The write of a connection that is closing."""


def _too_early() -> Refusal:
    return Refusal(HTTPStatus.BAD_REQUEST, "bad_request", "Wait for the 101 response before sending frames.")
