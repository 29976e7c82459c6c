"""One WebSocket: pings, frames that come in, and what a client of notify.v1 says in them."""

import asyncio
import time
from http import HTTPStatus
from typing import Final

from gateway.admission.admit import Admitted
from gateway.admission.handshake import switching_protocols
from gateway.admission.refusal import Refusal
from gateway.authentication.token import Claims
from gateway.close_codes import CloseCode
from gateway.connection import Connection, Connections
from gateway.control import Ack, Auth, BadControl, ControlMessage, Filter, cursor_of, parse_control, types_of
from gateway.control_frames import Authenticated, Error, Pong, welcome
from gateway.cursor import Cursor
from gateway.frames import PING, PONG_HEADER, Variant, close_frame, frame_control
from gateway.group import Wishes
from gateway.inbound import Inbound, Received

AUTH_SECONDS: Final = 10
"""Between two fresh tokens of a connection: to verify one is dear."""

_EMPTY_PONG_BYTES: Final = 6

_LAST_BYTES: Final = 4_096
"""In one read, from a client that answers our close. More is a flood, which would keep the loop busy."""


class WebSocket(Connection):
    """A client of `/ws`, plain or of notify.v1."""

    __slots__ = ("_auth_at", "_awaits_answer", "_inbound", "_received", "_wished", "acknowledges")

    def __init__(self, connections: Connections, transport: asyncio.Transport, admitted: Admitted) -> None:
        super().__init__(connections, transport, admitted)
        self._inbound: Inbound | None = None
        self._awaits_answer = False
        self._received: Received | None = None
        """A slice whose messages were not all heard yet."""
        self._wished: Wishes | None = None
        self._auth_at: float | None = None
        """When a fresh token came last, of time.monotonic()."""
        asked = admitted.asked
        self.acknowledges = None if asked.device is None else (asked.user_id, asked.device)
        """Whose acknowledgements these are: user and device."""

    def _greeting(self, starts_at: Cursor, *, recovered: bool, replayed: int) -> bytes:
        assert self._handshake is not None
        answer = switching_protocols(self._handshake)
        if self.wishes.variant is not Variant.V1:
            return answer
        heartbeat_ms = 1000 * self._connections.hub.heartbeat_seconds
        first = welcome(starts_at, heartbeat_ms=heartbeat_ms, recovered=recovered, replayed=replayed)
        return answer + frame_control(Variant.V1, first)

    def _last_words(self, code: CloseCode, reason: str | None) -> bytes:
        return close_frame(code, reason)

    def _look_after(self) -> None:
        if self._awaits_answer and not self._heard:
            self.close(CloseCode.PING_TIMEOUT if self._held is None else CloseCode.SLOW_CONSUMER)
            return
        settings = self._connections.settings
        self._awaits_answer = not self._awaits_answer
        if self._awaits_answer:
            self._heard = False
            self.write(PING)
            self._connections.wheel.set(self, settings.ping_timeout_seconds)
        else:
            pause_seconds = settings.ping_interval_seconds - settings.ping_timeout_seconds
            self._connections.wheel.set(self, max(1, pause_seconds))

    def replayed(self) -> None:
        super().replayed()
        wished, self._wished = self._wished, None
        if wished is not None and not self._is_closing:
            self._connections.hub.change_wishes(self, wished)
            self._connections.hub.heartbeat(self)

    # What comes in

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self._inbound is None:
            # Nearly all that a plain client ever sends is its pong: no parser for that.
            if len(data) == _EMPTY_PONG_BYTES and data.startswith(PONG_HEADER):
                return
            if self.is_joining:
                self.refuse(_too_early())
                return
            settings = self._connections.settings
            self._inbound = Inbound(
                max_message_bytes=settings.max_client_message_bytes,
                frames_per_second=settings.client_frames_per_second,
                takes_compressed=self.wishes.deflated,
            )
        if self._is_closing and len(data) > _LAST_BYTES:
            self._transport.pause_reading()
            return
        self._inbound.feed(data, self._connections.wheel.second)
        if self._inbound.unread and not self._connections.turns.begin(self):
            self._transport.pause_reading()

    def go_on(self) -> tuple[int, bool]:
        """turns.Speaker: hear the next message, of the next slice if there is none."""
        inbound, received = self._inbound, self._received
        if inbound is None:
            return 0, False
        done = 0
        if received is None:
            received = inbound.read_slice()
            done = received.frames or 1
        if received.messages and self.wishes.variant is Variant.V1 and not self._is_closing:
            self._hear(received.messages.pop(0))
            done += 1
            if received.messages and not self._has_ended():
                self._received = received
                return done, True
        self._received = None
        self._conclude(received)
        return done or 1, bool(inbound.unread)

    def listen(self) -> None:
        """turns.Speaker."""
        self._transport.resume_reading()

    def _conclude(self, received: Received) -> None:
        """The messages were heard; what else came with them?"""
        if self._has_ended():
            if received.closed:
                self._transport.close()
        elif received.offence is not None:
            self.close(received.offence)
        elif received.closed:
            self._end(received.answer)
            self._transport.close()
        elif received.answer:
            self.write(received.answer)

    def _hear(self, text: str) -> None:
        """Do what a client of notify.v1 says, or tell it why not."""
        try:
            self._obey(parse_control(text))
        except BadControl as bad:
            self._complain(bad)

    def _obey(self, control: ControlMessage) -> None:
        """Raises BadControl."""
        connections = self._connections
        if isinstance(control, Ack):
            self._acknowledge(cursor_of(control))
        elif isinstance(control, Filter):
            wishes = self.wishes._replace(types=types_of(control))
            if self._replay is not None:
                self._wished = wishes  # answered when what came before it is replayed
                return
            connections.hub.change_wishes(self, wishes)
            connections.hub.heartbeat(self)
        elif isinstance(control, Auth):
            self._authenticate(control.token)
        else:
            self.say(Pong())

    def _authenticate(self, token: str) -> None:
        """Take a fresh token, which ends the connection when it ends. Raises BadControl."""
        if self._connections.authenticator is None:
            raise BadControl("auth_disabled", "This service takes no tokens (AUTH_MODE).")
        now = time.monotonic()  # the wheel's seconds leave out those in which nothing ran
        if self._auth_at is not None and now - self._auth_at < AUTH_SECONDS:
            raise BadControl("too_many_auth", f"A fresh token is taken once in {AUTH_SECONDS} s.")
        self._auth_at = now
        self._judge(token.encode(errors="replace"))

    def _judge(self, token: bytes) -> None:
        authenticator = self._connections.authenticator
        assert authenticator is not None
        assert self.claims is not None
        judgement = authenticator.authenticate(token)
        if isinstance(judgement, Refusal):
            raise BadControl(judgement.error, judgement.message)
        if not isinstance(judgement, Claims):
            judgement.add_done_callback(lambda _: self._judge_again(token))
        elif judgement.user_id != self.claims.user_id:
            raise BadControl("other_user", "The token is another user's; connect anew with it.")
        else:
            self._note_expiry(judgement)
            self.say(Authenticated(int(judgement.expires_at)))

    def _judge_again(self, token: bytes) -> None:
        """The keys were fetched, or could not be."""
        if self._is_closing:
            return
        try:
            self._judge(token)
        except BadControl as bad:
            self._complain(bad)

    def _complain(self, bad: BadControl) -> None:
        self.say(Error(bad.code, str(bad)))

    def _acknowledge(self, cursor: Cursor) -> None:
        acks, audience = self._connections.acks, self.audience
        if self.acknowledges is None:
            raise BadControl("no_device", "An ack needs a device; connect with device=<name> in the query.")
        if audience is not None:
            acks.take(self.acknowledges, cursor, self._connections.hub.everyone.stream, audience.stream)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._inbound = self._received = None  # what was not heard never will be

    def eof_received(self) -> None:
        """The client will send nothing more, so it can neither pong nor close: the transport closes."""


def _too_early() -> Refusal:
    return Refusal(HTTPStatus.BAD_REQUEST, "bad_request", "Wait for the 101 response before sending frames.")
