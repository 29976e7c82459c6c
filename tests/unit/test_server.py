"""uvicorn as a part of a process."""

import asyncio
import contextlib
import signal
import socket

import aiohttp
import pytest
from fastapi import FastAPI
from harness.waiting import eventually

from shared.runner import run
from shared.server import HttpServer, http_server


def app() -> FastAPI:
    app = FastAPI()

    @app.get("/quick")
    async def quick() -> str:
        return "quick"

    @app.get("/slow")
    async def slow() -> str:
        await asyncio.sleep(0.3)
        return "slow"

    return app


async def started(server: HttpServer) -> tuple["asyncio.Task[None]", str]:
    task = asyncio.create_task(server.run_until_cancelled())
    await eventually(lambda: server.started, "the server to start")
    return task, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


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


async def test_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    task, _ = await started(http_server(app(), "127.0.0.1", 0))
    assert signal.getsignal(signal.SIGTERM) == before
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
