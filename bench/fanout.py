"""Deliveries for each second of a server's own CPU time: a gateway replica beside its peers and beside a bare C
loop of `send`, in the same run.

    python -m bench.fanout [--quick] [--only gateway ws ...]

The server has one core; Redis, publisher and a load client in C the other. A ratio to the C loop, which sends one
frame after the other and does nothing else, says more than a rate: machines are shared. Each server has its
messages from Redis, by the library that its users would take.
"""

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.tools import CLIENT_CORE, SERVER_CORE, LoadClient, build, cpu_seconds, pin
from demo.ports import free_port
from demo.process import Process, Processes
from demo.stack import add_gateway
from demo.valkey import add_valkey, redis_url
from shared.keys import GLOBAL, Keys
from shared.link import Command, Link, RedisAddress
from shared.message import encode_body

CLIENTS = 1_000
MESSAGE_BYTES = 250
SECONDS = 3.0
BURSTS = (1, 4, 16, 100)
ROUNDS = 3

_PEERS = Path(__file__).parent / "peers"


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


def _publish_for_adapter(text: bytes) -> Sequence[Command]:
    """As Socket.IO's Redis adapter has what other servers broadcast."""
    packet = {"type": 2, "data": ["regime_change", msgspec.json.decode(text)], "nsp": "/"}
    options: dict[str, object] = {"rooms": [], "except": [], "flags": {}}
    return (("PUBLISH", "socket.io#/#", msgspec.msgpack.encode(["bench", packet, options])),)


def servers(processes: Processes, redis: str) -> Iterator[Server]:
    """All that are measured, not started yet."""
    gateway = add_gateway(processes, redis=redis, env={"MAX_CONNECTIONS_PER_USER": "0"})
    yield Server("gateway", gateway, _Stream().publish, "/ws?user_id=user-%d", per_second=(130_000, 400_000))

    def peer(name: str, *command: str) -> Process:
        port = free_port()
        words = [*command, str(port), redis]
        return processes.add(name, words, ports={"ws": port}, ready=lambda: answers_port(port))

    yield Server("picows", peer("picows", sys.executable, f"{_PEERS}/picows_peer.py"), _publish_plain)
    yield Server("ws (Node)", peer("ws", "node", f"{_PEERS}/ws_peer.mjs"), _publish_plain)
    yield Server(
        "Socket.IO (Node)",
        peer("socketio", "node", f"{_PEERS}/socketio_peer.mjs"),
        _publish_for_adapter,
        "/socket.io/?EIO=4&transport=websocket",
        "40",  # connect to the namespace, in Engine.IO's packet for a message
        greetings=2,
    )
    yield Server("FastAPI send_text", peer("fastapi", sys.executable, f"{_PEERS}/fastapi_peer.py"), _publish_plain)


async def answers_port(port: int) -> bool:
    """Whether somebody listens there."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def c_loop() -> float:
    """Deliveries per CPU-second of the bare loop."""
    port = free_port()
    limit = await asyncio.create_subprocess_exec(
        build("limit"), str(port), str(CLIENTS), "1500", "1", stdout=asyncio.subprocess.PIPE
    )
    pin(limit.pid, SERVER_CORE)
    await asyncio.sleep(0.2)
    async with LoadClient(port, "/", CLIENTS, 60):
        assert limit.stdout is not None
        line = await asyncio.wait_for(limit.stdout.readline(), 60)
    await limit.wait()
    return float(line.split()[0])


def message() -> bytes:
    """The data of one event, so long that a plain client's message has MESSAGE_BYTES."""
    data = b'{"ts":%d,"x":"' % time.time_ns()
    return data + b"x" * (MESSAGE_BYTES - len(data) - len(b'{"type":"regime_change","data":"}}')) + b'"}'


