"""What operators do to topics: one is deleted and made again, partitions are added. Each test has a
broker of its own, and that is Apache Kafka: the mock cluster can do neither."""

import asyncio

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic  # type: ignore[attr-defined]
from harness.servers import PARTITIONS
from harness.stage import Stage
from harness.waiting import eventually

RISK = "risk-events"


def admin_of(stage: Stage) -> AdminClient:
    return AdminClient({"bootstrap.servers": stage.bootstrap, "log_level": 0})


async def delete(stage: Stage, topic: str) -> None:
    admin = admin_of(stage)
    (deletion,) = admin.delete_topics([topic], operation_timeout=30).values()
    await asyncio.to_thread(deletion.result, 30)


async def make(stage: Stage, topic: str) -> None:
    """Make a topic that was deleted, as soon as the broker does it."""
    admin = admin_of(stage)

    async def is_made() -> bool:
        (creation,) = admin.create_topics([NewTopic(topic, PARTITIONS, 1)], operation_timeout=30).values()
        return await asyncio.to_thread(creation.exception, 30) is None

    await eventually(is_made, f"{topic} made again")
    stage.producer.topic_was_made_anew(topic)


async def is_remembered(stage: Stage, topic: str) -> None:
    """Wait until the relay remembers by which record it knows the topic, which it does within a second.
    Brokers forget the commits of a topic that is deleted."""

    def remembered() -> bool:
        published = {f"{event.topic}/{event.partition}" for event in stage.oracle.events if event.topic == topic}
        return published <= stage.redis_control.witnesses(stage.prefix)

    await eventually(remembered, f"a record of {topic} remembered")


@pytest.mark.parametrize("relay_is", ["dead", "alive"])
@pytest.mark.parametrize("filled", ["less", "more"])
async def test_a_topic_made_again_is_read_from_its_beginning(
    own_broker_stage: Stage, relay_is: str, filled: str
) -> None:
    stage = own_broker_stage
    relay, (gateway,) = await stage.start_relay_and_replicas(1)
    await stage.crowd(stage.users, [gateway])
    await stage.producer.publish_mixed(stage.users, 40, [RISK, "alert-events"])
    await stage.everything_arrived()
    await is_remembered(stage, RISK)
    if relay_is == "dead":
        await relay.kill()
    await delete(stage, RISK)
    await make(stage, RISK)
    await stage.producer.publish_mixed(stage.users, 80 if filled == "more" else 4, [RISK])
    await stage.producer.publish_mixed(stage.users, 20, ["alert-events"])
    if relay_is == "dead":
        await relay.restart()
    await stage.exact(seconds=120)
    assert "topic_made_anew" in relay.log()


async def test_while_a_topic_is_missing_the_others_are_read(own_broker_stage: Stage) -> None:
    stage = own_broker_stage
    relay, (gateway,) = await stage.start_relay_and_replicas(1)
    await stage.crowd(stage.users, [gateway])
    await stage.producer.publish_mixed(stage.users, 40)
    await stage.everything_arrived()
    await is_remembered(stage, RISK)
    await delete(stage, RISK)
    await eventually(lambda: relay.log().count("partitions_assigned") > 1, "the relay knows", seconds=60)
    await stage.producer.publish_mixed(stage.users, 40, ["alert-events", "execution-events"])
    await stage.everything_arrived(seconds=60)
    await make(stage, RISK)
    await stage.producer.publish_mixed(stage.users, 40)
    await stage.exact(seconds=120)


async def test_partitions_that_are_added_are_read_from_their_beginning(own_broker_stage: Stage) -> None:
    stage = own_broker_stage
    _, (gateway,) = await stage.start_relay_and_replicas(1)
    await stage.crowd(stage.users, [gateway])
    async with stage.load(stage.users) as load:
        await load.more(100)
        more = [NewPartitions(topic, 2 * PARTITIONS) for topic in (RISK, "alert-events")]
        admin = admin_of(stage)
        for future in admin.create_partitions(more, operation_timeout=30).values():
            await asyncio.to_thread(future.result, 30)
        await stage.producer.partitions_were_added((RISK, "alert-events"), 2 * PARTITIONS)
        await load.more(400)
    await stage.exact(seconds=120)
