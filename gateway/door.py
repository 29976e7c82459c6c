"""What a new socket is: read its first request's head, within bounds, and hand it on.

`/ws` and `/events` go to a connection of ours; every other path goes, with its bytes, to uvicorn's HTTP
protocol and so to FastAPI. The door sees only a socket's first request: HTTP answers close.
"""

import asyncio
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.addresses import Addresses
from gateway.admission.admit import AskAgain, Refused, admit, admit_events
from gateway.admission.forwarded import client_address, counted_as, is_trusted, parse_address, parse_networks
from gateway.admission.handshake import Handshake, refusal_answer
from gateway.admission.policy import Policy
from gateway.admission.refusal import Refusal, spread_ms, too_many_of_address, unavailable
from gateway.admission.request import MalformedHead, Request, head_for_http, parse_head
from gateway.connection import Connection, Connections
from gateway.event_source import EventSource
from gateway.frames import Variant
from gateway.settings import AdmissionSettings
from gateway.websocket import WebSocket
from shared.bounded_http import LINGER_BYTES, LINGER_SECONDS, MAX_HEADERS, BoundedHttp
from shared.http_head import END_OF_HEAD, find_end

SOCKETS_RESERVE: Final = 100
"""Sockets above the limit of connections that may ask for HTTP routes."""

REFUSALS_RESERVE: Final = 750
"""Sockets above those that are told to go, and that one turn of the loop may find on their way in or out when
a crowd comes back to a full replica. Whoever comes then is cut off without a word: together they stay within
settings.FILE_RESERVE."""

HEAD_PARTS: Final = 4
"""Of a turn's (gateway.turns), for a head: twelve are read and answered in one turn of the loop, however many
have come, which takes about a millisecond."""

PATIENCE_SECONDS: Final = 2
"""For a request's head, where there is no room for more sockets: who says nothing for longer keeps
nobody out. On the wheel's clock, so it may be one less."""

HEADS_BYTES: Final = 33_554_432
"""Of heads that have come in part, or wait for their turn, all together. Above it the one goes whose rest is
awaited longest."""


_WEBSOCKET: Final[type[Connection]] = WebSocket
_EVENT_SOURCE: Final[type[Connection]] = EventSource


class Newcomer:
    """A socket whose first request's head was not read yet."""

    __slots__ = ("_address", "_keeper", "came_at")

    def __init__(self, keeper: "Doorkeeper") -> None:
        self._keeper = keeper
        self._address: str | None = None
        """Under which the socket is counted, once it is."""
        self.came_at = keeper.connections.wheel.second

    @abstractmethod
    def close(self) -> None:
        """Cut it off without a word."""

    def _enter(self) -> None:
        self._keeper.doors.add(self)
        self._keeper.awaited[self] = None

    def _count_peer(self, peer_host: str) -> None:
        """Count a socket as soon as it is there, unless it is a proxy's: one that never says a word
        counts, too. Far above the limit nobody waits for its head to tell it why."""
        keeper = self._keeper
        peer = parse_address(peer_host) if keeper.addresses.most else None
        if peer is not None and not is_trusted(peer, keeper.proxies):
            self._address = counted_as(peer)
            if keeper.addresses.take(self._address) > keeper.addresses.most:
                self.close()

    def _forget(self) -> None:
        """The head has come, or nobody waits for it any more."""
        self._keeper.awaited.pop(self, None)

    def _leave(self) -> None:
        """It is gone, or somebody else's. May be called twice."""
        self._forget()
        self._keeper.doors.discard(self)
        if self._address is not None:
            self._keeper.addresses.release(self._address)
            self._address = None


