"""Deliveries for each second of a server's own CPU time: a gateway replica beside its peers and beside a bare C
loop of `send`, in the same run.

The server has one core; Redis, publisher and a load client in C the other. A ratio to the C loop, which sends one
frame after the other and does nothing else, says more than a rate: machines are shared. Each server has its
messages from Redis, by the library that its users would take.
"""

import asyncio
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from bench.results import Effort, Goal, Plot, Section, Table
from bench.tools import SERVER_CORE, LoadClient, build, cpu_seconds, pin, progress
from demo.ports import free_port
from demo.process import ROOT, Process, Processes
from demo.stack import add_gateway
from demo.valkey import add_valkey, redis_url
from shared.keys import GLOBAL, Keys
from shared.link import Command, Link, RedisAddress
from shared.message import encode_body

CLIENTS = 1_000
MESSAGE_BYTES = 250
LOOP_SENDS = 400_000
"""Of the C loop, each time: two to four seconds."""

_PEERS = Path(__file__).parent / "peers"
CENTRIFUGO: Final = ROOT / ".cache" / "centrifugo" / "centrifugo"
"""What scripts/get-centrifugo makes; measured when it is there."""


_SLOWER: Final = (1, 2, 4)
"""How many times less a server is asked for that was behind: what it can do depends on the machine."""


@dataclass(frozen=True)
class Load:
    """What a server is to do."""

    clients: int = CLIENTS
    message_bytes: int = MESSAGE_BYTES
    burst: int = 1
    """Messages that are published in one go, so that a server has them in one turn of its loop."""

    @property
    def crowd(self) -> tuple[int, int]:
        """Clients and message bytes: what the C loop is run with, too."""
        return self.clients, self.message_bytes

    def __str__(self) -> str:
        return f"{self.clients:,} clients, {self.message_bytes:,} bytes, {self.burst} at once"


@dataclass(frozen=True)
class Server:
    """What is measured. `publish` gives the Redis commands that have a text delivered to all clients."""

    name: str
    process: Process
    publish: Callable[[bytes], Sequence[Command]]
    path: str = "/ws"
    hello: str = ""
    """What a client says first."""
    greetings: int = 0
    """Messages that a client may get before the first that was published; the load client counts those that come
    once all are connected."""
    per_second: tuple[int, int] = (30_000, 60_000)
    """Deliveries to ask for, single and in bursts: about half of what one core can do, so that each burst
    finds the server idle."""


@dataclass(frozen=True)
class Plan:
    """Which loads in how many rounds, each for some seconds."""

    own: Sequence[Load]
    """The gateway's."""
    peers: Sequence[Load]
    rounds: int
    seconds: float

    @classmethod
    def of(cls, effort: Effort) -> "Plan":
        """What fits in the time."""
        one, sixteen = Load(), Load(burst=16)
        if effort is Effort.QUICK:
            return cls((one, sixteen), (one,), 1, 1.5)
        own = [Load(burst=burst) for burst in (1, 4, 16, 100)]
        more = [Load(clients, size, burst) for clients, size in _CROWDS[1:] for burst in (1, 16)]
        if effort is Effort.STANDARD:
            return cls((*own, *more), (one, sixteen), 3, 1.5)
        return cls((*own, *more), (*own, *more), 5, 3.0)


_CROWDS = ((CLIENTS, MESSAGE_BYTES), (CLIENTS, 1_000), (10_000, MESSAGE_BYTES), (10_000, 1_000))

Ratios = dict[str, dict[Load, list[float]]]
"""To the C loop of single messages in the same round, by server."""


@dataclass
class Measured:
    """What the rounds gave."""

    ratios: Ratios
    loops: dict[tuple[int, int], list[float]]
    """The C loop's deliveries per CPU-second, by clients and message bytes."""
    client_share: float = 0.0
    """Of its core, that the load client used at most."""


