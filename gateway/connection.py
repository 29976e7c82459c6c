"""A client's socket: a protocol with no task, queue, timer or lock while it follows its streams.

What is written goes out at once while the socket and its transport take it (gateway.outlet). Once they do
not, frames are held in a list of the connection's own, within a bound, and go out joined when they do again.
WebSockets are in gateway.websocket, event streams in gateway.event_source.
"""

import asyncio
import random
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from gateway.acks import Acks
from gateway.admission.admit import Admitted
from gateway.admission.handshake import refusal_answer
from gateway.admission.refusal import Refusal, spread_ms, unavailable
from gateway.admission.wishes import Asked
from gateway.audience import Audience
from gateway.authentication.authenticator import Authenticator, revoked_token
from gateway.authentication.token import Claims
from gateway.close_codes import CloseCode
from gateway.control_frames import Conflated, ControlFrame, Error, GoingAway, stream_name
from gateway.cursor import Cursor
from gateway.frames import frame_control
from gateway.group import Due, Wishes
from gateway.held import Held
from gateway.hub import Hub
from gateway.outlet import Outlet
from gateway.settings import ConnectionSettings
from gateway.turns import Turns
from gateway.wheel import Wheel
from shared.logging import get_logger

if TYPE_CHECKING:
    from gateway.replay import Replay, Replays

log = get_logger("gateway.connection")

CLOSE_SECONDS: Final = 2
"""For a client to answer a close frame; then the socket is gone."""

GRACE_SECONDS: Final = 25
"""For a fresh token to come when the last one has ended (DESIGN section 7)."""

_SEND_ANOTHER: Final = (
    f'The token has expired; send a fresh one within {GRACE_SECONDS} s: {{"control":"auth","token":"..."}}.'
)

_TOLD: Final = frozenset(
    (
        CloseCode.SLOW_CONSUMER,
        CloseCode.TOKEN_EXPIRED,
        CloseCode.GAP,
        CloseCode.UNAVAILABLE,
        CloseCode.UNAUTHORIZED,
        CloseCode.DISCONNECTED_BY_ADMIN,
        CloseCode.REPLACED,
    )
)
"""What a user may ask about, a line in the log each. What a client does wrong is only counted."""

RESUME_BYTES: Final = 64 * 1024
"""Of what was held, handed to the transport at once: as much as makes it pause again."""


