"""Dead letters are put back once what was wrong has been mended; interrupted, it goes on where it was."""

import asyncio
import re
from collections import Counter
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from harness.dead_letters import DeadLetters
from harness.malformed import send_malformed
from harness.oracle import DEAD_LETTER_TOPIC, Event
from harness.producer import Record
from harness.servers import PARTITIONS
from harness.stage import Stage
from harness.waiting import PATIENCE, eventually

from demo.process import Process


class Topic:
    """Looks at a topic from outside, from where it ended when this was made."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        options = {"bootstrap.servers": bootstrap, "group.id": "look", "enable.auto.commit": False, "log_level": 0}
        self._consumer = Consumer(options)
        self._partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        self._began = self.ends()

    def ends(self) -> list[int]:
        return [self._consumer.get_watermark_offsets(partition, timeout=10)[1] for partition in self._partitions]

    @property
    def more(self) -> int:
        """How many records came since."""
        return sum(self.ends()) - sum(self._began)

    def values(self) -> Counter[bytes]:
        """The values of the records that came since."""
        starts = [TopicPartition(p.topic, p.partition, at) for p, at in zip(self._partitions, self._began, strict=True)]
        self._consumer.assign(starts)
        count = self.more
        found: Counter[bytes] = Counter()
        while found.total() < count:
            message = self._consumer.poll(10)
            assert message is not None, f"{found.total()} of {count} records came"
            assert message.error() is None, message.error()
            found[message.value() or b""] += 1
        return found

    def close(self) -> None:
        self._consumer.close()


@pytest.fixture
def risk_events(stage: Stage) -> Iterator[Topic]:
    topic = Topic(stage.bootstrap, "risk-events")
    yield topic
    topic.close()


async def held_up_with_us(stage: Stage) -> dict[str, str]:
    """For a redrive that is to be met half-way: its broker is behind a proxy in this process. Without it a test that
    does not run for a moment finds it at its end: thousands of letters take a quarter of a second."""
    proxy = await stage.kafka_proxy()
    return {"REDPANDA_BROKERS": f"127.0.0.1:{proxy.port}"}


async def ended(redrive: Process, seconds: float = 30.0) -> int:
    return await redrive.wait(seconds * PATIENCE)


async def rejected(stage: Stage, records: list[Record], *, are_older_ours: bool = False) -> None:
    """Have a relay reject `records`, and end it."""
    if not are_older_ours:
        await stage.older_letters_are_not_ours()
    letters = DeadLetters(stage.bootstrap)
    relay = stage.add_relay(f"rejecting-{len(stage.relays)}", env={"MAX_EVENT_BYTES": "500"})
    try:
        await stage.start(relay)
        await stage.producer.send(records)
        await letters.wait_for(len(records))
    finally:
        letters.close()
    assert await relay.terminate() == 0


async def test_a_record_that_was_too_large_reaches_clients_once_when_the_limit_was_raised(stage: Stage) -> None:
    user = stage.users[0]
    value = b'{"user_id":"%s","pad":"%s"}' % (user.encode(), b"x" * 600)
    record = Record("risk-events", value, user.encode(), [("trace", b"7")])
    await rejected(stage, [record])
    relay, gateway = stage.add_relay(), stage.add_gateway()
    await stage.start(relay, gateway)
    await stage.crowd(stage.users, [gateway])

    look = stage.add_redrive("look", "--dry-run").start()
    assert await ended(look) == 0
    assert "risk-events  too_large            1" in look.log()
    redrive = stage.add_redrive("redrive", "--reason", "too_large").start()
    assert await ended(redrive) == 0
    # At the end of the partition that it was in, and nobody else publishes.
    stage.oracle.add(Event("risk-events", record.partition, record.offset + 1, user, value))
    await stage.exact()

    again = stage.add_redrive("again").start()
    assert await ended(again) == 0
    assert "nothing to put back" in again.log()
    await stage.exact()


async def test_killed_again_and_again_it_puts_every_letter_back_and_few_twice(stage: Stage, risk_events: Topic) -> None:
    bad = [Record("risk-events", b"not json %d" % number, b"k%d" % (number % 9)) for number in range(3000)]
    await rejected(stage, bad)
    had = risk_events.more
    assert had == len(bad)
    kills, env = 0, await held_up_with_us(stage)
    for number in range(20):
        redrive = stage.add_redrive(f"redrive-{number}", env=env).start()
        before = risk_events.more
        goal = before + 150 * (number + 1)
        await eventually(lambda redrive=redrive, goal=goal: risk_events.more >= goal or not redrive.is_running, "more")
        if not redrive.is_running:
            break
        await redrive.kill()
        kills += 1
    assert await ended(redrive) == 0
    values = risk_events.values()
    assert set(values) == {record.value for record in bad}
    assert min(values.values()) == 2, "a letter was lost"
    assert kills >= 2
    assert values.total() - 2 * len(bad) <= 100 * kills


async def test_a_filter_leaves_the_other_letters_for_a_later_run(stage: Stage, risk_events: Topic) -> None:
    bad = [Record("risk-events", b"not json %d" % number, b"k") for number in range(5)]
    nobody = [Record("risk-events", b'{"n":%d}' % number, b"k") for number in range(7)]
    await rejected(stage, bad + nobody)
    for number, (options, count) in enumerate(
        [
            (("--reason", "no_user_id"), 7),
            (("--reason", "no_user_id"), 0),
            (("--topic", "alert-events"), 0),
            ((), 5),
            ((), 0),
        ]
    ):
        before = risk_events.more
        redrive = stage.add_redrive(f"redrive-{number}", *options).start()
        assert await ended(redrive) == 0
        assert risk_events.more - before == count, f"{options}\n{redrive.log()}"
    assert set(risk_events.values().values()) == {2}


async def test_what_was_put_back_is_remembered_as_long_as_there_are_letters(stage: Stage, risk_events: Topic) -> None:
    # Brokers forget the commits of a group without members after a week.
    bad = [Record("risk-events", b"not json %d" % number, b"k%d" % (number % 9)) for number in range(30)]
    await rejected(stage, bad)
    redrive = stage.add_redrive("redrive").start()
    assert await ended(redrive) == 0
    assert risk_events.more == 2 * len(bad)
    admin = AdminClient({"bootstrap.servers": stage.bootstrap, "log_level": 0})
    listing = await asyncio.to_thread(admin.list_consumer_groups().result, 10)
    assert not [group.group_id for group in listing.valid if "redrive" in group.group_id]

    letters = Topic(stage.bootstrap, DEAD_LETTER_TOPIC)
    again = stage.add_redrive("again").start()
    assert await ended(again) == 0
    assert again.log().splitlines()[-1] == "nothing to put back"
    assert letters.more == 0, "bookmarks for nothing"
    letters.close()
    assert risk_events.more == 2 * len(bad)


async def test_a_dry_run_writes_nothing(stage: Stage, risk_events: Topic) -> None:
    await rejected(stage, [Record("risk-events", b"not json %d" % number, b"k") for number in range(5)])
    letters = Topic(stage.bootstrap, DEAD_LETTER_TOPIC)
    for number in range(2):
        look = stage.add_redrive(f"look-{number}", "--dry-run").start()
        assert await ended(look) == 0
        assert "risk-events  not_json            5" in look.log()
    assert (letters.more, risk_events.more) == (0, 5)
    letters.close()


async def test_a_record_that_cannot_be_decoded_is_named_and_passed(stage: Stage, risk_events: Topic) -> None:
    before = [Record("risk-events", b"before %d" % number, b"k") for number in range(5)]
    await rejected(stage, before)
    partitions = range(PARTITIONS)
    # aiokafka decodes a batch from its beginning: what is behind such a record in its batch is lost with it.
    at = [await send_malformed(stage.bootstrap, DEAD_LETTER_TOPIC, n, [b"a", b"b"], malformed=0) for n in partitions]
    behind = [Record("risk-events", b"behind %d" % number, b"k") for number in range(5)]
    await rejected(stage, behind, are_older_ours=True)

    redrive = stage.add_redrive("redrive").start()
    assert await ended(redrive) == 3
    for number in partitions:
        for offset in (at[number], at[number] + 1):
            assert f"{DEAD_LETTER_TOPIC}/{number}/{offset} is not a letter that a relay wrote" in redrive.log()
    assert risk_events.values() == Counter([record.value for record in before + behind] * 2)
    again = stage.add_redrive("again").start()
    assert await ended(again) == 0
    assert again.log().splitlines()[-1] == "nothing to put back"


async def test_told_to_end_it_finishes_what_it_has_and_goes_on_next_time(stage: Stage, risk_events: Topic) -> None:
    bad = [Record("risk-events", b"not json %d" % number, b"k%d" % (number % 9)) for number in range(3000)]
    await rejected(stage, bad)
    redrive = stage.add_redrive("redrive", env=await held_up_with_us(stage)).start()
    await eventually(lambda: risk_events.more >= len(bad) + 100, "some put back")
    assert await redrive.terminate() == 143
    assert "run it again" in redrive.log()
    assert risk_events.more < 2 * len(bad)
    assert await ended(stage.add_redrive("again").start()) == 0
    assert set(risk_events.values().values()) == {2}, "an interruption in good order doubles nothing"


async def test_a_letter_larger_than_its_topic_takes_now_is_named_with_its_place(own_broker_stage: Stage) -> None:
    stage = own_broker_stage
    risk_events = Topic(stage.bootstrap, "risk-events")
    large, small = (Record("risk-events", value, b"k", partition=1) for value in (b"x" * 3000, b"not json"))
    await rejected(stage, [large, small])
    admin = AdminClient({"bootstrap.servers": stage.bootstrap, "log_level": 0})
    limit = ConfigEntry("max.message.bytes", "2000", incremental_operation=AlterConfigOpType.SET)
    topic = ConfigResource(ConfigResource.Type.TOPIC, "risk-events", incremental_configs=[limit])
    (altered,) = admin.incremental_alter_configs([topic]).values()
    await asyncio.to_thread(altered.result, 10)

    redrive = stage.add_redrive("redrive").start()
    assert await ended(redrive) == 3
    named = r"notification-dead-letters/\d/\d from risk-events/1/0 \(too_large\) is larger than risk-events takes now"
    assert re.search(f"cannot be put back: {named}", redrive.log())
    assert redrive.log().count("cannot be put back") == 1
    assert risk_events.values() == Counter({large.value: 1, small.value: 2})
    risk_events.close()


async def test_without_a_broker_it_says_so_and_ends(stage: Stage) -> None:
    proxy = await stage.kafka_proxy()
    proxy.refuse()
    redrive = stage.processes.add_module(
        "relay",
        "redrive",
        name="redrive",
        env={"REDPANDA_BROKERS": f"127.0.0.1:{proxy.port}", "REDPANDA_TIMEOUT_SECONDS": "1"},
    ).start()
    assert await ended(redrive) == 1
    assert "does not give a connection" in redrive.log()
