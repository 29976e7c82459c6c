"""The members of one stream that get the same bytes, and what is due to them.

A fan-out fixes its receivers when it starts; who joins later gets what came after, no more and no
less. All of it runs in the event loop's thread.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from gateway.close_codes import CloseCode
from gateway.cursor import Cursor, Position
from gateway.frames import Variant, event_id
from shared.message import Message

FAN_OUT_BYTES: Final = 128 * 1024
"""Frames joined into one write; above it they go out in several."""


class Due(msgspec.Struct, frozen=True, gc=False):
    """A frame that members are to be written."""

    frame: bytes
    type: bytes | None = None
    """Of the message in it; a control frame has none."""
    place: Position | Cursor | None = None
    """Where whoever was written it is, for those who are told with each event: in its stream, or in
    both; None for others, and when it stays where it was."""
    ts_ms: int = 0
    """The message's: its record's timestamp."""
    is_conflated: bool = False
    """For whoever lags, the newest of its type is enough."""


class Wishes(NamedTuple):
    """What a connection wants of its streams."""

    variant: Variant
    types: frozenset[bytes] | None
    """Only messages of these types; None for all."""
    deflated: bool = False
    """Messages compressed, where that is smaller (gateway.deflate)."""

    def want(self, message: Message) -> bool:
        return self.types is None or message.type in self.types

    @property
    def framing(self) -> int:
        """Those with the same get the same frames. A number, since it is looked up for each message: a pair would
        have to be made and hashed each time."""
        return 2 * self.variant + self.deflated


PLAIN: Final = Wishes(Variant.PLAIN, None)


class Receiver(Protocol):
    """A connection, as far as its groups know it."""

    wishes: Wishes
    """Belongs to the hub while the connection is in a group: see `Hub.change_wishes`."""

    opened_us: int
    """When its handshake was answered (see Hub.opened); 0 before."""

    write: Callable[[bytes], object]
    """Takes frames; never blocks, never raises. What it does changes with the connection's state."""

    def write_events(self, due: Sequence[Due], *, is_global: bool) -> None:
        """Takes what is due of one of its streams, to be written with the connection's own cursor.
        Only for members of Variant.EVENTS."""

    def write_conflated(self, due: Sequence[Due], joined: bytes, *, is_global: bool) -> None:
        """Takes what is due of one of its streams, some of it conflated, which is `joined` for whoever does not lag.
        Not for members of Variant.EVENTS."""

    def close(self, code: CloseCode, reason: str | None = None) -> None:
        """End the connection. It leaves the hub before this returns."""


class Tally(Protocol):
    """Who counts what was written."""

    def live(self, due: Sequence[Due], receivers: int) -> None:
        """So many connections were just written this."""


class FanOut:
    """What is being written to those who were members when it began."""

    __slots__ = ("due", "index", "is_conflated", "joined", "receivers", "rest")

    def __init__(self, due: Sequence[Due], receivers: Sequence[Receiver]) -> None:
        self.due = due
        is_one = len(due) == 1  # as it mostly is for a user
        self.joined = due[0].frame if is_one else b"".join([one.frame for one in due])
        """Its frames. Event streams are not written this; it says how much there is."""
        self.is_conflated = due[0].is_conflated if is_one else is_conflated(due)
        self.receivers = receivers
        self.index = 0
        """How many of them were reached."""
        self.rest: set[Receiver] | None = None
        """Those of them still to be written, once somebody had to be taken out."""

    def take_out(self, member: Receiver) -> bool:
        """Write `member` nothing of it any more. Whether it was still to be written."""
        if self.rest is None:
            self.rest = set(self.receivers[self.index :])
        if member not in self.rest:
            return False
        self.rest.discard(member)
        return True

    def next(self, count: int) -> Sequence[Receiver]:
        """Those to be written now, of so many."""
        receivers = self.receivers
        if self.index or count < len(receivers):
            receivers = receivers[self.index : self.index + count]
        self.index += len(receivers)
        if self.rest is None:
            return receivers
        left = [member for member in receivers if member in self.rest]
        self.rest.difference_update(left)
        return left


