"""What becomes of each dead letter; the run itself is in tests/scenarios/test_redrive.py."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import TopicAuthorizationFailedError
from confluent_kafka import Producer

from relay.batch import DeadLetter
from relay.bookmarks import BOOKMARKS_KEY, Bookmarks, Chosen
from relay.decode import Reason
from relay.letters import Kind, bare_headers, whole_headers
from relay.redrive import Redrive, Sorted, sort_letters
from relay.routes import Partition
from relay.settings import KafkaSettings
from shared.errors import BrokerUnavailable

EVERYTHING = Chosen()


@dataclass(frozen=True)
class R:
    """A record."""

    offset: int
    value: bytes | None = b"v"
    key: bytes | None = b"key"
    timestamp: int = 1000
    headers: tuple[tuple[str, bytes], ...] = ()


def dead(offset: int, reason: Reason = Reason.NOT_JSON, *, is_bare: bool = False) -> R:
    letter = DeadLetter(Partition("risk-events", 2), R(1000 + offset), reason)
    return R(offset, headers=tuple(bare_headers(letter) if is_bare else whole_headers(letter)))


def offsets(records: list[R], chosen: Chosen, marks: Bookmarks, end: int = 100) -> list[int]:
    return [letter.offset - 1000 for letter in sort_letters(0, records, chosen, marks, end).put_back.values()]


def test_letters_from_their_kinds_bookmark_on_are_put_back() -> None:
    marks = Bookmarks(5, {Kind("risk-events", "too_large"): 8})
    records = [dead(4), dead(5), dead(6, Reason.TOO_LARGE), dead(7), dead(8, Reason.TOO_LARGE)]
    assert offsets(records, EVERYTHING, marks) == [5, 7, 8]


def test_letters_that_came_after_the_run_began_are_for_another() -> None:
    assert offsets([dead(8), dead(9), dead(10)], EVERYTHING, Bookmarks(0), end=9) == [8]


def test_other_kinds_are_counted_and_left() -> None:
    chosen = Chosen(reasons={"too_large"})
    sorted_ = sort_letters(0, [dead(1), dead(2, Reason.TOO_LARGE), dead(3)], chosen, Bookmarks(2), 100)
    assert [(name, letter.offset) for name, letter in sorted_.put_back.items()] == [
        ("notification-dead-letters/0/2", 1002)
    ]
    assert sorted_.left == 1


def test_a_letter_without_its_value_is_named() -> None:
    sorted_ = sort_letters(3, [dead(7, Reason.TOO_LARGE, is_bare=True)], EVERYTHING, Bookmarks(0), 100)
    assert sorted_.put_back == {}
    ((_, why),) = sorted_.stuck
    assert "notification-dead-letters/3/7 from risk-events/2/1007 (too_large)" in why


def test_bookmarks_are_no_letters_and_nobody_counts_them() -> None:
    bookmarks = R(7, b"", BOOKMARKS_KEY, headers=tuple(Bookmarks(7).headers))
    for chosen in (EVERYTHING, Chosen(topics={"risk-events"})):
        sorted_ = sort_letters(0, [bookmarks], chosen, Bookmarks(0), 100)
        assert sorted_ == Sorted()
        assert not sorted_.is_to_be_remembered


def test_what_was_put_back_or_named_is_to_be_remembered() -> None:
    def is_to_be_remembered(record: R, chosen: Chosen = EVERYTHING) -> bool:
        return sort_letters(0, [record], chosen, Bookmarks(0), 100).is_to_be_remembered

    assert is_to_be_remembered(dead(1))
    assert is_to_be_remembered(dead(1, is_bare=True))
    assert is_to_be_remembered(R(1))
    assert not is_to_be_remembered(dead(1), Chosen(reasons={"too_large"}))


async def test_a_topic_that_is_not_there_is_said_and_not_made() -> None:
    cluster = Producer({"test.mock.num.brokers": 1, "log_level": 0})  # a broker that makes what it is asked for
    (broker,) = cluster.list_topics("risk-events", timeout=10).brokers.values()
    settings = KafkaSettings(redpanda_brokers=(f"{broker.host}:{broker.port}",))
    run = Redrive(settings, EVERYTHING, say=print, show_progress=print, is_told_to_end=lambda: False)
    for is_dry_run in (True, False):
        with pytest.raises(BrokerUnavailable, match="there is no topic notification-dead-letters"):
            await run.run(is_dry_run=is_dry_run)
    assert set(cluster.list_topics(timeout=10).topics) == {"risk-events"}


async def test_told_to_end_before_it_knows_what_was_put_back_it_puts_nothing_back() -> None:
    cluster = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    (broker,) = cluster.list_topics("risk-events", timeout=10).brokers.values()
    settings = KafkaSettings(redpanda_brokers=(f"{broker.host}:{broker.port}",))
    cluster.produce("notification-dead-letters", b"v", headers=list(dead(0).headers), partition=0)
    assert await asyncio.to_thread(cluster.flush, 10) == 0
    for is_told, put_back in ((True, 0), (False, 1), (False, 0)):
        run = Redrive(settings, EVERYTHING, say=print, show_progress=print, is_told_to_end=lambda told=is_told: told)
        assert (await run.run(is_dry_run=False)).put_back.total() == put_back


def test_a_record_that_is_no_letter_is_named_by_a_run_of_everything_only() -> None:
    assert len(sort_letters(0, [R(7)], EVERYTHING, Bookmarks(0), 100).stuck) == 1
    assert sort_letters(0, [R(7)], Chosen(topics={"risk-events"}), Bookmarks(0), 100).stuck == []


async def test_who_may_not_write_bookmarks_puts_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run would put the same letters back."""
    cluster = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    (broker,) = cluster.list_topics("risk-events", timeout=10).brokers.values()
    settings = KafkaSettings(_env_file=None, redpanda_brokers=(f"{broker.host}:{broker.port}",))
    cluster.produce("notification-dead-letters", b"v", headers=list(dead(0).headers), partition=0)
    assert await asyncio.to_thread(cluster.flush, 10) == 0
    sent: list[str] = []

    async def send_and_wait(producer: AIOKafkaProducer, topic: str, *args: Any, **options: Any) -> None:
        if topic == "notification-dead-letters":
            raise TopicAuthorizationFailedError(topic)
        sent.append(topic)

    monkeypatch.setattr(AIOKafkaProducer, "send_and_wait", send_and_wait)
    run = Redrive(settings, EVERYTHING, say=print, show_progress=print, is_told_to_end=lambda: False)
    with pytest.raises(BrokerUnavailable, match="notification-dead-letters"):
        await run.run(is_dry_run=False)
    assert not sent
