"""A new socket: its first request's head, and who gets the socket then."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from harness.waiting import eventually
from http_client import connect, exchange
from hypothesis import given
from hypothesis import strategies as st
from scripted import PONG, ScriptedTransport, client_frame, close_of
from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.admission.policy import Policy
from gateway.connection import Connection, Connections
from gateway.door import (
    HEAD_PARTS,
    LINGER_SECONDS,
    PATIENCE_SECONDS,
    REFUSALS_RESERVE,
    SOCKETS_RESERVE,
    Door,
    Doorkeeper,
)
from gateway.hub import Hub
from gateway.settings import FILE_RESERVE, AdmissionSettings, ConnectionSettings
from gateway.stream import Meta
from gateway.turns import A_TURN, Turns
from gateway.wheel import Wheel
from shared.bounded_http import MAX_HEADERS, MAX_SOCKETS
from shared.keys import Keys
from shared.server import HttpServer, http_server

HANDSHAKE = (
    b"GET /ws?user_id=ann HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
OFFERING = HANDSHAKE.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: notify.plain\r\n\r\n")


class House:
    """A replica's door, with its streams subscribed, and scripted sockets that come to it."""

    def __init__(self, policy: Policy = Policy("none"), **settings: Any) -> None:  # noqa: B008
        self.wheel = Wheel()
        self.hub = Hub(Keys())
        nothing: Any = None  # nobody resumes here
        self.connections = Connections(ConnectionSettings(_env_file=None), self.hub, self.wheel, nothing, nothing)
        self.connections.turns = Turns(lambda turn: turn())  # each as if it came in a turn of its own
        self.why_closed: str | None = None
        self.do_others_take_clients = False
        self.keeper = Doorkeeper(
            AdmissionSettings(_env_file=None, **settings),
            policy,
            self.connections,
            lambda: self.why_closed,
            lambda: self.do_others_take_clients,
        )
        self.config = Config(SimpleNamespace(), http="httptools", ws="none", lifespan="off", log_config=None)
        self.state = ServerState()
        self.is_slow_over = asyncio.Event()

    def subscribe(self) -> None:
        for audience in self.hub.take_wanted(100):
            self.hub.joined(audience, Meta(), {})

    def come(self, data: bytes = b"", peer: tuple[str, int] | None = ("127.0.0.1", 50_000)) -> ScriptedTransport:
        transport = ScriptedTransport(peer)
        door = self.keeper.door(config=self.config, server_state=self.state, app_state={}, _loop=None)
        transport.set_protocol(door)
        door.connection_made(transport)
        if data:
            transport.receive(data)
        return transport

    def tick(self, seconds: int) -> None:
        for _ in range(seconds):
            self.wheel.tick()

    @property
    def sockets(self) -> int:
        return len(self.keeper.doors) + self.connections.sockets


def answer(transport: ScriptedTransport) -> tuple[int, dict[str, str], Any]:
    """A refusal: status, headers, body."""
    head, _, body = transport.take().partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers: dict[str, str] = {}
    for name, value in (line.split(": ", 1) for line in lines):
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return int(first.split(" ")[1]), headers, json.loads(body)


# To a connection


def test_of_a_crowd_a_few_are_answered_in_one_turn_and_all_in_time() -> None:
    house = House()
    house.come(HANDSHAKE)
    house.subscribe()
    turns: list[Callable[[], None]] = []
    house.connections.turns = Turns(turns.append)
    crowd = [house.come(HANDSHAKE if number % 2 else b"GET /ws HTTP/1.1\r\n\r\n") for number in range(60)]
    gone = crowd.pop(50)
    gone.is_lost = True
    gone.protocol.connection_lost(None)
    answered = 0
    while turns:
        now = sum(bool(transport.written) for transport in crowd)
        assert now - answered <= A_TURN // HEAD_PARTS
        answered = now
        turns.pop(0)()
    assert all(transport.written for transport in crowd)
    assert house.keeper.head_bytes == 0