class Doorkeeper:
    """What all doors of a replica share."""

    def __init__(
        self,
        settings: AdmissionSettings,
        policy: Policy,
        connections: Connections,
        why_closed: Callable[[], str | None],
        do_others_take_clients: Callable[[], bool],
    ) -> None:
        self.settings = settings
        self.policy = policy
        self.proxies = parse_networks(settings.trusted_proxies)
        self.addresses = Addresses(settings.max_connections_per_address)
        self.connections = connections
        self._limit = settings.connection_limit
        self._why_closed = why_closed
        """None while clients are taken, else the reason why not."""
        self._do_others_take_clients = do_others_take_clients
        """Asked when this replica takes none."""
        self.doors: set[Newcomer] = set()
        self.awaited: OrderedDict[Newcomer, None] = OrderedDict()
        """Those whose heads have not come, in the order in which they came themselves."""
        self.head_bytes = 0
        """What has come of those heads."""
        self._server_state: ServerState | None = None
        self._http: Callable[[], BoundedHttp]

    def door(self, config: Config, server_state: ServerState, app_state: dict[str, Any], **_: object) -> "Door":
        """The protocol of a new socket, for uvicorn's `Config(http=...)`."""
        if self._server_state is None:
            self._server_state = server_state
            self._http = partial(BoundedHttp, config, server_state, app_state, is_alone=False)
        return Door(self)

    def http(self) -> BoundedHttp:
        """uvicorn's own HTTP protocol for one socket."""
        return self._http()

    @property
    def excess_sockets(self) -> int:
        """Open sockets of clients, whatever became of them, above those that may be; less than 1 is fine."""
        http = len(self._server_state.connections) if self._server_state else 0
        return len(self.doors) + self.connections.sockets + http - self._limit - SOCKETS_RESERVE

    def makes_room(self) -> bool:
        """Cut off the one that is awaited longest, if that is longer than PATIENCE_SECONDS."""
        oldest = next(iter(self.awaited), None)
        if oldest is None or self.connections.wheel.second - oldest.came_at < PATIENCE_SECONDS:
            return False
        oldest.close()
        return True

    def refuse_for_now(self) -> Refusal | None:
        """None if one more client can be taken at this moment."""
        connections = self.connections
        reason = self._why_closed()
        if reason is None and len(connections.open) + connections.joining >= self._limit:
            reason = "This replica is full"
        if reason is None and connections.joining >= self.settings.max_handshakes:
            reason = "Too many handshakes at once"
        return unavailable(f"{reason}; connect again.", spread_ms()) if reason else None

    def another_is_to_be_asked(self, request: Request) -> bool:
        """Whether a refusal is for a load balancer, which sees its status and no more, and not for the client:
        why it is refused is this replica's own affair."""
        return request.header(b"x-forwarded-for") is not None and self._do_others_take_clients()