class Connections:
    """All connections of a replica and what they share: bounds, the hub, the clock, the counts."""

    def __init__(
        self,
        settings: ConnectionSettings,
        hub: Hub,
        wheel: Wheel,
        replays: "Replays",
        acks: Acks,
        authenticator: Authenticator | None = None,
    ) -> None:
        self.settings = settings
        self.hub = hub
        self.wheel = wheel
        self.replays = replays
        self.acks = acks
        self.authenticator = authenticator
        """Judges tokens; None when there are none."""
        if authenticator is not None:
            authenticator.revocations.on_revoked = self.revoked
        self.turns = Turns()
        self.open: set[Connection] = set()
        self.sockets = 0
        """Sockets of connections in any state, those being closed included."""
        self.joining = 0
        """Handshakes waiting for their stream's subscription, or for what they resume from."""
        self.holding: set[Connection] = set()
        """Those that bytes are held for: their clients read too slowly for the moment, or something has
        to come first."""
        self.held_bytes = 0
        self.handshakes: Counter[int] = Counter()
        """Handshakes answered, by HTTP status, and requests of /position that were refused."""
        self.refusals: Counter[str] = Counter()
        """The same that were refused, by why (Refusal.error)."""
        self.closes: Counter[int] = Counter()
        """Connections closed by us, by close code."""
        self.conflated: Counter[bytes] = Counter()
        """Messages dropped for a newer one of their type, which is conflated."""

    def refused(self, refusal: Refusal) -> None:
        """Count a refusal."""
        self.handshakes[refusal.status.value] += 1
        self.refusals[refusal.error] += 1

    def revoked(self, user_id: str) -> None:
        """The tokens of a user were refused from some time on: close the connections that have one."""
        for connection in self.hub.members_of(user_id):
            if isinstance(connection, Connection):
                connection.check_revoked()

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
    """A client from its admitted request to the end of its socket.

    joining (subscribing, finding where to resume) -> open (answered; perhaps replaying) -> closing
    (our last words are out) -> gone.
    """

    __slots__ = (
        "_connections",
        "_handshake",
        "_heard",
        "_held",
        "_is_closing",
        "_leaves_at",
        "_origin",
        "_outlet",
        "_replay",
        "_transport",
        "asked",
        "audience",
        "claims",
        "expires_at",
        "held_bytes",
        "is_joining",
        "on_gone",
        "opened_us",
        "place",
        "wishes",
        "write",
    )

    def __init__(self, connections: Connections, transport: asyncio.Transport, admitted: Admitted) -> None:
        self._connections = connections
        connections.sockets += 1
        self._transport = transport
        self._outlet = Outlet(transport)
        asked, variant, self._handshake, self.claims, self._origin = admitted
        self.asked: Asked | None = asked
        """What the client asked for, until it is given."""
        deflated = self._handshake is not None and self._handshake.extensions is not None
        self.wishes = Wishes(variant, asked.types, deflated)
        self.write: Callable[[bytes], object] = self._outlet.write
        self.audience: Audience | None = None
        self.place = -1
        self.opened_us = 0
        self.held_bytes = 0
        self.is_joining = True
        self._held: Held | None = None
        self._replay: Replay | None = None
        self._heard = False
        self._is_closing = False
        self._leaves_at: int | None = None
        self.expires_at: int | None = None
        self.on_gone: Callable[[], None] | None = None
        """Told when the socket is gone."""

    def join(self) -> None:
        """Take over an admitted request; it is answered once the user's stream is subscribed, and it
        is known where the client begins."""
        connections = self._connections
        connections.joining += 1
        if self.claims is not None:
            self._note_expiry(self.claims)
        connections.wheel.set(self, connections.settings.join_seconds)
        assert self.asked is not None
        connections.hub.join(self, self.asked.user_id)

    # audience.Member

    def subscribed(self) -> None:
        asked, replays = self.asked, self._connections.replays
        assert asked is not None
        if asked.resume is not None:
            self._replay = replays.start(self, asked)
        else:
            starts_at = self._connections.hub.seat(self)
            self.answer(starts_at, recovered=False, replayed=0)

    def answer(self, starts_at: Cursor, *, recovered: bool, replayed: int) -> None:
        """Answer the request: the client begins at `starts_at`, and `replayed` messages behind it
        have been published already."""
        connections = self._connections
        self.is_joining = False
        connections.joining -= 1
        connections.open.add(self)
        lifetime = connections.settings.max_connection_seconds
        if lifetime:
            # Not all of those together that came together.
            self._leaves_at = connections.wheel.second + random.randint(lifetime * 9 // 10, lifetime)  # noqa: S311
        # The first look anywhere within the period: clients that came together are spread.
        connections.wheel.set(self, random.randint(1, connections.settings.ping_interval_seconds))  # noqa: S311
        connections.handshakes[200 if self._handshake is None else 101] += 1
        # Before the client can know: the next one that it opens, on any replica, is to be younger.
        connections.hub.opened(self)
        self._outlet.write(self._greeting(starts_at, recovered=recovered, replayed=replayed))
        self._handshake = self.asked = self._origin = None

    def seated(self, at: Cursor) -> None:
        """A replay seats the client at `at`: what is written to it from now on lies behind that."""

    def write_events(self, due: Sequence[Due], *, is_global: bool) -> None:
        """Only an event stream has a cursor of its own in what it is written."""
        raise NotImplementedError

    def close(self, code: CloseCode, reason: str | None = None) -> None:
        """Say why and end: the client has a moment to answer, then the socket is gone."""
        if self._is_closing:
            return
        if self.is_joining:
            self.refuse(unavailable("This replica is going; connect again.", spread_ms()))
            return
        audience = self.audience
        if code is not CloseCode.SLOW_CONSUMER and self._replay is None:
            took = self._held is None
            self._connections.hub.flush(self)  # which may be more than it takes: that closes it
            if took and not self._has_ended() and (owed := self._let_go()):
                self._outlet.write(owed.take(owed.size_bytes))
        if not self._has_ended():
            self._connections.closes[code] += 1
            if code in _TOLD and audience is not None:
                user = unquote(audience.name.name)
                log.info("a connection was closed", reason=code.reason, user=user, connection=self.opened_us)
            self._end(self._last_words(code, reason))

    def _has_ended(self) -> bool:
        """Asked anew after a call that may have closed it, which a type checker does not see."""
        return self._is_closing

    def going_away(self, retry_after_ms: int) -> None:
        """Tell the client to be elsewhere after `retry_after_ms`; plain ones cannot be told."""
        if not self.is_joining:
            self.say(GoingAway(retry_after_ms))

    def say(self, control: ControlFrame) -> None:
        """Write a control frame, if the client has such."""
        frame = frame_control(self.wishes.variant, control)
        if frame:
            self.write(frame)

    # What the kinds of connections do differently

    @abstractmethod
    def _greeting(self, starts_at: Cursor, *, recovered: bool, replayed: int) -> bytes:
        """The answer to the request, and what comes before all messages."""

    @abstractmethod
    def _last_words(self, code: CloseCode, reason: str | None) -> bytes:
        """Why the connection ends."""

    @abstractmethod
    def _look_after(self) -> None:
        """The time set on the wheel has come: see that the client lives, and set the next."""

    # wheel.Timed

    def due(self) -> None:
        connections = self._connections
        if self._is_closing:
            self._transport.abort()
        elif self.is_joining:
            self.refuse(unavailable("Redis did not answer in time; connect again.", spread_ms()))
        elif self._leaves_at is not None and self._leaves_at <= connections.wheel.second:
            self.going_away(0)
            self.close(CloseCode.REBALANCE)
        else:
            self._look_after()

    # The token

    def _note_expiry(self, claims: Claims) -> None:
        self.claims = claims
        assert self._connections.authenticator is not None
        self._connections.authenticator.expiries.set(self, claims.expires_at)

    def expired(self) -> None:
        """The token has ended: a fresh one has to come within a while."""
        authenticator, claims = self._connections.authenticator, self.claims
        assert authenticator is not None
        assert claims is not None
        if time.time() < claims.expires_at + GRACE_SECONDS:
            authenticator.expiries.set(self, claims.expires_at + GRACE_SECONDS)
            if not self.is_joining:
                self.say(Error(CloseCode.TOKEN_EXPIRED.reason, _SEND_ANOTHER))
        else:
            self.close(CloseCode.TOKEN_EXPIRED)

    def check_revoked(self) -> None:
        """End if the token is one of those that are refused now."""
        authenticator, claims = self._connections.authenticator, self.claims
        if authenticator is None or claims is None or not authenticator.is_revoked(claims):
            return
        if self.is_joining:
            self.refuse(revoked_token())
        else:
            self.close(CloseCode.UNAUTHORIZED)

    def refuse(self, refusal: Refusal) -> None:
        """Answer the request with a refusal."""
        if self._is_closing:
            return
        self._connections.refused(refusal)
        self._end(refusal_answer(refusal, self.wishes.variant, self._handshake, self._origin))
        self._transport.close()

    def _end(self, last_bytes: bytes) -> None:
        """Leave, write the last bytes, and give the socket CLOSE_SECONDS."""
        self._is_closing = True
        self._leave()
        self._connections.wheel.set(self, CLOSE_SECONDS)
        self._outlet.write(last_bytes)

    def _leave(self) -> None:
        """Be owed nothing, hold nothing. May be called twice."""
        connections = self._connections
        self.write = _discard
        if connections.authenticator is not None:
            connections.authenticator.expiries.cancel(self)
        connections.hub.leave(self)
        connections.open.discard(self)
        if self.is_joining:
            self.is_joining = False
            connections.joining -= 1
        if self._replay is not None:
            self._replay.cancel()
            self._replay = None
        self._let_go()

    # Flow control

    def hold(self) -> None:
        """Hold what is written from now on: a replay has to come first, or the socket takes no more."""
        if self._held is None:
            self._held = Held()
            self.write = self._hold
            self._connections.holding.add(self)

    def replayed(self) -> None:
        """The replay has come to where `hold` was called: what was held follows, and a heartbeat."""
        replay, self._replay = self._replay, None
        if replay is not None and replay.is_writable:
            self._write_held()
        self._connections.hub.heartbeat(self)

    def write_replayed(self, data: bytes) -> None:
        """Write ahead of everything held. The replay waits while the transport takes no more; until
        then what it wrote counts as held."""
        if self._is_closing:
            return
        self._outlet.write(data)
        if self._held is not None and self._replay is not None and not self._replay.is_writable:
            self._replay.untaken_bytes += len(data)
            self.held_bytes += len(data)
            self._connections.held(len(data))

    def pause_writing(self) -> None:
        if self._is_closing:
            return
        if self._replay is not None:
            self._replay.pause()
        self.hold()

    def resume_writing(self) -> None:
        self._heard = True  # it reads: that is an answer, too
        replay = self._replay
        if replay is not None:
            self.held_bytes -= replay.untaken_bytes
            self._connections.held(-replay.untaken_bytes)
            replay.untaken_bytes = 0
            replay.go_on()
            if replay.is_seated:
                return
        self._write_held()

    def _write_held(self) -> None:
        held = self._let_go()
        if self._is_closing:
            return
        self.write = self._outlet.write
        while held:
            # A part at a time: what the transport holds is counted nowhere, so it must stay little.
            self._outlet.write(held.take(RESUME_BYTES))
            if self._held is not None:  # paused again
                self._held = held
                self._account(held.size_bytes)
                return

    def _hold(self, data: bytes) -> None:
        assert self._held is not None
        if self.held_bytes + len(data) > self._connections.settings.slow_client_bytes:
            self.close(CloseCode.SLOW_CONSUMER)
            return
        self._held.add(data)
        self._account(len(data))

    @property
    def _lags(self) -> bool:
        """Its socket takes no more. While it is replayed to, something else may be held up."""
        return self._held is not None and self._replay is None

    def write_conflated(self, due: Sequence[Due], joined: bytes, *, is_global: bool) -> None:
        """group.Receiver."""
        if not self._lags:
            self.write(joined)
            return
        for one in due:
            self._hold_due(one, one.frame, is_global=is_global)

    def _hold_due(self, due: Due, frame: bytes, *, is_global: bool) -> None:
        """Hold `frame`, which is due; of a conflated type nothing else."""
        held, type_ = self._held, due.type
        if held is None or type_ is None or not due.is_conflated:
            self.write(frame)
            return

        def notice(dropped: int) -> bytes:
            told = Conflated(stream_name(is_global=is_global), type_.decode(), dropped)
            return frame_control(self.wishes.variant, told)

        before = held.size_bytes
        if held.add_newest(type_, frame, notice):
            self._connections.conflated[type_] += 1
        if self.held_bytes + held.size_bytes - before > self._connections.settings.slow_client_bytes:
            self.close(CloseCode.SLOW_CONSUMER)
        else:
            self._account(held.size_bytes - before)

    def _account(self, change_bytes: int) -> None:
        self.held_bytes += change_bytes
        self._connections.held(change_bytes)

    def _let_go(self) -> Held | None:
        held, self._held = self._held, None
        self._connections.holding.discard(self)
        self._connections.held(-self.held_bytes)
        self.held_bytes = 0
        return held

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._outlet.close()
        self._is_closing = True
        self._leave()
        self._connections.sockets -= 1
        self._connections.wheel.cancel(self)
        if self.on_gone is not None:
            self.on_gone()
            self.on_gone = None


def _discard(data: bytes) -> None:
    """The write of a connection that is closing."""