class _Stream:
    """The global stream, as the relay's script publishes to it."""

    def __init__(self) -> None:
        self._seq = 0

    def publish(self, text: bytes) -> Sequence[Command]:
        self._seq += 1
        body = b"bench %d " % self._seq + encode_body("bench/0", self._seq, 0, "regime_change", text)
        return (
            ("SPUBLISH", Keys().live(GLOBAL), body),
            # Replicas compare what they got with it.
            ("HSET", Keys().meta(GLOBAL), "epoch", "bench", "seq", self._seq),
        )


def _publish_plain(text: bytes) -> Sequence[Command]:
    return (("PUBLISH", "bench", b'{"type":"regime_change","data":%s}' % text),)


def _publish_for_centrifugo(text: bytes) -> Sequence[Command]:
    """As its Redis broker has what other nodes publish: a Publication of its Protobuf protocol, whose field 4 is the
    data, behind its length as a varint (up to 16,383 here)."""
    data = b'{"type":"regime_change","data":%s}' % text
    length = b"%c%c" % (len(data) & 0x7F | 0x80, len(data) >> 7) if len(data) > 0x7F else b"%c" % len(data)
    return (("PUBLISH", "centrifugo.client.bench", b"\x22" + length + data),)


def _publish_for_adapter(text: bytes) -> Sequence[Command]:
    """As Socket.IO's Redis adapter has what other servers broadcast."""
    packet = {"type": 2, "data": ["regime_change", msgspec.json.decode(text)], "nsp": "/"}
    options: dict[str, object] = {"rooms": [], "except": [], "flags": {}}
    return (("PUBLISH", "socket.io#/#", msgspec.msgpack.encode(["bench", packet, options])),)


def servers(processes: Processes, redis: str) -> Iterator[Server]:
    """All that are measured, not started yet; the gateway first."""
    env = {"MAX_CONNECTIONS_PER_USER": "0", "MAX_CONNECTIONS": "15000"}
    gateway = add_gateway(processes, redis=redis, env=env)
    publish, path, per_second = _Stream().publish, "/ws?user_id=user-%d", (130_000, 400_000)
    yield Server("gateway", gateway, publish, path, per_second=per_second)

    def peer(name: str, *command: str) -> Process:
        port = free_port()
        words = [*command, str(port), redis]
        return processes.add(name, words, ports={"ws": port}, ready=lambda: answers_port(port))

    if CENTRIFUGO.exists():
        port = free_port()
        words, env = [str(CENTRIFUGO)], _centrifugo_env(port, redis)
        centrifugo = processes.add("centrifugo", words, env=env, ports={"ws": port}, ready=lambda: answers_port(port))
        yield Server(
            "Centrifugo (Go)",
            centrifugo,
            _publish_for_centrifugo,
            "/connection/websocket",
            hello='{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"bench"}}',
            greetings=2,
        )
    yield Server("picows", peer("picows", sys.executable, f"{_PEERS}/picows_peer.py"), _publish_plain)
    yield Server("ws (Node)", peer("ws", "node", f"{_PEERS}/ws_peer.mjs"), _publish_plain)
    yield Server(
        "Socket.IO (Node)",
        peer("socketio", "node", f"{_PEERS}/socketio_peer.mjs"),
        _publish_for_adapter,
        "/socket.io/?EIO=4&transport=websocket",
        hello="40",  # connect to the namespace, in Engine.IO's packet for a message
        greetings=2,
    )
    yield Server("FastAPI send_text", peer("fastapi", sys.executable, f"{_PEERS}/fastapi_peer.py"), _publish_plain)


def _centrifugo_env(port: int, redis: str) -> dict[str, str]:
    """Its own defaults, but for: no tokens, no pings (the load client knows not how they are answered; the others
    that are measured here send none either), and one processor, since it gets one core."""
    return {
        "CENTRIFUGO_HTTP_SERVER_ADDRESS": "127.0.0.1",
        "CENTRIFUGO_HTTP_SERVER_PORT": str(port),
        "CENTRIFUGO_CLIENT_INSECURE": "true",
        "CENTRIFUGO_CLIENT_PING_INTERVAL": "1h",
        "CENTRIFUGO_CLIENT_PONG_TIMEOUT": "-1s",
        "CENTRIFUGO_ENGINE_TYPE": "redis",
        "CENTRIFUGO_ENGINE_REDIS_ADDRESS": redis,
        "GOMAXPROCS": "1",
    }