class Door(Newcomer, asyncio.Protocol):
    """One new socket, until its head was read."""

    __slots__ = ("_dropped_bytes", "_end", "_has_more", "_head", "_is_waiting", "_refused", "_transport", "place")

    def __init__(self, keeper: Doorkeeper) -> None:
        super().__init__(keeper)
        self._head = b""
        self._end = -1
        """Where the head ends, once it is there and waits for its turn."""
        self._has_more = False
        """More came meanwhile; what that was is of no interest."""
        self._refused = False
        self._is_waiting = False
        """The head was read, and the key of its token is being fetched."""
        self._dropped_bytes = 0
        self._transport: asyncio.Transport
        self.place = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is no subclass of it
        keeper = self._keeper
        self._enter()
        keeper.connections.wheel.set(self, keeper.settings.head_seconds)
        # Sockets that have not said a thing yet are clients, too, as far as open files go.
        excess = keeper.excess_sockets
        if excess > REFUSALS_RESERVE:
            self.close()
        elif excess > 0 and not keeper.makes_room():
            self._refuse(unavailable("This replica is full; connect again.", spread_ms()))
        else:
            self._count_peer(peer_host(transport))

    def data_received(self, data: bytes) -> None:
        if self._refused:
            self._dropped_bytes += len(data)
            if self._dropped_bytes > LINGER_BYTES:
                self._transport.pause_reading()
            return
        if self._transport.is_closing():
            return
        if self._is_waiting:
            self._refuse(_too_early())
            return
        if self._end >= 0:
            self._has_more = True
            return
        head = self._head + data if self._head else data
        end = find_end(head, len(self._head), self._keeper.settings.max_head_bytes)
        if end >= 0:
            # Nothing is awaited of the client any more: what takes time now is up to us.
            super()._forget()
            self._keeper.connections.wheel.cancel(self)
            self._end = end
            if self._keep_within_bound(head):
                self._keeper.connections.turns.begin(self)
        elif len(head) >= self._keeper.settings.max_head_bytes:
            limit = self._keeper.settings.max_head_bytes
            message = f"The request's head is larger than {limit} bytes."
            self._refuse(_too_large(message))
        else:
            self._keep_within_bound(head)

    def go_on(self) -> tuple[int, bool]:
        """turns.Speaker: read the head."""
        head, end = self._head, self._end
        self._end = -1
        if head:  # not cut off meanwhile
            self._keep(b"")
            self._read(head[:end], has_more=self._has_more or len(head) > end + len(END_OF_HEAD))
        return HEAD_PARTS, False

    def listen(self) -> None:
        """turns.Speaker: it never stopped."""

    def eof_received(self) -> None:
        """Nothing more will come: the transport closes."""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._leave()

    def due(self) -> None:
        """The head was too slow, or the token's key, or the time to linger is over."""
        if self._is_waiting and not self._refused:
            self._refuse(unavailable("The identity provider did not answer in time; connect again.", spread_ms()))
        else:
            self.close()

    def close(self) -> None:
        self._forget()
        self._transport.abort()

    def _keep(self, head: bytes) -> None:
        self._keeper.head_bytes += len(head) - len(self._head)
        self._head = head

    def _keep_within_bound(self, head: bytes) -> bool:
        """False: there was too much of heads for it, and nobody else to go."""
        self._keep(head)
        while self._keeper.head_bytes > HEADS_BYTES:
            next(iter(self._keeper.awaited), self).close()
        return bool(self._head)

    def _forget(self) -> None:
        self._keep(b"")
        super()._forget()

    def _leave(self) -> None:
        super()._leave()
        self._keeper.connections.wheel.cancel(self)

    def _read(self, head: bytes, *, has_more: bool) -> None:
        if head.count(b"\r\n") > MAX_HEADERS:
            self._refuse(_too_large(f"The request has more than {MAX_HEADERS} header lines."))
            return
        try:
            request = parse_head(head)
        except MalformedHead as error:
            self._refuse(Refusal(HTTPStatus.BAD_REQUEST, "bad_request", f"Not HTTP/1: {error}."))
            return
        if request.path == b"/ws":
            kind = _WEBSOCKET
        elif request.path == b"/events" and request.method != b"OPTIONS":
            kind = _EVENT_SOURCE
        elif request.has_body:
            message = "Requests here have no body: leave it out, with its Content-Length or Transfer-Encoding."
            self._refuse(Refusal(HTTPStatus.BAD_REQUEST, "bad_request", message))
            return
        elif (refusal := self._count_client(request, spare=self._keeper.addresses.most)) is not None:
            self._refuse(refusal)
            return
        else:
            # What follows the head is dropped, as it is when it comes later: one request on a socket.
            http = self._keeper.http()
            self._hand_on(http)
            http.connection_made(self._transport)
            http.data_received(head_for_http(head))
            return
        self._decide(kind, request, has_more=has_more)

    def _decide(self, kind: type[Connection], request: Request, *, has_more: bool = False) -> None:
        decide = admit if kind is _WEBSOCKET else admit_events
        admitted = decide(request, peer_host(self._transport), self._keeper.policy)
        if has_more and not isinstance(admitted, Refused):
            self._refuse(_too_early())
        elif isinstance(admitted, AskAgain):
            self._is_waiting = True
            self._keeper.connections.wheel.set(self, self._keeper.settings.head_seconds)
            admitted.ready.add_done_callback(lambda _: self._decide_again(kind, request))
        elif isinstance(admitted, Refused):
            self._refuse(*admitted)
        elif (refusal := self._keeper.refuse_for_now() or self._count_client(request)) is not None:
            if self._keeper.another_is_to_be_asked(request):
                self._refuse(refusal, origin=admitted.origin)
            else:
                self._refuse(refusal, admitted.variant, admitted.handshake, admitted.origin)
        else:
            connection = kind(self._keeper.connections, self._transport, admitted)
            self._hand_on(connection)
            connection.join()

    def _decide_again(self, kind: type[Connection], request: Request) -> None:
        """The keys were fetched, or could not be."""
        if not self._refused and not self._transport.is_closing():
            self._is_waiting = False
            self._decide(kind, request)

    def _count_client(self, request: Request, *, spare: int = 0) -> Refusal | None:
        """Count a proxy's client, now that it is known. A refusal when its address has more than
        `spare` too many, or has had since it came."""
        keeper = self._keeper
        if not keeper.addresses.most:
            return None
        if self._address is None:
            client = client_address(peer_host(self._transport), request.header(b"x-forwarded-for"), keeper.proxies)
            if client is None:
                return None
            self._address = counted_as(client)
            keeper.addresses.take(self._address)
        return too_many_of_address(spread_ms()) if keeper.addresses.excess(self._address) > spare else None

    def _hand_on(self, protocol: Connection | BoundedHttp) -> None:
        """The socket is another's from now on, and counts for its address until it is gone."""
        if self._address is not None:
            address, self._address = self._address, None
            protocol.on_gone = partial(self._keeper.addresses.release, address)
        self._leave()
        self._transport.set_protocol(protocol)

    def _refuse(
        self,
        refusal: Refusal,
        variant: Variant | None = None,
        handshake: Handshake | None = None,
        origin: bytes | None = None,
    ) -> None:
        self._refused = True
        self._forget()
        keeper = self._keeper
        keeper.connections.refused(refusal)
        keeper.connections.wheel.set(self, LINGER_SECONDS)
        self._transport.write(refusal_answer(refusal, variant, handshake, origin))
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()  # TLS: says that it is the end, and reads on until the client says so


def peer_host(transport: asyncio.BaseTransport) -> str:
    """The address at the other end; empty where there is none."""
    peer = transport.get_extra_info("peername")
    return peer[0] if peer else ""


def _too_early() -> Refusal:
    return Refusal(HTTPStatus.BAD_REQUEST, "bad_request", "Wait for the answer before sending more.")


def _too_large(message: str) -> Refusal:
    return Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", message)
