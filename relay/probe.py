"""What lies at some place of a partition, asked of the broker by a reader of its own."""

import contextlib
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    CorruptRecordException,
    KafkaError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
    UnsupportedCodecError,
)

from relay.batch import Gap, Record
from relay.positions import Place
from relay.redpanda import connection
from relay.routes import Partition
from relay.settings import KafkaSettings

POLL_MS: Final = 100

FETCH_BYTES: Final = 16 * 1024
"""One record is wanted of each partition; a larger batch comes whole all the same."""

GAP_RECORDS: Final = 20_000
"""How many offsets behind a position an undecodable record is looked for. A read that comes to one begins at
the position and takes BATCH_EVENTS at most, 10,000; as many offsets may be without a record."""

_UNREADABLE: Final = (CorruptRecordException, OffsetOutOfRangeError, RecordTooLargeError, UnsupportedCodecError)


async def timestamps_of(settings: KafkaSettings, places: Collection[Place]) -> dict[Place, int]:
    """The timestamp, in milliseconds, of the record at each place. Left out are those where no record
    lies any more, or one that cannot be decoded.

    Raises KafkaError and TimeoutError as they come; the time it takes is for the caller to bound.
    """
    found: dict[Place, int] = {}
    # An aborted record tells one topic from another as well as any, and none is waited for.
    async with _reader(settings, "read_uncommitted") as kafka:
        partitions = [TopicPartition(*partition) for partition in sorted({partition for partition, _ in places})]
        kafka.assign(partitions)
        beginnings = await kafka.beginning_offsets(partitions)
        ends = await kafka.end_offsets(partitions)
        readable = [(p, offset) for p, offset in places if beginnings[p] <= offset < ends[p]]
        while readable:
            # One place of each partition at a time.
            now = dict(reversed(readable))
            for partition, offset in now.items():
                kafka.seek(TopicPartition(*partition), offset)
            for partition, offset in now.items():
                if (timestamp := await _timestamp_at(kafka, partition, offset)) is not None:
                    found[partition, offset] = timestamp
            readable = [(p, offset) for p, offset in readable if now[p] != offset]
    return found


async def find_undecodable(settings: KafkaSettings, positions: Mapping[Partition, int]) -> Gap | None:
    """The first records from `positions` on that aiokafka cannot decode; None when all can be.

    It decodes a batch from its beginning, so that all behind such a record in its batch is lost to it.
    Raises KafkaError and TimeoutError as they come; the time it takes is for the caller to bound.
    """
    async with _reader(settings, "read_committed") as kafka:
        for partition, position in sorted(positions.items()):
            wanted = TopicPartition(*partition)
            kafka.assign([wanted])
            end = (await kafka.end_offsets([wanted]))[wanted]
            kafka.seek(wanted, position)
            before: list[Record] = []
            first = await _first_undecodable(kafka, wanted, min(end, position + GAP_RECORDS), before)
            if first is not None:
                behind = first + 1
                while behind < end and not await _is_decodable(kafka, wanted, behind):
                    behind += 1
                return Gap(partition, first, behind, before)
    return None


def is_undecodable(error: Exception) -> bool:
    """Whether an error of reading is of the record and not of the way to it. A checksum that is not
    right may be on this broker only; a missing codec is ours to install."""
    if isinstance(error, CorruptRecordException):
        return "CRC" not in str(error)
    return not isinstance(error, KafkaError)


async def _first_undecodable(
    kafka: AIOKafkaConsumer, wanted: TopicPartition, end: int, before: list[Record]
) -> int | None:
    """Puts into `before` what can be decoded."""
    at_once = 500
    while (position := await kafka.position(wanted)) < end:
        try:
            records = await kafka.getmany(wanted, timeout_ms=POLL_MS, max_records=at_once)
            before += records.get(wanted, ())
        except Exception as error:
            if not is_undecodable(error):
                raise
            if at_once == 1:
                return int(position)
            at_once = 1  # once more, one by one
            kafka.seek(wanted, position)
    return None


async def _is_decodable(kafka: AIOKafkaConsumer, wanted: TopicPartition, offset: int) -> bool:
    kafka.seek(wanted, offset)
    try:
        while not await kafka.getmany(wanted, timeout_ms=POLL_MS, max_records=1):
            if await kafka.position(wanted) > offset:
                break
    except Exception as error:
        if not is_undecodable(error):
            raise
        return False
    return True


@contextlib.asynccontextmanager
async def _reader(settings: KafkaSettings, isolation_level: str) -> AsyncIterator[Any]:
    kafka = AIOKafkaConsumer(
        **connection(settings, "notify-relay-probe"),
        group_id=None,
        isolation_level=isolation_level,
        auto_offset_reset="none",
        enable_auto_commit=False,
        max_partition_fetch_bytes=FETCH_BYTES,
        fetch_max_wait_ms=settings.redpanda_fetch_wait_ms,
    )
    try:
        await kafka.start()
        yield kafka
    finally:
        await kafka.stop()


async def _timestamp_at(kafka: AIOKafkaConsumer, partition: Partition, offset: int) -> int | None:
    wanted = TopicPartition(*partition)
    while True:
        try:
            records = await kafka.getmany(wanted, timeout_ms=POLL_MS, max_records=1)
        except Exception as error:
            if isinstance(error, _UNREADABLE) or is_undecodable(error):
                return None
            raise
        for record in records.get(wanted, ()):
            timestamp: int = record.timestamp
            return timestamp if record.offset == offset else None
        if await kafka.position(wanted) > offset:
            return None