def test_what_comes_while_a_head_waits_for_its_turn_is_too_early() -> None:
    house = House()
    turns: list[Callable[[], None]] = []
    house.connections.turns = Turns(turns.append)
    crowd = [house.come(HANDSHAKE) for _ in range(A_TURN)]
    last = crowd[-1]
    last.receive(b"x" * 100_000)
    while turns:
        turns.pop(0)()
    assert answer(last)[0] == 400


def test_a_head_that_waits_for_its_turn_is_not_late_however_long_that_takes() -> None:
    house = House(head_seconds=1, max_connections=1)
    house.come(HANDSHAKE)
    house.subscribe()
    turns: list[Callable[[], None]] = []
    house.connections.turns = Turns(turns.append)
    crowd = [house.come(b"GET /ws HTTP/1.1\r\n\r\n") for _ in range(SOCKETS_RESERVE)]
    house.tick(PATIENCE_SECONDS)
    house.come()
    assert not any(transport.is_aborted for transport in crowd), "nor does it make room"
    while turns:
        turns.pop(0)()
    assert all(transport.take().startswith(b"HTTP/1.1 4") for transport in crowd)


def test_a_handshake_becomes_a_connection() -> None:
    house = House()
    transport = house.come(HANDSHAKE)
    assert isinstance(transport.protocol, Connection)
    assert not house.keeper.doors
    assert house.connections.joining == 1
    house.subscribe()
    assert transport.take().startswith(b"HTTP/1.1 101 ")
    transport.lose()
    assert house.sockets == 0


@given(st.lists(st.integers(0, len(OFFERING)), max_size=40))
def test_a_head_split_anywhere_is_the_same_head(cuts: list[int]) -> None:
    house = House()
    transport = house.come()
    for start, end in pairwise(sorted({0, *cuts, len(OFFERING)})):
        assert isinstance(transport.protocol, Door)
        transport.receive(OFFERING[start:end])
    assert isinstance(transport.protocol, Connection)


def test_types_in_the_query_are_the_connections_wishes() -> None:
    house = House()
    transport = house.come(HANDSHAKE.replace(b"user_id=ann", b"user_id=ann&types=risk_alert"))
    assert transport.protocol.wishes.types == {b"risk_alert"}


# Refusals


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\r\n\r\n", 400),
        (b"hello\r\n\r\n", 400),
        (b"GET /ws HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (HANDSHAKE.replace(b"?user_id=ann", b""), 400),
        (HANDSHAKE.replace(b"user_id=ann", b"user_id=a%00"), 400),
        (HANDSHAKE.replace(b"Host: localhost\r\n", b""), 400),
        (HANDSHAKE + client_frame(PONG), 400),
        (OFFERING.replace(b"notify.plain", b"other"), 400),
        (HANDSHAKE.replace(b"GET", b"POST"), 405),
        (b"GET /ws?user_id=ann HTTP/1.1\r\nHost: localhost\r\n\r\n", 426),
        (HANDSHAKE.replace(b"Version: 13", b"Version: 12"), 426),
        (HANDSHAKE.replace(b"HTTP/1.1", b"HTTP/1.0"), 426),
    ],
)
def test_a_refusal_is_a_status_with_a_json_body_and_the_end_of_our_side(data: bytes, status: int) -> None:
    house = House()
    transport = house.come(data)
    got, headers, body = answer(transport)
    assert got == status
    assert headers["Connection"] == ("close, Upgrade" if status == 426 else "close")
    assert headers["Content-Type"] == "application/json"
    assert set(body) == {"error", "message"}
    assert transport.wrote_eof
    assert house.connections.handshakes == {status: 1}


def test_a_refused_client_may_read_in_peace_and_is_cut_off_then() -> None:
    house = House()
    transport = house.come(HANDSHAKE.replace(b"?user_id=ann", b""))
    transport.take()
    transport.receive(b"more" * 10_000)
    transport.receive(HANDSHAKE)
    house.tick(LINGER_SECONDS)
    assert not transport.is_closed
    house.tick(1)
    assert transport.is_aborted
    assert transport.take() == b""
    transport.lose()
    assert house.sockets == 0