class Group:
    """The members of one stream with the same wishes."""

    __slots__ = (
        "_due",
        "_fan_out",
        "_is_of_events",
        "_joiners",
        "framing",
        "has_places",
        "is_global",
        "members",
        "queued",
        "wishes",
    )

    def __init__(self, wishes: Wishes, *, is_global: bool) -> None:
        self.wishes = wishes
        self.framing = wishes.framing
        self.has_places = wishes.variant is not Variant.PLAIN
        """What is due to its members says where they are then."""
        self._is_of_events = wishes.variant is Variant.EVENTS
        self.is_global = is_global
        self.members: set[Receiver] = set()
        self.queued = False
        self._due: list[Due] = []
        self._joiners: list[tuple[Receiver, int]] = []
        self._fan_out: FanOut | None = None

    def join(self, member: Receiver) -> None:
        """From now on `member` is owed what is pushed, not what was pushed and is still due."""
        if self._due:
            self._joiners.append((member, len(self._due)))
        else:
            self.members.add(member)

    def leave(self, member: Receiver) -> None:
        self.members.discard(member)
        if self._joiners:
            self._joiners = [joiner for joiner in self._joiners if joiner[0] is not member]

    def flush(self, member: Receiver, deliveries: Tally) -> None:
        """Write `member` what it is still owed, ahead of the others, and leave."""
        owed: Sequence[Due] = ()
        since = next((since for joiner, since in self._joiners if joiner is member), None)
        if since is not None:
            owed = self._due[since:]
        elif member in self.members:
            fan_out = self._fan_out
            if fan_out is not None and fan_out.take_out(member):
                owed = fan_out.due
            owed = [*owed, *self._due]
        self.leave(member)
        if owed:
            self._write(member, owed)
            deliveries.live(owed, 1)

    @property
    def is_empty(self) -> bool:
        return not self.members and not self._joiners

    @property
    def count(self) -> int:
        return len(self.members) + len(self._joiners)

    @property
    def has_due(self) -> bool:
        return bool(self._due) or self._fan_out is not None

    @property
    def written_up_to(self) -> Position | None:
        """The place before what is due next; None when that is no message. All that members want up to
        there was written, while no fan-out is under way."""
        place = self._due[0].place if self._due else None
        return Position(place.epoch, place.seq - 1) if isinstance(place, Position) else None

    @property
    def is_between(self) -> bool:
        """No fan-out is under way: all members were written the same."""
        return self._fan_out is None

    def everyone(self) -> list[Receiver]:
        members = list(self.members)
        if self._joiners:
            members += [member for member, _ in self._joiners]
        return members

    def push(self, due: Due) -> None:
        self._due.append(due)

    def deliver(self, writes: int, deliveries: Tally) -> tuple[int, int]:
        """Make up to `writes` writes of the fan-out under way, or of the next one.

        Gives how many were made, and the bytes that ceased to be due.
        """
        fan_out, started_bytes = self._fan_out, 0
        if fan_out is None:
            fan_out, started_bytes = self._begin(deliveries)
        due = fan_out.due
        # An event stream is written each event for itself.
        each = len(due) if self._is_of_events else 1
        before = fan_out.index
        receivers = fan_out.next(max(1, writes // each))
        if self._is_of_events:
            for member in receivers:
                member.write_events(due, is_global=self.is_global)
        elif fan_out.is_conflated:
            for member in receivers:
                member.write_conflated(due, fan_out.joined, is_global=self.is_global)
        else:
            joined = fan_out.joined
            for member in receivers:
                member.write(joined)
        deliveries.live(due, len(receivers))
        if fan_out.index >= len(fan_out.receivers):
            self._fan_out = None
        return each * (fan_out.index - before), started_bytes

    def _begin(self, deliveries: Tally) -> tuple[FanOut, int]:
        """Fix the receivers of what is due, or of its first part when it is much. Gives its bytes, too."""
        due, self._due = self._due, []
        if len(due) > 1:
            count = count_within([one.frame for one in due], FAN_OUT_BYTES)
            due, self._due = due[:count], due[count:]
        fan_out = self._fan_out = FanOut(due, list(self.members))
        if self._joiners:
            self._take_in_joiners(due, deliveries)
        return fan_out, len(fan_out.joined)

    def _take_in_joiners(self, started: Sequence[Due], deliveries: Tally) -> None:
        """Make members of those who joined before the end of what starts, and give them their share."""
        joiners, count = self._joiners, len(started)
        self._joiners = [(member, since - count) for member, since in joiners if since > count]
        taken = [(member, since) for member, since in joiners if since <= count]
        # All are members before the first write: a write may close its member, or another one, and
        # whoever leaves then must find its place.
        self.members.update(member for member, _ in taken)
        for member, since in taken:
            if since < count:
                self._write(member, started[since:])
                deliveries.live(started[since:], 1)

    def _write(self, member: Receiver, due: Sequence[Due]) -> None:
        """In parts, so that a connection whose socket takes no more after one of them knows it."""
        for part in in_parts(due, FAN_OUT_BYTES):
            if self.wishes.variant is Variant.EVENTS:
                member.write_events(part, is_global=self.is_global)
                continue
            joined = b"".join([one.frame for one in part])
            if is_conflated(part):
                member.write_conflated(part, joined, is_global=self.is_global)
            else:
                member.write(joined)


def is_conflated(due: Sequence[Due]) -> bool:
    """Whether some of it is."""
    return any(one.is_conflated for one in due)


def count_within(frames: Sequence[bytes], limit_bytes: int) -> int:
    """How many of the first frames stay within `limit_bytes` together; at least one."""
    size = 0
    for count, frame in enumerate(frames):
        size += len(frame)
        if size > limit_bytes and count:
            return count
    return len(frames)


def in_parts(due: Sequence[Due], limit_bytes: int) -> Iterator[Sequence[Due]]:
    """The same in parts whose frames stay within `limit_bytes` together, or are one."""
    start = size = 0
    for place, one in enumerate(due):
        size += len(one.frame)
        if size > limit_bytes and place > start:
            yield due[start:place]
            start, size = place, len(one.frame)
    if start < len(due):
        yield due[start:]


def with_ids(due: Sequence[Due], cursor: Cursor, *, is_global: bool) -> tuple[bytes, Cursor]:
    """Events as one event stream is written them, each with its cursor behind it; and the last one."""
    parts: list[bytes] = []
    for one in due:
        parts.append(one.frame)
        place = one.place
        if place is None:
            continue
        if isinstance(place, Cursor):
            cursor = place
        else:
            cursor = Cursor(place, cursor.user) if is_global else Cursor(cursor.everyone, place)
        parts.append(event_id(cursor))
    return b"".join(parts), cursor
