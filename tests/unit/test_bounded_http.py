"""uvicorn's HTTP protocol with bounds: on a port for those who look after a service."""

import asyncio
import logging
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from harness.waiting import eventually
from http_client import connect, exchange
from hypothesis import given
from hypothesis import strategies as st
from scripted import ScriptedTransport
from uvicorn.config import Config
from uvicorn.server import ServerState

from shared.bounded_http import MAX_BODY_BYTES, MAX_HEAD_BYTES, MAX_HEADERS, MAX_SOCKETS, BoundedHttp
from shared.server import HttpServer, http_server

GET = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
async def server() -> AsyncIterator[HttpServer]:
    app = FastAPI()

    @app.get("/hello")
    async def hello() -> str:
        return "hello"

    @app.get("/long")
    async def long() -> Response:
        return Response(b"x" * 30_000_000)

    @app.post("/echo")
    async def echo(request: Request) -> int:
        return len(await request.body())

    served = http_server(app, "127.0.0.1", 0)
    task = await served.start()
    yield served
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not served.server_state.connections


def status(said: bytes) -> int:
    assert said.count(b"HTTP/1.1 ") == 1
    return int(said.split(b" ", 2)[1])


async def test_a_request_is_answered_and_its_socket_closes(server: HttpServer) -> None:
    said = await exchange(server, GET)
    assert status(said) == 200
    assert b"connection: close" in said.lower()
    assert said.endswith(b'"hello"')


async def test_another_request_on_the_socket_is_dropped(server: HttpServer) -> None:
    assert status(await exchange(server, GET + GET + GET)) == 200
    body = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    said = await exchange(server, body + GET)
    assert status(said) == 200
    assert said.endswith(b"\r\n\r\n3")


async def test_a_body_of_known_size_comes_through_in_pieces(server: HttpServer) -> None:
    body = b"x" * MAX_BODY_BYTES
    head = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    said = await exchange(server, head[:10], head[10:] + body[:5], body[5:20_000], body[20_000:])
    assert said.endswith(b"\r\n\r\n%d" % MAX_BODY_BYTES)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"GET / HTTP/1.1\r\nX: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * MAX_HEAD_BYTES, 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * (MAX_HEADERS + 1) + b"\r\n", 431),
        (b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", 411),
        (b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1), 413),
        (b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 18 + b"\r\n\r\n", 413),
        (b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400),
        (b"POST /echo HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx", 400),
        (b"hello\r\n\r\n", 400),
        (b"\r\n\r\n\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (GET.replace(b"Host", b"Connection: Upgrade\r\nUpgrade: websocket\r\nHost"), 200),
    ],
)
async def test_what_it_does_not_take_is_refused_without_a_line_in_the_log(
    server: HttpServer, request_: bytes, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert status(await exchange(server, request_)) == expected
    assert not caplog.records
    await eventually(lambda: not server.server_state.connections, "the socket to be forgotten")


@pytest.mark.parametrize("sent", [b"", GET[:-2], b"POST /echo HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc"])
async def test_a_request_that_does_not_come_in_time_is_cut_off(
    server: HttpServer, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.bounded_http.HEAD_SECONDS", 0.2)
    reader, writer = await connect(server)
    writer.write(sent)
    assert await asyncio.wait_for(reader.read(), 4) == b""
    writer.close()


async def test_who_does_not_take_the_answer_is_cut_off(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.bounded_http.ANSWER_SECONDS", 0.2)
    _, writer = await connect(server)
    writer.write(GET.replace(b"hello", b"long"))
    await eventually(lambda: server.server_state.total_requests == 1, "the answer to be written")
    await eventually(lambda: not server.server_state.connections, "the socket to be gone")
    writer.close()


async def test_those_who_say_nothing_keep_nobody_out(server: HttpServer) -> None:
    silent = [await connect(server) for _ in range(2 * MAX_SOCKETS)]
    for _ in range(10):
        assert status(await exchange(server, GET)) == 200
    await eventually(lambda: len(server.server_state.connections) <= MAX_SOCKETS, "those above to be gone")
    for _, writer in silent:
        writer.close()


async def test_who_goes_on_sending_is_read_no_more() -> None:
    for request in (b"hello\r\n\r\n", GET):
        transport = scripted(ServerState())
        transport.receive(request)
        for _ in range(16):
            transport.receive(b"x" * 16_384)
        assert not transport.is_paused
        transport.receive(b"x")
        assert transport.is_paused
        transport.lose()


def scripted(sockets: ServerState) -> ScriptedTransport:
    config = Config(app, lifespan="off", log_config=None, ws="none")
    transport = ScriptedTransport()
    transport.set_protocol(BoundedHttp(config, sockets, {}))
    transport.protocol.connection_made(transport)
    return transport


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


async def test_above_twice_as_many_a_crowd_is_cut_off() -> None:
    state = ServerState()
    crowd = [scripted(state) for _ in range(2 * MAX_SOCKETS + 1)]
    # Nobody's end has been told yet, so they all count.
    assert sum(transport.is_aborted for transport in crowd) == MAX_SOCKETS + 1
    assert crowd[-1].is_aborted
    for transport in crowd:
        transport.lose()
    assert not state.connections


@given(st.binary(max_size=400), st.lists(st.integers(0, 500), max_size=10))
def test_any_bytes_split_anywhere_are_answered_alike(data: bytes, cuts: list[int]) -> None:
    async def said(pieces: list[bytes]) -> bytes:
        transport = scripted(ServerState())
        for piece in pieces:
            transport.receive(piece)
        for _ in range(5):
            await asyncio.sleep(0)
        transport.protocol.connection_lost(None)
        return transport.take()

    async def both() -> None:
        for request in (data, GET[:-4] + data, data + GET, GET[:-2] + data + b"\r\n\r\n"):
            bounds = [0, *sorted(min(cut, len(request)) for cut in cuts), len(request)]
            assert await said([request]) == await said([request[start:end] for start, end in pairwise(bounds)])

    asyncio.run(both())
