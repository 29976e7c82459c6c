"""Given what arrived for a stream: push it, drop it, or fetch what is missing. Pure.

The rules are DESIGN section 3's, run as a model before they were written here:

- seq says whether something is missing, in one epoch; a message of another epoch is a gap, too,
  unless it is the first of its stream (seq 1), before which nothing can be missing;
- the watermark, the highest offset delivered of each partition, says what this replica's clients
  have had. It alone decides what they get, so that what a relay publishes again after Redis lost
  it fills what they missed and repeats nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from shared.message import Message

NO_EPOCH: Final = b"0"
"""The epoch of a stream that never had a message; its seq is 0."""

MAX_HELD_MESSAGES: Final = 2_000
"""Live messages kept while a hole is being filled. Those above are dropped: another hole, then."""


@dataclass(frozen=True, slots=True)
class Meta:
    """What Redis says of a stream: its last message's place and where earlier epochs ended."""

    epoch: bytes = NO_EPOCH
    seq: int = 0
    forks: Mapping[bytes, int] = field(default_factory=dict)
    offsets: Mapping[bytes, int] = field(default_factory=dict)
    """The highest offset published of each partition; for `Stream.fill` only, not always read."""


_NOTHING: Final[Mapping[bytes, int]] = {}


class Verdict(Enum):
    """What is to be done with a live message."""

    PUSH = auto()
    DROP = auto()
    HOLD = auto()
    FETCH = auto()


@dataclass(frozen=True, slots=True)
class Filled:
    """The outcome of one page of a stream's log."""

    push: list[Message]
    """To be pushed, in this order."""
    complete: bool
    """The stream has caught up; else read the next page, from `Stream.read_from`."""
    hole: bool
    """Messages are gone from the log that clients of this stream may not have had."""


