"""The consumer, with a scripted Kafka that fails as aiokafka does: it takes records out of its
buffer, and then raises."""

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import CorruptRecordException, IllegalStateError, KafkaError, UnsupportedCodecError

from relay import consumer
from relay.consumer import Consumer
from relay.routes import Partition
from relay.settings import KafkaSettings
from shared.errors import RelayStopped, Undecodable
from shared.metrics import RelayMetrics

GOOD = Partition("risk-events", 0)
BAD = Partition("alert-events", 1)


class Broken:
    """Stands where aiokafka keeps a partition's fetched records: none can be read."""

    def __init__(self, offset: int, error: Exception) -> None:
        self.next_fetch_offset = offset
        self._records_iterator = self._raise(error)

    def _raise(self, error: Exception) -> Any:
        raise error
        yield

    def read(self) -> None:
        next(self._records_iterator)


class Kafka:
    """Two partitions; each second (`every`) `getmany` drains the good one, then comes to the bad one
    and raises."""

    def __init__(self, error: Exception | None, every: int = 2) -> None:
        self.error = error
        self.every = every
        self.position = 0
        self.calls = 0
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._fetcher = SimpleNamespace(error_future=future, _records={})

    async def getmany(self, **_: Any) -> dict[TopicPartition, list[int]]:
        self.calls += 1
        records = list(range(self.position, self.position + 3))
        self.position += 3
        if self.error is not None and self.calls % self.every == 0:
            broken = Broken(40, self.error)
            result = FetchResult(BAD, assignment=None, partition_records=broken, backoff=0)
            self._fetcher._records = {TopicPartition(*BAD): result}
            broken.read()
        return {TopicPartition(*GOOD): records}

    def seek(self, partition: TopicPartition, offset: int) -> None:
        if partition == GOOD:
            self.position = offset


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "READ_SECONDS", 0.001)
    monkeypatch.setattr(consumer, "GIVE_UP_SECONDS", 0.2)


def consumer_of(kafka: Kafka) -> Consumer:
    made = Consumer(KafkaSettings(), RelayMetrics())
    made._kafka = kafka
    made.on_partitions_assigned([GOOD, BAD])
    made.seek({GOOD: 0, BAD: 40})
    return made


async def test_records_taken_by_a_read_that_failed_are_read_again() -> None:
    kafka = Kafka(KafkaError("once"))
    reader = consumer_of(kafka)
    assert await reader.read() == {GOOD: [0, 1, 2]}
    assert await reader.read() == {}
    assert reader.is_moved
    kafka.error = None
    assert await reader.read() == {}, "behind the hole"
    reader.seek({GOOD: 3, BAD: 40})
    assert await reader.read() == {GOOD: [3, 4, 5]}


async def test_what_was_fetched_and_not_read_yet_is_known() -> None:
    kafka = Kafka(None)
    reader = consumer_of(kafka)
    assert reader.fetched == frozenset()
    kafka._fetcher._records = {TopicPartition(*BAD): None}
    assert reader.fetched == {BAD}


async def test_a_rebalance_that_begins_while_positions_are_asked_for_is_no_failure_of_the_broker() -> None:
    kafka = Kafka(None)
    reader = consumer_of(kafka)

    async def position(_: TopicPartition) -> int:
        raise IllegalStateError("not assigned")

    kafka.position = position  # type: ignore[assignment]
    assert await reader.positions() is None


async def test_a_partition_that_fails_again_and_again_stops_the_relay_although_others_are_read() -> None:
    reader = consumer_of(Kafka(UnsupportedCodecError("no such codec")))
    good = []

    async def read_on() -> None:
        while True:
            good.extend(await reader.read())
            reader.seek({GOOD: 0, BAD: 40})

    with pytest.raises(RelayStopped, match=r"alert-events/1 at offset 40 cannot be read .*no such codec"):
        await read_on()
    assert len(good) > 1


async def test_a_failure_is_over_after_a_while_of_good_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "CALM_SECONDS", 0)
    kafka = Kafka(KafkaError("now and then"), every=4)
    reader = consumer_of(kafka)
    deadline = asyncio.get_running_loop().time() + 3 * consumer.GIVE_UP_SECONDS
    for rounds in itertools.count():
        await reader.read()
        reader.seek({GOOD: 0, BAD: 40})
        if asyncio.get_running_loop().time() > deadline and rounds >= 4 * 4:
            break
    assert kafka.calls > 4 * 4


@pytest.mark.parametrize(
    "error",
    [
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        EOFError("compressed file ended"),
        CorruptRecordException("Found invalid record structure"),
    ],
)
async def test_a_record_that_cannot_be_decoded_is_named(error: Exception) -> None:
    reader = consumer_of(Kafka(error))
    await reader.read()
    with pytest.raises(Undecodable, match=rf"alert-events/1 at offset 40 cannot be decoded: {type(error).__name__}"):
        await reader.read()
    assert reader.is_moved


@pytest.mark.parametrize("error", [UnsupportedCodecError("no zstd"), CorruptRecordException("Invalid CRC - x")])
async def test_what_another_broker_or_another_installation_could_read_is_not_called_undecodable(
    error: Exception,
) -> None:
    reader = consumer_of(Kafka(error))
    await reader.read()
    assert await reader.read() == {}
