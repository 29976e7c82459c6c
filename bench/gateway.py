"""What one replica accepts and holds.

    python -m bench.gateway [connects|tokens|all]

Server on one core; Redis, publisher and load client on the other. Figures are per second of the
server's own CPU time, so that a busy machine changes them little; trust the ratios.
"""

import asyncio
import os
import statistics
import sys
import time

import jwt

from bench.tools import CLIENT_CORE, SERVER_CORE, LoadClient, cpu_seconds, pin, resident_bytes
from demo.process import Process, Processes
from demo.stack import add_gateway
from demo.valkey import add_valkey, redis_url
from shared.keys import Keys
from shared.link import Link, RedisAddress

TOPICS = ("regime-events", "alert-events", "risk-events", "execution-events")
IDLE = 10_000
"""Connections of the memory and handshake measurements."""
ROUNDS = 5
HANDSHAKES = 5_000
"""With and without a token, by turns."""
SECRET = "a secret of a benchmark, 32 bytes or more"


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
    for _ in range(ROUNDS):
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
        finally:
            link.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "all"))
