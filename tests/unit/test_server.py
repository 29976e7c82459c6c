"""uvicorn as a part of a process."""

import asyncio
import contextlib
import signal
import socket
import time
from typing import cast

import aiohttp
import pytest
from fastapi import FastAPI, Request
from harness.waiting import eventually

from demo.ports import free_port
from shared.runner import run
from shared.server import RECEIVE_BYTES, UNSENT_BYTES, HttpServer, http_server


def app() -> FastAPI:
    app = FastAPI()

    @app.get("/quick")
    async def quick() -> str:
        return "quick"

    @app.get("/peer")
    async def peer(request: Request) -> list[str]:
        return [request.client.host if request.client else "", request.url.scheme]

    @app.get("/slow")
    async def slow() -> str:
        await asyncio.sleep(0.3)
        return "slow"

    return app


async def started(server: HttpServer) -> tuple["asyncio.Task[None]", str]:
    task = await server.start()
    return task, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


async def test_nobody_but_the_gateway_reads_what_proxies_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRUSTED_PROXIES says which count; uvicorn has a variable of its own for that."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    server = http_server(app(), "127.0.0.1", 0)
    task, url = await started(server)
    said = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}
    async with aiohttp.ClientSession() as client, client.get(f"{url}/peer", headers=said) as answer:
        assert await answer.json() == ["127.0.0.1", "http"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_it_serves_until_it_is_cancelled_and_frees_its_port() -> None:
    server = http_server(app(), "127.0.0.1", 0)
    task, url = await started(server)
    async with aiohttp.ClientSession() as client:
        assert await (await client.get(f"{url}/quick")).json() == "quick"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(aiohttp.ClientError):
            await client.get(f"{url}/quick")


async def test_a_request_in_progress_is_finished() -> None:
    server = http_server(app(), "127.0.0.1", 0)
    task, url = await started(server)
    async with aiohttp.ClientSession() as client:
        request = asyncio.ensure_future(client.get(f"{url}/slow"))
        await eventually(lambda: bool(server.server_state.tasks), "the request")
        task.cancel()
        assert await (await request).json() == "slow"
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("on", ["asyncio", "uvloop"])
def test_what_a_socket_has_not_sent_yet_is_bounded(on: str) -> None:
    """Or a ping waits behind 4 MB that the system holds for who reads slowly."""

    class Talker(asyncio.Protocol):
        written_bytes = 0
        is_full = False

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast(asyncio.WriteTransport, transport)  # uvloop's own is no subclass of it
            self.talk()

        def talk(self) -> None:
            if not Talker.is_full:
                self.transport.write(bytes(8_192))
                Talker.written_bytes += 8_192
                asyncio.get_running_loop().call_later(0.001, self.talk)

        def pause_writing(self) -> None:
            Talker.is_full = True

    async def talk() -> None:
        server = http_server(app(), "127.0.0.1", 0, protocol=lambda *_, **__: Talker())
        task, url = await started(server)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", int(url.rpartition(":")[2])))
            await eventually(lambda: Talker.is_full, "the socket to be full", seconds=30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    (run if on == "uvloop" else asyncio.run)(talk())
    assert Talker.written_bytes < 3 * UNSENT_BYTES + 65_536


async def test_what_a_socket_takes_before_it_is_read_is_bounded() -> None:
    """Or each of a crowd of clients has megabytes kept."""

    class Reader(asyncio.Protocol):
        most_bytes = total_bytes = 0

        def data_received(self, data: bytes) -> None:
            Reader.most_bytes = max(Reader.most_bytes, len(data))
            Reader.total_bytes += len(data)
            time.sleep(0.005)  # others have their turn

    server = http_server(app(), "127.0.0.1", 0, protocol=lambda *_, **__: Reader())
    task, url = await started(server)
    sent_bytes = 5_000_000

    def send() -> None:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as client:
            client.sendall(bytes(sent_bytes))

    await asyncio.to_thread(send)
    await eventually(lambda: Reader.total_bytes == sent_bytes, "all of it")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert Reader.most_bytes <= 3 * RECEIVE_BYTES


@pytest.mark.parametrize("on", ["asyncio", "uvloop"])
def test_an_address_that_is_taken_is_an_oserror_that_names_it(on: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            (run if on == "uvloop" else asyncio.run)(http_server(app(), "127.0.0.1", port).run_until_cancelled())


def test_an_address_that_is_taken_ends_whoever_waits_for_it_as_an_oserror() -> None:
    """As a replica does: the server is one of several tasks."""
    seen: list[BaseException] = []

    async def replica(port: int) -> None:
        tasks = [asyncio.create_task(http_server(app(), "127.0.0.1", port).run_until_cancelled())]
        tasks.append(asyncio.create_task(asyncio.sleep(30)))  # type: ignore[arg-type]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await ended.pop()
        except OSError as error:
            seen.append(error)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        run(replica(taken.getsockname()[1]))
    assert len(seen) == 1


async def test_once_started_nobody_is_refused() -> None:
    """The demo says its address then, and whoever reads it may be quicker than a turn of the loop."""
    server = http_server(app(), "127.0.0.1", port := free_port())
    task = await server.start()
    socket.create_connection(("127.0.0.1", port), timeout=1).close()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_start_at_a_taken_address_is_an_oserror_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            await http_server(app(), "127.0.0.1", port).start()


async def test_a_start_that_is_cancelled_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = asyncio.Event()

    async def never_listens(self: HttpServer, sockets: object = None) -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(HttpServer, "startup", never_listens)
    monkeypatch.setattr("shared.server.SHUTDOWN_SECONDS", 0)
    before = asyncio.all_tasks()
    starting = asyncio.create_task(http_server(app(), "127.0.0.1", 0).start())
    await begun.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await eventually(lambda: asyncio.all_tasks() == before, "its tasks to be gone")


async def test_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    task, _ = await started(http_server(app(), "127.0.0.1", 0))
    assert signal.getsignal(signal.SIGTERM) == before
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
