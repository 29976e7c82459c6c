"""One gateway process: its parts put together, run, and drained."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastapi import FastAPI

from gateway.acks import Acks
from gateway.admission.admit import AskAgain, Identified, allowed_origin, identify
from gateway.admission.policy import Policy
from gateway.admission.refusal import Refusal, spread_ms, unavailable
from gateway.admission.request import Request
from gateway.app import Answers, Health, public_app
from gateway.authentication.authenticator import make_authenticator
from gateway.close_codes import CloseCode
from gateway.connection import CLOSE_SECONDS, Connection, Connections
from gateway.cursor import Cursor
from gateway.door import Doorkeeper
from gateway.drain import plan_slots
from gateway.history import GAP_RESULTS, History
from gateway.hub import Hub
from gateway.operators.acts import Acts
from gateway.operators.app import ConsoleSettings, admin_app
from gateway.operators.feed import Feed
from gateway.operators.orders import Disconnect, Drain, Order, parse_order
from gateway.operators.status import State, replica_status
from gateway.position import read_position
from gateway.presence import Presence
from gateway.replay import OUTCOMES, Replays
from gateway.settings import (
    AdmissionSettings,
    AuthenticationSettings,
    ConnectionSettings,
    DrainSettings,
    ListenerSettings,
    OperatorSettings,
)
from gateway.subscriber import Subscriber
from gateway.tls import TlsPort
from gateway.wheel import Wheel
from shared.errors import RedisError
from shared.exposition import Exposition
from shared.keys import GLOBAL_BUCKET
from shared.links import Links
from shared.logging import get_logger
from shared.loop_lag import watch_loop_lag
from shared.metrics import GatewayCounts, GatewayMetrics
from shared.server import http_server
from shared.servers import Servers
from shared.settings import RedisSettings, ServiceSettings
from shared.slices import slices
from shared.statuses import Status, Statuses, process_name

EXIT_SECONDS: Final = CLOSE_SECONDS + 2
"""For the sockets of a drained replica to be gone."""

SLOT_SECONDS: Final = 2
"""Between the moment that a client was told to leave at and its end here."""

CLOSES_A_TURN: Final = 256

log = get_logger("gateway.replica")


@dataclass(frozen=True)
class ReplicaSettings:
    """All settings of a gateway process."""

    service: ServiceSettings
    redis: RedisSettings
    listener: ListenerSettings
    operators: OperatorSettings
    authentication: AuthenticationSettings
    admission: AdmissionSettings
    connection: ConnectionSettings
    drain: DrainSettings


class Replica:
    """The process. `run` returns when it was told to stop and has drained."""

    def __init__(self, settings: ReplicaSettings) -> None:
        self._settings = settings
        name = f"{settings.service.service_name}-gateway"
        self._wheel = Wheel()
        connection = settings.connection
        self._hub = Hub(
            settings.redis.keys,
            connection.heartbeat_seconds,
            deflate_min_bytes=connection.deflate_min_bytes,
            conflated=frozenset(type_.encode() for type_ in connection.conflate),
        )
        servers = Servers(settings.redis)
        self._history = History(settings.redis, self._hub, name, servers)
        self._subscriber = Subscriber(settings.redis, self._hub, name, servers)
        self._hub.is_fed = lambda: self._subscriber.is_up
        self._links = Links(settings.redis, f"{name}-calls", servers)
        self._acks = Acks(settings.redis, self._links)
        self._name = process_name()
        self._started_ms = time.time_ns() // 1_000_000
        self._statuses = Statuses(settings.redis, self._links)
        self._presence = Presence(
            settings.redis, self._hub, self._links, self._name, settings.admission.max_connections_per_user
        )
        self._metrics = GatewayMetrics(self._counts)
        self._subscriber.on_answered = self._metrics.redis_round_trip_seconds.observe
        self._subscriber.on_notice = self._noticed
        self._subscriber.on_subscribed = self._presence.tell_again
        self._replays = Replays(settings.redis, settings.connection, self._hub, self._links, self._acks, self._wheel)
        self._authenticator = make_authenticator(settings.authentication, settings.redis, self._links)
        self._connections = Connections(
            settings.connection, self._hub, self._wheel, self._replays, self._acks, self._authenticator
        )
        self._policy = self._policy_of(settings)
        self._keeper = Doorkeeper(
            settings.admission, self._policy, self._connections, self._why_closed, self._do_others_take_clients
        )
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._takes_clients = True
        self._sending_away: asyncio.Task[None] | None = None

    def _policy_of(self, settings: ReplicaSettings) -> Policy:
        authentication, origins = settings.authentication, settings.admission.allowed_origins
        return Policy(
            mode=authentication.auth_mode,
            allowed_origins=None if origins is None else frozenset(origins),
            authenticate=None if self._authenticator is None else self._authenticator.authenticate,
            cookie=authentication.auth_cookie,
            allow_query_token=authentication.allow_query_token,
            deflates=settings.connection.deflate_min_bytes > 0,
        )

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain. A second signal ends the draining.

        Raises what ended a part of it: OSError for an address that is taken, LayoutMismatchError.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop_asked, False)
        loop.add_signal_handler(signal.SIGINT, self._stop_asked, True)
        listener = self._settings.listener
        operators = self._settings.operators
        feed = Feed(self._statuses, str(self._settings.redis.deployment))
        admin = self._admin_app(feed)
        public = public_app(Answers(self._health, self._why_not_ready, self._allowed_origin, self._position))
        protocol = TlsPort(self._keeper, listener.tls).arrival if listener.tls else self._keeper.door
        parts = [
            self._clock(),
            watch_loop_lag(self._metrics.loop_lag_seconds.observe),
            self._history.run(),
            self._acks.run(),
            self._presence.run(),
            self._subscriber.run(),
            *([] if self._authenticator is None else [self._authenticator.run()]),
            self._statuses.run(self._name, self._status),
            feed.run(),
            http_server(admin, operators.admin_host, operators.admin_port).run_until_cancelled(),
            http_server(public, listener.ws_host, listener.ws_port, protocol=protocol).run_until_cancelled(),
        ]
        tasks = [asyncio.create_task(part) for part in parts]
        stop = asyncio.create_task(self._stop.wait())
        try:
            ended, _ = await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
            if stop in ended:
                await self._drain()
            else:
                # A part that ends by itself has failed; alive and deaf would be worse.
                await ended.pop()
        finally:
            await self._end([*tasks, stop])

    async def _clock(self) -> None:
        """Turn the wheel each second. Ticks missed while the process did not run are left out: made
        up for in a row, they would leave clients no time between a ping and its deadline."""
        loop = asyncio.get_running_loop()
        tick_at = loop.time()
        while True:
            tick_at = max(tick_at + 1, loop.time())
            await asyncio.sleep(tick_at - loop.time())
            self._wheel.tick()
            self._hub.tick(self._wheel.second)
            if self._authenticator is not None:
                self._authenticator.expiries.tick(time.time())

    def _admin_app(self, feed: Feed) -> FastAPI:
        settings, authenticator = self._settings, self._authenticator
        revocations = None if authenticator is None else authenticator.revocations
        acts = Acts(
            settings.redis, self._links, self._presence, self._statuses, revocations, self._name, self._drain_asked
        )
        console = ConsoleSettings(settings.service.service_name, self._name, settings.operators.console_demo)
        return admin_app(Exposition(self._metrics.registry), console, feed, settings.operators.guard, acts)

    # What other replicas tell

    def _noticed(self, bucket: str, notice: bytes) -> None:
        if bucket != GLOBAL_BUCKET:
            self._presence.heard(bucket, notice)
        elif (order := parse_order(notice)) is None:
            log.error("not an order of ours, ignored", notice=notice[:100].decode(errors="replace"))
        else:
            self._ordered(order)

    def _ordered(self, order: Order) -> None:
        match order:
            case Drain(replica):
                if replica == self._name:
                    self._drain_asked()
            case Disconnect(user_id=None):
                if self._sending_away is None or self._sending_away.done():
                    log.warning("an operator has everybody disconnected", retry=order.retry)
                    self._sending_away = asyncio.create_task(self._disconnect_everyone(order))
            case Disconnect(user_id=str(user_id)):
                for member in self._hub.members_of(user_id):
                    member.close(order.code)

    def _drain_asked(self) -> None:
        log.warning("an operator has this replica drained")
        self._stop_asked(False)

    async def _disconnect_everyone(self, order: Disconnect) -> None:
        everyone = list(self._connections.open)
        if order.retry:
            await self._send_away(everyone)
            return
        for some in slices(everyone, CLOSES_A_TURN):
            for connection in some:
                connection.close(order.code)
            await asyncio.sleep(0)

    # What the routes and the door ask

    def _health(self) -> Health:
        running = self._subscriber.hears_relay
        return Health(
            status="healthy" if running else "degraded",
            service=self._settings.service.service_name,
            connections=len(self._connections.open),
            consumer_running=running,
        )

    @property
    def _knows_revocations(self) -> bool:
        return self._authenticator is None or self._authenticator.revocations.are_known

    def _why_not_ready(self) -> str | None:
        return self._state()[1]

    def _state(self) -> tuple[State, str | None]:
        """What this replica is, and why it is not ready."""
        if self._stop.is_set():
            return State.DRAINING, "draining"
        if not self._subscriber.was_up:
            return State.STARTING, "not subscribed yet: waiting for Redis"
        if not self._knows_revocations:
            return State.STARTING, "which tokens are revoked is not known yet"
        if self._subscriber.is_deaf:
            return State.DEAF, "deaf: the relay's beat rises in Redis and is not heard here"
        return State.READY if self._subscriber.is_up else State.AWAY, None

    def _do_others_take_clients(self) -> bool:
        """Not known, but likely where this one is not itself. While Redis is away nobody takes any."""
        return self._state()[0] in (State.DRAINING, State.DEAF)

    def _why_closed(self) -> str | None:
        if not self._takes_clients:
            return "This replica is going"
        if not self._subscriber.is_up:
            return "Redis is away"
        if not self._knows_revocations:
            return "Which tokens are revoked is not known yet"
        return None

    async def _identify(self, request: Request, peer_host: str) -> Identified | Refusal:
        identified = identify(request, peer_host, self._policy)
        if isinstance(identified, AskAgain):
            # Bounded by the fetch; and by then it is known, or refused.
            await asyncio.wait([identified.ready])
            identified = identify(request, peer_host, self._policy)
        if isinstance(identified, AskAgain):
            return unavailable("The token's key is not known yet; ask again.", spread_ms())
        if not isinstance(identified, Refusal) and not self._knows_revocations:
            return unavailable("Which tokens are revoked is not known yet; ask again.", spread_ms())
        return identified

    def _allowed_origin(self, request: Request, peer_host: str) -> bytes | None:
        return allowed_origin(request, peer_host, self._policy)

    async def _position(self, request: Request, peer_host: str) -> Cursor | Refusal:
        identified = await self._identify(request, peer_host)
        found = identified if isinstance(identified, Refusal) else await self._position_of(identified.asked.user_id)
        if isinstance(found, Refusal):
            self._connections.refused(found)
        return found

    async def _position_of(self, user_id: str) -> Cursor | Refusal:
        try:
            return await read_position(self._links, self._settings.redis, user_id)
        except (RedisError, ValueError) as error:
            log.warning("cannot say where a user's streams are", error=str(error))
            return unavailable("Redis is away; ask again.", spread_ms())

    def _status(self) -> Status:
        state, reason = self._state()
        return replica_status(self._counts(), state, reason, self._settings.listener.ws_port, self._started_ms)

    def _counts(self) -> GatewayCounts:
        delivered, (state, _) = self._hub.deliveries.of_types, self._state()
        return GatewayCounts(
            states={one.value: one is state for one in State},
            subscription_up=self._subscriber.is_up,
            hears_relay=self._subscriber.hears_relay,
            connections=len(self._connections.open),
            max_connections=self._settings.admission.connection_limit,
            joining=self._connections.joining,
            users=self._presence.user_count,
            presence_writes=self._presence.writes,
            handshakes=self._connections.handshakes,
            refusals=self._connections.refusals,
            deliveries=self._hub.deliveries.counts,
            delivered_bytes={type_: one.frame_bytes for type_, one in delivered.items()},
            latencies={type_: one.ages.cumulated() for type_, one in delivered.items()},
            closes={code: self._connections.closes[code] for code in CloseCode},
            conflated=self._connections.conflated,
            gaps_found=self._history.gaps_found,
            gaps={result: self._history.gaps[result] for result in GAP_RESULTS},
            replays={outcome: self._replays.outcomes[outcome] for outcome in OUTCOMES},
            replaying=self._replays.count,
            buffered_bytes=self._connections.held_bytes,
            max_buffered_bytes=self._settings.connection.max_buffered_bytes,
            due_bytes=self._hub.due_bytes,
            streams=self._hub.stream_count,
        )

    # The end

    def _stop_asked(self, at_once: bool) -> None:
        if self._stop.is_set() or at_once:
            self._hurry.set()
        self._stop.set()

    async def _drain(self) -> None:
        """Send the clients elsewhere: not ready at once, then slot by slot, then the rest."""
        drain = self._settings.drain
        log.info("draining", connections=len(self._connections.open), delay_seconds=drain.drain_delay_seconds)
        await self._pause(drain.drain_delay_seconds)
        self._takes_clients = False
        await self._send_away(list(self._connections.open))
        for member in [*self._connections.open, *self._hub.waiting]:
            member.close(CloseCode.SERVICE_RESTART)
        log.info("drained")

    async def _send_away(self, leavers: Sequence[Connection]) -> None:
        """Tell clients when to be elsewhere, each in a slot of its own, and close those who are still there then."""
        if not leavers:
            return
        seconds = self._settings.drain.drain_seconds
        slots = plan_slots(leavers, seconds)
        for second, slot in enumerate(slots):
            for connection in slot:
                connection.going_away(1000 * second)
        await self._pause(min(SLOT_SECONDS, seconds))
        for slot in slots:
            if not self._connections.open:
                break
            for connection in slot:
                connection.close(CloseCode.SERVICE_RESTART)
            await self._pause(1)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), seconds)

    async def _end(self, tasks: Sequence[asyncio.Task[Any]]) -> None:
        """Wait for the last sockets, then end every part."""
        deadline = asyncio.get_running_loop().time() + EXIT_SECONDS
        for door in list(self._keeper.doors):
            door.close()
        for member in [*self._connections.open, *self._hub.waiting]:
            member.close(CloseCode.SERVICE_RESTART)  # none are left after a drain
        # A poll, once in the life of a process, for what every closing socket would have to tell.
        while self._connections.sockets and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        for task in (*tasks, *([self._sending_away] if self._sending_away else [])):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EXIT_SECONDS):
                await asyncio.gather(self._acks.write(), self._presence.leave(), self._leave())
        self._links.close()

    async def _leave(self) -> None:
        with contextlib.suppress(RedisError):  # then it is seen to be gone a minute later
            await self._statuses.leave(self._name)
