"""The consumer itself, on a Kafka-protocol broker: batches that their producer compressed."""

import asyncio
import time
import zlib
from collections.abc import AsyncIterator

import pytest
from confluent_kafka import Producer

from demo.broker import add_broker, bootstrap
from demo.process import Processes
from relay.consumer import Consumer
from relay.settings import KafkaSettings
from shared.errors import Undecodable
from shared.metrics import RelayMetrics

pytestmark = pytest.mark.scenario

CODECS = ["gzip", "snappy", "lz4", "zstd"]
VALUES = [b'{"user_id":"user-1","n":%d,"x":"%s"}' % (n, b"x" * 200) for n in range(20)]


@pytest.fixture
async def broker() -> AsyncIterator[str]:
    async with Processes() as processes:
        process = add_broker(processes).start()
        await process.wait_until_ready()
        yield bootstrap(process)


@pytest.fixture
async def consumer(broker: str) -> AsyncIterator[Consumer]:
    """Assigned, and placed at the beginning of everything."""
    consumer = Consumer(KafkaSettings(redpanda_brokers=(broker,), redpanda_fetch_wait_ms=20), RelayMetrics())
    try:
        async with asyncio.timeout(30):
            await consumer.start()
            while consumer.is_moved:
                await consumer.read()
                consumer.seek(dict.fromkeys(consumer.assigned or (), 0))
        yield consumer
    finally:
        await consumer.stop()


def send(broker: str, codec: str, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": broker, "compression.type": codec, "linger.ms": 20})
    for value in values:
        producer.produce("risk-events", value, partition=0)
    assert producer.flush(10) == 0


async def read(consumer: Consumer, count: int) -> list[bytes | None]:
    found: list[bytes | None] = []
    deadline = time.monotonic() + 15
    while len(found) < count:
        assert time.monotonic() < deadline, f"only {len(found)} of {count}"
        found += [record.value for records in (await consumer.read()).values() for record in records]
    return found


async def test_batches_of_every_codec_are_read(broker: str, consumer: Consumer) -> None:
    for codec in CODECS:
        send(broker, codec, VALUES)
    assert await read(consumer, len(CODECS) * len(VALUES)) == VALUES * len(CODECS)


async def test_a_batch_that_cannot_be_decompressed_is_told_by_name(
    broker: str, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def corrupt(data: object) -> bytes:
        raise zlib.error("invalid stored block lengths")

    send(broker, "none", VALUES)
    assert await read(consumer, len(VALUES)) == VALUES
    for module in ("aiokafka.record._crecords.default_records", "aiokafka.record.default_records"):
        monkeypatch.setattr(f"{module}.gzip_decode", corrupt)
    send(broker, "gzip", VALUES)
    with pytest.raises(Undecodable, match=r"risk-events/0 at offset 20 cannot be decoded: .*stored block lengths"):
        await read(consumer, 1)
