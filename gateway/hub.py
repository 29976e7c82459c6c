"""Who is connected, and what each is owed.

Messages of a turn of the loop are gathered and go out as one write for each socket. A fan-out fixes
its receivers when it starts; who joins later gets what came after, no more and no less. A fan-out
to many yields to the loop between slices, so that handshakes and pings stay prompt.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from gateway.close_codes import CloseCode
from gateway.frames import plain_frame
from gateway.stream import Filled, Meta, Stream, Verdict
from shared.keys import GLOBAL, Keys, StreamName
from shared.logging import get_logger
from shared.message import Message, parse_message

WRITES_A_TURN: Final = 512
"""Socket writes before the loop may do something else: about two milliseconds."""

FAN_OUT_BYTES: Final = 128 * 1024
"""Frames joined into one write; above it they go out in several."""

DUE_BYTES_HIGH: Final = 64 * 1024 * 1024
"""Frames waiting for their fan-out, above which the subscription is not read any further."""

DUE_BYTES_LOW: Final = DUE_BYTES_HIGH // 2

LINGER_SECONDS: Final = 10
"""A stream whose last client has left stays subscribed for this long: clients come back."""

log = get_logger("gateway.hub")


class Member(Protocol):
    """A connection, as far as the hub knows it."""

    types: frozenset[bytes] | None
    """Only messages of these types; None for all."""

    audience: "Audience | None"
    """The stream of its user. Belongs to the hub; None before `join` and after `leave`."""

    write: Callable[[bytes], object]
    """Takes frames; never blocks, never raises. What it does changes with the connection's state."""

    def opened(self) -> None:
        """The stream is subscribed; what is published from now on will be written."""

    def close(self, code: CloseCode) -> None:
        """End the connection. It leaves the hub before this returns."""


class Group:
    """The members of one stream that get the same bytes: those with the same wishes."""

    __slots__ = ("_blob", "_due", "_due_types", "_index", "_joiners", "_receivers", "members", "queued", "types")

    def __init__(self, types: frozenset[bytes] | None) -> None:
        self.types = types
        self.members: set[Member] = set()
        self.queued = False
        self._due: list[bytes] = []
        self._due_types: list[bytes] = []
        self._joiners: list[tuple[Member, int]] = []
        self._blob = b""
        self._receivers: list[Member] = []
        self._index = 0

    def join(self, member: Member) -> None:
        """From now on `member` is owed what is pushed, not what was pushed and is still due."""
        if self._due:
            self._joiners.append((member, len(self._due)))
        else:
            self.members.add(member)

    def leave(self, member: Member) -> None:
        self.members.discard(member)
        if self._joiners:
            self._joiners = [joiner for joiner in self._joiners if joiner[0] is not member]

    @property
    def is_empty(self) -> bool:
        return not self.members and not self._joiners

    @property
    def has_due(self) -> bool:
        return bool(self._due or self._receivers)

    def everyone(self) -> list[Member]:
        return [*self.members, *(member for member, _ in self._joiners)]

    def push(self, frame: bytes, type_: bytes) -> None:
        self._due.append(frame)
        self._due_types.append(type_)

    def deliver(self, writes: int, deliveries: Counter[bytes]) -> tuple[int, int]:
        """Make up to `writes` writes of the fan-out under way, or of the next one.

        Gives how many were made, and the bytes that ceased to be due.
        """
        started_bytes = 0
        if not self._receivers:
            started_bytes = self._start(deliveries)
        receivers = self._receivers[self._index : self._index + writes]
        self._index += len(receivers)
        blob = self._blob
        for member in receivers:
            member.write(blob)
        if self._index >= len(self._receivers):
            self._receivers, self._index, self._blob = [], 0, b""
        return len(receivers), started_bytes

    def _start(self, deliveries: Counter[bytes]) -> int:
        """Fix the receivers of what is due, or of its first part when it is much."""
        count = count_within(self._due, FAN_OUT_BYTES)
        due, self._due = self._due[:count], self._due[count:]
        types, self._due_types = self._due_types[:count], self._due_types[count:]
        self._receivers = list(self.members)
        self._blob = due[0] if count == 1 else b"".join(due)
        _count_deliveries(deliveries, types, len(self._receivers))
        if self._joiners:
            self._take_in_joiners(due, types, deliveries)
        return len(self._blob)

    def _take_in_joiners(self, due: list[bytes], types: list[bytes], deliveries: Counter[bytes]) -> None:
        """Make members of those who joined before the end of `due`, and give them their share of it."""
        joiners, count = self._joiners, len(due)
        self._joiners = [(member, since - count) for member, since in joiners if since > count]
        taken = [(member, since) for member, since in joiners if since <= count]
        # All are members before the first write: a write may close its member, or another one, and
        # whoever leaves then must find its place.
        self.members.update(member for member, _ in taken)
        for member, since in taken:
            if since < count:
                member.write(b"".join(due[since:]))
                _count_deliveries(deliveries, types[since:], 1)


