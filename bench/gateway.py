"""What one replica delivers, accepts and holds, beside a bare C loop of `send` in the same run.

    python -m bench.gateway [fanout|connects|tokens|all]

Server on one core; Redis, publisher and load client on the other. Figures are per second of the
server's own CPU time, so that a busy machine changes them little; trust the ratios.
"""

import asyncio
import os
import statistics
import sys
import time

import jwt

from bench.tools import CLIENT_CORE, SERVER_CORE, LoadClient, build, cpu_seconds, pin, resident_bytes
from demo.ports import free_port
from demo.process import Process, Processes
from demo.stack import add_gateway
from demo.valkey import add_valkey, redis_url
from shared.keys import GLOBAL, Keys
from shared.link import Link, RedisAddress
from shared.message import encode_body

CLIENTS = 1_000
MESSAGE_BYTES = 250
SECONDS = 3.0
BURSTS = (1, 4, 16, 100)
ROUNDS = 3
TOPICS = ("regime-events", "alert-events", "risk-events", "execution-events")
IDLE = 10_000
"""Connections of the memory and handshake measurements."""
HANDSHAKES = 5_000
"""With and without a token, by turns."""
SECRET = "a secret of a benchmark, 32 bytes or more"


class Publisher:
    """Publishes to the global stream as the relay's script does, without a relay."""

    def __init__(self, link: Link, keys: Keys) -> None:
        self._link = link
        self._keys = keys
        self._seq = 0

    async def burst(self, messages: int) -> None:
        """Publish messages in one write, which a replica reads in one turn."""
        commands: list[tuple[bytes | str | int, ...]] = []
        for _ in range(messages):
            self._seq += 1
            data = b'{"ts":%d,"x":"' % time.time_ns()
            # The frame, its four bytes of head apart, is to have MESSAGE_BYTES.
            data += b"x" * (MESSAGE_BYTES - len(data) - len(b'{"type":"regime_change","data":"}}')) + b'"}'
            body = b"bench %d " % self._seq + encode_body("bench/0", self._seq, 0, "regime_change", data)
            commands.append(("SPUBLISH", self._keys.live(GLOBAL), body))
        # Replicas compare what they got with it.
        commands.append(("HSET", self._keys.meta(GLOBAL), "epoch", "bench", "seq", self._seq))
        await self._link.transaction(commands, timeout_seconds=10)


