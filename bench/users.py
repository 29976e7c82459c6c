"""Events for one user each, to very many users on one replica; and what it costs to subscribe their streams and to
drop them again.

The server has one core; Valkey, publisher and the load client in C the other.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from bench.fanout import message, servers
from bench.handshakes import fill_life, gateway
from bench.results import Effort, Goal, Section, Table
from bench.tools import SERVER_CORE, LoadClient, cpu_seconds, pin, progress
from demo.process import Process, Processes
from demo.valkey import add_valkey, redis_url
from gateway.hub import LINGER_SECONDS
from shared.keys import Keys
from shared.link import Command, Link, RedisAddress
from shared.message import encode_body

EVENTS_PER_SECOND = 8_000
A_BATCH = 80
MESSAGE_BYTES = 250
PEER = "ws (Node)"
USUAL_PING_SECONDS = 25
"""By default. The peer sends none at all."""

Publish = Callable[[int, bytes], Sequence[Command]]
"""The Redis commands that have a text delivered to the user of this number."""


@dataclass(frozen=True)
class Cost:
    """CPU time for one thing, microseconds."""

    server: float
    valkey: float


class _Streams:
    """The users' streams, as the relay's script publishes to them."""

    def __init__(self) -> None:
        self._keys = Keys()
        self._seqs: dict[int, int] = {}

    def publish(self, user: int, text: bytes) -> Sequence[Command]:
        seq = self._seqs[user] = self._seqs.get(user, 0) + 1
        stream = self._keys.user_stream(f"user-{user}")
        body = b"bench %d " % seq + encode_body("bench/0", seq, 0, "risk_alert", text)
        return (
            ("SPUBLISH", self._keys.live(stream), body),
            # Replicas compare what they got with it.
            ("HSET", self._keys.meta(stream), "epoch", "bench", "seq", seq),
        )


def _publish_plain(user: int, text: bytes) -> Sequence[Command]:
    return (("PUBLISH", f"user:user-{user}", b'{"type":"risk_alert","data":%s}' % text),)


async def _deliver(
    server: Process, valkey: Process, link: Link, publish: Publish, users: int, seconds: float
) -> tuple[float, Cost]:
    """Events per CPU-second of the server, and the cost of each. Raises RuntimeError when not all came."""
    chance = random.Random(users)

    async def send(numbers: Sequence[int]) -> None:
        commands = [command for number in numbers for command in publish(number, message(MESSAGE_BYTES))]
        await link.pipeline(commands, timeout_seconds=10)

    path = "/ws?user_id=user-%d"
    async with LoadClient(server.port, path, users, seconds + 60, at_once=256) as clients:
        for first in range(0, users, A_BATCH):  # each has its first one, which begins its stream
            await send(range(first, min(first + A_BATCH, users)))
        await asyncio.sleep(2)
        used = cpu_seconds(server.pid), cpu_seconds(valkey.pid)
        start, sent = time.monotonic(), 0
        while time.monotonic() - start < seconds:
            await send([chance.randrange(users) for _ in range(A_BATCH)])
            sent += A_BATCH
            await asyncio.sleep(max(0.0, start + sent / EVENTS_PER_SECOND - time.monotonic()))
        await asyncio.sleep(1)
        spent = [cpu_seconds(one.pid) - before for one, before in zip((server, valkey), used, strict=True)]
        received = await clients.stop()
    if received.messages != users + sent:
        raise RuntimeError(f"{server.name}: {received.messages} messages received, {users + sent} expected")
    return sent / spent[0], Cost(*(1e6 * one / sent for one in spent))


async def _subscribe(server: Process, valkey: Process, users: int) -> tuple[Cost, Cost, float]:
    """What a handshake costs more when its stream has to be subscribed, and to drop a stream; and Valkey's bytes for
    each that is subscribed, with what it knows of who is connected."""

    def used() -> tuple[float, float]:
        return cpu_seconds(server.pid), cpu_seconds(valkey.pid)

    costs, held = [], 0.0
    for path in ("/ws?user_id=ann", "/ws?user_id=new-%d"):
        before, empty = used(), await _used_bytes(valkey)
        async with LoadClient(server.port, path, users, 3_600, at_once=256):
            costs.append([after - then for after, then in zip(used(), before, strict=True)])
            await asyncio.sleep(1)  # presence is told in a while
            held = (await _used_bytes(valkey) - empty) / users
        await asyncio.sleep(2)  # they leave
    before = used()
    await asyncio.sleep(LINGER_SECONDS + 3)
    dropped = [1e6 * (after - then) / users for after, then in zip(used(), before, strict=True)]
    added = [1e6 * (new - known) / users for known, new in zip(*costs, strict=True)]
    return Cost(*added), Cost(*dropped), held


async def _used_bytes(valkey: Process) -> int:
    async with Redis(port=valkey.port) as client:
        return int((await client.info("memory"))["used_memory"])


async def measure(effort: Effort) -> Section:
    """The gateway beside Node's `ws`, which subscribes a channel for each user. Raises RuntimeError when events
    were lost."""
    users = 1_000 if effort is Effort.QUICK else 10_000
    seconds = {Effort.QUICK: 2.0, Effort.STANDARD: 5.0, Effort.FULL: 20.0}[effort]
    async with Processes() as processes:
        valkey = await add_valkey(processes).start().wait_until_ready()
        url = redis_url(valkey)
        await fill_life(url)
        link = await Link.connect(RedisAddress.from_url(url), name="bench", timeout_seconds=5)
        own = gateway(processes, url, name="replica", ping_seconds=USUAL_PING_SECONDS)
        peer = next(one for one in servers(processes, url) if one.name == PEER).process
        rates, each, text = [], [], ""
        for server, publish in ((own, _Streams().publish), (peer, _publish_plain)):
            await server.start().wait_until_ready()
            pin(server.pid, SERVER_CORE)
            with progress(f"events of {users:,} users, {server.name}"):
                rate, cost = await _deliver(server, valkey, link, publish, users, seconds)
            rates.append(rate)
            each.append(cost)
        await peer.terminate()
        rows = [
            ["an event of one user", f"{each[0].server:.0f}", f"{each[0].valkey:.0f}", f"{rates[0]:,.0f}"],
            [f"the same, {PEER}", f"{each[1].server:.0f}", f"{each[1].valkey:.0f}", f"{rates[1]:,.0f}"],
        ]
        if effort is not Effort.QUICK:
            with progress(f"streams of {users:,} users"):
                added, dropped, held = await _subscribe(own, valkey, users)
            text += f" A user who is connected takes {held:,.0f} bytes of Valkey, its subscription included."
            for what, cost in (("to subscribe a stream, beside its handshake", added), ("to drop a stream", dropped)):
                rows.append([what, f"{cost.server:.0f}", f"{cost.valkey:.0f}", f"{1e6 / max(1, cost.server):,.0f}"])
        link.close()
    return Section(
        "Many users",
        "python -m bench users",
        f"{users:,} users on one replica, each with a connection; {EVENTS_PER_SECOND:,} events a second, each for one "
        f"user by chance, published {A_BATCH} at a time with what the relay writes beside them. {PEER} subscribes a "
        "channel for each user and compares nothing. A stream costs what a handshake of a new user takes more than "
        f"one of a user that is there; it is dropped {LINGER_SECONDS} s after its last client has left.{text}",
        (Goal(f"events of one user each, times {PEER}", rates[0] / rates[1], 1.0, floor=0.3),),
        (Table(["", "microseconds of the server", "of Valkey", "per CPU-second of the server"], rows),),
    )