def test_a_refused_client_that_sends_without_an_end_is_read_no_more() -> None:
    house = House()
    transport = house.come(HANDSHAKE.replace(b"?user_id=ann", b""))
    for _ in range(16):
        transport.receive(b"x" * 16_384)
    assert not transport.is_paused
    transport.receive(b"x")
    assert transport.is_paused
    house.tick(LINGER_SECONDS + 1)
    assert transport.is_aborted


def test_a_client_with_our_subprotocol_is_refused_by_a_close_code() -> None:
    transport = House().come(OFFERING.replace(b"user_id=ann", b"user_id="))
    head, _, frames = transport.take().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    code, reason = close_of(frames)
    assert code == 4503
    assert reason.startswith("bad_request: ")


def test_without_auth_mode_only_this_machine_is_let_in() -> None:
    house = House(Policy())
    assert isinstance(house.come(HANDSHAKE).protocol, Connection)
    assert answer(house.come(HANDSHAKE, peer=("10.0.0.1", 1)))[0] == 401
    assert answer(house.come(HANDSHAKE, peer=None))[0] == 401
    assert answer(house.come(HANDSHAKE.replace(b"localhost", b"evil.com")))[0] == 401


def test_a_head_may_be_so_large_and_no_larger() -> None:
    house = House(max_head_bytes=1_024)
    filler = b"X: " + b"x" * (1_024 - len(HANDSHAKE) - len(b"X: \r\n")) + b"\r\n"
    largest = HANDSHAKE.replace(b"Host", filler + b"Host")
    assert len(largest) == 1_024
    assert isinstance(house.come(largest).protocol, Connection)
    transport = house.come(largest[:-4])
    transport.receive(largest[-4:])
    assert isinstance(transport.protocol, Connection)
    larger = largest.replace(b"X: ", b"X: x")
    for cut in (0, 1, 512, 1_023, 1_024):
        transport = house.come(larger[:cut])
        transport.receive(larger[cut:])
        assert answer(transport)[0] == 431


def test_an_endless_head_is_refused_and_not_kept() -> None:
    house = House()
    transport = house.come(b"GET / HTTP/1.1\r\n")
    for _ in range(100):
        transport.receive(b"X: y\r\n" * 100)
    assert answer(transport)[0] == 431
    (door,) = house.keeper.doors
    assert len(door._head) == 0


def test_a_socket_that_says_nothing_or_says_it_too_slowly_is_cut_off() -> None:
    house = House(head_seconds=5)
    silent, slow = house.come(), house.come()
    for byte in HANDSHAKE[:5]:
        slow.receive(bytes([byte]))
        house.tick(1)
    assert not silent.is_closed
    house.tick(1)
    assert silent.is_aborted
    assert slow.is_aborted
    silent.lose()
    slow.lose()
    assert house.sockets == 0


def test_a_socket_that_goes_before_its_head_was_read_is_forgotten() -> None:
    house = House()
    house.come(HANDSHAKE[:20]).lose()
    assert house.sockets == 0
    house.tick(100)


def test_a_replica_that_goes_cuts_off_those_who_have_not_said_a_thing() -> None:
    house = House()
    transport = house.come()
    for door in house.keeper.doors:
        door.close()
    assert transport.is_aborted


# Full, or closed


def test_a_replica_that_takes_no_clients_says_why_and_when_to_come_back() -> None:
    house = House()
    house.why_closed = "Redis is away"
    status, headers, body = answer(house.come(HANDSHAKE))
    assert status == 503
    assert body == {"error": "unavailable", "message": "Redis is away; connect again."}
    assert 0 < int(headers["Retry-After"]) <= 3
    _, _, frames = house.come(OFFERING).take().partition(b"\r\n\r\n")
    assert close_of(frames)[0] == 4004


