"""A three-node Redis Cluster beside one server: what the relay publishes, and what a replica subscribes.

Two cores cannot show what more nodes bring. They show what a node has to do: with three, each does a third of the
users' streams, and one of them everybody's. The relay or the replica has one core, the nodes and the rest the other.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis

from bench.relay import Load, logged, produce
from bench.results import Effort, Section, Table
from bench.tools import CLIENT_CORE, SERVER_CORE, LoadClient, cpu_seconds, pin, progress
from demo.broker import add_broker, bootstrap
from demo.ports import free_port
from demo.process import Process, Processes
from demo.stack import add_gateway, add_relay
from demo.valkey import add_valkey
from shared.keys import Keys
from shared.topology import SLOTS

NODES = 3
BUCKETS = 64
KEYS = Keys(user_buckets=BUCKETS)
USERS = 10_000
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Store:
    """Redis, in one or more pieces."""

    nodes: Sequence[Process]

    @property
    def url(self) -> str:
        """REDIS_URL."""
        return "redis://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    @property
    def env(self) -> dict[str, str]:
        """What services have to be told of it."""
        cluster = {"REDIS_CLUSTER": "true"} if len(self.nodes) > 1 else {}
        return {"REDIS_USER_BUCKETS": str(BUCKETS), **cluster}

    @property
    def cpu_seconds(self) -> list[float]:
        """Of each node."""
        return [cpu_seconds(node.pid) for node in self.nodes]

    def logged(self) -> int:
        """Events in the logs of all nodes."""
        return sum(map(logged, self.nodes))

    def clear(self) -> None:
        """Forget all keys."""
        for node in self.nodes:
            _ask(node, "FLUSHALL")


def _ask(node: Process, *command: str | int) -> Any:
    with redis.Redis(port=node.port, protocol=2, decode_responses=True) as client:
        return client.execute_command(*command)


async def start_store(processes: Processes, count: int) -> Store:
    """One server, or a cluster of `count` primaries with the slots in equal parts. Raises TimeoutError."""
    nodes, buses = [], []
    for number in range(count):
        options: list[str] = []
        if count > 1:
            buses.append(free_port())
            options = ["--cluster-enabled", "yes", "--cluster-port", str(buses[-1])]
        node = add_valkey(processes, name=f"node-{count}-{number}", options=options)
        nodes.append(await node.start().wait_until_ready())
        pin(node.pid, CLIENT_CORE)
    if count > 1:
        bounds = [SLOTS * number // count for number in range(count + 1)]
        for node, first, end in zip(nodes, bounds, bounds[1:], strict=False):
            _ask(node, "CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        for node, bus in zip(nodes[1:], buses[1:], strict=True):
            _ask(nodes[0], "CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not all(_is_whole(node, count) for node in nodes):
            if time.monotonic() > deadline:
                raise TimeoutError("the nodes of the cluster do not find each other")
            await asyncio.sleep(0.1)
    return Store(nodes)


def _is_whole(node: Process, count: int) -> bool:
    info = _ask(node, "CLUSTER", "INFO")
    state = info if isinstance(info, dict) else dict(line.split(":", 1) for line in info.split())
    return state["cluster_state"] == "ok" and len(_ask(node, "CLUSTER", "SLOTS")) == count


async def _publish(processes: Processes, broker: str, store: Store, events: int) -> list[str]:
    """A row: one relay publishes everything. Raises TimeoutError when not all came."""
    store.clear()
    name = f"relay-{len(store.nodes)}"
    env = {"START_FROM": "earliest", "HISTORY_MESSAGES_GLOBAL": "10000000", "HISTORY_MESSAGES_USER": "1000000"}
    env |= {"REDPANDA_GROUP_ID": name, "LOG_LEVEL": "WARNING", **store.env}
    relay = add_relay(processes, brokers=broker, redis=store.url, name=name, env=env).start()
    pin(relay.pid, SERVER_CORE)
    deadline = time.monotonic() + _PATIENCE_SECONDS

    async def until(count: int) -> int:
        while (now := store.logged()) < count:
            relay.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"only {now} of {events} events came through")
            await asyncio.sleep(0.05)
        return now

    first = await until(1)
    started, used, relay_used = time.monotonic(), store.cpu_seconds, cpu_seconds(relay.pid)
    await until(events)
    took, done = time.monotonic() - started, events - first
    nodes = [1e6 * (after - before) / done for after, before in zip(store.cpu_seconds, used, strict=True)]
    relay_cost = 1e6 * (cpu_seconds(relay.pid) - relay_used) / done
    await relay.terminate()
    return _row("an event, published by one relay", store, f"{done / took:,.0f}", relay_cost, nodes)


async def _subscribe(processes: Processes, store: Store, users: int) -> list[str]:
    """A row: handshakes of one replica, each with a stream of its own."""
    store.clear()
    env = {"MAX_CONNECTIONS": "15000", **store.env}
    replica = add_gateway(processes, redis=store.url, name=f"replica-{len(store.nodes)}", env=env)
    await replica.start().wait_until_ready()
    pin(replica.pid, SERVER_CORE)
    used, replica_used = store.cpu_seconds, cpu_seconds(replica.pid)
    async with LoadClient(replica.port, "/ws?user_id=user-%d", users, 3_600, at_once=256) as clients:
        nodes = [1e6 * (after - before) / users for after, before in zip(store.cpu_seconds, used, strict=True)]
        cost = 1e6 * (cpu_seconds(replica.pid) - replica_used) / users
        rate = f"{clients.connects_per_second:,.0f}"
    await replica.terminate()
    return _row("a new user's handshake, its subscription included", store, rate, cost, nodes)


def _row(what: str, store: Store, rate: str, cost: float, nodes: Sequence[float]) -> list[str]:
    return [what, str(len(store.nodes)), rate, f"{cost:.0f}", ", ".join(f"{one:.1f}" for one in nodes)]


async def measure(effort: Effort) -> Section:
    """One server and three nodes, by turns. Raises TimeoutError when something did not come."""
    events, users = (10_000, 1_000) if effort is Effort.QUICK else (60_000, USERS)
    rows = []
    async with Processes() as processes:
        broker = await add_broker(processes).start().wait_until_ready()
        pin(broker.pid, CLIENT_CORE)
        produce(bootstrap(broker), Load(events, users=USERS))
        for count in (1, NODES):
            store = await start_store(processes, count)
            with progress(f"cluster: {count} nodes, publishing"):
                rows.append(await _publish(processes, bootstrap(broker), store, events))
            with progress(f"cluster: {count} nodes, subscribing"):
                rows.append(await _subscribe(processes, store, users))
            for node in store.nodes:
                await node.terminate()
    rows.sort(key=lambda row: row[0])
    columns = ["", "nodes", "per second", "microseconds of relay or replica", "of each node"]
    return Section(
        "Redis Cluster",
        "python -m bench cluster",
        f"One server beside a cluster of {NODES} primaries, both with {BUCKETS} user buckets; {USERS:,} users, half of "
        f"the events for everyone. The embedded broker, relay or replica on one core, all nodes on the other, so the "
        "rates say what two cores do; the costs of each node say what a node of its own could.",
        (),
        (Table(columns, rows),),
    )
