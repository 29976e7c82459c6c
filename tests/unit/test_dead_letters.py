import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError

from relay.batch import DeadLetter, NoRecord
from relay.consumer import FETCH_BYTES
from relay.dead_letters import DeadLetters
from relay.decode import Reason
from relay.letters import bare_headers
from relay.routes import Partition
from relay.settings import KafkaSettings
from shared.errors import RelayStopped


@dataclass(frozen=True)
class R:
    """A record."""

    offset: int
    value: bytes | None
    key: bytes | None = b"key"
    timestamp: int = 1000
    headers: tuple[tuple[str, bytes], ...] = (("trace", b"1"),)


def letter(value: bytes = b"nope", *, offset: int = 7, headers: tuple[tuple[str, bytes], ...] = ()) -> DeadLetter:
    return DeadLetter(Partition("risk-events", 2), R(offset, value, headers=headers), Reason.NOT_JSON)


ORIGIN = [
    ("dlq-topic", b"risk-events"),
    ("dlq-partition", b"2"),
    ("dlq-offset", b"7"),
    ("dlq-timestamp", b"1000"),
    ("dlq-reason", b"not_json"),
]


@dataclass
class Producer:
    """Stands where aiokafka's producer does: fails as told, else keeps what it was given."""

    failures: list[Exception] = field(default_factory=list)
    is_away: bool = False
    attempts: int = 0
    largest: int = 1000
    written: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]] = field(default_factory=list)

    async def send_and_wait(self, topic: str, value: Any, key: Any, headers: Any) -> None:
        assert topic == "notification-dead-letters"
        await asyncio.sleep(0)
        self.attempts += 1
        if self.is_away:
            raise KafkaConnectionError("gone")
        if self.failures:
            raise self.failures.pop(0)
        if len(value) > self.largest:
            raise MessageSizeTooLargeError
        self.written.append((key, value, headers))

    async def stop(self) -> None:
        pass


@pytest.fixture
async def producer() -> Producer:
    return Producer()


@pytest.fixture
async def dead_letters(producer: Producer) -> AsyncIterator[DeadLetters]:
    dead_letters = DeadLetters(KafkaSettings())
    dead_letters._producer = producer
    yield dead_letters
    await dead_letters.stop()


async def test_a_letter_goes_with_key_value_and_headers(producer: Producer, dead_letters: DeadLetters) -> None:
    await dead_letters.write([letter(b"\xff\x00")])
    assert producer.written == [(b"key", b"\xff\x00", ORIGIN)]


async def test_a_letter_too_large_for_the_topic_goes_as_headers_only(
    producer: Producer, dead_letters: DeadLetters
) -> None:
    big = letter(b"x" * 1001)
    await dead_letters.write([big, letter()])
    assert sorted(producer.written, key=str) == sorted(
        [(None, b"", bare_headers(big)), (b"key", b"nope", ORIGIN)], key=str
    )


async def test_a_letter_of_what_could_not_be_decoded_goes_as_headers_only(
    producer: Producer, dead_letters: DeadLetters
) -> None:
    lost = DeadLetter(Partition("risk-events", 2), NoRecord(7), Reason.UNDECODABLE)
    await dead_letters.write([lost])
    ((key, value, headers),) = producer.written
    assert (key, value) == (None, b"")
    assert dict(headers)["dlq-reason"] == b"undecodable"
    assert "dlq-value-bytes" in dict(headers), "or redrive would put an empty record back"


async def test_only_letters_that_failed_are_tried_again(producer: Producer, dead_letters: DeadLetters) -> None:
    producer.failures = [KafkaConnectionError("gone"), TimeoutError()]
    await dead_letters.write([letter(b"a"), letter(b"b"), letter(b"c")])
    assert sorted(value or b"" for _, value, _ in producer.written) == [b"a", b"b", b"c"]


async def test_a_topic_that_cannot_be_written_stops_the_relay(
    producer: Producer, dead_letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.dead_letters.GIVE_UP_SECONDS", 0)
    producer.is_away = True
    with pytest.raises(RelayStopped, match=r"notification-dead-letters cannot be written .*gone.* risk-events/2/7 "):
        await dead_letters.write([letter()])
    assert producer.written == []


async def test_a_broker_that_was_away_for_a_while_gets_the_letters(
    producer: Producer, dead_letters: DeadLetters
) -> None:
    producer.failures = [KafkaConnectionError("gone")] * 4
    async with asyncio.timeout(20):
        await dead_letters.write([letter(b"a")])
    assert [value for _, value, _ in producer.written] == [b"a"]


async def test_giving_up_takes_time_and_several_attempts(
    producer: Producer, dead_letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.dead_letters.GIVE_UP_SECONDS", 1.5)
    producer.is_away = True
    began = asyncio.get_running_loop().time()
    with pytest.raises(RelayStopped):
        await dead_letters.write([letter()])
    assert asyncio.get_running_loop().time() - began >= 1.5
    assert producer.attempts > 1


async def test_what_is_too_large_the_broker_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}

    class Started(Producer):
        async def start(self) -> None: ...

    def make(**options: Any) -> Started:
        made.update(options)
        return Started()

    monkeypatch.setattr("relay.dead_letters.AIOKafkaProducer", make)
    await DeadLetters(KafkaSettings()).write([letter()])
    assert made["max_request_size"] == FETCH_BYTES
