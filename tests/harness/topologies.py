"""Redis run in more than one piece: a cluster, and a primary that a Sentinel watches over.

Both have what a stage needs to know: `url` and `env` for the services, `logs` for the oracle.
"""

import logging
import time
from collections.abc import Sequence
from typing import Any

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from demo.ports import free_port
from demo.process import Process, Processes
from demo.valkey import add_valkey, answers_ping
from harness.servers import Kind, binary_of, logs_on, presence_on
from harness.waiting import eventually
from shared.keys import Keys
from shared.topology import SLOTS, slot_of

log = logging.getLogger(__name__)

_CALL_SECONDS = 10.0
_FAIL_OVER_SECONDS = 6.0
BUCKETS = 8


def ask(server: Process, *command: str | int) -> Any:
    """One command, its reply as the server gave it (redis-py would rearrange some)."""
    with Redis(port=server.port, socket_timeout=_CALL_SECONDS, decode_responses=True, protocol=2) as redis:
        redis.response_callbacks.clear()
        return redis.execute_command(*command)


def role_of(server: Process) -> str | None:
    """`master` or `slave`; None when it does not answer."""
    try:
        return str(ask(server, "ROLE")[0])
    except RedisError:
        return None


def is_synced(replica: Process) -> bool:
    """Whether a replica has all that its primary had when it was asked to follow."""
    try:
        role = ask(replica, "ROLE")
    except RedisError:
        return False
    return bool(role[0] == "slave" and role[3] == "connected")


async def stop_following(replica: Process, primary: Process) -> None:
    """Have a replica miss what its primary gets from now on. It may be promoted as it is then."""
    ask(replica, "CONFIG", "SET", "masteruser", "nobody", "masterauth", "wrong")
    ask(primary, "CLIENT", "KILL", "TYPE", "replica")
    await eventually(lambda: not is_synced(replica), "the replica to be cut off")