def count_within(frames: list[bytes], limit_bytes: int) -> int:
    """How many of the first frames stay within `limit_bytes` together; at least one."""
    size = 0
    for count, frame in enumerate(frames):
        size += len(frame)
        if size > limit_bytes and count:
            return count
    return len(frames)


def _count_deliveries(deliveries: Counter[bytes], types: list[bytes], receivers: int) -> None:
    for type_ in types:
        deliveries[type_] += receivers


class Audience:
    """A stream and its connections on this replica."""

    __slots__ = ("channel", "groups", "is_joined", "name", "stream", "waiting")

    def __init__(self, name: StreamName, channel: str) -> None:
        self.name = name
        self.channel = channel
        self.stream = Stream()
        self.groups: dict[frozenset[bytes] | None, Group] = {}
        self.waiting: set[Member] = set()
        """Handshakes that are answered once the stream is subscribed."""
        self.is_joined = False

    @property
    def is_idle(self) -> bool:
        return not self.groups and not self.waiting and not self.name.is_global

    def group(self, types: frozenset[bytes] | None) -> Group:
        group = self.groups.get(types)
        if group is None:
            group = self.groups[types] = Group(types)
        return group

    def leave(self, member: Member) -> None:
        group = self.groups.get(member.types)
        if group is not None:
            group.leave(member)
            if group.is_empty:
                del self.groups[member.types]

    def everyone(self) -> list[Member]:
        return [member for group in self.groups.values() for member in group.everyone()]


