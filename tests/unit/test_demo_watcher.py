"""demo/watcher.py: a watching client is owed every event, so it resumes, and says so when it cannot."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import aiohttp
import pytest
from aiohttp import web
from harness.waiting import eventually

from demo import watcher as watcher_module
from demo.ports import free_port
from demo.watcher import Watcher, WatchFailed, plain_frame

WELCOME = '{"control":"welcome","global":{"epoch":"a","seq":7},"user":{"epoch":"b","seq":3}}'
RESYNC = '{"control":"resync","stream":"user","reason":"gap"}'


def event(stream: str, epoch: str, seq: int, text: str) -> str:
    data = f'{{"type":"risk_alert","data":{{"message":"{text}"}}'
    return f'{data},"id":"risk-events/2/{seq}","stream":"{stream}","epoch":"{epoch}","seq":{seq},"ts":1}}'


class Replica:
    """Sends each connection the next of `scripts` and closes with its code; the last one stays open."""

    def __init__(self, *scripts: tuple[list[str], int]) -> None:
        self.port = free_port()
        self.scripts = list(scripts)
        self.cursors: list[str | None] = []
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(protocols=["notify.v1"])
        await ws.prepare(request)
        self.cursors.append(request.query.get("cursor"))
        frames, code = self.scripts.pop(0) if self.scripts else ([WELCOME], 0)
        for frame in frames:
            await ws.send_str(frame)
        if code:
            await ws.close(code=code)
        else:
            async for _ in ws:
                pass
        return ws

    async def __aenter__(self) -> "Replica":
        app = web.Application()
        app.router.add_get("/ws", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()


class Watch:
    """A watcher that runs, and what it took."""

    def __init__(self, session: aiohttp.ClientSession, *urls: str) -> None:
        self.took: list[str] = []
        self.watcher = Watcher("ann's", "ann", urls, self.took.append)
        self.running = asyncio.create_task(self.watcher.run(session))

    async def failure(self) -> str:
        with pytest.raises(WatchFailed) as raised:
            await asyncio.wait_for(self.running, 60)
        return str(raised.value)


@pytest.fixture
async def watch(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Watch]]:
    monkeypatch.setattr(watcher_module, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(watcher_module, "RELOAD_SECONDS", 0.2)
    watches: list[Watch] = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:

        def started(*urls: str) -> Watch:
            watches.append(Watch(session, *urls))
            return watches[-1]

        yield started
        for one in watches:
            one.running.cancel()
            with suppress(asyncio.CancelledError, WatchFailed):
                await one.running


def test_it_takes_what_a_plain_client_is_sent() -> None:
    tricky = r"a \",\"id\":\" b"
    assert plain_frame(event("user", "b", 4, tricky)) == f'{{"type":"risk_alert","data":{{"message":"{tricky}"}}}}'


async def test_it_resumes_on_the_next_replica_with_what_it_has(watch: Callable[..., Watch]) -> None:
    frames = [WELCOME, event("user", "b", 4, "one"), event("global", "c", 1, "two"), '{"control":"pong"}']
    async with Replica((frames, 1012)) as first, Replica() as second:
        watching = watch(first.url, second.url)
        await eventually(lambda: bool(second.cursors), "it to come to the second")
        assert (first.cursors, second.cursors) == ([None], ["c.1.b.4"])
        assert watching.took == [plain_frame(frames[1]), plain_frame(frames[2])]
        assert watching.watcher.is_connected.is_set()


async def test_a_heartbeat_says_how_far_it_is(watch: Callable[..., Watch]) -> None:
    heartbeat = '{"control":"heartbeat","global":{"epoch":"a","seq":9},"user":{"epoch":"b","seq":5}}'
    async with Replica(([WELCOME, heartbeat], 1012)) as replica:
        watch(replica.url)
        await eventually(lambda: len(replica.cursors) == 2, "it to come again")
        assert replica.cursors == [None, "a.9.b.5"]


async def test_whom_an_operator_disconnected_for_good_comes_as_a_reloaded_page(watch: Callable[..., Watch]) -> None:
    async with Replica(([WELCOME], 4501)) as replica:
        began = time.monotonic()
        watch(replica.url)
        await eventually(lambda: len(replica.cursors) == 2, "it to come again")
        assert time.monotonic() - began >= 0.2
        assert replica.cursors == [None, "a.7.b.3"]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (([WELCOME], 4500), "for good: close code 4500"),
        (([WELCOME], 4502), "for good: close code 4502"),
        (([WELCOME, RESYNC], 0), "was told of a gap"),
    ],
)
async def test_what_cannot_be_made_good_is_said(
    watch: Callable[..., Watch], script: tuple[list[str], int], said: str
) -> None:
    async with Replica(script) as replica:
        failure = await watch(replica.url).failure()
    assert said in failure
    assert failure.startswith("ann's")


async def test_one_that_finds_nobody_gives_up(watch: Callable[..., Watch], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher_module, "AWAY_SECONDS", 0.2)
    assert "found nobody for 0.2 s" in await watch(f"ws://127.0.0.1:{free_port()}").failure()


async def test_a_connection_that_lasted_is_not_time_away(
    watch: Callable[..., Watch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher_module, "AWAY_SECONDS", 3.0)
    monkeypatch.setattr(watcher_module, "RETRY_SECONDS", 0.1)
    # None is long, but all together last longer than AWAY_SECONDS.
    async with Replica(*[([WELCOME], 1012)] * 50) as replica:
        watching = watch(replica.url)
        await eventually(lambda: len(replica.cursors) > 50, "fifty connections")
        assert not watching.running.done()


async def test_a_replica_that_does_not_answer_is_left(
    watch: Callable[..., Watch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher_module, "CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with Replica() as replica:
            watching = watch(f"ws://127.0.0.1:{silent.getsockname()[1]}", replica.url)
            await eventually(watching.watcher.is_connected.is_set, "the other one to take it")
