"""Attacks with what one core of a client can send: the attacker is told what the protocol says, memory stays
bounded, and nobody else notices. `--log-cli-level=INFO` for the figures."""

import asyncio
import contextlib
import logging
import resource
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from harness.attacks import COMPRESSED, CROWDS, FRAMES, HEADS, Attack, Attacker
from harness.latency import ANY_NUMBER, PAUSE_SECONDS, TRIES, Feed, needs_cc, open_files, p99_ms
from harness.stage import Stage
from harness.waiting import eventually

from bench.tools import SERVER_CORE, pin, resident_bytes
from demo.process import Process
from shared.bounded_http import MAX_SOCKETS

log = logging.getLogger(__name__)

SECONDS = 3.0
FLOOR_MS = 20.0
"""More of it than twice what it is without is a disturbance; less may be the machine."""
MIB = 1 << 20
MAX_CONNECTIONS = 2_000
MEMORY_BYTES = 96 * MIB
"""What an attack may make the replica hold besides what it has: heads that come in part, frames that are read,
what slow clients do not take."""


class Watch:
    """The replica's memory, and whether a new client gets in, while an attack goes on."""

    def __init__(self, stage: Stage, gateway: Process) -> None:
        self._stage, self._gateway = stage, gateway
        self.peak_bytes = 0
        self.gets_in = False

    async def __aenter__(self) -> "Watch":
        self._tasks = [asyncio.create_task(self._memory()), asyncio.create_task(self._clients())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _memory(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, resident_bytes(self._gateway.pid))
            await asyncio.sleep(0.05)

    async def _clients(self) -> None:
        while True:
            user = f"{self._stage.users[0]}/new"
            self.gets_in |= await self._stage.status_of_a_handshake(self._gateway, user) == 101
            await asyncio.sleep(0.5)


async def attacked(stage: Stage, gateway: Process, name: str, attack: Attack) -> tuple[float, int, Attacker]:
    """The p99 of others while an attack goes on, and the most memory."""
    attacker = Attacker(gateway.port, attack, stage.processes.folder, stage.users[1])
    watch = Watch(stage, gateway)

    @contextlib.asynccontextmanager
    async def going_on() -> AsyncIterator[None]:
        async with watch, attacker:
            await asyncio.sleep(attack.seconds)
            await eventually(lambda: watch.gets_in, f"a new client to be let in during {name}", seconds=15)
        yield

    p99 = await p99_ms(stage, gateway, lambda: Feed(stage, user=stage.users[0]), going_on)
    return p99, watch.peak_bytes, attacker


async def quiet(stage: Stage, gateway: Process) -> float:
    @contextlib.asynccontextmanager
    async def quiet() -> AsyncIterator[None]:
        await asyncio.sleep(SECONDS)
        yield

    return await p99_ms(stage, gateway, lambda: Feed(stage, user=stage.users[0]), quiet)


@needs_cc
@pytest.mark.parametrize("name", ["connects without a byte", "half-open heads, a byte a second", "connects and drops"])
async def test_a_crowd_on_the_ports_of_operators_takes_no_more_than_some_files(stage: Stage, name: str) -> None:
    """They listen on every address in a container, and the process has files for clients to lose."""
    relay, gateway = stage.add_relay(), stage.add_gateway()
    await stage.start(relay, gateway)
    crowd = replace(HEADS[name], sockets=500)
    for service, port in ((gateway, "admin"), (relay, "")):
        files = open_files(service)
        most = 0
        async with Attacker(service.ports[port] if port else service.port, crowd, stage.processes.folder, ""):
            for _ in range(10):
                await eventually(lambda: _metrics(stage, service, port), "metrics", seconds=20)  # noqa: B023
                most = max(most, open_files(service) - files)
                await asyncio.sleep(0.2)
        assert most <= 3 * MAX_SOCKETS
        await eventually(lambda: open_files(service) <= files, "the sockets to be gone")  # noqa: B023


async def _metrics(stage: Stage, service: Process, port: str) -> bool:
    return (await stage.get(service, "/metrics", port))[0] == 200


@needs_cc
@pytest.mark.alone
@pytest.mark.parametrize(
    ("attacks", "settings"),
    [(HEADS, {}), (FRAMES, {}), (COMPRESSED, {"DEFLATE_MIN_BYTES": "100"}), (CROWDS, {})],
    ids=["heads", "frames", "compressed", "crowds"],
)
async def test_an_attacker_is_refused_and_nobody_else_notices(
    stage: Stage, attacks: dict[str, Attack], settings: dict[str, str]
) -> None:
    env = ANY_NUMBER | {"MAX_CONNECTIONS": str(MAX_CONNECTIONS)} | settings
    relay, gateway = stage.add_relay(), stage.add_gateway(env=env)
    await stage.start(relay, gateway)
    pin(gateway.pid, SERVER_CORE)
    await stage.crowd(stage.users, [gateway])
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    quiet_ms = await quiet(stage, gateway)
    for name, attack in attacks.items():
        if attack.needs_files > files:
            continue
        before = resident_bytes(gateway.pid)
        for left in reversed(range(TRIES)):
            p99, peak, attacker = await attacked(stage, gateway, name, attack)
            log.info(
                "%-40s p99 %5.1f ms, without %5.1f ms, memory +%3.0f of %3.0f MB: %s",
                name, p99, quiet_ms, (peak - before) / MIB, peak / MIB, attacker.told,
            )  # fmt: skip
            attacker.check()
            if p99 <= 2 * quiet_ms + FLOOR_MS:
                break
            assert left, f"{name}: in {TRIES} runs p99 was more than doubled, at last from {quiet_ms} to {p99} ms"
            await asyncio.sleep(PAUSE_SECONDS)
            quiet_ms = await quiet(stage, gateway)
        assert peak - before < MEMORY_BYTES, f"{name}: {(peak - before) / MIB} MB"
    await stage.exact()
