"""demo/slow.py: a client that reads nothing has events sent for it until its replica says that it closed it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from aiokafka import AIOKafkaProducer
from harness.waiting import eventually

from demo import slow as slow_module
from demo.ports import free_port
from demo.process import Process
from demo.slow import MOST_EVENTS, USER, SlowClient


class ScriptedProducer:
    """Counts what it is sent; tells `on_sent` of each."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.on_sent: Callable[[int], None] = lambda _: None

    async def send(self, topic: str, value: bytes, key: bytes | None) -> None:
        assert (topic, key) == ("risk-events", USER.encode())
        self.events.append(json.loads(value))
        self.on_sent(len(self.events))


class Replica:
    """Takes connections and answers nothing; its metrics say `closed`, or it does not answer."""

    def __init__(self) -> None:
        self.closed: int | None = None
        self.is_there = True
        self.asked = 0
        ports = {"ws": free_port(), "admin": free_port()}
        self.process = cast(Process, SimpleNamespace(name="gateway-1", ports=ports, port=ports["ws"]))
        self.handshakes: list[str] = []

    async def metrics(self, _: web.Request) -> web.Response:
        self.asked += 1
        if not self.is_there:
            raise web.HTTPServiceUnavailable
        others = 'notify_gateway_closes_total{code="1012"} 7.0\n'
        mine = "" if self.closed is None else f'notify_gateway_closes_total{{code="4000"}} {self.closed:.1f}\n'
        return web.Response(text=others + mine)

    async def ws(self, request: web.Request) -> web.Response:
        self.handshakes.append(request.query["user_id"])
        return web.Response()


@pytest.fixture
async def replica(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Replica]:
    monkeypatch.setattr(slow_module, "_TURN_SECONDS", 0.02)
    replica = Replica()
    runners = []
    for path, handler, port in (("/metrics", replica.metrics, "admin"), ("/ws", replica.ws, "ws")):
        app = web.Application()
        app.router.add_get(path, handler)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", replica.process.ports[port]).start()
        runners.append(runner)
    yield replica
    for runner in runners:
        await runner.cleanup()


async def run(client: SlowClient, producer: ScriptedProducer) -> None:
    await client.run(cast(AIOKafkaProducer, producer))


@pytest.mark.parametrize("before", [None, 3])
async def test_it_ends_when_it_was_closed(replica: Replica, before: int | None) -> None:
    replica.closed = before
    producer, client = ScriptedProducer(), SlowClient(replica.process)

    def on_sent(count: int) -> None:
        if count == 60:
            replica.closed = (before or 0) + 1

    producer.on_sent = on_sent
    assert not client.is_closed
    await run(client, producer)
    assert client.is_closed
    assert client.replica == "gateway-1"
    assert 60 <= len(producer.events) <= 100
    assert {event["user_id"] for event in producer.events} == {USER}
    assert len({event["event_id"] for event in producer.events}) == len(producer.events)
    assert replica.handshakes == [USER]
    took = client.seconds
    assert took > 0
    assert client.seconds == took, "the clock stands still"


async def test_it_gives_up_after_a_while(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_module, "LONGEST_SECONDS", 0.2)
    monkeypatch.setattr(slow_module, "MOST_EVENTS", 40)
    producer, client = ScriptedProducer(), SlowClient(replica.process)
    await run(client, producer)
    assert not client.is_closed
    assert len(producer.events) <= 40


async def test_it_has_no_more_sent_than_the_broker_can_keep(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_module, "_TURN_SECONDS", 0)
    replica.closed = 0
    producer, client = ScriptedProducer(), SlowClient(replica.process)
    running = asyncio.create_task(run(client, producer))
    await eventually(lambda: len(producer.events) == MOST_EVENTS, "all to be sent")
    asked = replica.asked
    await eventually(lambda: replica.asked > asked + 10, "ten more turns")
    assert len(producer.events) == MOST_EVENTS
    replica.closed = 1
    await running
    assert client.is_closed


async def test_a_replica_that_was_restarted_has_not_closed_it(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_module, "LONGEST_SECONDS", 0.5)
    replica.closed = 3
    producer, client = ScriptedProducer(), SlowClient(replica.process)
    producer.on_sent = lambda _: setattr(replica, "closed", 0)
    await run(client, producer)
    assert not client.is_closed


async def test_a_replica_that_goes_is_said(replica: Replica) -> None:
    producer, client = ScriptedProducer(), SlowClient(replica.process)
    producer.on_sent = lambda _: setattr(replica, "is_there", False)
    with pytest.raises(OSError, match="gateway-1"):
        await run(client, producer)
    assert not client.is_closed
