"""What operators see, and who may act. The acts themselves: test_replica.py."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from http_client import exchange
from prometheus_client import CollectorRegistry, Counter
from structlog.testing import capture_logs

from gateway.close_codes import CloseCode
from gateway.deliveries import AGES_MS, Ages
from gateway.operators import feed as feed_module
from gateway.operators.acts import NotDone
from gateway.operators.app import ConsoleSettings, admin_app
from gateway.operators.feed import MOST_LOOKERS, Feed
from gateway.operators.fleet import RedisLook, fleet
from gateway.operators.guard import Guard
from gateway.operators.orders import Disconnect, Drain, encode_order, parse_order
from gateway.operators.status import State, replica_status
from shared.errors import RedisUnavailable
from shared.exposition import Exposition
from shared.metrics import GatewayCounts
from shared.server import HttpServer, http_server
from shared.statuses import Told

TOKEN = "t" * 32
PAGES = [file.name for file in Path("gateway/console").iterdir() if file.is_file()]


# Who may act

GOOD = {"host": "localhost:8001", "x-notify-admin": "1", "authorization": f"Bearer {TOKEN}"}


def headers_of(headers: Mapping[str, str]) -> dict[bytes, bytes]:
    return {name.encode(): value.encode("latin-1") for name, value in headers.items()}


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8001", "127.0.0.1:8001", "10.1.2.3", "[::1]:8001", "[::1]", "console.internal:8001"],
)
def test_a_known_host_is_taken(host: str) -> None:
    guard = Guard(TOKEN.encode(), hosts=frozenset({"console.internal"}))
    assert guard.refuse(headers_of({**GOOD, "host": host})) is None


@pytest.mark.parametrize(
    "host",
    ["", ":", ":8001", "evil.example", "evil.example:8001", "localhost.evil.example", "127.0.0.1.evil.example:80",
     "xconsole.internal", "[evil.example]", "[", "::1", "localhost@evil.example", "localhost\xff"],
)  # fmt: skip
def test_a_foreign_host_is_refused(host: str) -> None:
    for guard in (Guard(TOKEN.encode(), hosts=frozenset({"console.internal"})), Guard(is_open=True)):
        refusal = guard.refuse(headers_of({**GOOD, "host": host}))
        assert refusal is not None
        assert (refusal.status, refusal.error) == (403, "unknown_host")


@pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        ({"x-notify-admin": ""}, 403, "no_header"),
        ({"x-notify-admin": "0"}, 403, "no_header"),
        ({"authorization": ""}, 401, "unauthorized"),
        ({"authorization": "Bearer"}, 401, "unauthorized"),
        ({"authorization": "Bearer "}, 401, "unauthorized"),
        ({"authorization": f"Basic {TOKEN}"}, 401, "unauthorized"),
        ({"authorization": TOKEN}, 401, "unauthorized"),
        ({"authorization": f"Bearer {TOKEN[:-1]}"}, 401, "unauthorized"),
        ({"authorization": f"Bearer {TOKEN}t"}, 401, "unauthorized"),
        ({"authorization": f"Bearer {TOKEN[:-1]}\xff"}, 401, "unauthorized"),
    ],
)
def test_who_may_not_act(change: dict[str, str], status: int, error: str) -> None:
    refusal = Guard(TOKEN.encode()).refuse(headers_of(GOOD | change))
    assert refusal is not None
    assert (refusal.status, refusal.error) == (status, error)
    assert TOKEN not in refusal.message


def test_without_a_token_nobody_acts_unless_it_is_open() -> None:
    refusal = Guard().refuse(headers_of(GOOD))
    assert refusal is not None
    assert (refusal.status, refusal.error) == (403, "acts_are_off")
    assert "ADMIN_TOKEN" in refusal.message
    without = {name: value for name, value in GOOD.items() if name != "authorization"}
    assert Guard(is_open=True).refuse(headers_of(without)) is None
    assert [Guard().acts, Guard(b"t").acts, Guard(is_open=True).acts] == ["off", "token", "open"]


# Orders


@pytest.mark.parametrize(
    "order",
    [Drain("pod-1-a3"), Disconnect("ann", True), Disconnect("a b/ü€😀%20", False), Disconnect(None, True),
     Disconnect(None, False)],
)  # fmt: skip
def test_an_order_arrives_as_it_was_given(order: Drain | Disconnect) -> None:
    assert parse_order(encode_order(order)) == order


@pytest.mark.parametrize(
    "notice",
    [b"", b"drain", b"drain a b", b"disconnect", b"disconnect again", b"disconnect never ann", b"disconnect again ",
     b"disconnect again %00", b"disconnect again %ff", b"disconnect again \xff", b"disconnect-everyone",
     b"disconnect-everyone later", b"disconnect again " + b"a" * 129, b"tell a b", b"DRAIN a"],
)  # fmt: skip
def test_what_is_no_order_is_none(notice: bytes) -> None:
    assert parse_order(notice) is None


def test_clients_are_told_whether_to_come_back() -> None:
    assert Disconnect("ann", True).code is CloseCode.SERVICE_RESTART
    assert Disconnect("ann", False).code is CloseCode.DISCONNECTED_BY_ADMIN
    assert not CloseCode.DISCONNECTED_BY_ADMIN.retry


# What is seen


def counts_with(ages: Ages) -> GatewayCounts:
    return GatewayCounts(
        states={}, subscription_up=True, hears_relay=True, connections=3, max_connections=9, joining=0, users=2,
        presence_writes={}, handshakes={101: 5}, refusals={"unavailable": 2}, deliveries={b"risk_alert": 7},
        delivered_bytes={}, latencies={b"risk_alert": ages.cumulated()}, closes={CloseCode.GAP: 1, CloseCode.NORMAL: 0},
        conflated={}, gaps_found=4, gaps={"filled": 4}, replays={"recovered": 1}, replaying=1, buffered_bytes=99,
        max_buffered_bytes=999, due_bytes=0, streams=2,
    )  # fmt: skip


def test_a_replica_says_the_figures_of_its_metrics() -> None:
    ages = Ages()
    ages.counts[0], ages.counts[3], ages.counts[-1], ages.sum_ms = 4, 2, 1, 60_123
    status = json.loads(json.dumps(replica_status(counts_with(ages), State.DEAF, "why", 8000, 17)))
    assert status["latency"] == {"risk_alert": {"counts": ages.counts, "sum_ms": 60_123}}
    assert len(status["latency"]["risk_alert"]["counts"]) == len(AGES_MS) + 1
    assert status["closes"] == {"4003": 1}
    assert status["handshakes"] == {"101": 5}
    assert (status["state"], status["reason"], status["address"], status["started_ms"]) == ("deaf", "why", "8000", 17)
    assert (status["connections"], status["buffered_bytes"], status["deliveries"]) == (3, 99, {"risk_alert": 7})


def test_the_fleet_has_relays_and_replicas_and_what_was_heard_of_redis() -> None:
    told = [
        Told("g-1", 5, {"kind": "gateway", "connections": 1}),
        Told("r-1", 7, {"kind": "relay", "partitions": 16}),
        Told("x-1", 7, {"kind": "another"}),
        Told("y-1", 7, {}),
    ]
    seen = json.loads(fleet(told, RedisLook("127.0.0.1:6379", ms=0.4)))
    assert seen["replicas"] == [{"name": "g-1", "seen_ms_ago": 5, "kind": "gateway", "connections": 1}]
    assert [relay["name"] for relay in seen["relays"]] == ["r-1"]
    assert seen["redis"] == {"up": True, "ms": 0.4, "error": None, "address": "127.0.0.1:6379"}
    assert [(one["topic"], one["type"], one["audience"]) for one in seen["topics"]] == [
        ("regime-events", "regime_change", "everyone"),
        ("alert-events", "market_alert", "everyone"),
        ("risk-events", "risk_alert", "user"),
        ("execution-events", "order_executed", "user"),
    ]
    away = json.loads(fleet([], RedisLook("127.0.0.1:6379", error="gone")))
    assert (away["redis"]["up"], away["redis"]["error"]) == (False, "gone")


class ScriptedStatuses:
    """Gives what it was told to, counting how often."""

    def __init__(self) -> None:
        self.looks = 0
        self.is_away = False

    async def read(self) -> list[Told]:
        self.looks += 1
        if self.is_away:
            raise RedisUnavailable("away")
        return [Told("g-1", 5, {"kind": "gateway"})]


@pytest.fixture
async def statuses(monkeypatch: pytest.MonkeyPatch) -> ScriptedStatuses:
    monkeypatch.setattr(feed_module, "LOOK_SECONDS", 0.01)
    return ScriptedStatuses()


@pytest.fixture
async def feed(statuses: ScriptedStatuses) -> AsyncIterator[Feed]:
    feed = Feed(statuses, "127.0.0.1:6379")  # type: ignore[arg-type]
    running = asyncio.create_task(feed.run())
    yield feed
    running.cancel()


def seen_in(frame: bytes) -> Any:
    event, data, *rest = frame.split(b"\n")
    assert (event, rest) == (b"event: fleet", [b"", b""])
    return json.loads(data.removeprefix(b"data: "))


async def test_redis_is_asked_only_while_somebody_looks(feed: Feed, statuses: ScriptedStatuses) -> None:
    await asyncio.sleep(0.1)
    assert statuses.looks == 0
    frames = feed.frames()
    assert await anext(frames) == b"retry: 200\n\n"
    assert seen_in(await anext(frames))["replicas"][0]["name"] == "g-1"
    await frames.aclose()
    await asyncio.sleep(0.1)
    looks = statuses.looks
    await asyncio.sleep(0.1)
    assert statuses.looks == looks


async def test_all_who_look_see_the_same(feed: Feed) -> None:
    first, second = feed.frames(), feed.frames()
    await asyncio.gather(anext(first), anext(second))
    seen = await asyncio.gather(anext(first), anext(second))
    assert seen[0] == seen[1]
    await first.aclose()
    assert seen_in(await anext(second))


async def test_without_redis_what_was_heard_last_grows_old(feed: Feed, statuses: ScriptedStatuses) -> None:
    frames = feed.frames()
    await anext(frames)
    await anext(frames)
    statuses.is_away = True
    await anext(frames)  # may have been under way
    await asyncio.sleep(0.2)
    for _ in range(30):
        seen = seen_in(await anext(frames))
    assert (seen["redis"]["up"], seen["redis"]["error"]) == (False, "away")
    assert seen["replicas"][0]["seen_ms_ago"] > 100


async def test_one_answer_is_bounded_and_so_are_those_who_look(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "STREAM_SECONDS", 0.1)
    assert 1 < len([frame async for frame in feed.frames()]) < 100
    looking = [feed.frames() for _ in range(MOST_LOOKERS)]
    for frames in looking:
        assert not feed.is_full
        await anext(frames)
    assert feed.is_full
    await looking[0].aclose()
    assert not feed.is_full


# The routes


class ScriptedActs:
    """Says what it was asked to do."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []
        self.error: BaseException | None = None

    async def _do(self, *what: Any) -> str:
        if self.error is not None:
            raise self.error
        self.done.append(what)
        return f"did {what[0]}"

    async def presence(self, user_id: str) -> Mapping[str, Any]:
        await self._do("presence", user_id)
        return {"g-1": {"connections": 1, "opened_ms": [17]}}

    async def disconnect(self, user_id: str, *, retry: bool) -> str:
        return await self._do("disconnect", user_id, retry)

    async def disconnect_everyone(self, *, retry: bool) -> str:
        return await self._do("everyone", retry)

    async def revoke(self, user_id: str) -> str:
        return await self._do("revoke", user_id)

    async def drain(self, replica: str) -> str:
        return await self._do("drain", replica)