EVENTS = b"GET /events?user_id=ann HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("request_", [OFFERING, EVENTS], ids=["notify.plain", "events"])
def test_a_load_balancer_is_told_by_the_status_that_another_replica_is_to_be_asked(request_: bytes) -> None:
    # It cannot see what an accepted handshake, or a stream, says afterwards.
    house = House()
    house.why_closed, house.do_others_take_clients = "This replica is going", True
    forwarded = request_.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 10.0.0.7\r\n\r\n")
    status, headers, body = answer(house.come(forwarded))
    assert (status, body["message"]) == (503, "This replica is going; connect again.")
    assert headers["Retry-After"]
    direct = house.come(request_).take()
    assert b" 503 " not in direct
    # Redis is away for all replicas: another would not help, and the client is to be told when to come again.
    house.why_closed, house.do_others_take_clients = "Redis is away", False
    assert b" 503 " not in house.come(forwarded).take()


def test_a_bad_request_is_told_so_even_by_a_replica_that_is_closed() -> None:
    house = House()
    house.why_closed = "Redis is away"
    assert answer(house.come(HANDSHAKE.replace(b"?user_id=ann", b"")))[0] == 400


def test_a_full_replica_refuses_until_somebody_leaves() -> None:
    house = House(max_connections=2)
    first, _ = house.come(HANDSHAKE), house.come(HANDSHAKE)
    house.subscribe()
    status, _, body = answer(house.come(HANDSHAKE))
    assert (status, body["message"]) == (503, "This replica is full; connect again.")
    first.lose()
    assert isinstance(house.come(HANDSHAKE).protocol, Connection)


def test_handshakes_in_progress_have_a_bound_of_their_own() -> None:
    house = House(max_handshakes=2)
    house.come(HANDSHAKE)
    house.come(HANDSHAKE)
    assert answer(house.come(HANDSHAKE))[0] == 503
    house.subscribe()
    assert isinstance(house.come(HANDSHAKE).protocol, Connection)


def test_a_head_of_very_many_lines_is_refused_before_they_are_read() -> None:
    house = House()
    lines = b"".join(b"X-%d: y\r\n" % number for number in range(MAX_HEADERS - 5))  # and five of its own
    assert isinstance(house.come(HANDSHAKE.replace(b"Host", lines + b"Host")).protocol, Connection)
    assert answer(house.come(HANDSHAKE.replace(b"Host", lines + b"A: b\r\nHost")))[0] == 431


def test_heads_that_come_in_part_have_a_bound_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.door.HEADS_BYTES", 1_000)
    house = House()
    slow = [house.come(b"GET / HTTP/1.1\r\nX: " + b"x" * 300) for _ in range(3)]
    assert not any(transport.is_aborted for transport in slow)
    slow[2].receive(b"x" * 100)
    assert [transport.is_aborted for transport in slow] == [True, False, False]
    for transport in slow:
        transport.lose()
    assert house.keeper.head_bytes == 0
    assert not house.keeper.awaited
    assert isinstance(house.come(HANDSHAKE).protocol, Connection)
    assert house.keeper.head_bytes == 0


