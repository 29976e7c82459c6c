"""One gateway process's parts together, within this process, on a real Redis."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from harness.tokens import token
from harness.waiting import eventually
from scripted import client_close, close_of, server_frames

import gateway.__main__
from demo.ports import free_port
from demo.process import Process
from demo.valkey import redis_url
from gateway.replica import Replica, ReplicaSettings
from gateway.settings import (
    AdmissionSettings,
    AuthenticationSettings,
    ConnectionSettings,
    DrainSettings,
    ListenerSettings,
    OperatorSettings,
)
from gateway.subscriber import LayoutMismatchError
from shared.keys import Keys
from shared.link import Link
from shared.settings import RedisSettings, ServiceSettings

KEYS = Keys("replica", 1)
HANDSHAKE = (
    b"GET /ws?user_id=%s HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Running:
    """A replica that runs in a task."""

    def __init__(
        self, url: str, *, drain: tuple[int, int] = (0, 0), redis_seconds: float = 5.0, secret: str | None = None
    ) -> None:
        self.port, self.admin_port = free_port(), free_port()
        self.writers: list[asyncio.StreamWriter] = []
        self.replica = Replica(
            ReplicaSettings(
                service=ServiceSettings(_env_file=None),
                redis=RedisSettings(
                    _env_file=None, redis_url=url, redis_prefix="replica", redis_timeout_seconds=redis_seconds
                ),
                listener=ListenerSettings(_env_file=None, ws_host="127.0.0.1", ws_port=self.port),
                operators=OperatorSettings(_env_file=None, admin_port=self.admin_port, admin_open=True),
                authentication=AuthenticationSettings(
                    _env_file=None, auth_mode="jwt" if secret else None, jwt_secret=secret
                ),
                admission=AdmissionSettings(_env_file=None),
                connection=ConnectionSettings(_env_file=None),
                drain=DrainSettings(_env_file=None, drain_delay_seconds=drain[0], drain_seconds=drain[1]),
            )
        )
        self.task = asyncio.create_task(self.replica.run())

    async def get(self, path: str, *, admin: bool = False, token: str | None = None) -> tuple[int, str]:
        """Status and body."""
        url = f"http://127.0.0.1:{self.admin_port if admin else self.port}{path}"
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with aiohttp.ClientSession() as client, client.get(url, headers=headers) as response:
            return response.status, await response.text()

    async def is_ready(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            return (await self.get("/readyz"))[0] == 200
        return False

    async def knock(self, user_id: bytes = b"ann") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A socket that has sent its handshake."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        writer.write(HANDSHAKE % user_id)
        return reader, writer

    async def connect(self, user_id: bytes = b"ann") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await self.knock(user_id)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 101 "), head
        return reader, writer

    async def end(self) -> None:
        for writer in self.writers:
            writer.close()
        self.replica._stop_asked(True)
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.task, 20)


@pytest.fixture
async def running(redis: Link, valkey: Process) -> AsyncIterator[Running]:
    running = Running(redis_url(valkey))
    try:
        await eventually(running.is_ready, "the replica to be ready", seconds=20)
        yield running
    finally:
        await running.end()


async def beat(redis: Link, number: int) -> None:
    commands: list[Any] = [("HSET", KEYS.life("g"), "beat", number), ("SPUBLISH", KEYS.beat("g"), number)]
    await redis.transaction(commands, timeout_seconds=5)


async def test_a_message_comes_out_as_a_frame(running: Running, redis: Link) -> None:
    reader, _ = await running.connect()
    message = b'a 1 risk-events/0 0 0 risk_alert\n{"user_id":"ann"}'
    await redis.call("SPUBLISH", KEYS.live(KEYS.user_stream("ann")), message, timeout_seconds=5)
    expected = b'{"type":"risk_alert","data":{"user_id":"ann"}}'
    frame = await asyncio.wait_for(reader.readexactly(2 + len(expected)), 10)
    assert server_frames(frame) == [(1, expected)]
    _, metrics = await running.get("/metrics", admin=True)
    assert "notify_gateway_connections 1.0" in metrics
    assert 'notify_gateway_deliveries_total{type="risk_alert"} 1.0' in metrics
    assert 'notify_gateway_handshakes_total{status="101"} 1.0' in metrics


async def test_health_is_degraded_until_the_relay_is_heard(running: Running, redis: Link) -> None:
    assert json.loads((await running.get("/health"))[1]) == {
        "status": "degraded",
        "service": "notification",
        "connections": 0,
        "consumer_running": False,
    }
    await beat(redis, 1)

    async def healthy() -> bool:
        return bool(json.loads((await running.get("/health"))[1])["consumer_running"])

    await eventually(healthy, "the beat", seconds=30)
    assert json.loads((await running.get("/health"))[1])["status"] == "healthy"


async def test_told_to_stop_it_is_not_ready_at_once_but_serves_until_the_load_balancer_knows(
    redis: Link, valkey: Process
) -> None:
    running = Running(redis_url(valkey), drain=(30, 30))
    try:
        await eventually(running.is_ready, "the replica to be ready", seconds=20)
        reader, _ = await running.connect()
        running.replica._stop_asked(False)
        status, body = await running.get("/readyz")
        assert (status, json.loads(body)["reason"]) == (503, "draining")
        late_reader, _ = await running.connect(b"late")
        running.replica._stop_asked(False)  # the second time: at once
        for one in (reader, late_reader):
            frames = await asyncio.wait_for(one.read(), 10)
            assert close_of(frames) == (1012, "service_restart")
        await asyncio.wait_for(running.task, 20)
    finally:
        await running.end()


async def test_a_replica_that_goes_takes_nobody_and_waits_for_closing_clients(redis: Link, valkey: Process) -> None:
    running = Running(redis_url(valkey), drain=(0, 30))
    try:
        await eventually(running.is_ready, "the replica to be ready", seconds=20)
        reader, writer = await running.connect()
        running.replica._stop_asked(False)
        await eventually(lambda: not running.replica._takes_clients, "the drain to begin", seconds=30)
        late, _ = await running.knock(b"late")
        said = await asyncio.wait_for(late.read(), 10)
        assert said.startswith(b"HTTP/1.1 503 ")
        assert json.loads(said.partition(b"\r\n\r\n")[2])["error"] == "unavailable"
        running.replica._stop_asked(True)
        frame = await asyncio.wait_for(reader.readexactly(2), 10)
        payload = await asyncio.wait_for(reader.readexactly(frame[1]), 10)
        assert server_frames(frame + payload)[0][0] == 8
        assert not running.task.done()
        writer.write(client_close(1012))
        await asyncio.wait_for(running.task, 20)
    finally:
        await running.end()


async def test_with_nobody_to_send_away_it_only_waits_for_the_load_balancer(
    redis: Link, valkey: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Running(redis_url(valkey), drain=(7, 30))
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(running.replica, "_pause", pause)
    try:
        await eventually(running.is_ready, "the replica to be ready", seconds=20)
        running.replica._stop_asked(False)
        await asyncio.wait_for(running.task, 20)
        assert pauses == [7]
    finally:
        await running.end()


async def test_handshakes_that_wait_when_the_replica_goes_are_not_left_hanging(running: Running, redis: Link) -> None:
    """A stalled Redis, and a stop in the middle of it."""
    await redis.call("CLIENT", "PAUSE", 4_000, "ALL", timeout_seconds=5)
    reader, _ = await running.knock(b"waiting")
    await eventually(lambda: running.replica._connections.joining == 1, "the handshake", seconds=30)
    running.replica._stop_asked(True)
    said = await asyncio.wait_for(reader.read(), 10)
    assert said.startswith(b"HTTP/1.1 503 ")
    await asyncio.wait_for(running.task, 20)


async def test_until_redis_is_there_it_is_alive_but_not_ready() -> None:
    running = Running(f"redis://127.0.0.1:{free_port()}")
    try:

        async def answers() -> bool:
            with contextlib.suppress(aiohttp.ClientError):
                return (await running.get("/livez"))[0] == 200
            return False

        await eventually(answers, "the replica to answer", seconds=20)
        status, body = await running.get("/readyz")
        assert status == 503
        assert json.loads(body)["reason"] == "not subscribed yet: waiting for Redis"
        reader, _ = await running.knock()
        assert b"Redis is away" in await asyncio.wait_for(reader.read(), 10)
    finally:
        await running.end()


async def test_who_asks_for_a_position_is_judged_as_at_the_door_and_counted(redis: Link, valkey: Process) -> None:
    secret = "s" * 32
    sent = token(secret, {"sub": "ann", "iat": time.time(), "exp": time.time() + 60})
    await redis.call("SET", KEYS.revoked, "no sorted set", timeout_seconds=5)
    running = Running(redis_url(valkey), secret=secret)
    try:

        async def waits_for_cutoffs() -> bool:
            with contextlib.suppress(aiohttp.ClientError):
                return "revoked" in (await running.get("/readyz"))[1]
            return False

        await eventually(waits_for_cutoffs, "all but the cut-offs to be known", seconds=20)
        status, body = await running.get("/position", token=sent)
        assert (status, json.loads(body)["error"]) == (503, "unavailable")
        assert "Which tokens are revoked is not known yet" in body
        await redis.call("DEL", KEYS.revoked, timeout_seconds=5)
        await eventually(running.is_ready, "the cut-offs to be known", seconds=20)
        assert (await running.get("/position", token=sent))[0] == 200
        assert (await running.get("/position"))[0] == 401
        _, metrics = await running.get("/metrics", admin=True)
        for line in ('handshakes_total{status="503"}', 'refusals_total{reason="unavailable"}',
                     'handshakes_total{status="401"}', 'refusals_total{reason="unauthorized"}'):  # fmt: skip
            assert f"notify_gateway_{line} 1.0" in metrics
    finally:
        await running.end()


async def test_a_redis_laid_out_otherwise_ends_it(redis: Link, valkey: Process) -> None:
    await redis.call("SET", KEYS.layout, 64, timeout_seconds=5)
    running = Running(redis_url(valkey))
    with pytest.raises(LayoutMismatchError):
        await asyncio.wait_for(running.task, 20)


async def test_a_port_that_is_taken_ends_it(running: Running, valkey: Process) -> None:
    other = Running(redis_url(valkey))
    other.task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await other.task
    settings = other.replica._settings
    listener = ListenerSettings(_env_file=None, ws_host="127.0.0.1", ws_port=running.port)
    taken = Replica(
        ReplicaSettings(
            service=settings.service,
            redis=settings.redis,
            listener=listener,
            operators=OperatorSettings(_env_file=None, admin_port=free_port()),
            authentication=settings.authentication,
            admission=settings.admission,
            connection=settings.connection,
            drain=settings.drain,
        )
    )
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{running.port}"):
        await asyncio.wait_for(taken.run(), 20)


# __main__


def test_a_wrong_setting_stops_the_start_in_one_line(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WS_PORT", "many")
    assert gateway.__main__.main([]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gateway: WS_PORT='many': ")


class Fleet:
    """Two replicas on one Redis, of which the first is asked."""

    def __init__(self, first: Running, second: Running) -> None:
        self.first, self.second = first, second

    async def act(self, what: str, body: Any) -> tuple[int, Any]:
        url = f"http://127.0.0.1:{self.first.admin_port}/admin/{what}"
        async with (
            aiohttp.ClientSession(headers={"X-Notify-Admin": "1"}) as client,
            client.post(url, json=body) as response,
        ):
            return response.status, await response.json()

    async def replicas(self) -> dict[str, Any]:
        """What the feed says of them, by the port of their clients."""
        url = f"http://127.0.0.1:{self.first.admin_port}/console/feed"
        async with aiohttp.ClientSession() as client, client.get(url) as response:
            async for line in response.content:
                if line.startswith(b"data: "):
                    seen = json.loads(line.removeprefix(b"data: "))
                    return {replica["address"]: replica for replica in seen["replicas"]}
        raise AssertionError("the feed ended")

    async def has(self, user_id: str, *connections: int) -> bool:
        _, answer = await self.act("presence", {"user_id": user_id})
        return sorted(one["connections"] for one in answer["replicas"].values()) == sorted(connections)


@pytest.fixture
async def two(running: Running, valkey: Process) -> AsyncIterator[Fleet]:
    second = Running(redis_url(valkey), drain=(0, 1))
    try:
        await eventually(second.is_ready, "the second replica to be ready", seconds=20)
        yield Fleet(running, second)
    finally:
        await second.end()


async def close_code_of(reader: asyncio.StreamReader) -> int:
    return close_of(await asyncio.wait_for(reader.read(), 20))[0]


async def test_a_users_connections_are_seen_and_closed_wherever_they_are(two: Fleet) -> None:
    here, _ = await two.first.connect()
    there, _ = await two.second.connect()
    other, _ = await two.second.connect(b"bob")
    await eventually(lambda: two.has("ann", 1, 1), "ann on both", seconds=20)
    status, answer = await two.act("disconnect", {"user_id": "ann", "retry": False})
    assert (status, answer) == (200, {"done": "2 connections of ann closed, for good"})
    for reader in (here, there):
        assert await close_code_of(reader) == 4501
    assert await two.act("disconnect", {"user_id": "ann", "retry": True}) == (200, {"done": "ann has no connection"})
    assert await two.has("bob", 1)
    assert not other.at_eof()


async def test_everybody_is_disconnected_on_all_replicas(two: Fleet) -> None:
    readers = [(await replica.connect(user))[0] for replica in (two.first, two.second) for user in (b"ann", b"bob")]
    status, answer = await two.act("disconnect", {"everyone": True, "retry": True})
    assert (status, answer["done"].split(" ")[0]) == (200, "2")
    assert [await close_code_of(reader) for reader in readers] == [1012] * 4
    assert (await two.first.is_ready(), await two.second.is_ready()) == (True, True)


async def test_another_replica_is_drained(two: Fleet) -> None:
    reader, _ = await two.second.connect()

    seen: dict[str, Any] = {}

    async def both() -> bool:
        told = await two.replicas()  # what they said last: they do each second
        seen.clear()
        seen.update(told)
        second = seen.get(str(two.second.port), {"state": None})
        return second["state"] == "ready" and (second["connections"], second["reason"]) == (1, None) and len(seen) == 2

    await eventually(both, lambda: f"both in the feed, the second with its client: {seen}", seconds=20)
    second = seen[str(two.second.port)]
    status, _ = await two.act("drain", {"replica": second["name"]})
    assert status == 200
    assert await close_code_of(reader) == 1012
    await asyncio.wait_for(two.second.task, 20)
    assert list(await two.replicas()) == [str(two.first.port)]
    status, answer = await two.act("drain", {"replica": second["name"]})
    assert (status, answer["error"]) == (409, "not_done")
    assert await two.first.is_ready()


async def test_without_tokens_there_is_nothing_to_revoke(two: Fleet) -> None:
    status, answer = await two.act("revoke", {"user_id": "ann"})
    assert (status, answer["error"]) == (409, "not_done")
    assert "AUTH_MODE" in answer["message"]
