"""A TCP proxy on loopback that stands between two processes and breaks what is asked of it."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import Literal

Mode = Literal["pass", "refuse", "deaf", "slow"]
Pump = Callable[[asyncio.StreamReader], Awaitable[bytes]]

_CHUNK_BYTES = 65_536


async def _any_bytes(reader: asyncio.StreamReader) -> bytes:
    return await reader.read(_CHUNK_BYTES)


class Proxy:
    """Listens on a port of its own and passes bytes to `upstream_port` and back.

    `cut` ends what is open; `refuse` also resets whoever comes; `deaf` keeps all connections and
    swallows their bytes, both ways, silently; `slow` lets `bytes_per_second` through each way;
    `heal` goes back to passing (a connection that lost bytes to deafness is ended, since its stream
    has a hole). Owns one task for each connection; `aclose` ends all. With `tls` its clients speak
    TLS; upstream is plain in any case.
    """

    def __init__(self, upstream_port: int, answers: Pump = _any_bytes, tls: ssl.SSLContext | None = None) -> None:
        self.upstream_port = upstream_port
        self._tls = tls
        self.mode: Mode = "pass"
        self.port = 0
        self.accepted = 0
        self._answers = answers
        self._bytes_per_second = 0
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], set[asyncio.StreamWriter]] = {}
        self._holed: set[asyncio.Task[None]] = set()

    async def start(self) -> "Proxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aenter__(self) -> "Proxy":
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    def cut(self) -> int:
        """Reset every open connection; new ones pass. Gives how many there were."""
        tasks = list(self._connections)
        for task in tasks:
            self._end(task)
        return len(tasks)

    def refuse(self) -> None:
        self.mode = "refuse"
        self.cut()

    def deaf(self) -> None:
        self.mode = "deaf"

    def slow(self, bytes_per_second: int) -> None:
        self.mode, self._bytes_per_second = "slow", bytes_per_second

    def heal(self) -> None:
        self.mode = "pass"
        for task in list(self._holed):
            self._end(task)

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
        tasks = list(self._connections)
        self.cut()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = {writer}
        self.accepted += 1
        try:
            if self.mode == "refuse":
                return
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self.upstream_port)
            self._connections[task].add(upstream_writer)
            await self._until_either_ends(
                self._pump(task, reader, upstream_writer, _any_bytes),
                self._pump(task, upstream_reader, writer, self._answers),
            )
        except OSError:
            pass  # upstream is not there: the client sees a reset, as it would without us
        except asyncio.CancelledError:
            pass  # cut; asyncio.start_server would report the cancellation of its own task
        finally:
            for each in self._connections.pop(task):
                _reset(each)
            self._holed.discard(task)

    async def _until_either_ends(self, *pumps: Awaitable[None]) -> None:
        tasks = [asyncio.ensure_future(pump) for pump in pumps]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pump(
        self, owner: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter, take: Pump
    ) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while data := await take(reader):
                if self.mode == "deaf":
                    self._holed.add(owner)
                    continue
                if self.mode == "slow":
                    await asyncio.sleep(len(data) / self._bytes_per_second)
                writer.write(data)
                await writer.drain()

    def _end(self, task: asyncio.Task[None]) -> None:
        for writer in self._connections.get(task, ()):
            _reset(writer)
        task.cancel()


def _reset(writer: asyncio.StreamWriter) -> None:
    # Linger 0: the peer gets a reset instead of a goodbye.
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def kafka_proxy(broker_port: int) -> Proxy:
    """A proxy before a Kafka broker that advertises itself as 127.0.0.1:`broker_port`.

    A client goes where the broker's answers send it, so in these the broker's address is replaced
    by the proxy's. Host and port have a fixed length (a string, an int32), so nothing moves.
    """

    async def answer(reader: asyncio.StreamReader) -> bytes:
        head = await reader.readexactly(4)
        body = await reader.readexactly(int.from_bytes(head))
        return head + body.replace(_advertised(broker_port), _advertised(proxy.port))

    proxy = Proxy(broker_port, answers=answer)
    return proxy


def _advertised(port: int) -> bytes:
    return b"127.0.0.1" + port.to_bytes(4)