async def answers_port(port: int) -> bool:
    """Whether somebody listens there."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def c_loop(clients: int, message_bytes: int) -> float:
    """Deliveries per CPU-second of the bare loop."""
    port = free_port()
    arguments = (port, clients, LOOP_SENDS // clients, 1, message_bytes)
    limit = await asyncio.create_subprocess_exec(build("limit"), *map(str, arguments), stdout=asyncio.subprocess.PIPE)
    pin(limit.pid, SERVER_CORE)
    assert limit.stdout is not None
    assert await asyncio.wait_for(limit.stdout.readline(), 60) == b"listens\n"
    async with LoadClient(port, "/", clients, 60):
        line = await asyncio.wait_for(limit.stdout.readline(), 60)
    await limit.wait()
    return float(line.split()[0])


def message(size: int) -> bytes:
    """The data of one event, so long that a plain client's message has `size` bytes."""
    data = b'{"ts":%d,"x":"' % time.time_ns()
    return data + b"x" * (size - len(data) - len(b'{"type":"regime_change","data":"}}')) + b'"}'


class BehindError(Exception):
    """Not all came in time."""


async def patient_rate(server: Server, link: Link, load: Load, seconds: float) -> tuple[float, float]:
    """`rate`, of less a second for a server that does not keep up. Raises BehindError when not all came then."""
    for slower in _SLOWER:
        try:
            return await rate(server, link, load, seconds, slower)
        except BehindError as error:
            behind = str(error)
    raise BehindError(behind)


async def rate(server: Server, link: Link, load: Load, seconds: float, slower: int) -> tuple[float, float]:
    """Deliveries per CPU-second, and the share of its core that the load client used. Raises BehindError."""

    async def publish(messages: int) -> None:
        texts = [message(load.message_bytes) for _ in range(messages)]
        commands = [command for text in texts for command in server.publish(text)]
        await link.transaction(commands, timeout_seconds=10)

    pid = server.process.pid
    every_seconds = slower * load.clients * load.burst / server.per_second[load.burst > 1]
    seconds = max(seconds, 4 * every_seconds)
    async with LoadClient(
        server.process.port,
        server.path,
        load.clients,
        seconds + 2.5,
        hello=server.hello,
    ) as clients:
        await publish(1)
        await asyncio.sleep(0.5)
        used, clients_used = cpu_seconds(pid), clients.cpu_seconds
        start, sent = time.monotonic(), 0
        while time.monotonic() - start < seconds:
            await publish(load.burst)
            sent += 1
            await asyncio.sleep(max(0.0, start + sent * every_seconds - time.monotonic()))
        took, clients_used = time.monotonic() - start, clients.cpu_seconds - clients_used
        await asyncio.sleep(0.8)
        used = cpu_seconds(pid) - used
        received = await clients.result()
    expected = load.clients * (sent * load.burst + 1)
    if not expected <= received.messages <= expected + load.clients * server.greetings:
        raise BehindError(f"{server.name}, {load}: {received.messages} messages received, {expected} expected")
    return load.clients * sent * load.burst / used, clients_used / took


async def _rounds(plan: Plan) -> Measured:
    measured = Measured(defaultdict(lambda: defaultdict(list)), defaultdict(list))
    async with Processes() as processes:
        valkey = await add_valkey(processes).start().wait_until_ready()
        link = await Link.connect(RedisAddress.from_url(redis_url(valkey)), name="bench", timeout_seconds=5)
        every = list(servers(processes, redis_url(valkey)))
        for server in every:
            await server.process.start().wait_until_ready()
            pin(server.process.pid, SERVER_CORE)
        for number in range(plan.rounds):
            # In turn within a round, so that a busy moment of the machine meets all.
            for crowd in _CROWDS:
                with progress(f"fan-out, round {number + 1} of {plan.rounds}, {crowd}"):
                    await _one_crowd(plan, every, link, crowd, measured)
        link.close()
    return measured


