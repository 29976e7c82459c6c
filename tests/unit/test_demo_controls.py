"""demo/controls.py: who may break the demo, what is taken, and what is answered."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError
from http_client import exchange

from demo.controls import controls_app
from demo.process import Process
from demo.stack import Stack
from demo.supervisor import Busy, Supervisor
from shared.server import HttpServer, http_server

ORIGIN = "http://127.0.0.1:8001"
USERS = ("ann", "bob")
ID = "3f2f1b0a-8d1e-4c55-9a55-0c6f0a3b1c11"
EVENT = {"type": "risk_alert", "user": "ann", "event_id": ID}
ACTS = {"relay": {"action": "kill"}, "redis": {"seconds": 2}, "slow": {}, "send": EVENT,
        "replica": {"name": "gateway-2", "action": "drain"}}  # fmt: skip


def process(name: str, is_running: bool = True) -> Process:
    number = int(name[-1]) if name[-1].isdigit() else 9
    ports = {"ws": 8000 + number, "admin": 8100 + number}
    return cast(Process, SimpleNamespace(name=name, is_running=is_running, ports=ports, port=ports["ws"]))


class ScriptedSupervisor:
    """Notes what it is told to do, or raises `busy`."""

    def __init__(self) -> None:
        self.did: list[tuple[object, ...]] = []
        self.busy: Busy | None = None
        self.redis_cut_for_s: float | None = None
        self.slow: SimpleNamespace | None = None

    def starts_in_s(self, process: Process) -> float | None:
        return None if process.is_running else 3.5

    def _note(self, *did: object) -> None:
        if self.busy is not None:
            raise self.busy
        self.did.append(did)

    async def kill(self, process: Process) -> None:
        self._note("kill", process.name)

    async def drain(self, process: Process) -> None:
        self._note("drain", process.name)

    def cut_redis(self, seconds: float) -> None:
        self._note("cut", seconds)

    async def start_slow_client(self) -> str:
        self._note("slow")
        return "gateway-1"


class ScriptedProducer:
    """Keeps what it is to send, or raises `error`."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any, bytes | None]] = []
        self.error: Exception | None = None

    async def send_and_wait(self, topic: str, value: bytes, key: bytes | None) -> SimpleNamespace:
        if self.error is not None:
            raise self.error
        self.sent.append((topic, json.loads(value), key))
        return SimpleNamespace(topic=topic, partition=2, offset=1841)