class RedisCluster:
    """Three primaries, and a replica of the one that holds the global bucket."""

    def __init__(self, nodes: Sequence[Process]) -> None:
        self.nodes = list(nodes)

    @classmethod
    async def start(cls, processes: Processes, kind: Kind) -> "RedisCluster":
        options = [
            *("--cluster-enabled", "yes", "--cluster-node-timeout", "5000", "--repl-diskless-sync-delay", "0"),
            *("--cluster-config-file", "nodes.conf"),
        ]
        bus, nodes = [], []
        for number in range(4):
            bus.append(free_port())  # taken by its node before the next one is looked for
            own = ["--cluster-port", str(bus[-1])]
            node = add_valkey(processes, name=f"node-{number}", binary=binary_of(kind), options=[*options, *own])
            nodes.append(await node.start().wait_until_ready())
        self = cls(nodes)
        bounds = [SLOTS * number // 3 for number in range(4)]
        for node, first, end in zip(nodes[:3], bounds, bounds[1:], strict=False):
            ask(node, "CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        for node, port in zip(nodes[1:], bus[1:], strict=True):
            ask(nodes[0], "CLUSTER", "MEET", "127.0.0.1", node.port, port)
        await eventually(lambda: all(map(self._knows_all, nodes)), "all nodes to know each other", seconds=60)
        owner = nodes[slot_of("{g}") * 3 // SLOTS]
        ask(nodes[3], "CLUSTER", "REPLICATE", self.id_of(owner))
        await eventually(self.is_whole, "the cluster to be whole", seconds=60)
        return self

    @property
    def url(self) -> str:
        return "redis://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:2])

    env = {"REDIS_CLUSTER": "true", "REDIS_USER_BUCKETS": str(BUCKETS)}  # noqa: RUF012 - never changed

    def users(self, name: str, count: int = 4) -> list[str]:
        """Users whose buckets are on all nodes, as the slots are dealt at first."""
        keys = Keys(user_buckets=BUCKETS)
        users: list[str] = []
        homes: set[int] = set()
        for number in range(1000):
            user = f"{name}-{number}"
            home = slot_of(keys.life(keys.user_stream(user).bucket)) * 3 // SLOTS
            if home not in homes or len(homes) == 3:
                homes.add(home)
                users.append(user)
            if len(users) >= count:
                break
        return users

    def _knows_all(self, node: Process) -> bool:
        lines = ask(node, "CLUSTER", "NODES").splitlines()
        return len(lines) == len(self.nodes) and not any("handshake" in line for line in lines)

    def id_of(self, node: Process) -> str:
        return str(ask(node, "CLUSTER", "MYID"))

    def is_whole(self) -> bool:
        """Every node knows that all slots are served, and the replicas follow."""
        try:
            states = [ask(node, "CLUSTER", "INFO") for node in self.nodes]
        except RedisError:
            return False
        return all("cluster_state:ok" in state for state in states) and all(
            role_of(node) == "master" or is_synced(node) for node in self.nodes
        )

    def primary_of(self, key: str) -> Process:
        """The node that serves a key, as the first that answers knows it."""
        slot = slot_of(key)
        for node in self.nodes:
            try:
                slots = ask(node, "CLUSTER", "SLOTS")
            except RedisError:
                continue
            for first, last, primary, *_ in slots:
                if first <= slot <= last:
                    return next(node for node in self.nodes if node.port == primary[1])
        raise AssertionError(f"no node answers, or none serves slot {slot}")

    @property
    def replica(self) -> Process:
        """The node that follows another."""
        return next(node for node in self.nodes if role_of(node) == "slave")

    def presence(self, prefix: str, user: str) -> dict[str, int]:
        """Like RedisControl.presence."""
        keys = Keys(prefix, BUCKETS)
        return presence_on(self.primary_of(keys.life(keys.user_stream(user).bucket)), keys, user)

    async def fail_over(self) -> None:
        """The replica takes its primary's place, which agrees and follows it."""
        replica, asked_at = self.replica, 0.0

        def takes_over() -> bool:
            nonlocal asked_at
            # Asked again: a failover that takes more than 5 s is given up without a word.
            if time.monotonic() - asked_at > _FAIL_OVER_SECONDS:
                asked_at = time.monotonic()
                ask(replica, "CLUSTER", "FAILOVER")
            return role_of(replica) == "master"

        await eventually(takes_over, "the replica to be promoted", seconds=60)
        await eventually(self.is_whole, "the cluster to be whole", seconds=60)

    async def migrate(self, key: str, then: Any = None) -> None:
        """Move the slot of `key`, with all its keys, to another primary, as redis-cli does.

        `then` is awaited half-way, while keys are on both sides.
        """
        slot, source = slot_of(key), self.primary_of(key)
        target = next(node for node in self.nodes if node is not source and role_of(node) == "master")
        ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(target))
        while keys := ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 1):
            ask(source, "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
            if then is not None:
                await then()
                then = None
        for node in (target, source, *self.nodes):
            if role_of(node) == "master":
                ask(node, "CLUSTER", "SETSLOT", slot, "NODE", self.id_of(target))

    def moves_slots_at_once(self) -> bool:
        """Whether the server can move a slot with all its keys in one step (Valkey 9)."""
        return bool(ask(self.nodes[0], "COMMAND", "INFO", "CLUSTER|MIGRATESLOTS")[0])

    async def migrate_at_once(self, key: str) -> None:
        """Like `migrate`, in one step for whoever looks."""
        slot, source = slot_of(key), self.primary_of(key)
        target = next(node for node in self.nodes if node is not source and role_of(node) == "master")
        ask(source, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", self.id_of(target))
        await eventually(lambda: self.primary_of(key) is target, "the slot to move", seconds=60)

    def logs(self, prefix: str) -> dict[str, list[tuple[int, str, int]]]:
        """Like RedisControl.logs, of all primaries."""
        logs: dict[str, list[tuple[int, str, int]]] = {}
        for node in self.nodes:
            if role_of(node) == "master":
                logs |= logs_on(node, prefix)
        return logs


class WatchedRedis:
    """A primary, a replica of it, and a Sentinel. A second Sentinel that is named never answers."""

    env = {"REDIS_CLUSTER": "false"}  # noqa: RUF012 - never changed

    def __init__(self, servers: Sequence[Process], sentinel: Process) -> None:
        self.servers = list(servers)
        self.sentinel = sentinel
        self.url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/scenario/0"

    @classmethod
    async def start(cls, processes: Processes, kind: Kind) -> "WatchedRedis":
        binary = binary_of(kind)
        options = ["--repl-diskless-sync-delay", "0"]
        first = add_valkey(processes, name="server-0", binary=binary, options=options)
        await first.start().wait_until_ready()
        following = [*options, "--replicaof", f"127.0.0.1 {first.port}"]
        second = add_valkey(processes, name="server-1", binary=binary, options=following)
        await second.start().wait_until_ready()
        await eventually(lambda: is_synced(second), "the replica to follow", seconds=60)
        port = free_port()
        sentinel = processes.add(
            "sentinel",
            [first.command[0], str(processes.folder / "sentinel.conf"), "--sentinel"],
            ports={"sentinel": port},
            ready=lambda: answers_ping(port),
        )
        (processes.folder / "sentinel.conf").write_text(
            f"port {port}\nbind 127.0.0.1\ndir {processes.folder}\n"
            f"sentinel monitor scenario 127.0.0.1 {first.port} 1\n"
            "sentinel down-after-milliseconds scenario 5000\nsentinel failover-timeout scenario 5000\n"
        )
        await sentinel.start().wait_until_ready()
        self = cls([first, second], sentinel)
        await self.knows_replicas()
        return self

    async def knows_replicas(self) -> None:
        """Wait until the Sentinel sees a replica that could be promoted."""

        def known() -> bool:
            replicas = ask(self.sentinel, "SENTINEL", "REPLICAS", "scenario")
            fields = [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in replicas]
            return any(one["flags"] == "slave" and one["master-link-status"] == "ok" for one in fields)

        await eventually(known, "the Sentinel to know a replica", seconds=60)

    @property
    def primary(self) -> Process:
        """The server that the Sentinel names."""
        _, port = ask(self.sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "scenario")
        return next(server for server in self.servers if server.port == int(port))

    async def is_replaced(self, before: Process) -> None:
        """Wait until the Sentinel has promoted another one than `before`."""
        await eventually(
            lambda: self.primary is not before and role_of(self.primary) == "master",
            "another server to be promoted",
            seconds=60,
        )

    async def fail_over(self) -> None:
        """The replica takes the primary's place; the primary follows it."""
        before = self.primary
        await self.knows_replicas()

        def is_begun() -> bool:
            if self.primary is not before:  # it had begun by itself
                return True
            try:
                ask(self.sentinel, "SENTINEL", "FAILOVER", "scenario")
            except ResponseError as error:  # one is under way, or the replica did not answer lately
                log.info("not yet: %s", error)
                return False
            return True

        await eventually(is_begun, "the Sentinel to begin", poll_seconds=0.5)
        await self.is_replaced(before)
        await eventually(lambda: is_synced(before), "the former primary to follow", seconds=60)

    def logs(self, prefix: str) -> dict[str, list[tuple[int, str, int]]]:
        """Like RedisControl.logs, of the primary."""
        return logs_on(self.primary, prefix)