async def _one_crowd(
    plan: Plan, every: Sequence[Server], link: Link, crowd: tuple[int, int], measured: Measured
) -> None:
    """One round's loads of so many clients and bytes, between two runs of the C loop."""
    work = [
        (server, load)
        for server in every
        for load in (plan.own if server is every[0] else plan.peers)
        if load.crowd == crowd
    ]
    if not work:
        return
    loops = [await c_loop(*crowd)]
    rates: list[float | None] = []
    for server, load in work:
        try:
            found, client_share = await patient_rate(server, link, load, plan.seconds)
        except BehindError as error:
            if server is every[0]:
                raise RuntimeError(str(error)) from None
            rates.append(None)  # a peer that loses messages has no rate
        else:
            measured.client_share = max(measured.client_share, client_share)
            rates.append(found)
    loops.append(await c_loop(*crowd))
    loop = statistics.mean(loops)
    measured.loops[crowd] += loops
    for (server, load), of_load in zip(work, rates, strict=True):
        if of_load is not None:
            measured.ratios[server.name][load].append(of_load / loop)


def _cell(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""


def _table(measured: Measured, crowd: tuple[int, int]) -> Table:
    """Of one crowd: servers by bursts."""
    loads = {load for by_load in measured.ratios.values() for load in by_load}
    here = sorted((load for load in loads if load.crowd == crowd), key=lambda load: load.burst)
    rows = [
        [name, *(_cell(by_load.get(load, [])) for load in here)]
        for name, by_load in measured.ratios.items()
        if any(load in by_load for load in here)
    ]
    loops = measured.loops[crowd]
    made = f"C loop {min(loops):,.0f} to {max(loops):,.0f} a CPU-second"
    name = f"{crowd[0]:,} clients, {crowd[1]:,} bytes; {made}"
    return Table([name, *(f"{load.burst} at once" for load in here)], rows)


def _goals(ratios: Ratios) -> Iterator[Goal]:
    def goal(what: str, found: Sequence[float], target: float, floor: float) -> Goal:
        return Goal(what, statistics.median(found), target, spread=(min(found), max(found)), floor=floor)

    own = ratios["gateway"]
    yield goal("single messages to 1,000 clients, times the C loop", own[Load()], 0.8, 0.4)
    yield goal("bursts of 16 to 1,000 clients, times the C loop", own[Load(burst=16)], 7.0, 3.0)
    for name, theirs in ratios.items():
        if name != "gateway":
            beside = [a / b for a, b in zip(own[Load()], theirs[Load()], strict=True)]
            yield goal(f"single messages, times {name}", beside, 1.0, 0.6)


async def measure(effort: Effort) -> Section:
    """All servers in the rounds that the effort allows. Raises RuntimeError when messages were lost."""
    measured = await _rounds(Plan.of(effort))
    own = measured.ratios["gateway"]
    lines = {
        f"{clients:,} clients, {size:,} bytes": [
            (load.burst, statistics.median(found)) for load, found in own.items() if load.crowd == (clients, size)
        ]
        for clients, size in _CROWDS
    }
    return Section(
        "Fan-out",
        "python -m bench fanout",
        "Deliveries for each second of the server's own CPU time, as multiples of what a bare loop of `send` in C "
        "makes with single messages before and after, to as many clients and of the same size: medians of the rounds, "
        "with the least and the most. Each server has its messages from Valkey by the library that its users would "
        "take. What comes in one turn of the gateway's loop leaves in one write: that is why bursts, and load, cost "
        "less for each delivery. Each burst finds the server idle, at about half of what one core can do.\n\n"
        "The load client is written in C and has a core for itself and Valkey; it is not what is measured, since "
        f"only the server's CPU time counts, and nothing may be missing. It used at most {measured.client_share:.0%} "
        "of that core.",
        tuple(_goals(measured.ratios)),
        tuple(_table(measured, crowd) for crowd in _CROWDS if crowd in measured.loops),
        (
            Plot(
                "fan-out-bursts",
                "The gateway's deliveries per CPU-second by messages at once",
                "messages in one turn of the loop",
                "times the C loop of single messages",
                {name: sorted(points) for name, points in lines.items() if len(points) > 1},
                is_logarithmic=True,
            ),
        ),
    )