async def rate(server: Server, link: Link, burst: int, seconds: float) -> float:
    """Deliveries per CPU-second, with `burst` messages a turn of its loop. Raises RuntimeError when not all
    came."""

    async def publish(messages: int) -> None:
        commands = [command for _ in range(messages) for command in server.publish(message())]
        await link.transaction(commands, timeout_seconds=10)

    pid = server.process.pid
    async with LoadClient(server.process.port, server.path, CLIENTS, seconds + 2.5, hello=server.hello) as clients:
        await publish(1)
        await asyncio.sleep(0.5)
        used = cpu_seconds(pid)
        every_seconds = CLIENTS * burst / server.per_second[burst > 1]
        start, sent = time.monotonic(), 0
        while time.monotonic() - start < seconds:
            await publish(burst)
            sent += 1
            await asyncio.sleep(max(0.0, start + sent * every_seconds - time.monotonic()))
        await asyncio.sleep(0.8)
        used = cpu_seconds(pid) - used
        received = await clients.result()
    expected = CLIENTS * (sent * burst + 1)
    if not expected <= received.messages <= expected + CLIENTS * server.greetings:
        raise RuntimeError(f"{server.name}: {received.messages} messages received, {expected} expected")
    return CLIENTS * sent * burst / used


@contextmanager
def _progress(text: str) -> Iterator[None]:
    """What is being done, for people who wait."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()
    yield
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")


Ratios = dict[str, dict[int, list[float]]]
"""To the C loop of the same round, by server and burst."""


async def measure(
    only: Sequence[str], bursts: Sequence[int], rounds: int, seconds: float
) -> tuple[Ratios, list[float]]:
    """The ratios, and the loop's own rates."""
    ratios: Ratios = {}
    loops: list[float] = []
    async with Processes() as processes:
        valkey = await add_valkey(processes).start().wait_until_ready()
        link = await Link.connect(RedisAddress.from_url(redis_url(valkey)), name="bench", timeout_seconds=5)
        chosen = [one for one in servers(processes, redis_url(valkey)) if not only or one.name.split()[0] in only]
        for server in chosen:
            await server.process.start().wait_until_ready()
            pin(server.process.pid, SERVER_CORE)
        for number in range(rounds):
            # In turn within a round, so that a busy moment of the machine meets all.
            with _progress(f"round {number + 1} of {rounds}: the C loop"):
                loop = await c_loop()
            loops.append(loop)
            for server in chosen:
                for burst in bursts:
                    with _progress(f"round {number + 1} of {rounds}: {server.name}, bursts of {burst}"):
                        ratio = await rate(server, link, burst, seconds) / loop
                    ratios.setdefault(server.name, {}).setdefault(burst, []).append(ratio)
        link.close()
    return ratios, loops


def table(ratios: Ratios, loops: Sequence[float], bursts: Sequence[int]) -> list[str]:
    """In Markdown: medians, with the least and the most."""
    lines = [
        f"| {CLIENTS:,} clients, {MESSAGE_BYTES} bytes | {' | '.join(f'{burst} at once' for burst in bursts)} |",
        f"|---|{'---|' * len(bursts)}",
    ]
    for name, by_burst in ratios.items():
        cells = [f"{statistics.median(one):.2f} ({min(one):.2f} to {max(one):.2f})" for one in by_burst.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append("")
    lines.append(
        f"Times the C loop of single messages, which made {min(loops):,.0f} to {max(loops):,.0f} a CPU-second."
    )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.fanout", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, singles and bursts of 16")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="SERVER", help="gateway, picows, ws, Socket.IO, FastAPI"
    )
    options = parser.parse_args()
    os.sched_setaffinity(0, {CLIENT_CORE})
    bursts = (1, 16) if options.quick else BURSTS
    rounds, seconds = (1, 1.5) if options.quick else (ROUNDS, SECONDS)
    ratios, loops = asyncio.run(measure(options.only, bursts, rounds, seconds))
    sys.stdout.write("\n".join(table(ratios, loops, bursts)) + "\n")


if __name__ == "__main__":
    main()