class Hub:
    """Audiences and members of one replica. All of it runs in the event loop's thread.

    The subscriber says what came (`receive`, `joined`, `filled`) and asks what to subscribe;
    connections come with `join` and go with `leave`. The hub does no I/O: `on_wanted` asks for a
    look at what is wanted, `on_fetch` for a stream's log, `on_flood` for the link to be read no
    further (True) or again (False).
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._audiences: dict[bytes, Audience] = {}
        self._wanted: list[Audience] = []
        self._idle: dict[Audience, int] = {}
        self._second = 0
        self._dirty: deque[Group] = deque()
        self._turn_due = False
        self._due_bytes = 0
        self.drained = asyncio.Event()
        """Clear while so much is due that nothing more shall be read from Redis."""
        self.drained.set()
        self.deliveries: Counter[bytes] = Counter()
        """Messages handed to connections, by type."""
        self.on_wanted: Callable[[], None] = lambda: None
        self.on_fetch: Callable[[Audience], None] = lambda _audience: None
        self.on_flood: Callable[[bool], None] = lambda _flooded: None
        self._global = self._audience(GLOBAL)

    # Connections come and go

    def join(self, member: Member, user_id: str) -> None:
        """Owe `member` the global stream and its user's. Calls `member.opened()` once both are
        subscribed, perhaps before this returns."""
        audience = self._audience(self._keys.user_stream(user_id))
        member.audience = audience
        self._idle.pop(audience, None)
        if audience.is_joined and self._global.is_joined:
            self._seat(member, audience)
        else:
            audience.waiting.add(member)

    def leave(self, member: Member) -> None:
        """Owe `member` nothing any more. May be called twice, and for one that never joined."""
        audience = member.audience
        if audience is None:
            return
        member.audience = None
        audience.waiting.discard(member)
        audience.leave(member)
        self._global.leave(member)
        if audience.is_idle:
            self._idle[audience] = self._second + LINGER_SECONDS

    def _seat(self, member: Member, audience: Audience) -> None:
        audience.group(member.types).join(member)
        self._global.group(member.types).join(member)
        member.opened()

    def _audience(self, name: StreamName) -> Audience:
        channel = self._keys.live(name).encode()
        audience = self._audiences.get(channel)
        if audience is None:
            audience = self._audiences[channel] = Audience(name, channel.decode())
            self._wanted.append(audience)
            self.on_wanted()
        return audience

    # What the subscriber asks and tells

    @property
    def audiences(self) -> list[Audience]:
        """All that is to be subscribed, the global stream first."""
        return list(self._audiences.values())

    @property
    def waiting(self) -> list[Member]:
        """Those whose handshakes are not answered yet."""
        return [member for audience in self._audiences.values() for member in audience.waiting]

    def forget_wanted(self) -> None:
        """All audiences are about to be subscribed anyway."""
        self._wanted.clear()

    @property
    def stream_count(self) -> int:
        return len(self._audiences)

    def take_wanted(self, limit: int) -> list[Audience]:
        """The streams to be subscribed that were not given before, at most `limit`."""
        wanted, self._wanted = self._wanted[:limit], self._wanted[limit:]
        return wanted

    def take_unwanted(self) -> list[Audience]:
        """The streams whose last client left a while ago. They are forgotten here."""
        unwanted = [audience for audience, since in self._idle.items() if since <= self._second]
        for audience in unwanted:
            del self._idle[audience]
            del self._audiences[audience.channel.encode()]
        return unwanted

    def tick(self, second: int) -> None:
        """Take the time, and wake the subscriber when there is something to drop."""
        self._second = second
        if any(since <= second for since in self._idle.values()):
            self.on_wanted()

    def joined(self, audience: Audience, meta: Meta, next_offsets: Mapping[bytes, int]) -> None:
        """`audience` is subscribed, and afterwards Redis said this of it. The first time its
        handshakes are answered; later (the link was lost) a hole is looked for."""
        if audience.is_joined:
            if (audience.stream.epoch, audience.stream.seq) != (meta.epoch, meta.seq) and meta.seq:
                self.suspect(audience)
            return
        audience.is_joined = True
        self._push(audience, audience.stream.join(meta, next_offsets))
        if not audience.stream.is_live:
            self.on_fetch(audience)
        for waiting in self._audiences.values() if audience.name.is_global else (audience,):
            self._answer(waiting)

    def _answer(self, audience: Audience) -> None:
        if audience.is_joined and self._global.is_joined:
            waiting, audience.waiting = audience.waiting, set()
            for member in waiting:
                self._seat(member, audience)

    def suspect(self, audience: Audience) -> None:
        """Something may be missing from `audience`: have its log read, unless that is under way."""
        if audience.is_joined and audience.stream.begin_fill():
            self.on_fetch(audience)

    def receive(self, channel: bytes, payload: bytes) -> None:
        """Take a live message as it came from Redis."""
        audience = self._audiences.get(channel)
        if audience is None:
            return  # unsubscribed a moment ago
        try:
            message = parse_message(payload)
        except ValueError as error:
            log.error("not a message of ours, dropped", channel=channel.decode(), error=str(error))
            return
        verdict = audience.stream.receive(message)
        if verdict is Verdict.PUSH:
            self._push(audience, (message,))
        elif verdict is Verdict.FETCH:
            self.on_fetch(audience)

    def filled(self, audience: Audience, filled: Filled) -> None:
        """Push what a page of the log gave. Where it has a hole, members who cannot be told of it
        are closed: they come back and start afresh."""
        if filled.hole:
            for member in audience.everyone():
                member.close(CloseCode.GAP)
        self._push(audience, filled.push)

    # Fan-out

    def _push(self, audience: Audience, messages: Iterable[Message]) -> None:
        for message in messages:
            frame = plain_frame(message)
            for group in audience.groups.values():
                if group.types is None or message.type in group.types:
                    group.push(frame, message.type)
                    self._due_bytes += len(frame)
                    if not group.queued:
                        group.queued = True
                        self._dirty.append(group)
        if self._dirty and not self._turn_due:
            self._turn_due = True
            asyncio.get_running_loop().call_soon(self._turn)
        if self._due_bytes > DUE_BYTES_HIGH and self.drained.is_set():
            self.drained.clear()
            self.on_flood(True)

    def _turn(self) -> None:
        """Make the writes that are due, some of each group in turn."""
        budget = WRITES_A_TURN
        dirty = self._dirty
        while dirty and budget > 0:
            group = dirty.popleft()
            written, started_bytes = group.deliver(budget, self.deliveries)
            budget -= max(1, written)
            self._due_bytes -= started_bytes
            if group.has_due:
                dirty.append(group)
            else:
                group.queued = False
        self._turn_due = bool(dirty)
        if dirty:
            asyncio.get_running_loop().call_soon(self._turn)
        if self._due_bytes < DUE_BYTES_LOW and not self.drained.is_set():
            self.drained.set()
            self.on_flood(False)
