"""Reads what arrives in the dead-letter topic from now on."""

from typing import cast

from confluent_kafka import Consumer, TopicPartition

from harness.oracle import DEAD_LETTER_TOPIC
from harness.producer import Headers, Record
from harness.waiting import eventually


class DeadLetters:
    """A reader that begins at the end the topic has when it is made."""

    def __init__(self, bootstrap: str) -> None:
        self.records: list[Record] = []
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": "dead-letters", "enable.auto.commit": False, "log_level": 0}
        )
        partitions = self._consumer.list_topics(DEAD_LETTER_TOPIC, timeout=10).topics[DEAD_LETTER_TOPIC].partitions
        starts = []
        for number in partitions:
            partition = TopicPartition(DEAD_LETTER_TOPIC, number)
            _, end = self._consumer.get_watermark_offsets(partition, timeout=10)
            starts.append(TopicPartition(DEAD_LETTER_TOPIC, number, end))
        self._consumer.assign(starts)

    async def wait_for(self, count: int) -> list[Record]:
        """Wait until at least `count` have come and give all."""

        def arrived() -> bool:
            while (message := self._consumer.poll(0)) is not None:
                assert message.error() is None, message.error()
                headers = cast(Headers, message.headers() or [])
                self.records.append(
                    Record(DEAD_LETTER_TOPIC, message.value(), message.key(), headers, message.partition() or 0)
                )
            return len(self.records) >= count

        await eventually(arrived, lambda: f"{count} dead letters, {len(self.records)} came: {self.records}")
        return self.records

    def close(self) -> None:
        self._consumer.close()
