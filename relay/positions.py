"""Where reading starts, after an assignment or a new epoch (DESIGN section 3). Pure.

At the lowest `next` of all buckets: what a bucket lost is published to it again, and the streams
that still have it skip it. A bucket without `next` was lost whole, or never had one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from relay.routes import Partition, parse_partition_name, partition_name

NEXT_FIELD: Final = b"n:"


@dataclass(frozen=True, slots=True)
class Commit:
    """What Redpanda keeps of a partition for our group. `timestamp_ms` is None until a record was read."""

    offset: int
    generation: int
    timestamp_ms: int | None


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

    `next_offsets`: each bucket's `life`, as `n:<partition>` has it, for every generation.
    `first_end`: the partition's end at the very first start; None when it appeared later.
    `rebuild`: the first offset after the rebuild window's beginning; None when unknown.
    """

    ends: Ends
    next_offsets: Mapping[str, Mapping[str, int]]
    commit: Commit | None
    first_end: int | None
    rebuild: int | None


def choose_start(partition: Partition, known: Known, start_from: Literal["latest", "earliest"]) -> Start:
    """Where reading of `partition` starts, and which buckets must be told before the first read.

    A position past the end means that the topic was deleted and made again: its beginning then, in
    a new generation, of which no bucket knows.
    """
    generation = current_generation(partition, known.next_offsets.values(), known.commit)
    name = partition_name(partition, generation)
    nexts = {bucket: offsets[name] for bucket, offsets in known.next_offsets.items() if name in offsets}
    lost = tuple(bucket for bucket in known.next_offsets if bucket not in nexts)
    candidates = list(nexts.values())
    if lost:
        candidates.append(_without_next(known, generation, start_from))
    offset = min(candidates)
    if offset > known.ends.end:
        beginning = known.ends.beginning
        return Start(beginning, generation + 1, tuple(known.next_offsets), commit=beginning, is_anew=True)
    commit = None
    if known.commit is None or known.commit.generation != generation:
        commit = _without_next(known, generation, start_from)
    # Below the beginning the topic has forgotten what was to be read; nothing can bring it back.
    start = max(offset, known.ends.beginning)
    return Start(start, generation, lost, commit, forgotten=start - offset)


def is_lost(partition: Partition, next_offsets: Mapping[str, Mapping[str, int]], commit: Commit | None) -> bool:
    """Whether some bucket has no `next` of `partition`."""
    name = partition_name(partition, current_generation(partition, next_offsets.values(), commit))
    return any(name not in offsets for offsets in next_offsets.values())


def current_generation(partition: Partition, next_offsets: Iterable[Mapping[str, int]], commit: Commit | None) -> int:
    """The highest generation of `partition` that anybody knows of; the first is 1."""
    generations = [1 if commit is None else commit.generation]
    for offsets in next_offsets:
        for name in offsets:
            known_partition, generation = parse_partition_name(name)
            if known_partition == partition:
                generations.append(generation)
    return max(generations)


def _without_next(known: Known, generation: int, start_from: Literal["latest", "earliest"]) -> int:
    commit = known.commit
    if commit is not None and commit.generation == generation:
        if commit.timestamp_ms is None:  # nothing was read yet: nothing to rebuild
            return commit.offset
        return known.ends.beginning if known.rebuild is None else min(known.rebuild, commit.offset)
    if generation == 1 and known.first_end is not None and start_from == "latest":
        return known.first_end
    return known.ends.beginning


def rebuild_from_ms(commit: Commit | None, rebuild_seconds: int) -> int | None:
    """The time from which a lost bucket is rebuilt; None when no record was ever read."""
    if commit is None or commit.timestamp_ms is None:
        return None
    return max(0, commit.timestamp_ms - 1000 * rebuild_seconds)


def parse_next_offsets(life: Mapping[bytes, bytes]) -> dict[str, int]:
    """The `n:<partition>` fields of a bucket's `life`, by partition's name. Others are left out."""
    prefix = len(NEXT_FIELD)
    return {name[prefix:].decode(): int(offset) for name, offset in life.items() if name.startswith(NEXT_FIELD)}


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
