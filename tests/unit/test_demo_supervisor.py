"""demo/supervisor.py: what is broken is mended, one thing at a time to each, and one replica is always left."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from typing import cast

import pytest
from aiokafka import AIOKafkaProducer
from harness.waiting import eventually

from demo import supervisor as supervisor_module
from demo.process import Process, ProcessDied, Processes
from demo.proxy import Proxy
from demo.slow import SlowClient
from demo.stack import Stack
from demo.supervisor import Busy, Supervisor

# Ends when it is told to, with the exit code that it was given; says so when it can be told.
_ENDS = (
    "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(int(sys.argv[1]))); "
    "print('up', flush=True); time.sleep(600)"
)


class World:
    """A relay and two replicas that do nothing, and the supervisor over them."""

    def __init__(self, processes: Processes, proxy: Proxy) -> None:
        self.processes = processes
        self.ready = {"relay", "gateway-1", "gateway-2"}
        self.relay, self.first, self.second = (self._add(name) for name in ("relay", "gateway-1", "gateway-2"))
        stack = Stack(self.relay, self.relay, self.relay, (self.first, self.second))
        self.proxy = proxy
        self.supervisor = Supervisor(stack, proxy, cast(AIOKafkaProducer, None))

    def _add(self, name: str, code: int = 0) -> Process:
        async def is_ready() -> bool:
            return name in self.ready and "up" in process.log()

        process = self.processes.add(name, [sys.executable, "-S", "-c", _ENDS, str(code)], ready=is_ready)
        return process


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(supervisor_module, "RESTART_SECONDS", 0.3)
    async with Proxy(1) as proxy, Processes() as processes:
        world = World(processes, proxy)
        for process in processes.all:
            await process.start().wait_until_ready()
        yield world
        await world.supervisor.aclose()


async def is_back(process: Process, pid: int) -> None:
    await eventually(lambda: process.is_running and process.pid != pid, f"{process.name} to be back")


async def test_a_killed_process_is_started_again(world: World) -> None:
    pid = world.relay.pid
    await world.supervisor.kill(world.relay)
    await eventually(lambda: world.supervisor.starts_in_s(world.relay) is not None, "its start to be told of")
    assert not world.relay.is_running
    assert world.relay.returncode == -signal.SIGKILL
    world.processes.check()
    with pytest.raises(Busy, match="relay"):
        await world.supervisor.kill(world.relay)
    await is_back(world.relay, pid)
    assert world.supervisor.starts_in_s(world.relay) is None
    world.supervisor.look()


async def test_a_drained_replica_is_started_again(world: World) -> None:
    pid = world.second.pid
    await world.supervisor.drain(world.second)
    await eventually(lambda: world.second.returncode is not None, "the drain")
    assert world.second.returncode == 0
    await is_back(world.second, pid)
    world.supervisor.look()
    world.processes.check()


async def test_a_replica_that_drains_badly_is_said(world: World) -> None:
    await world.second.kill()
    world.second.command[-1] = "3"
    world.second.start()
    await eventually(lambda: world.second.log().count("up") == 2, "its second life")
    await world.supervisor.drain(world.second)
    await eventually(lambda: world.second.returncode is not None, "the drain")
    with pytest.raises(ProcessDied, match="exit code 3"):
        await eventually(lambda: world.supervisor.look() is not None, "it to be said")


async def test_what_an_operator_drained_is_started_again(world: World) -> None:
    pid = world.first.pid
    world.first.signal(signal.SIGTERM)
    await eventually(lambda: world.first.returncode is not None, "its end")
    with pytest.raises(ProcessDied):
        world.processes.check()
    world.supervisor.look()
    world.processes.check()
    with pytest.raises(Busy):
        await world.supervisor.kill(world.first)
    await is_back(world.first, pid)
    world.supervisor.look()


async def test_what_died_is_not_taken_for_drained(world: World) -> None:
    world.first.signal(signal.SIGKILL)
    await eventually(lambda: world.first.returncode is not None, "its end")
    world.supervisor.look()
    with pytest.raises(ProcessDied):
        world.processes.check()


@pytest.mark.parametrize("act", ["kill", "drain"])
async def test_the_last_ready_replica_stays(world: World, act: str) -> None:
    world.ready.discard("gateway-2")  # it drains, or starts
    with pytest.raises(Busy, match="gateway-1 is the only"):
        await getattr(world.supervisor, act)(world.first)
    await world.supervisor.kill(world.relay)
    await world.supervisor.kill(world.second)
    assert world.first.is_running


async def test_of_two_ends_at_once_one_is_refused(world: World) -> None:
    ends = (world.supervisor.drain(world.first), world.supervisor.drain(world.second))
    results = await asyncio.gather(*ends, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Busy", "NoneType"]


async def test_redis_is_cut_and_heals(world: World) -> None:
    world.supervisor.cut_redis(0.3)
    await eventually(lambda: world.proxy.mode == "refuse", "the cut")
    left = world.supervisor.redis_cut_for_s
    assert left is not None
    assert 0 <= left <= 0.3
    with pytest.raises(Busy):
        world.supervisor.cut_redis(1)
    await eventually(lambda: world.proxy.mode == "pass", "it to heal")
    assert world.supervisor.redis_cut_for_s is None


async def test_it_knows_since_when_all_is_whole(world: World) -> None:
    world.supervisor.look()
    assert world.supervisor.whole_since == 0
    began = time.time()
    world.supervisor.cut_redis(0.3)
    world.supervisor.look()
    assert began <= world.supervisor.whole_since <= time.time()

    def stands_still() -> bool:
        before = world.supervisor.whole_since
        world.supervisor.look()
        return world.supervisor.whole_since == before

    assert not stands_still()
    await eventually(stands_still, "it to heal")
    assert world.supervisor.redis_cut_for_s is None


async def test_what_is_cut_heals_when_all_ends(world: World) -> None:
    world.supervisor.cut_redis(600)
    await eventually(lambda: world.proxy.mode == "refuse", "the cut")
    await world.supervisor.aclose()
    assert world.proxy.mode == "pass"


async def test_what_cannot_be_started_again_is_said(world: World) -> None:
    world.relay.command[-2:] = ["import sys; sys.exit(7)"]
    world.ready.discard("relay")
    await world.supervisor.kill(world.relay)
    with pytest.raises(ProcessDied, match="exit code 7"):
        await eventually(lambda: world.supervisor.look() is not None, "it to be said")


class ScriptedSlow(SlowClient):
    """Runs until it is told how it ended."""

    ends = asyncio.Event()
    how: str

    async def run(self, producer: AIOKafkaProducer) -> None:
        await self.ends.wait()
        if self.how == "its replica is gone":
            raise ConnectionRefusedError
        self.is_closed = self.how == "closed"


@pytest.mark.parametrize("how", ["closed", "not in time", "its replica is gone"])
async def test_a_slow_client_is_shown_until_it_is_over(world: World, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(supervisor_module, "SlowClient", ScriptedSlow)
    monkeypatch.setattr(ScriptedSlow, "ends", asyncio.Event())
    monkeypatch.setattr(ScriptedSlow, "how", how, raising=False)
    world.ready.discard("gateway-1")
    assert await world.supervisor.start_slow_client() == "gateway-2"
    await eventually(lambda: world.supervisor.slow is not None, "it to be shown")
    with pytest.raises(Busy):
        await world.supervisor.start_slow_client()
    ScriptedSlow.ends.set()
    if how == "closed":
        await eventually(lambda: world.supervisor.slow is not None and world.supervisor.slow.is_closed, "its end")
    else:
        await eventually(lambda: world.supervisor.slow is None, "it to be forgotten")
    world.supervisor.look()
    await world.supervisor.start_slow_client()


async def test_while_anything_is_broken_there_is_no_slow_client(world: World) -> None:
    world.supervisor.cut_redis(0.3)
    with pytest.raises(Busy, match="mended"):
        await world.supervisor.start_slow_client()
    await eventually(lambda: world.proxy.mode == "refuse", "the cut")
    await eventually(lambda: world.proxy.mode == "pass", "it to heal")
    assert world.supervisor.slow is None


async def test_without_a_ready_replica_there_is_no_slow_client(world: World) -> None:
    world.ready.clear()
    with pytest.raises(Busy, match="mended"):
        await world.supervisor.start_slow_client()
