"""Publishes records and learns from the broker at which offset each one lies."""

import asyncio
import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from harness.oracle import BROADCAST_TOPICS, TARGETED_TOPICS, TYPE_OF_TOPIC, Event, Oracle, as_delivered
from harness.waiting import eventually

ALL_TOPICS = (*BROADCAST_TOPICS, *TARGETED_TOPICS)
Headers = Sequence[tuple[str, bytes | None]]
Publication = tuple[str, bytes, str | None, int]
"""Topic, value, user (None: everyone), partition (-1: by key, or any)."""


@dataclass
class Record:
    """A record on its way to the broker; `offset` is -1 until it was acknowledged."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: Headers = field(default_factory=tuple)
    partition: int = -1
    offset: int = -1
    error: str | None = None

    @property
    def is_done(self) -> bool:
        return self.offset >= 0 or self.error is not None


class EventProducer:
    """An acks=all producer for the four topics; every acknowledged event goes to the oracle.

    Targeted events are keyed by user, broadcasts go round the partitions. `partitions` is how many
    each topic has at first.
    """

    def __init__(self, bootstrap: str, oracle: Oracle, partitions: int) -> None:
        self.oracle = oracle
        self.partitions = dict.fromkeys(ALL_TOPICS, partitions)
        self.generations: dict[str, int] = {}
        """How often a topic was made, where that is not once: see `topic_was_made_anew`."""
        self._bootstrap = bootstrap
        self._producer = self._connected()
        self._numbers = itertools.count(1)
        self._under_way: set[asyncio.Event] = set()
        self._random = random.Random(5)

    def fields(self, type_: str, user: str | None) -> dict[str, Any]:
        """A believable event as the platform's publishers make it, unlike any other."""
        number = next(self._numbers)
        common: dict[str, Any] = {
            "event_id": f"00000000-0000-4000-8000-{number:012d}",
            "event_type": type_,
            "timestamp": f"2026-03-02T14:30:{number % 60:02d}.{number % 1000:03d}Z",
            "priority": number % 4,
        }
        own: dict[str, dict[str, Any]] = {
            "regime_change": {"previous_regime": "sideways", "new_regime": "bull", "confidence": 0.85, "metadata": {}},
            "market_alert": {"alert_type": "volatility", "severity": "high", "message": "VIX über 30 ⚠ 波动"},
            "risk_alert": {"user_id": user, "alert_type": "var_breach", "severity": "critical", "message": 'a "quote"'},
            "order_executed": {
                "user_id": user,
                "order_id": f"o-{number}",
                "symbol": "AAPL",
                "side": "buy",
                "qty": "10.5",
                "filled_qty": "10.5",
                "filled_avg_price": "187.3200",
                "status": "filled",
            },
        }
        return common | own[type_]

    async def publish(self, topic: str, user: str | None = None, partition: int = -1, **more: Any) -> Event:
        """Publish one event and wait for its acknowledgement."""
        value = json.dumps(self.fields(TYPE_OF_TOPIC[topic], user) | more, ensure_ascii=False).encode()
        return await self.publish_value(topic, value, user, partition)

    async def publish_value(self, topic: str, value: bytes, user: str | None = None, partition: int = -1) -> Event:
        """Publish a value of the caller's own making that clients must get as it is."""
        (event,) = await self.publish_all([(topic, value, user, partition)])
        return event

    async def publish_mixed(self, users: Sequence[str], count: int, topics: Sequence[str] = ALL_TOPICS) -> list[Event]:
        """Publish `count` events, the topics in turn, the targeted ones to any of `users`."""
        batch: list[Publication] = []
        for number in range(count):
            topic = topics[number % len(topics)]
            user = self._random.choice(users) if topic in TARGETED_TOPICS else None
            value = json.dumps(self.fields(TYPE_OF_TOPIC[topic], user), ensure_ascii=False).encode()
            batch.append((topic, value, user, -1))
        return await self.publish_all(batch)

    async def publish_fence(self, users: Sequence[str]) -> list[Event]:
        """One more event in every broadcast partition, and for every user on both targeted topics:
        whoever got these got what was before them in their partitions, or never will."""
        batch: list[Publication] = []
        for topic in BROADCAST_TOPICS:
            for partition in range(self.partitions[topic]):
                batch.append((topic, json.dumps(self.fields(TYPE_OF_TOPIC[topic], None)).encode(), None, partition))
        for topic in TARGETED_TOPICS:
            for user in users:
                batch.append((topic, json.dumps(self.fields(TYPE_OF_TOPIC[topic], user)).encode(), user, -1))
        return await self.publish_all(batch)

    async def publish_all(self, batch: Sequence[Publication]) -> list[Event]:
        """Publish all and wait until all were acknowledged."""
        done = asyncio.Event()
        self._under_way.add(done)
        try:
            return await self._publish_all(batch)
        finally:
            self._under_way.discard(done)
            done.set()

    async def settled(self) -> int:
        """Wait until the oracle knows everything that was under way; gives how many events it knows.
        Whatever it learns after those was published after this was called."""
        for done in list(self._under_way):
            await done.wait()
        return len(self.oracle.events)

    async def _publish_all(self, batch: Sequence[Publication]) -> list[Event]:
        records = []
        for topic, value, user, partition in batch:
            if user is None and partition < 0:
                partition = self._random.randrange(self.partitions[topic])
            key = None if user is None else user.encode()
            records.append(Record(topic, value, key, partition=partition))
        await self.send(records)
        events = []
        for record, (topic, value, user, _) in zip(records, batch, strict=True):
            generation = self.generations.get(topic, 1)
            event = Event(topic, record.partition, record.offset, user, as_delivered(value), generation)
            self.oracle.add(event)
            events.append(event)
        return events

    async def send(self, records: Sequence[Record], seconds: float = 30.0) -> None:
        """Send records as they are, for the poisonous ones too, and wait for all acknowledgements."""
        for record in records:
            options: dict[str, Any] = {} if record.partition < 0 else {"partition": record.partition}
            self._producer.produce(
                record.topic,
                value=record.value,
                key=record.key,
                headers=list(record.headers),
                on_delivery=_acknowledge(record),
                **options,
            )
        async with asyncio.timeout(seconds):
            while not all(record.is_done for record in records):
                self._producer.poll(0)
                await asyncio.sleep(0.002)
        for record in records:
            assert record.error is None, f"the broker did not take a record for {record.topic}: {record.error}"

    async def partitions_were_added(self, topics: Sequence[str], partitions: int) -> None:
        """Each of `topics` has so many now: wait until the producer knows, and use them."""

        async def is_known() -> bool:
            found = (await asyncio.to_thread(self._producer.list_topics, timeout=10)).topics
            return all(len(found[topic].partitions) == partitions for topic in topics)

        await eventually(is_known, f"{partitions} partitions of {', '.join(topics)}")
        self.partitions |= dict.fromkeys(topics, partitions)

    def topic_was_made_anew(self, topic: str) -> None:
        """What is published to it from now on has offsets from 0 again."""
        self.generations[topic] = self.generations.get(topic, 1) + 1
        self.close()
        self._producer = self._connected()  # the one before numbers its batches for the topic that was

    def _connected(self) -> Producer:
        return Producer(
            {
                "bootstrap.servers": self._bootstrap,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 0,
                "log_level": 0,
                "topic.metadata.refresh.interval.ms": 1000,
                # librdkafka's default hash is not the JVM's; which partition matters to nobody here.
                "partitioner": "murmur2_random",
            }
        )

    def close(self) -> None:
        self._producer.purge()
        self._producer.flush(5)


def _acknowledge(record: Record) -> Any:
    def done(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            record.error = str(error)
        else:
            record.partition, record.offset = message.partition() or 0, message.offset() or 0

    return done
