"""A real Apache Kafka: one node in KRaft mode, for tests and measurements. scripts/ci/get-kafka fetches its jars."""

import asyncio
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from demo.ports import free_port
from demo.process import ROOT, Process, Processes
from relay.routes import DEAD_LETTER_TOPIC
from shared.message import TYPE_OF_TOPIC

KAFKA_LIBS = ROOT / ".cache" / "kafka" / "libs"
_START_SECONDS = 60.0
_TOPICS_SECONDS = 90.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class KafkaOptions:
    """What a test's Apache Kafka has beside what all have: more listeners, by name, with the ports that they listen
    on; more lines of server.properties; more words for the formatting of its folder."""

    listeners: Mapping[str, int] = field(default_factory=dict)
    properties: str = ""
    format_arguments: Sequence[str] = ()


def kafka_brokers(kafka: Process) -> str:
    """Its address for REDPANDA_BROKERS."""
    return f"127.0.0.1:{kafka.port}"


async def start_kafka(processes: Processes, *, partitions: int, options: KafkaOptions | None = None) -> Process:
    """A running Apache Kafka with the project's topics, after about 5 s. Its folder is `kafka` in that of
    `processes`. Raises RuntimeError where its jars are missing."""
    options = options or KafkaOptions()
    if not any(KAFKA_LIBS.glob("kafka_2.13-*.jar")):
        raise RuntimeError("Apache Kafka is not there: run scripts/ci/get-kafka")
    kafka, formatting = _add(processes, options)
    code = await formatting.start().wait(_START_SECONDS)
    if code != 0:
        raise RuntimeError(f"the folder of Apache Kafka was not formatted:\n{formatting.log()}")
    await kafka.start().wait_until_ready(_START_SECONDS)
    await make_topics(kafka, partitions)
    return kafka


async def make_topics(kafka: Process, partitions: int) -> None:
    """The project's topics, empty: those that were there before are deleted."""
    names = (*TYPE_OF_TOPIC, DEAD_LETTER_TOPIC)
    await asyncio.to_thread(_make_topics, kafka_brokers(kafka), names, partitions)


def _make_topics(brokers: str, names: Sequence[str], partitions: int) -> None:
    admin = AdminClient({"bootstrap.servers": brokers, "log_level": 0})
    if old := [name for name in names if name in admin.list_topics(timeout=30).topics]:
        for future in admin.delete_topics(old, operation_timeout=30).values():
            future.result(30)
    new = [NewTopic(name, partitions, 1) for name in names]
    for future in admin.create_topics(new, operation_timeout=30).values():
        future.result(30)
    deadline = time.monotonic() + _TOPICS_SECONDS
    while not _are_led(brokers, names, partitions):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no leader of every partition that knows of it after {_TOPICS_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)


def _are_led(brokers: str, names: Sequence[str], partitions: int) -> bool:
    """For a moment after a topic was made its leader answers that it is not."""
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "look", "log_level": 0})
    try:
        return all(
            consumer.get_watermark_offsets(TopicPartition(name, number), timeout=5) == (0, 0)
            for name in names
            for number in range(partitions)
        )
    except KafkaException:
        return False
    finally:
        consumer.close()


def _add(processes: Processes, options: KafkaOptions) -> tuple[Process, Process]:
    """The broker, and what formats its folder before its first start."""
    port, controller_port = free_port(), free_port()
    folder = processes.folder / "kafka"
    folder.mkdir(exist_ok=True)
    ports = {"PLAINTEXT": port, **options.listeners}
    listeners = ",".join(f"{name}://127.0.0.1:{number}" for name, number in ports.items())
    properties = folder / "server.properties"
    properties.write_text(
        f"""
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners={listeners},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners={listeners}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
{options.properties}
log.dirs={folder}/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
"""
    )
    java = ["java", "-Xms64m", "-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{KAFKA_LIBS}/*"]

    async def ready() -> bool:
        with socket.socket() as caller:
            return caller.connect_ex(("127.0.0.1", port)) == 0

    kafka = processes.add(
        "kafka",
        [*java, "kafka.Kafka", str(properties)],
        ports={name.lower(): number for name, number in ports.items()},
        ready=ready,
    )
    words = ["kafka.tools.StorageTool", "format", "-t", "bm90aWZpY2F0aW9uLWdhdA", "-c", str(properties)]
    return kafka, processes.add("kafka-format", [*java, *words, *options.format_arguments])