class Controls:
    """The controls, on a real server."""

    def __init__(self) -> None:
        self.supervisor, self.producer = ScriptedSupervisor(), ScriptedProducer()
        gateways = (process("gateway-1"), process("gateway-2", is_running=False))
        stack = Stack(process("valkey"), process("broker"), process("relay"), gateways)
        app = controls_app(
            stack, cast(Supervisor, self.supervisor), cast(AIOKafkaProducer, self.producer), USERS, [ORIGIN]
        )
        self.server: HttpServer = http_server(app, "127.0.0.1", 0)

    async def ask(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, str, str]:
        """Status, head in lower case, body."""
        sent = {"Host": "127.0.0.1:8900", "Content-Length": str(len(body)), "Content-Type": "application/json"}
        lines = "".join(f"{name}: {value}\r\n" for name, value in {**sent, **headers}.items())
        answer = await exchange(self.server, f"{method} /{path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
        head, _, rest = answer.decode().partition("\r\n\r\n")
        return int(head.split()[1]), head.lower(), rest

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, _, answer = await self.ask("POST", path, payload, {"X-Notify-Demo": "1", **headers})
        return status, json.loads(answer)

    @property
    def did(self) -> list[tuple[object, ...]]:
        return self.supervisor.did + [("send", *sent) for sent in self.producer.sent]


@pytest.fixture
async def controls() -> AsyncIterator[Controls]:
    controls = Controls()
    serving = await controls.server.start()
    yield controls
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


# Who may


@pytest.mark.parametrize("path", ACTS)
@pytest.mark.parametrize(
    "headers",
    [{"X-Notify-Demo": ""}, {"X-Notify-Demo": "0"}, {"Host": "evil.example"}, {"Host": "127.0.0.1.evil.example:8900"},
     {"Host": ""}, {"Host": "localhost@evil.example"}, {"Host": ":8900"}],
)  # fmt: skip
async def test_nothing_is_done_for_a_foreign_page(controls: Controls, path: str, headers: dict[str, str]) -> None:
    status, said = await controls.post(path, ACTS[path], **headers)
    assert (status, said["error"], controls.did) == (403, "forbidden", [])
    assert said["message"]


@pytest.mark.parametrize("host", ["127.0.0.1:8900", "127.0.0.1", "localhost:8900", "LOCALHOST"])
async def test_a_host_of_this_machine_is_known(controls: Controls, host: str) -> None:
    assert (await controls.post("slow", {}, Host=host))[0] == 200


async def test_how_it_is_is_not_told_to_a_foreign_host(controls: Controls) -> None:
    status, _, answer = await controls.ask("GET", "state", b"", {"Host": "evil.example"})
    assert (status, json.loads(answer)["error"]) == (403, "forbidden")


@pytest.mark.parametrize(("origin", "may"), [(ORIGIN, True), ("http://evil.example", False), ("null", False)])
async def test_only_the_consoles_pages_may_ask_and_read(controls: Controls, origin: str, may: bool) -> None:
    wanted = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-notify-demo"}
    status, head, _ = await controls.ask("OPTIONS", "relay", b"", {"Origin": origin, **wanted})
    assert (status == 200) is may
    assert (f"access-control-allow-origin: {origin}" in head) is may
    _, head, _ = await controls.ask("GET", "state", b"", {"Origin": origin})
    assert ("access-control-allow-origin" in head) is may
    assert "access-control-allow-credentials" not in head


# What is done


@pytest.mark.parametrize(
    ("path", "body", "did"),
    [
        ("relay", {"action": "kill"}, ("kill", "relay")),
        ("redis", {"seconds": 30}, ("cut", 30)),
        ("redis", {}, ("cut", 5)),
        ("replica", {"name": "gateway-2", "action": "drain"}, ("drain", "gateway-2")),
        ("replica", {"name": "gateway-1", "action": "kill"}, ("kill", "gateway-1")),
        ("slow", {}, ("slow",)),
    ],
)
async def test_it_does_what_it_is_told(controls: Controls, path: str, body: Any, did: tuple[object, ...]) -> None:
    status, said = await controls.post(path, body)
    assert (status, list(said), controls.did) == (200, ["done"], [did])


@pytest.mark.parametrize(
    ("type_", "topic", "user", "key"),
    [
        ("regime_change", "regime-events", "", None),
        ("market_alert", "alert-events", "", None),
        ("risk_alert", "risk-events", "ann", b"ann"),
        ("order_executed", "execution-events", "bob", b"bob"),
    ],
)
async def test_an_event_of_each_type_is_sent(
    controls: Controls, type_: str, topic: str, user: str, key: bytes | None
) -> None:
    body = {"type": type_, "event_id": ID, **({"user": user} if user else {})}
    assert await controls.post("send", body) == (200, {"id": f"{topic}/2/1841"})
    ((sent_to, event, sent_key),) = controls.producer.sent
    assert (sent_to, sent_key, UUID(event["event_id"]), event.get("user_id", "")) == (topic, key, UUID(ID), user)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("relay", {}),
        ("relay", {"action": "drain"}),
        ("relay", {"action": "kill", "more": 1}),
        ("redis", {"seconds": 0}),
        ("redis", {"seconds": 31}),
        ("redis", b'{"seconds": NaN}'),
        ("replica", {"name": "gateway-1", "action": "freeze"}),
        ("replica", {"name": "g" * 65, "action": "kill"}),
        ("slow", {"user": "ann"}),
        ("slow", b"not JSON"),
        ("slow", b""),
        ("send", {**EVENT, "type": "rumour"}),
        ("send", {**EVENT, "user": "eve"}),
        ("send", {**EVENT, "user": "a" * 129}),
        ("send", {**EVENT, "event_id": "1"}),
        ("send", {"type": "order_executed", "event_id": ID}),
    ],
)
async def test_what_is_not_understood_is_refused(controls: Controls, path: str, body: Any) -> None:
    status, said = await controls.post(path, body)
    assert (status, said["error"], controls.did) == (400, "bad_request", [])
    assert said["message"]


async def test_an_unknown_replica_is_named_with_those_that_there_are(controls: Controls) -> None:
    status, said = await controls.post("replica", {"name": "gateway-3", "action": "kill"})
    assert (status, said["error"], controls.did) == (404, "not_found", [])
    assert "gateway-3" in said["message"]
    assert "gateway-1, gateway-2" in said["message"]


@pytest.mark.parametrize("path", ["relay", "redis", "replica", "slow"])
async def test_what_cannot_be_done_now_says_why(controls: Controls, path: str) -> None:
    controls.supervisor.busy = Busy("wait for it")
    assert await controls.post(path, ACTS[path]) == (409, {"error": "busy", "message": "wait for it."})


async def test_a_broker_that_does_not_take_an_event_is_said(controls: Controls) -> None:
    controls.producer.error = KafkaConnectionError("gone")
    status, said = await controls.post("send", EVENT)
    assert (status, said["error"]) == (503, "unavailable")
    assert "gone" in said["message"]


# How it is


async def test_how_it_is(controls: Controls) -> None:
    controls.supervisor.redis_cut_for_s = 2.5
    controls.supervisor.slow = SimpleNamespace(replica="gateway-1", is_closed=True, seconds=4.5)
    status, _, answer = await controls.ask("GET", "state", b"", {})
    gateway = {"name": "gateway-1", "ws": "ws://127.0.0.1:8001/ws", "admin": "http://127.0.0.1:8101"}
    other = {"name": "gateway-2", "ws": "ws://127.0.0.1:8002/ws", "admin": "http://127.0.0.1:8102"}
    assert status == 200
    assert json.loads(answer) == {
        "users": list(USERS),
        "replicas": [
            {**gateway, "running": True, "starts_in_s": None},
            {**other, "running": False, "starts_in_s": 3.5},
        ],
        "relay": {"running": True, "starts_in_s": None},
        "redis": {"cut_for_s": 2.5},
        "slow": {"replica": "gateway-1", "closed": True, "seconds": 4.5},
    }
    controls.supervisor.slow = None
    assert json.loads((await controls.ask("GET", "state", b"", {}))[2])["slow"] is None
