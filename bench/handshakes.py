"""What one replica accepts and holds: handshakes, memory and idle CPU of its connections, beside its peers.

Each client of the gateway has a user id of its own, so a handshake includes a subscription in Redis and a read of
where the stream stands. The server has one core; Redis and the load client in C the other.
"""

import asyncio
import contextlib
import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jwt

from bench.fanout import servers
from bench.results import Effort, Goal, Plot, Section, Table
from bench.tools import SERVER_CORE, LoadClient, cpu_seconds, pin, progress, resident_bytes
from demo.process import Process, Processes
from demo.stack import add_gateway
from demo.valkey import add_valkey, redis_url
from shared.keys import Keys
from shared.link import Link, RedisAddress

SECRET = "a secret of a benchmark, 32 bytes or more"
TOPICS = ("regime-events", "alert-events", "risk-events", "execution-events")
PING_SECONDS = 5
"""Of the gateway here, so that two rounds of pings are over soon; 25 by default."""
IDLE_SECONDS = 5.0
FILES_APART = 1_000
"""Open files of a replica that are no clients, and some to spare."""
V1 = "Sec-WebSocket-Protocol: notify.v1\r\n"


@dataclass(frozen=True)
class Kind:
    """A kind of client."""

    name: str
    headers: str = ""
    has_token: bool = False
    user: str = "idle-%d"


KINDS = (Kind("plain"), Kind("plain, with a token of HS256", has_token=True, user="ann"), Kind("notify.v1", V1))


@dataclass(frozen=True)
class Held:
    """So many connections of one server."""

    clients: int
    opened_per_second: float
    opened_per_cpu_second: float
    bytes_each: float
    idle_share: float | None = None
    """Of a core, while nothing happens but pings; None when that was not measured."""


def token(user: str = "ann") -> str:
    now = int(time.time())
    return jwt.encode({"sub": user, "iat": now, "exp": now + 3_600}, SECRET, "HS256")