class Port:
    """The admin port, on a real server."""

    def __init__(self, acts: ScriptedActs, feed: Feed, demo: str | None = None, guard: Guard | None = None) -> None:
        registry = CollectorRegistry()
        Counter("notify_test", "one", registry=registry).inc()
        guard = guard or Guard(TOKEN.encode())
        console = ConsoleSettings("notification", "host-1", demo)
        self.server: HttpServer = http_server(
            admin_app(Exposition(registry), console, feed, guard, acts),
            "127.0.0.1",
            0,  # type: ignore[arg-type]
        )

    async def __aenter__(self) -> "Port":
        self._task = await self.server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str, str]:
        """Status, head, body."""
        payload = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Host": "localhost", "Content-Length": str(len(payload)), **headers}
        if body is not None:
            sent["Content-Type"] = "application/json"
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in sent.items())
        answer = await exchange(self.server, f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + payload)
        head, _, rest = answer.decode().partition("\r\n\r\n")
        return int(head.split()[1]), head.lower(), rest

    async def act(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        sent = {"X_Notify_Admin": "1", "Authorization": f"Bearer {TOKEN}"} | headers
        status, _, answer = await self.ask("POST", f"/admin/{path}", body, **sent)
        return status, json.loads(answer)


@pytest.fixture
def acts() -> ScriptedActs:
    return ScriptedActs()


@pytest.fixture
async def port(acts: ScriptedActs, feed: Feed) -> AsyncIterator[Port]:
    async with Port(acts, feed) as port:
        yield port


async def test_metrics_are_open(port: Port) -> None:
    status, _, text = await port.ask("GET", "/metrics")
    assert status == 200
    assert "notify_test_total 1.0" in text


@pytest.mark.parametrize(
    ("path", "body", "done"),
    [
        ("presence", {"user_id": "ann"}, ("presence", "ann")),
        ("disconnect", {"user_id": "ann", "retry": False}, ("disconnect", "ann", False)),
        ("disconnect", {"user_id": "ann"}, ("disconnect", "ann", True)),
        ("disconnect", {"everyone": True, "retry": False}, ("everyone", False)),
        ("revoke", {"user_id": "ü/ \U0001f600"}, ("revoke", "ü/ \U0001f600")),
        ("drain", {"replica": "g-1"}, ("drain", "g-1")),
    ],
)
async def test_an_act_is_done(port: Port, acts: ScriptedActs, path: str, body: Any, done: tuple[Any, ...]) -> None:
    status, answer = await port.act(path, body)
    assert status == 200
    assert acts.done == [done]
    seen = {"replicas": {"g-1": {"connections": 1, "opened_ms": [17]}}}
    assert answer == (seen if path == "presence" else {"done": f"did {done[0]}"})


@pytest.mark.parametrize("path", ["presence", "disconnect", "revoke", "drain"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Authorization": "Bearer x"}, 401), ({"Authorization": ""}, 401), ({"X_Notify_Admin": ""}, 403),
     ({"Host": "evil.example"}, 403)],
)  # fmt: skip
async def test_who_may_not_act_does_not(
    port: Port, acts: ScriptedActs, path: str, headers: dict[str, str], status: int
) -> None:
    answer = await port.act(path, {"user_id": "ann", "replica": "g-1"}, **headers)
    assert answer[0] == status
    assert set(answer[1]) == {"error", "message"}
    assert acts.done == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("disconnect", {}),
        ("disconnect", {"user_id": "ann", "everyone": True}),
        ("disconnect", {"everyone": False}),
        ("disconnect", {"user_id": "ann", "retry": "no"}),
        ("disconnect", {"user_id": ""}),
        ("disconnect", {"user_id": "a" * 129}),
        ("disconnect", {"user_id": "a\n"}),
        ("disconnect", {"user_id": 7}),
        ("disconnect", {"user_id": "ann", "more": 1}),
        ("presence", {}),
        ("presence", []),
        ("presence", b"{"),
        ("presence", b"\xff"),
        ("presence", b'{"user_id":"\\ud800"}'),
        ("revoke", {"user_id": None}),
        ("drain", {"replica": ""}),
        ("drain", {"replica": "a" * 129}),
    ],
)
async def test_a_bad_act_is_refused_with_what_it_takes(port: Port, acts: ScriptedActs, path: str, body: Any) -> None:
    status, answer = await port.act(path, body)
    assert (status, answer["error"]) == (400, "bad_request")
    assert answer["message"]
    assert acts.done == []


