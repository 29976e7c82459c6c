"""Where reading starts, after an assignment or a new epoch (DESIGN section 3). Pure.

At the lowest `next` of all buckets: what a bucket lost is published to it again, and the streams
that still have it skip it. A bucket without `next` was lost whole, or never had one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from relay.routes import Partition, parse_partition_name, partition_name

Place = tuple[Partition, int]
"""A partition and an offset."""


@dataclass(frozen=True, slots=True)
class Commit:
    """What Redpanda keeps of a partition for our group. `timestamp_ms` is None until a record was read."""

    offset: int
    generation: int
    timestamp_ms: int | None


@dataclass(frozen=True, slots=True)
class Witness:
    """A record that was read: should its topic be deleted and made again, another one lies there."""

    offset: int
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Ends:
    """A partition's first offset that can be read, and the one after its last."""

    beginning: int
    end: int


@dataclass(frozen=True, slots=True)
class Start:
    """Where reading of a partition starts. `lost` are the buckets whose `next` must say so first;
    `commit` is to be committed at once, so that where this partition's events begin for us outlives
    a Redis that loses everything; `is_anew` when the topic looks deleted and made again, so that
    `generation` is a new one. `forgotten` offsets before this one were to be read, and the topic does
    not have them any more."""

    offset: int
    generation: int
    lost: tuple[str, ...]
    commit: int | None = None
    is_anew: bool = False
    forgotten: int = 0


@dataclass(frozen=True, slots=True)
class Known:
    """Everything that decides where reading of one partition starts.

    `generation`: the highest of this partition (`generations_of`).
    `next_offsets`: each bucket's `life`, as `n:<partition>` has it, for every generation.
    `first_end`: the partition's end at the very first start; None when it appeared later.
    `rebuild`: the first offset after the rebuild window's beginning; None when unknown.
    `is_another`: the topic is proven to be another than was read (`is_another_topic`).
    """

    generation: int
    ends: Ends
    next_offsets: Mapping[str, Mapping[str, int]]
    commit: Commit | None
    first_end: int | None
    rebuild: int | None
    is_another: bool = False


def choose_start(partition: Partition, known: Known, start_from: Literal["latest", "earliest"]) -> Start:
    """Where reading of `partition` starts, and which buckets must be told before the first read.

    A position past the end, or another record where one was read, means that the topic was deleted
    and made again: its beginning then, in a new generation, of which no bucket knows.
    """
    generation = known.generation
    name = partition_name(partition, generation)
    nexts = {bucket: offsets[name] for bucket, offsets in known.next_offsets.items() if name in offsets}
    lost = tuple(bucket for bucket in known.next_offsets if bucket not in nexts)
    candidates = list(nexts.values())
    if lost:
        candidates.append(_without_next(known, start_from))
    offset = min(candidates)
    # One is enough: buckets learn of what is not for them a moment later, if the relay still lives.
    if max(candidates) > known.ends.end or known.is_another:
        beginning = known.ends.beginning
        return Start(beginning, generation + 1, tuple(known.next_offsets), commit=beginning, is_anew=True)
    commit = None
    if known.commit is None or known.commit.generation != generation:
        commit = _without_next(known, start_from)
    # Below the beginning the topic has forgotten what was to be read; nothing can bring it back.
    start = max(offset, known.ends.beginning)
    return Start(start, generation, lost, commit, forgotten=start - offset)


def witnesses_of(
    partition: Partition,
    generation: int,
    commit: Commit | None,
    remembered: Mapping[str, Witness],
) -> tuple[Witness, ...]:
    """By what the topic of `partition` is known in this generation: the last record committed,
    and one that is `remembered` in Redis (by partition's name), since brokers forget the commits of a
    topic that is deleted."""
    found = []
    if commit is not None and commit.generation == generation and commit.timestamp_ms is not None:
        found.append(Witness(commit.offset - 1, commit.timestamp_ms))
    if (witness := remembered.get(partition_name(partition, generation))) is not None:
        found.append(witness)
    return tuple(found)


def is_another_topic(partition: Partition, witnesses: Iterable[Witness], timestamps: Mapping[Place, int]) -> bool:
    """Whether some other record lies where one was read. What retention or compaction took is not
    among `timestamps` and proves nothing."""
    return any(
        timestamps.get((partition, witness.offset), witness.timestamp_ms) != witness.timestamp_ms
        for witness in witnesses
    )


def is_lost(partition: Partition, generation: int, next_offsets: Mapping[str, Mapping[str, int]]) -> bool:
    """Whether some bucket has no `next` of `partition` in this generation."""
    name = partition_name(partition, generation)
    return any(name not in offsets for offsets in next_offsets.values())


def generations_of(
    partitions: Iterable[Partition],
    next_offsets: Iterable[Mapping[str, int]],
    commits: Mapping[Partition, Commit | None],
) -> dict[Partition, int]:
    """The highest generation of each partition that anybody knows of; the first is 1."""
    highest = {
        partition: 1 if (commit := commits.get(partition)) is None else commit.generation for partition in partitions
    }
    for name in {name for offsets in next_offsets for name in offsets}:  # each once, however many buckets have it
        partition, generation = parse_partition_name(name)
        if generation > highest.get(partition, generation):
            highest[partition] = generation
    return highest


def _without_next(known: Known, start_from: Literal["latest", "earliest"]) -> int:
    commit = known.commit
    if commit is not None and commit.generation == known.generation:
        if commit.timestamp_ms is None:  # nothing was read yet: nothing to rebuild
            return commit.offset
        return known.ends.beginning if known.rebuild is None else min(known.rebuild, commit.offset)
    if known.generation == 1 and known.first_end is not None and start_from == "latest":
        return known.first_end
    return known.ends.beginning


def rebuild_from_ms(commit: Commit | None, rebuild_seconds: int) -> int | None:
    """The time from which a lost bucket is rebuilt; None when no record was ever read."""
    if commit is None or commit.timestamp_ms is None:
        return None
    return max(0, commit.timestamp_ms - 1000 * rebuild_seconds)


def commit_metadata(generation: int, timestamp_ms: int | None) -> str:
    """What is committed beside an offset: `generation:timestamp`."""
    return f"{generation}:{'' if timestamp_ms is None else timestamp_ms}"


def parse_commit(offset: int, metadata: str) -> Commit | None:
    """A group's commit; None when there is none. Foreign metadata counts as generation 1, no record."""
    if offset < 0:
        return None
    generation, _, timestamp = metadata.partition(":")
    try:
        return Commit(offset, int(generation), int(timestamp) if timestamp else None)
    except ValueError:
        return Commit(offset, 1, None)


def witness_text(witness: Witness) -> str:
    """A witness as Redis remembers it: `offset:timestamp`."""
    return f"{witness.offset}:{witness.timestamp_ms}"


def parse_witness(text: str) -> Witness:
    """The reverse of `witness_text`. Raises ValueError."""
    offset, _, timestamp_ms = text.partition(":")
    return Witness(int(offset), int(timestamp_ms))
