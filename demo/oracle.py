"""What each client should have got, compared with what it got. No I/O.

Told of every record in the four topics and of every frame at every client, in whatever order the
two come to know of an event, it counts what is lost, doubled, out of order, altered, or sent to
the wrong person.
"""

import json
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import datetime

from shared.message import TYPE_OF_TOPIC

LOST_AFTER_SECONDS = 60.0
"""An event that a client still has not got then is lost; it is remembered so long again, to see doubles."""

LONGEST_SECONDS = 600.0
"""The same, however long something was broken on purpose meanwhile."""


@dataclass(slots=True)
class _Expected:
    """A record in a topic, and who still has to get it."""

    partition: tuple[str, int]
    offset: int
    type: str
    created_at: float
    known_at: float
    owed_to: set[str]
    is_overdue: bool = False
    got_by: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Client:
    user_id: str
    highest: dict[tuple[str, int], int] = field(default_factory=dict)
    # Frames in the order of their arrival whose record is not known yet: (type, data, arrival).
    unmatched: deque[tuple[str, bytes, float]] = field(default_factory=deque)


@dataclass
class Counts:
    """What was seen. Everything from `lost` on is a fault."""

    events: int = 0
    delivered: int = 0
    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0
    altered: int = 0
    """Frames that no record explains: other bytes, another type, or not a frame at all."""
    misdirected: int = 0

    @property
    def faults(self) -> int:
        return self.lost + self.doubled + self.out_of_order + self.altered + self.misdirected


class Latencies:
    """From an event's own timestamp to its arrival, counted in steps of 0.1 ms."""

    def __init__(self) -> None:
        self._steps: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        self._steps[max(0, round(seconds * 10_000))] += 1

    def percentile_ms(self, percent: float) -> float | None:
        """Milliseconds that `percent` of all took at most; None when there are none."""
        rank = self._steps.total() * percent / 100
        for step in sorted(self._steps):
            rank -= self._steps[step]
            if rank <= 0:
                return step / 10
        return None


class Oracle:
    """Clients are named by their owner; all have joined before the first record. Times are seconds
    since 1970 on one machine's clock. Memory is bounded by the events of 2 * LOST_AFTER_SECONDS, and while
    something is broken on purpose by those of LONGEST_SECONDS more."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.latencies = Latencies()
        self._recent = Latencies()
        self._clients: dict[str, _Client] = {}
        self._expected: dict[bytes, _Expected] = {}

    def joined(self, client: str, user_id: str) -> None:
        """From now on `client` is owed what `user_id` should get."""
        self._clients[client] = _Client(user_id)

    def produced(self, topic: str, partition: int, offset: int, value: bytes, now: float) -> None:
        """A record lies in a topic. Records of one partition come in order. One that is not an event
        of the platform is nobody's: the relay rejects it."""
        try:
            event = json.loads(value)
            created_at = datetime.fromisoformat(event["timestamp"]).timestamp()
            user_id = event["user_id"] if topic in ("risk-events", "execution-events") else None
        except (ValueError, KeyError, TypeError):
            return
        data = value.replace(b"\r", b" ").replace(b"\n", b" ")
        owed_to = {name for name, client in self._clients.items() if user_id in (None, client.user_id)}
        self._expected[data] = _Expected((topic, partition), offset, TYPE_OF_TOPIC[topic], created_at, now, owed_to)
        self.counts.events += 1
        # Others' too: a frame for the wrong person is matched like any.
        for name, client in self._clients.items():
            if client.unmatched:
                self._match(name, client)

    def arrived(self, client: str, frame: str, now: float) -> None:
        """A client got a text frame; frames of one client come in order."""
        self.counts.delivered += 1
        try:
            type_ = json.loads(frame)["type"]
            start, end = frame.index('"data":') + len('"data":'), frame.rindex("}")
        except (ValueError, KeyError, TypeError):
            self.counts.altered += 1
            return
        state = self._clients[client]
        state.unmatched.append((type_, frame[start:end].strip().encode(), now))
        self._match(client, state)

    def outstanding(self) -> int:
        """Deliveries that are due, and frames whose record is not known: neither judged yet."""
        owed = sum(len(expected.owed_to) for expected in self._expected.values() if not expected.is_overdue)
        return owed + sum(len(client.unmatched) for client in self._clients.values())

    def recent(self) -> Latencies:
        """The latencies since the last call."""
        recent, self._recent = self._recent, Latencies()
        return recent

    def look(self, now: float, whole_since: float = 0.0) -> None:
        """Count what is overdue, and forget what is old. To be called about every second.

        Nothing is overdue for what was broken on purpose: `whole_since` says when the last of it was mended.
        """
        for data, expected in list(self._expected.items()):
            age = now - expected.known_at
            if expected.owed_to and not expected.is_overdue:
                age = max(min(age, now - whole_since), age - LONGEST_SECONDS)
            if age >= LOST_AFTER_SECONDS and not expected.is_overdue:
                expected.is_overdue = True
                self.counts.lost += len(expected.owed_to)
            if age >= 2 * LOST_AFTER_SECONDS:
                del self._expected[data]
        for name, client in self._clients.items():
            while client.unmatched and client.unmatched[0][2] + LOST_AFTER_SECONDS <= now:
                client.unmatched.popleft()
                self.counts.altered += 1
                self._match(name, client)

    def _match(self, name: str, client: _Client) -> None:
        """Judge the client's frames as far as their records are known, in order of arrival."""
        while client.unmatched and (expected := self._expected.get(client.unmatched[0][1])):
            type_, _, arrived_at = client.unmatched.popleft()
            if type_ != expected.type:
                self.counts.altered += 1
            elif name in expected.got_by:
                self.counts.doubled += 1
            elif name not in expected.owed_to:
                self.counts.misdirected += 1
            else:
                if expected.offset < client.highest.get(expected.partition, -1):
                    self.counts.out_of_order += 1
                client.highest[expected.partition] = expected.offset
                expected.owed_to.discard(name)
                expected.got_by.add(name)
                self.latencies.add(arrived_at - expected.created_at)
                self._recent.add(arrived_at - expected.created_at)