class Stream:
    """One stream as this replica has followed it.

    It starts joining: live messages are held until `join` says where it stands. While a hole is
    being filled they are held as well.
    """

    __slots__ = ("_carried", "_held", "_next", "_next_when_joined", "_reached", "_read_again", "epoch", "forks", "seq")

    def __init__(self) -> None:
        self.epoch = NO_EPOCH
        self.seq = 0
        self.forks: Mapping[bytes, int] = _NOTHING
        """Where earlier epochs of this stream ended, as far as it was told."""
        # The watermark, as the next offset to be delivered: of partitions delivered from since the
        # stream was joined, and of all when it was (shared with the streams joined at that moment).
        self._next: dict[bytes, int] = {}
        self._next_when_joined: Mapping[bytes, int] = {}
        self._held: list[Message] | None = []
        self._read_again = False
        # The watermark when a tail was lost, until all of that is published again.
        self._carried: Mapping[bytes, int] = _NOTHING
        # While a log with a hole is read: the partitions in which it reaches down to the watermark.
        self._reached: set[bytes] | None = None

    @property
    def is_live(self) -> bool:
        """Live messages are pushed as they come: neither joining nor filling."""
        return self._held is None

    @property
    def is_settled(self) -> bool:
        """Nothing is still to come that this replica's clients have had. While it is not, whoever
        joins with a cursor would miss what is dropped for the others."""
        return not self._carried

    @property
    def label(self) -> bytes:
        """The epoch as clients are told it. What they were given since a tail was lost is no prefix
        of the log until the stream is settled: an epoch that no cursor is good for, then."""
        return b"%s-" % self.epoch if self._carried else self.epoch

    def join(self, meta: Meta, next_offsets: Mapping[bytes, int]) -> list[Message]:
        """Stand where Redis stands now. `next_offsets` are the bucket's, read with `meta` in one
        transaction after the subscription was confirmed.

        Gives what arrived since, to be pushed. The stream may be filling afterwards.
        """
        self.epoch, self.seq, self.forks = meta.epoch, meta.seq, meta.forks
        self._next_when_joined = next_offsets
        return self._release()

    def settle(self, next_offsets: Mapping[bytes, int], *, whatever_is_lost: bool = False) -> bool:
        """Take the bucket's next offsets to publish, read when the stream had come as far as it was
        in Redis. True if the stream is settled by that."""
        if not self._carried:
            return False
        if not whatever_is_lost and any(
            next_offsets.get(partition, 0) < offset and not _is_superseded(partition, next_offsets)
            for partition, offset in self._carried.items()
        ):
            return False
        self._carried = _NOTHING
        return True

    def receive(self, message: Message) -> Verdict:
        """Take one live message. FETCH also begins filling: ask once, and hold from then on."""
        if self._held is not None:
            self._hold(message)
            return Verdict.HOLD
        if message.epoch == self.epoch:
            if message.seq <= self.seq:
                return Verdict.DROP
            if message.seq == self.seq + 1:
                return Verdict.PUSH if self._take(message) else Verdict.DROP
        elif message.seq == 1:
            self._carry_if_lost(after=0)
            self.forks = _NOTHING
            return Verdict.PUSH if self._take(message) else Verdict.DROP
        # Not held: the log has it by the time it is read, or it was lost and will come anew. Keeping
        # it, a late message of an epoch that is over would ask for the log for ever.
        self._held = []
        return Verdict.FETCH

    def begin_fill(self) -> bool:
        """Something may be missing (the subscription was lost). False if it is filling already; then
        the log is read once more, since what is being read may be from before the loss."""
        if self._held is not None:
            self._read_again = True
            return False
        self._held = []
        return True

    def read_from(self, meta: Meta) -> int:
        """The seq after which the log must be read to catch up with `meta`.

        In another epoch than the stream's, what came after the fork was lost and published again.
        """
        if meta.epoch == self.epoch or meta.seq == 0:
            return self.seq
        return min(self.seq, meta.forks.get(self.epoch, 0))

    def fill(self, meta: Meta, read_from: int, page: Sequence[Message]) -> Filled:
        """Take a page of the log: the first messages after `read_from`, read together with `meta`.

        An empty page means that the log has nothing after `read_from`. When the hole is closed,
        the messages held meanwhile follow; they may reveal another one (`complete` is false then).
        """
        if meta.seq == 0:
            # Never had a message, or lost whole and not rebuilt yet: the rebuilt one starts at 1.
            self._carry_if_lost(after=0)
            self.epoch, self.seq, self.forks = NO_EPOCH, 0, _NOTHING
            return Filled(self._release(), complete=self._held is None, hole=False)
        self._carry_if_lost(after=meta.seq if meta.epoch == self.epoch else meta.forks.get(self.epoch, 0))
        if page[-1].seq - read_from > len(page) if page else meta.seq > read_from:
            self._reached = set()  # anew with each gap: what was reached before lies before it
        push, hole = [], False
        for message in page:
            hole = self._shows_hole(message) or hole
            if self._take(message):
                push.append(message)
        if page and page[-1].seq < meta.seq:
            return Filled(push, complete=False, hole=hole)
        hole = self._ends_in_hole(meta) or hole
        self.epoch, self.seq, self.forks = meta.epoch, meta.seq, meta.forks
        push += self._release()
        return Filled(push, complete=self._held is None, hole=hole)

    def _carry_if_lost(self, after: int) -> None:
        """Redis goes on behind seq `after`: what the stream had above it was lost."""
        if self.seq > after:
            self._carried = {**self._next_when_joined, **self._next}

    def _shows_hole(self, message: Message) -> bool:
        """Entries are missing before `message`, which is about to be taken: True if it proves that
        clients may not have had them. Where a partition's first message in the log that is left is
        below the watermark, all before it were delivered."""
        reached = self._reached
        if reached is None or message.partition in reached:
            return False
        if message.offset < self._next_of(message.partition):
            reached.add(message.partition)
            return False
        self._reached = None
        return True

    def _ends_in_hole(self, meta: Meta) -> bool:
        """The same at the end of the log, for partitions of which nothing is left in it."""
        reached, self._reached = self._reached, None
        if reached is None:
            return False
        left = {partition: offset for partition, offset in meta.offsets.items() if partition not in reached}
        return not meta.offsets or any(offset >= self._next_of(partition) for partition, offset in left.items())

    def _next_of(self, partition: bytes) -> int:
        next_offset = self._next.get(partition)
        return self._next_when_joined.get(partition, 0) if next_offset is None else next_offset

    def _take(self, message: Message) -> bool:
        """Move on to `message`. True if this replica's clients have not had it."""
        self.epoch, self.seq = message.epoch, message.seq
        partition = message.partition
        if message.offset < self._next_of(partition):
            return False
        self._next[partition] = message.offset + 1
        return True

    def _hold(self, message: Message) -> None:
        assert self._held is not None
        if len(self._held) < MAX_HELD_MESSAGES:
            self._held.append(message)
        else:
            self._read_again = True

    def _release(self) -> list[Message]:
        """Give what was held, as far as it goes on from here. What comes after a gap is let go: the
        next read, which is made after all of it was received, has it."""
        held, self._held = self._held or [], None
        read_again, self._read_again = self._read_again, False
        push: list[Message] = []
        for message in held:
            verdict = self.receive(message)
            if verdict is Verdict.PUSH:
                push.append(message)
            elif verdict is Verdict.FETCH:
                break
        if read_again and self._held is None:
            self._held = []
        return push


def _is_superseded(partition: bytes, next_offsets: Mapping[bytes, int]) -> bool:
    """Whether its topic was made anew since: `topic/0`, and there is `topic~2/...`."""
    topic, generation = _topic_and_generation(partition)
    others = map(_topic_and_generation, next_offsets)
    return any(other == topic and newer > generation for other, newer in others)


def _topic_and_generation(partition: bytes) -> tuple[bytes, int]:
    topic, _, generation = partition.partition(b"/")[0].partition(b"~")
    return topic, int(generation or 1)