async def c_loop(burst: int) -> float:
    """Deliveries per CPU-second of the bare loop."""
    port = free_port()
    calls = max(100, 1_500 // burst)
    limit = await asyncio.create_subprocess_exec(
        build("limit"), str(port), str(CLIENTS), str(calls), str(burst), stdout=asyncio.subprocess.PIPE
    )
    pin(limit.pid, SERVER_CORE)
    await asyncio.sleep(0.2)
    async with LoadClient(port, "/", CLIENTS, 60):
        assert limit.stdout is not None
        line = await asyncio.wait_for(limit.stdout.readline(), 60)
    await limit.wait()
    return float(line.split()[0])


async def gateway_rate(gateway: Process, publisher: Publisher, burst: int) -> float:
    """Deliveries per CPU-second of a replica, with `burst` messages a turn of its loop."""
    async with LoadClient(gateway.port, "/ws?user_id=user-%d", CLIENTS, SECONDS + 1.5) as clients:
        await publisher.burst(1)
        await asyncio.sleep(0.5)
        used = cpu_seconds(gateway.pid)
        # About half of what one core can do: each burst finds the loop idle.
        every_seconds = CLIENTS * burst / (130_000 if burst == 1 else 400_000)
        start, sent = time.monotonic(), 0
        while time.monotonic() - start < SECONDS:
            await publisher.burst(burst)
            sent += 1
            await asyncio.sleep(max(0.0, start + sent * every_seconds - time.monotonic()))
        await asyncio.sleep(0.4)
        used = cpu_seconds(gateway.pid) - used
        received = await clients.result()
    expected = CLIENTS * (sent * burst + 1)
    if received.messages != expected:
        raise RuntimeError(f"{received.messages} messages received, {expected} expected")
    return CLIENTS * sent * burst / used


async def fanout(gateway: Process, publisher: Publisher) -> None:
    sys.stdout.write(f"fan-out to {CLIENTS} clients, {MESSAGE_BYTES}-byte messages, per CPU-second of the server\n")
    ratios: dict[int, list[float]] = {burst: [] for burst in BURSTS}
    for number in range(ROUNDS):
        # In turn within a round, so that a busy moment of the machine meets both.
        loop = await c_loop(1)
        rates = {burst: await gateway_rate(gateway, publisher, burst) for burst in BURSTS}
        shown = ", ".join(f"{burst}: {rate:,.0f}" for burst, rate in rates.items())
        sys.stdout.write(f"  round {number + 1}: C loop of singles {loop:,.0f}; gateway in bursts of {shown}\n")
        sys.stdout.flush()
        for burst, rate in rates.items():
            ratios[burst].append(rate / loop)
    for burst, found in ratios.items():
        median, least, most = statistics.median(found), min(found), max(found)
        sys.stdout.write(f"  bursts of {burst:3}: {median:5.2f} times the C loop ({least:.2f} to {most:.2f})\n")


async def connects(gateway: Process) -> None:
    """Handshakes with a user of their own each (so a subscription and a meta read), and what each holds."""
    before, used = resident_bytes(gateway.pid), cpu_seconds(gateway.pid)
    async with LoadClient(gateway.port, "/ws?user_id=idle-%d", IDLE, 3600, at_once=256) as clients:
        used = cpu_seconds(gateway.pid) - used
        opened = resident_bytes(gateway.pid)
        sys.stdout.write(
            f"handshakes: {clients.connects_per_second:,.0f}/s, {IDLE / used:,.0f} per CPU-second\n"
            f"memory at {IDLE:,}: {(opened - before) / IDLE:,.0f} bytes each after the handshake, "
        )
        sys.stdout.flush()
        await asyncio.sleep(12)  # PING_INTERVAL_SECONDS=5 below: two rounds
        held = resident_bytes(gateway.pid)
        idle = cpu_seconds(gateway.pid)
        await asyncio.sleep(5)
        idle = cpu_seconds(gateway.pid) - idle
        sys.stdout.write(
            f"{(held - before) / IDLE:,.0f} after two rounds of pings; "
            f"idle CPU {idle / 5:.1%} with a ping each every 5 s\n"
        )


async def tokens(with_none: Process, with_jwt: Process) -> None:
    """What a token of HS256 adds to a handshake of the same user, in CPU time of the replica."""
    now = int(time.time())
    token = jwt.encode({"sub": "ann", "iat": now, "exp": now + 3600}, SECRET, "HS256")
    headers = f"Authorization: Bearer {token}\r\n"
    costs: dict[Process, list[float]] = {with_none: [], with_jwt: []}
    for _ in range(ROUNDS + 2):
        for gateway, found in costs.items():
            used = cpu_seconds(gateway.pid)
            # The header goes to both: to read it is no part of authentication.
            async with LoadClient(gateway.port, "/ws?user_id=ann", HANDSHAKES, 3600, at_once=256, headers=headers):
                found.append((cpu_seconds(gateway.pid) - used) / HANDSHAKES * 1e6)
            await asyncio.sleep(1)  # they leave
    for name, found in (("without a token", costs[with_none]), ("with a token of HS256", costs[with_jwt])):
        sys.stdout.write(
            f"a handshake {name}: {statistics.median(found):.0f} microseconds ({min(found):.0f} to {max(found):.0f})\n"
        )
    added = [jwt_ - none for none, jwt_ in zip(*costs.values(), strict=True)]
    sys.stdout.write(f"a token adds {statistics.median(added):.0f} ({min(added):.0f} to {max(added):.0f})\n")


async def fill_life(link: Link) -> None:
    """Let the buckets know of as many partitions as four topics of four have: a replica reads them."""
    names = [f"n:{topic}/{number}" for topic in TOPICS for number in range(4)]
    for bucket in Keys().buckets:
        fields = [word for name in names for word in (name, 123_456_789)]
        await link.call("HSET", Keys().life(bucket), *fields, timeout_seconds=5)


async def main(what: str) -> None:
    os.sched_setaffinity(0, {CLIENT_CORE})
    async with Processes() as processes:
        valkey = await add_valkey(processes).start().wait_until_ready()
        env = {"MAX_CONNECTIONS": "15000", "PING_INTERVAL_SECONDS": "5", "PING_TIMEOUT_SECONDS": "4"}
        gateway = await add_gateway(processes, redis=redis_url(valkey), env=env).start().wait_until_ready()
        pin(gateway.pid, SERVER_CORE)
        link = await Link.connect(RedisAddress.from_url(redis_url(valkey)), name="bench", timeout_seconds=5)
        try:
            if what in ("tokens", "all"):
                both = [
                    add_gateway(
                        processes,
                        redis=redis_url(valkey),
                        name=mode,
                        env={**env, "MAX_CONNECTIONS_PER_USER": "0", "AUTH_MODE": mode, **more},
                    )
                    for mode, more in (("none", {}), ("jwt", {"JWT_SECRET": SECRET}))
                ]
                for one in both:
                    await one.start().wait_until_ready()
                    pin(one.pid, SERVER_CORE)
                await tokens(*both)
            await fill_life(link)
            if what in ("connects", "all"):
                await connects(gateway)
            if what in ("fanout", "all"):
                await fanout(gateway, Publisher(link, Keys()))
        finally:
            link.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "all"))
