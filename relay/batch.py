"""Records as they were read, to what the publish script is to be given. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from relay.decode import Decode, Event, Reason, Rejected
from relay.routes import ROUTES, Partition, partition_name
from shared.keys import GLOBAL, Keys
from shared.message import encode_body

Argument = bytes | str | int


class Record(Protocol):
    """One record as the consumer gives it. `timestamp` is in milliseconds."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


@dataclass(frozen=True, slots=True)
class Gap:
    """Offsets of a partition, from `first` to before `behind`, whose records cannot be decoded, and the
    records `before` them, from where it was asked."""

    partition: Partition
    first: int
    behind: int
    before: Sequence[Record]


@dataclass(frozen=True, slots=True)
class NoRecord:
    """Stands for a record that cannot be decoded."""

    offset: int
    timestamp: int = -1
    key: None = None
    value: None = None
    headers: tuple[()] = ()


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that was rejected, and why."""

    partition: Partition
    record: Record
    reason: Reason


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a partition is after a batch: its next offset, and the time of the record before."""

    next_offset: int
    timestamp_ms: int | None


@dataclass(slots=True)
class BucketMessages:
    """What publish.lua needs to know of one bucket's streams: see there."""

    keys: list[str] = field(default_factory=list)
    arguments: list[Argument] = field(default_factory=list)

    @property
    def stream_count(self) -> int:
        return len(self.keys) // 2


@dataclass(slots=True)
class Batch:
    """Records of one read, ready to be published.

    `partitions` are those read, in the order that messages name them by; `next_offsets` the same by
    name. `read` counts the records of each topic, `skipped` those that are not for this service; `oldest_ms`
    has the timestamp of each partition's first record.
    """

    term: int
    buckets: dict[str, BucketMessages]
    dead_letters: list[DeadLetter]
    progress: dict[Partition, Progress]
    next_offsets: dict[str, int]
    read: Counter[str]
    skipped: Counter[str]
    oldest_ms: dict[Partition, int] = field(default_factory=dict)

    @property
    def partitions(self) -> tuple[Partition, ...]:
        return tuple(self.progress)


def make_gap_batch(gap: Gap, *, term: int, generation: int) -> Batch:
    """What is published for records that cannot be decoded: nothing, and `next` passes them."""
    letters = [
        DeadLetter(gap.partition, NoRecord(offset), Reason.UNDECODABLE) for offset in range(gap.first, gap.behind)
    ]
    return Batch(
        term,
        {},
        letters,
        {gap.partition: Progress(gap.behind, None)},
        {partition_name(gap.partition, generation): gap.behind},
        Counter({gap.partition.topic: len(letters)}),
        Counter(),
    )


def make_batch(
    records: Mapping[Partition, Sequence[Record]],
    *,
    term: int,
    generations: Mapping[Partition, int],
    decode: Decode,
    keys: Keys,
) -> Batch:
    """Decode and sort `records` by bucket and stream; in a stream they keep their order.

    `term` says in which state of the epochs they were read; `generations` has each partition's.
    """
    batch = Batch(term, {}, [], {}, {}, Counter(), Counter())
    # (index, offset, body) of each message, again and again; None is the global stream.
    streams: dict[str | None, list[Argument]] = {}
    for index, (partition, rows) in enumerate(records.items(), 1):
        topic = partition.topic
        route = ROUTES[topic]
        name = partition_name(partition, generations[partition])
        for record in rows:
            decoded = decode(route, record.value)
            if type(decoded) is Event:
                user_id, data = decoded
                offset = record.offset
                messages = streams.get(user_id)
                if messages is None:
                    messages = streams[user_id] = []
                messages += (index, offset, encode_body(name, offset, record.timestamp, route.type, data))
            elif type(decoded) is Rejected:
                batch.dead_letters.append(DeadLetter(partition, record, decoded.reason))
            else:
                batch.skipped[topic] += 1
        last = rows[-1]
        batch.read[topic] += len(rows)
        batch.oldest_ms[partition] = rows[0].timestamp
        batch.progress[partition] = Progress(last.offset + 1, last.timestamp)
        batch.next_offsets[name] = last.offset + 1
    for user_id, messages in streams.items():
        stream = GLOBAL if user_id is None else keys.user_stream(user_id)
        bucket = batch.buckets.get(stream.bucket)
        if bucket is None:
            bucket = batch.buckets[stream.bucket] = BucketMessages()
        bucket.keys += (keys.log(stream), keys.meta(stream))
        bucket.arguments += (keys.live(stream), len(messages) // 3)
        bucket.arguments += messages
    return batch