def files_allowed(wanted: int) -> int:
    """Raise the limit of open files for what is started from now on; gives what it is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in (max(wanted, hard), hard):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def gateway(
    processes: Processes,
    redis: str,
    *,
    clients: int = 15_000,
    with_jwt: bool = False,
    name: str = "gateway",
    ping_seconds: int = PING_SECONDS,
) -> Process:
    """A replica for so many clients, not started yet."""
    env = {"MAX_CONNECTIONS": str(clients), "MAX_CONNECTIONS_PER_USER": "0"}
    env |= {"PING_INTERVAL_SECONDS": str(ping_seconds), "PING_TIMEOUT_SECONDS": str(ping_seconds - 1)}
    env |= {"AUTH_MODE": "jwt", "JWT_SECRET": SECRET} if with_jwt else {"AUTH_MODE": "none"}
    return add_gateway(processes, redis=redis, name=name, env=env)


async def fill_life(redis: str) -> None:
    """Let the buckets know of as many partitions as four topics of four have: a replica reads them."""
    link = await Link.connect(RedisAddress.from_url(redis), name="bench", timeout_seconds=5)
    names = [f"n:{topic}/{number}" for topic in TOPICS for number in range(4)]
    for bucket in Keys().buckets:
        fields = [word for name in names for word in (name, 123_456_789)]
        await link.call("HSET", Keys().life(bucket), *fields, timeout_seconds=5)
    link.close()


async def hold(
    server: Process, path: str, clients: int, *, headers: str = "", hello: str = "", has_pings: bool = True
) -> Held:
    """Open so many connections at once and look at what they cost; with pings after two rounds of them."""
    pid = server.pid
    before, used = resident_bytes(pid), cpu_seconds(pid)
    async with LoadClient(server.port, path, clients, 3_600, at_once=256, headers=headers, hello=hello) as load:
        used = max(0.01, cpu_seconds(pid) - used)
        idle_share = None
        await asyncio.sleep(2 * PING_SECONDS + 2 if has_pings else 2)
        if has_pings:
            idle = cpu_seconds(pid)
            await asyncio.sleep(IDLE_SECONDS)
            idle_share = (cpu_seconds(pid) - idle) / IDLE_SECONDS
        held = (resident_bytes(pid) - before) / clients
        return Held(clients, load.connects_per_second, clients / used, held, idle_share)


async def _of_kind(kind: Kind, clients: int) -> Held:
    """In a process of its own: memory that was used once is not given back."""
    async with Processes() as processes:
        valkey = await add_valkey(processes).start().wait_until_ready()
        await fill_life(redis_url(valkey))
        server = gateway(processes, redis_url(valkey), clients=clients + 100, with_jwt=kind.has_token)
        await server.start().wait_until_ready()
        pin(server.pid, SERVER_CORE)
        headers = kind.headers + (f"Authorization: Bearer {token()}\r\n" if kind.has_token else "")
        return await hold(server, f"/ws?user_id={kind.user}", clients, headers=headers)


async def _peers(clients: int, only: Sequence[str] = ()) -> dict[str, Held]:
    found = {}
    async with Processes() as processes:
        valkey = await add_valkey(processes).start().wait_until_ready()
        for server in list(servers(processes, redis_url(valkey)))[1:]:
            if only and server.name not in only:
                continue
            with progress(f"handshakes, {server.name}"):
                process = await server.process.start().wait_until_ready()
                pin(process.pid, SERVER_CORE)
                found[server.name] = await hold(process, server.path, clients, hello=server.hello, has_pings=False)
                await process.terminate()
    return found


async def added_by_a_token(rounds: int, handshakes: int) -> list[float]:
    """Microseconds that a token of HS256 adds to a handshake of the same user: CPU time of the replica, in rounds
    of both by turns."""
    async with Processes() as processes:
        valkey = await add_valkey(processes).start().wait_until_ready()
        await fill_life(redis_url(valkey))
        both = [gateway(processes, redis_url(valkey), with_jwt=one, name=f"jwt-{one}") for one in (False, True)]
        for one in both:
            await one.start().wait_until_ready()
            pin(one.pid, SERVER_CORE)
        headers = f"Authorization: Bearer {token()}\r\n"  # to both: to read it is no part of authentication
        added = []
        for number in range(rounds):
            costs = []
            with progress(f"handshakes with and without a token, round {number + 1} of {rounds}"):
                for one in both:
                    used = cpu_seconds(one.pid)
                    path = "/ws?user_id=ann"
                    async with LoadClient(one.port, path, handshakes, 3_600, at_once=256, headers=headers):
                        costs.append((cpu_seconds(one.pid) - used) / handshakes * 1e6)
                    await asyncio.sleep(1)  # they leave
            added.append(costs[1] - costs[0])
    return added


def _row(name: str, held: Held) -> list[str]:
    idle = "" if held.idle_share is None else f"{held.idle_share:.1%}"
    per_second = f"{held.opened_per_second:,.0f}"
    return [
        name,
        f"{held.clients:,}",
        per_second,
        f"{held.opened_per_cpu_second:,.0f}",
        f"{held.bytes_each:,.0f}",
        idle,
    ]


def _goals(own: Sequence[tuple[Kind, Held]], peers: dict[str, Held], added: Sequence[float]) -> Iterator[Goal]:
    for kind, held in own:
        if held.clients == 10_000:
            yield Goal(f"handshakes per CPU-second, {kind.name}", held.opened_per_cpu_second, 10_000)
            yield Goal(f"bytes of each of 10,000 connections, {kind.name}", held.bytes_each, 5_000, is_limit=True)
    best = max(held.opened_per_cpu_second for kind, held in own if kind is KINDS[0])
    most = max(held.bytes_each for kind, held in own if kind is KINDS[0])
    for name, held in peers.items():
        yield Goal(f"handshakes, times {name}", best / held.opened_per_cpu_second, 1.0, floor=0.4)
        yield Goal(f"memory of a connection, times {name}", most / held.bytes_each, 1.0, is_limit=True, floor=1.5)
    if added:
        spread = (min(added), max(added))
        what = "microseconds that a token of HS256 adds to a handshake"
        yield Goal(what, statistics.median(added), 60, is_limit=True, spread=spread)


async def measure(effort: Effort) -> Section:
    """Every kind of client in crowds as large as the effort allows."""
    crowds, kinds, only = {
        Effort.QUICK: ((3_000,), KINDS[:1], ("ws (Node)",)),
        Effort.STANDARD: ((1_000, 10_000), KINDS, ()),
        Effort.FULL: ((1_000, 10_000, 50_000, 100_000), KINDS, ()),
    }[effort]
    allowed = files_allowed(crowds[-1] + FILES_APART) - FILES_APART
    crowds = tuple(dict.fromkeys(min(clients, allowed) for clients in crowds))
    own = []
    for kind in kinds:
        for clients in crowds:
            with progress(f"handshakes, {clients:,} clients, {kind.name}"):
                own.append((kind, await _of_kind(kind, clients)))
    peers = await _peers(min(10_000, crowds[-1]), only)
    added = [] if effort is Effort.QUICK else await added_by_a_token(3 if effort is Effort.STANDARD else 9, 5_000)
    columns = ["server", "clients", "handshakes/s", "per CPU-second", "bytes each", "idle, of a core"]
    rows = [_row(f"gateway, {kind.name}", held) for kind, held in own]
    rows += [_row(name, held) for name, held in peers.items()]
    lines = {kind.name: [(one.clients, one.bytes_each) for other, one in own if other is kind] for kind in kinds}
    plot = Plot("memory", "Memory of a connection", "clients", "bytes each", lines, is_logarithmic=True)
    return Section(
        "Handshakes, memory and idle connections",
        "python -m bench handshakes",
        "All connections are opened at once, 256 handshakes under way at a time. A plain or notify.v1 client of the "
        "gateway is a user of its own: the handshake subscribes its stream in Valkey and reads where it stands (those "
        "with a token are all one user). Peers subscribe nothing. Memory is what the process grew by, for the gateway "
        f"after two rounds of pings (one every {PING_SECONDS} s here instead of 25, the idle CPU with them). With few "
        "clients it holds what is not theirs, too: pools and buffers.",
        tuple(_goals(own, peers, added)),
        (Table(columns, rows),),
        (plot,) if len(crowds) > 1 else (),
    )