def test_heads_that_wait_for_their_turn_are_within_that_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.door.HEADS_BYTES", 1_000)
    house = House()
    turns: list[Callable[[], None]] = []
    house.connections.turns = Turns(turns.append)
    crowd = [house.come(HANDSHAKE) for _ in range(A_TURN // HEAD_PARTS + 10)]
    slow = house.come(HANDSHAKE[:20])
    waiting = [transport for transport in crowd if not transport.is_aborted]
    assert len(waiting) - A_TURN // HEAD_PARTS == 1_000 // len(HANDSHAKE)
    assert house.keeper.head_bytes <= 1_000
    crowd += [house.come(HANDSHAKE)]
    assert slow.is_aborted
    while turns:
        turns.pop(0)()
    assert house.keeper.head_bytes == 0


def test_who_says_nothing_for_long_makes_room_where_there_is_none() -> None:
    house = House(max_connections=1)
    silent = [house.come() for _ in range(1 + SOCKETS_RESERVE)]
    house.tick(PATIENCE_SECONDS)
    assert isinstance(house.come(HANDSHAKE).protocol, Connection)
    assert [transport.is_aborted for transport in silent[:3]] == [True, False, False]
    assert answer(house.come(HANDSHAKE))[0] == 503, "it is full of those who have said something"
    assert [transport.is_aborted for transport in silent[:3]] == [True, True, False]


def test_sockets_that_have_said_nothing_count_too() -> None:
    house = House(max_connections=1)
    silent = [house.come() for _ in range(1 + SOCKETS_RESERVE)]
    assert all(transport.take() == b"" for transport in silent)
    assert answer(house.come())[0] == 503


def test_above_those_who_are_told_to_go_a_crowd_is_cut_off_without_a_word() -> None:
    house = House(max_connections=1)
    crowd = [house.come() for _ in range(1 + SOCKETS_RESERVE + REFUSALS_RESERVE)]
    assert not any(transport.is_aborted for transport in crowd)
    transport = house.come()
    assert transport.is_aborted
    assert transport.take() == b""
    operators = 3 * MAX_SOCKETS  # twice, and those that are accepted in one go
    assert SOCKETS_RESERVE + REFUSALS_RESERVE + operators < FILE_RESERVE


# To uvicorn, over real sockets


@pytest.fixture
async def server() -> AsyncIterator[tuple[HttpServer, House]]:
    """A FastAPI app behind the door, on a port of its own."""
    app = FastAPI()

    @app.get("/hello")
    async def hello(name: str = "you") -> dict[str, str]:
        return {"hello": name}

    @app.get("/slow")
    async def slow() -> None:
        await house.is_slow_over.wait()

    house = House()
    served = http_server(app, "127.0.0.1", 0, protocol=house.keeper.door)
    task = await served.start()
    yield served, house
    house.is_slow_over.set()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not house.keeper.doors
    assert not served.server_state.connections


async def test_other_paths_are_served_by_fastapi_and_the_socket_closes(server: tuple[HttpServer, House]) -> None:
    said = await exchange(server[0], b"GET /hello?name=ann HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nconnection: close" in head.lower()
    assert json.loads(body) == {"hello": "ann"}


@pytest.mark.parametrize(
    "more",
    [
        b"Content-Length: 5",
        b"Content-Length: 0\r\nContent-Length: 5",
        b"Content-Length: 5\r\nContent-Length: 5",
        b"Content-Length: +0",
        b"Content-Length: ",
        b"content-length:\t7",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: identity",
        b"transfer-encoding:",
        b"Content-Length: 0\r\nTransfer-Encoding: chunked",
    ],
)
@pytest.mark.parametrize("start", [b"GET /hello", b"POST /hello", b"OPTIONS /hello", b"PUT /nowhere"])
async def test_a_request_with_a_body_is_refused_whatever_it_asks(
    server: tuple[HttpServer, House], start: bytes, more: bytes
) -> None:
    said = await exchange(server[0], start + b" HTTP/1.1\r\nHost: a\r\n" + more + b"\r\n\r\n", b"hello")
    assert said.startswith(b"HTTP/1.1 400 ")
    assert b"no body" in said
    assert said.count(b"HTTP/1.1 ") == 1


async def test_a_body_of_no_bytes_is_none(server: tuple[HttpServer, House]) -> None:
    said = await exchange(server[0], b"GET /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200 ")


async def test_what_is_handed_on_holds_its_socket_for_a_bounded_time(
    server: tuple[HttpServer, House], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.bounded_http.ANSWER_SECONDS", 0.2)
    assert await exchange(server[0], b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n") == b""
    assert not server[0].server_state.connections


async def test_only_the_first_of_pipelined_requests_is_answered(server: tuple[HttpServer, House]) -> None:
    one, two = (b"GET /hello?name=%s HTTP/1.1\r\nHost: a\r\n\r\n" % name for name in (b"one", b"two"))
    said = await exchange(server[0], one + two + HANDSHAKE)
    assert said.count(b"HTTP/1.1 ") == 1
    assert said.endswith(b'{"hello":"one"}')


async def test_an_upgrade_to_another_path_goes_nowhere(server: tuple[HttpServer, House]) -> None:
    said = await exchange(server[0], HANDSHAKE.replace(b"/ws?user_id=ann", b"/hello"))
    assert said.startswith(b"HTTP/1.1 200 OK\r\n")
    said = await exchange(server[0], HANDSHAKE.replace(b"/ws?user_id=ann", b"/ws/"))
    assert said.startswith(b"HTTP/1.1 404 Not Found\r\n")


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (b"GET /nowhere HTTP/1.1", 404),
        (b"GET /%77s HTTP/1.1", 404),
        (b"GET //ws HTTP/1.1", 404),
        (b"DELETE /hello HTTP/1.1", 405),
        (b"HEAD /nowhere HTTP/1.1", 404),
        (b"GET /hello HTTP/1.0", 200),
        (b"GET http://other/hello HTTP/1.1", 200),
        (b"NONSENSE /hello HTTP/1.1", 400),
        (b"CONNECT other:443 HTTP/1.1", 400),
        (b"OPTIONS * HTTP/1.1", 404),
        (b"GET ? HTTP/1.1", 400),
    ],
)
async def test_odd_requests_are_answered_and_forgotten(
    server: tuple[HttpServer, House], start: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        said = await exchange(server[0], start + b"\r\nHost: a\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 %d " % status)
    assert not caplog.records
    await eventually(lambda: not server[0].server_state.connections, "the socket to be forgotten")


async def test_both_kinds_of_clients_come_to_one_port(server: tuple[HttpServer, House]) -> None:
    served, house = server
    reader, writer = await connect(served)
    writer.write(HANDSHAKE)
    await eventually(lambda: house.connections.joining == 1, "the handshake")
    house.subscribe()
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert head.startswith(b"HTTP/1.1 101 ")
    assert (await exchange(served, b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")).endswith(b'{"hello":"you"}')
    (connection,) = house.connections.open
    connection.write(b"frame")
    assert await asyncio.wait_for(reader.readexactly(5), 10) == b"frame"
    writer.close()
    await eventually(lambda: house.connections.sockets == 0, "the connection to be forgotten")


async def test_a_refusal_reaches_a_client_that_is_still_sending(server: tuple[HttpServer, House]) -> None:
    said = await exchange(server[0], HANDSHAKE.replace(b"?user_id=ann", b"") + b"x" * 200_000)
    assert said.startswith(b"HTTP/1.1 400 ")


async def test_sockets_served_by_uvicorn_count(server: tuple[HttpServer, House]) -> None:
    served, house = server
    house.keeper._limit = 1 - SOCKETS_RESERVE
    _, writer = await connect(served)
    writer.write(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
    await eventually(lambda: len(served.server_state.connections) == 1, "uvicorn to have the socket")
    assert (await exchange(served, b"")).startswith(b"HTTP/1.1 503 ")
    writer.write(b"12345")
    house.is_slow_over.set()
    await eventually(lambda: not served.server_state.connections, "the socket to be forgotten")
    writer.close()
    assert (await exchange(served, b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


def slow_house(**settings: Any) -> House:
    """Its HTTP routes never answer."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    house = House(**settings)
    house.config = Config(app, ws="none", lifespan="off", log_config=None)
    return house


async def test_sockets_served_by_uvicorn_count_for_their_address() -> None:
    house = slow_house(max_connections_per_address=3)
    crowd = [house.come(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(30)]
    assert [transport.is_aborted for transport in crowd] == [False] * 6 + [True] * 24
    others = house.come(HANDSHAKE, peer=("127.0.0.2", 1))
    assert isinstance(others.protocol, Connection)
    for transport in (*crowd, others):
        transport.lose()
    assert not house.keeper.addresses


async def test_a_proxys_clients_count_for_http_routes_too() -> None:
    house = slow_house(max_connections_per_address=3, trusted_proxies="127.0.0.1")
    slow = b"GET /slow HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n"
    crowd = [house.come(slow) for _ in range(30)]
    assert not any(transport.written for transport in crowd[:6])
    assert [answer(transport)[0] for transport in crowd[6:]] == [429] * 24
    others = house.come(slow.replace(b"113.7", b"113.8"))
    assert not others.written
    for transport in (*crowd, others):
        transport.lose()
    assert not house.keeper.addresses