async def test_what_could_not_be_done_is_said(port: Port, acts: ScriptedActs) -> None:
    acts.error = NotDone("nobody heard it")
    assert await port.act("drain", {"replica": "g-1"}) == (409, {"error": "not_done", "message": "nobody heard it"})
    acts.error = RedisUnavailable("away")
    status, answer = await port.act("presence", {"user_id": "ann"})
    assert (status, answer["error"]) == (503, "unavailable")


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "done"),
        (NotDone("nobody heard it"), "not done"),
        (RedisUnavailable("away"), "unknown"),
        (asyncio.CancelledError(), "unknown"),
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    ("path", "body", "what"),
    [
        ("presence", {"user_id": "ann"}, {"user": "ann"}),
        ("disconnect", {"user_id": "ann"}, {"user": "ann", "retry": True}),
        ("disconnect", {"everyone": True, "retry": False}, {"retry": False}),
        ("revoke", {"user_id": "ann"}, {"user": "ann"}),
        ("drain", {"replica": "g-1"}, {"replica": "g-1"}),
    ],
)
async def test_each_act_is_logged_with_what_became_of_it(
    port: Port, acts: ScriptedActs, path: str, body: Any, what: Any, error: BaseException | None, outcome: str
) -> None:
    acts.error = error
    with capture_logs() as logged, contextlib.suppress(Exception):
        await port.act(path, body)
    (line,) = [line for line in logged if line.get("audit")]
    assert line == {
        "event": "an operator acted",
        "log_level": "warning",
        "act": f"/admin/{path}",
        "peer": "127.0.0.1",
        "outcome": outcome,
        "audit": True,
        **what,
    }


