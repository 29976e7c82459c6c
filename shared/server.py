"""uvicorn as a part of a process that has its own signals and its own end."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Generator
from typing import Any, Final

from fastapi import FastAPI
from uvicorn.config import Config
from uvicorn.server import Server

from shared.bounded_http import MAX_SOCKETS, BoundedHttp

SHUTDOWN_SECONDS: Final = 3
"""For requests in progress when the server ends."""


UNSENT_BYTES: Final = 131_072
"""Of a socket, that the system may hold before a transport has to. By itself it takes up to 4 MB: memory
for each client that does not read, and seconds for a ping behind it to reach one that reads slowly. It holds
on Linux; on macOS it only decides when a socket is writable, and one write may still take more."""

RECEIVE_BYTES: Final = 16_384
"""Of a socket, that the system takes before a transport has read them: clients say little, and what a crowd
says at once waits for its turn, in memory. By itself it takes up to 6 MB."""


class HttpServer(Server):
    """A uvicorn server that leaves signals alone: uvicorn's own handlers would end the process
    with the signal instead of an exit code, and before it had drained."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._listens = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                # Handed on to each socket that is accepted. uvloop's sockets have no options: a copy has.
                with socket.socket(fileno=os.dup(listening.fileno())) as same:
                    same.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
                    same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        self._listens.set()

    async def start(self) -> asyncio.Task[None]:
        """Listen; give the task that serves, which is the caller's to watch and to cancel.

        Whoever is told the address after this is not refused. Raises OSError when it cannot be bound.
        """
        serving = asyncio.create_task(self.run_until_cancelled())
        listening = asyncio.create_task(self._listens.wait())
        try:
            await asyncio.wait((serving, listening), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            serving.cancel()
            await asyncio.wait((serving,))  # bounds its own end
            raise
        finally:
            listening.cancel()
        if serving.done():
            serving.result()
        return serving

    async def run_until_cancelled(self) -> None:
        """Serve; on cancellation stop accepting, let requests in progress finish, and return.

        Raises OSError when the address cannot be bound.
        """
        serving = asyncio.ensure_future(self._serve_or_raise())
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            self.should_exit = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(serving, SHUTDOWN_SECONDS + 1)
            raise

    async def _serve_or_raise(self) -> None:
        try:
            await self.serve()
        except SystemExit:
            # uvicorn's end of a process. Let out of a task, it would stop the loop with all that runs in it.
            raise OSError(f"cannot listen on {self.config.host}:{self.config.port}") from None


def http_server(app: FastAPI, host: str, port: int, *, protocol: Callable[..., Any] | None = None) -> HttpServer:
    """A server for `app`. `protocol` makes the protocol of each new socket, with bounds of its own;
    without, it is one for the few who look after a service."""
    return HttpServer(
        Config(
            app,
            host=host,
            port=port,
            http=protocol or BoundedHttp,  # type: ignore[arg-type]  # any callable will do
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # they are the gateway's to read (TRUSTED_PROXIES)
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            # All that wait to be accepted are accepted at once, whatever becomes of them.
            backlog=4096 if protocol else MAX_SOCKETS,
        )
    )
