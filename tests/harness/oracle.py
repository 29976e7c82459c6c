"""What each client must have got, computed from the records that the broker acknowledged. No I/O."""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

PLAIN_FRAME = re.compile(rb'\{"type": ?"([a-z_]+)", ?"data": ?(\{.*\})\}', re.DOTALL)

TYPE_OF_TOPIC = {
    "regime-events": "regime_change",
    "alert-events": "market_alert",
    "risk-events": "risk_alert",
    "execution-events": "order_executed",
}
BROADCAST_TOPICS = ("regime-events", "alert-events")
TARGETED_TOPICS = ("risk-events", "execution-events")
DEAD_LETTER_TOPIC = "notification-dead-letters"


@dataclass(frozen=True)
class Event:
    """An acknowledged record that clients must get. `user` is None for everyone.

    `data` is what a client must find in its frame: the record's value with CR and LF as spaces.
    `generation` is how often the topic was made: its offsets begin anew with each.
    """

    topic: str
    partition: int
    offset: int
    user: str | None
    data: bytes
    generation: int = 1

    @property
    def source(self) -> tuple[str, int, int]:
        """Within it offsets rise."""
        return self.topic, self.generation, self.partition

    @property
    def type(self) -> str:
        return TYPE_OF_TOPIC[self.topic]

    def __str__(self) -> str:
        audience = "everyone" if self.user is None else repr(self.user)
        return f"{self.topic}/{self.partition}/{self.offset} for {audience}: {self.data[:120]!r}"


class Oracle:
    """Knows every acknowledged event. `add` them in any order; each one's data is unlike all others'."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._by_content: dict[tuple[str, bytes], Event] = {}

    def add(self, event: Event) -> None:
        key = (event.type, event.data)
        assert key not in self._by_content, f"two events with the same data cannot be told apart: {event}"
        self._by_content[key] = event
        self.events.append(event)

    def owed(self, user: str, since: int = 0) -> list[Event]:
        """What a client of `user` must get that was there before events[since] was published."""
        return [event for event in self.events[since:] if event.user in (None, user)]

    def first_missing(self, user: str, frames: Iterable[bytes], since: int = 0) -> Event | None:
        """The first owed event that is not among `frames`; for waiting, `check` is the proof."""
        got = set()
        for frame in frames:
            event = self._event_of(frame)
            if event is not None:
                got.add(event)
        return next((event for event in self.owed(user, since) if event not in got), None)

    def check(self, who: str, user: str, frames: Sequence[bytes], *, since: int = 0, complete: bool = True) -> None:
        """Prove that `frames` are what a client of `user` had to get, or raise AssertionError.

        Exactly once, in the order of each partition, without a hole, byte for byte, nobody else's.
        The client was there before events[since]; older ones may come too, without a hole between.
        `complete=False` allows the end to be missing (it was disconnected), nothing before it.
        The message names the first event that was foreign, doubled, disordered or lost.
        """
        got: list[Event] = []
        seen: dict[Event, int] = {}
        for number, frame in enumerate(frames):
            event = self._event_of(frame)
            if event is None:
                raise AssertionError(f"{who}: frame {number} is no published event: {frame[:200]!r}")
            if event.user not in (None, user):
                raise AssertionError(f"{who}: frame {number} is somebody else's: {event}")
            if event in seen:
                raise AssertionError(f"{who}: doubled, frames {seen[event]} and {number}: {event}")
            seen[event] = number
            got.append(event)
        must = set(self.owed(user, since))
        for source, due in self._sources(user).items():
            arrived = [event for event in got if event.source == source]
            self._check_partition(who, due, arrived, must, complete)

    def _check_partition(
        self, who: str, due: list[Event], arrived: list[Event], must: set[Event], complete: bool
    ) -> None:
        for before, after in itertools.pairwise(arrived):
            if after.offset < before.offset:
                raise AssertionError(f"{who}: out of order, after offset {before.offset} came {after}")
        last = arrived[-1].offset if arrived else -1
        first = arrived[0].offset if arrived else None
        present = set(arrived)
        for event in due:
            if event in present:
                continue
            inside = first is not None and first < event.offset < last
            if inside or (event in must and (complete or event.offset < last)):
                later = next((other for other in arrived if other.offset > event.offset), None)
                hint = f"then came offset {later.offset}" if later else "and nothing after it in its partition"
                raise AssertionError(f"{who}: lost {event} ({hint}; {len(arrived)} of {len(due)} arrived)")

    def _sources(self, user: str) -> dict[tuple[str, int, int], list[Event]]:
        sources: dict[tuple[str, int, int], list[Event]] = {}
        for event in sorted(self.owed(user), key=lambda event: event.offset):
            sources.setdefault(event.source, []).append(event)
        return sources

    def _event_of(self, frame: bytes) -> Event | None:
        match = PLAIN_FRAME.fullmatch(frame)
        return self._by_content.get((match[1].decode(), match[2])) if match else None


def check_log(stream: str, places: Sequence[tuple[int, str, int]]) -> None:
    """Prove that a stream's log, (seq, partition, offset) oldest first, has each event once, in the
    order of its partition, and no hole between its first seq and its last. Raises AssertionError."""
    highest: dict[str, int] = {}
    for number, (seq, partition, offset) in enumerate(places):
        if number and seq != places[number - 1][0] + 1:
            raise AssertionError(f"{stream}: a hole in the log before seq {seq}")
        if offset <= highest.get(partition, -1):
            raise AssertionError(f"{stream}: seq {seq} is {partition}/{offset}, after {partition}/{highest[partition]}")
        highest[partition] = offset


def as_delivered(value: bytes) -> bytes:
    """A record's value as `data` carries it: CR and LF, which JSON has only between tokens, are spaces."""
    return value.replace(b"\r", b" ").replace(b"\n", b" ")