async def test_acts_are_no_gets(port: Port) -> None:
    assert (await port.ask("GET", "/admin/drain"))[0] == 405
    assert (await port.ask("GET", "/openapi.json"))[0] == 404


async def test_the_page_may_load_nothing_from_elsewhere(port: Port, acts: ScriptedActs, feed: Feed) -> None:
    status, head, _ = await port.ask("GET", "/console/")
    assert status == 200
    assert "content-type: text/html" in head
    for says in ("default-src 'none'", "script-src 'self'", "connect-src 'self';", "frame-ancestors 'none'"):
        assert says in head
    for header in ("x-content-type-options: nosniff", "referrer-policy: no-referrer", "cache-control: no-cache"):
        assert header in head
    assert (await port.ask("GET", "/console"))[0] == 307
    async with Port(acts, feed, "http://127.0.0.1:8900", Guard(is_open=True)) as demo:
        head = (await demo.ask("GET", "/console/"))[1]
        assert "connect-src 'self' http://127.0.0.1:8900 ws://127.0.0.1:* ws://localhost:*;" in head
        config = json.loads((await demo.ask("GET", "/console/config"))[2])
        assert (config["acts"], config["demo"]) == ("open", "http://127.0.0.1:8900")


async def test_every_file_of_the_page_is_served_and_nothing_else(port: Port) -> None:
    assert "index.html" in PAGES
    for name in PAGES:
        assert (await port.ask("GET", f"/console/{name}"))[0] == 200
    for name in ("nothing.js", "..%2fapp.py", "../app.py", "%2e%2e/app.py", "a/b"):
        assert (await port.ask("GET", f"/console/{name}"))[0] == 404


async def test_the_feed_comes_as_an_event_stream_that_ends(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "STREAM_SECONDS", 0.2)
    status, head, text = await port.ask("GET", "/console/feed")
    assert status == 200
    assert "content-type: text/event-stream" in head
    assert '"replicas":[{"name":"g-1"' in text


async def test_too_many_who_look_are_refused(port: Port, feed: Feed) -> None:
    looking = [feed.frames() for _ in range(MOST_LOOKERS)]
    for frames in looking:
        await anext(frames)
    assert (await port.ask("GET", "/console/feed"))[0] == 503
    for frames in looking:
        await frames.aclose()
