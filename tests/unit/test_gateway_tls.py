"""TLS on the public port: over real sockets, on the loop of a replica and on asyncio's own."""

import asyncio
import contextlib
import json
import logging
import os
import ssl
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from fastapi import FastAPI, Request
from harness.certificates import Authority
from harness.waiting import eventually
from http_client import port_of
from loops import LOOPS, run_on
from test_door import HANDSHAKE, OFFERING, House

from gateway.door import PATIENCE_SECONDS, REFUSALS_RESERVE, SOCKETS_RESERVE
from gateway.tls import WRITE_BUFFER_BYTES, TlsPort
from shared.server import HttpServer, http_server
from shared.tls import Names, server_context

GET_HELLO = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"
WAIT_SECONDS = 20

Test = Callable[["TlsHouse"], Coroutine[Any, Any, None]]
Run = Callable[..., None]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def context(authority: Authority) -> ssl.SSLContext:
    ours = authority.issue("gateway")
    return server_context(str(ours.cert_file), str(ours.key_file), None, Names("CERT", "KEY", "PASSWORD"))


def open_files() -> int:
    """How many this process has, where the system tells."""
    return len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0


class TlsHouse(House):
    """A house whose door is behind TLS, with a server, and clients that trust its authority."""

    served: HttpServer
    trust: ssl.SSLContext

    async def connect(self, tls: bool = True) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        trust = self.trust if tls else None
        name = "localhost" if tls else None
        return await asyncio.open_connection("127.0.0.1", port_of(self.served), ssl=trust, server_hostname=name)

    async def exchange(self, data: bytes, *, tls: bool = True) -> bytes:
        """Everything that is answered, up to the end."""
        reader, writer = await self.connect(tls)
        try:
            writer.write(data)
            return await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest, authority: Authority, context: ssl.SSLContext) -> Run:
    """Runs a test with a house, and sees that nothing is left of it."""
    trust = authority.client_context()

    @contextlib.asynccontextmanager
    async def housed(settings: dict[str, Any]) -> AsyncIterator[TlsHouse]:
        app = FastAPI()

        @app.get("/hello")
        async def hello(request: Request) -> dict[str, str]:
            return {"scheme": request.url.scheme, "peer": request.client.host if request.client else ""}

        house = TlsHouse(**settings)
        house.trust = trust
        house.served = http_server(app, "127.0.0.1", 0, protocol=TlsPort(house.keeper, context).arrival)
        task = await house.served.start()
        files = open_files()
        yield house
        await eventually(lambda: not house.keeper.doors, "all doors to be gone")
        await eventually(lambda: not house.sockets, "all sockets to be gone")
        await eventually(lambda: not house.keeper.addresses, "all addresses to be free")
        assert not house.keeper.awaited
        await eventually(lambda: open_files() <= files, "no file to be left open")
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    def run(test: Test, **settings: Any) -> None:
        async def in_house() -> None:
            async with asyncio.timeout(WAIT_SECONDS), housed(settings) as house:
                await test(house)

        run_on(LOOPS[request.param], in_house())

    return run


def test_fastapi_answers_and_knows_that_it_is_https(run: Run) -> None:
    async def test(house: TlsHouse) -> None:
        head, _, body = (await house.exchange(GET_HELLO)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert json.loads(body) == {"scheme": "https", "peer": "127.0.0.1"}

    run(test)


def test_a_handshake_becomes_a_connection_whose_buffer_is_small(run: Run) -> None:
    async def test(house: TlsHouse) -> None:
        reader, writer = await house.connect()
        writer.write(HANDSHAKE)
        await eventually(lambda: house.connections.joining == 1, "the handshake")
        house.subscribe()
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        (connection,) = house.connections.open
        assert connection._transport.get_write_buffer_limits()[1] == WRITE_BUFFER_BYTES
        written = []
        while not connection.held_bytes and len(written) < 10_000:  # until the sockets' own buffers are full
            written.append(os.urandom(4_000))
            connection.write(written[-1])
        assert connection.held_bytes > 0
        assert await reader.readexactly(4_000 * len(written)) == b"".join(written)
        await eventually(lambda: connection.held_bytes == 0, "all to be written")
        writer.close()

    run(test)


@pytest.mark.parametrize("more", [b"", b"x" * 200_000])
def test_a_refusal_can_be_read_and_ends(run: Run, more: bytes) -> None:
    async def test(house: TlsHouse) -> None:
        said = await house.exchange(HANDSHAKE.replace(b"?user_id=ann", b"") + more)
        assert said.startswith(b"HTTP/1.1 400 ")
        assert said.endswith(b"}")
        said = await house.exchange(OFFERING.replace(b"user_id=ann", b"user_id=") + more)
        assert said.startswith(b"HTTP/1.1 101 ")
        assert b"bad_request" in said

    run(test)


def test_plain_http_is_hung_up_on_and_nothing_is_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def test(house: TlsHouse) -> None:
        for data in (GET_HELLO, b"\x16\x03\x01\x00\x05hello", b"\0" * 1000):
            with contextlib.suppress(ConnectionError):
                assert not (await house.exchange(data, tls=False)).startswith(b"HTTP/")

    with caplog.at_level(logging.INFO):
        run(test)
    assert not [record for record in caplog.records if record.levelno > logging.INFO or record.name == "asyncio"]


def test_who_breaks_off_the_handshake_is_forgotten(run: Run) -> None:
    async def test(house: TlsHouse) -> None:
        _, silent = await house.connect(tls=False)
        await eventually(lambda: len(house.keeper.doors) == 1, "the socket to count")
        silent.close()

    run(test, head_seconds=60)


def test_who_never_speaks_tls_counts_and_is_cut_off_in_time(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def test(house: TlsHouse) -> None:
        silent = [await house.connect(tls=False) for _ in range(3)]
        await eventually(lambda: len(house.keeper.doors) == 3, "the sockets to count")
        silent[0][1].write(b"\x16\x03")
        for reader, writer in silent:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()

    run(test, head_seconds=1)
    assert not caplog.records


def test_above_the_bound_a_crowd_is_cut_off_before_its_handshake(run: Run) -> None:
    async def test(house: TlsHouse) -> None:
        house.keeper._limit = 1 - SOCKETS_RESERVE - REFUSALS_RESERVE
        _, first = await house.connect(tls=False)
        await eventually(lambda: len(house.keeper.doors) == 1, "the socket to count")
        with pytest.raises(OSError):  # noqa: PT011 - how it ends differs
            await house.connect()
        first.close()
        await eventually(lambda: not house.keeper.doors, "the first to be gone")
        assert (await house.exchange(GET_HELLO)).startswith(b"HTTP/1.1 503 ")
        house.keeper._limit = 1
        assert (await house.exchange(GET_HELLO)).startswith(b"HTTP/1.1 200 ")

    run(test, head_seconds=60)


def test_who_never_speaks_tls_counts_for_its_address(run: Run) -> None:
    async def test(house: TlsHouse) -> None:
        silent = [await house.connect(tls=False) for _ in range(20)]
        # As on a plain port: so far above the limit that nobody waits to tell it why.
        await eventually(lambda: sum(reader.at_eof() for reader, _ in silent) == 14, "those above to be cut off")
        assert len(house.keeper.doors) == 6
        assert len(house.keeper.addresses) == 1
        with pytest.raises(OSError):  # noqa: PT011 - how it ends differs
            await house.connect()
        for _, writer in silent:
            writer.close()
        await eventually(lambda: not house.keeper.addresses, "the address to be free again")
        assert (await house.exchange(GET_HELLO)).startswith(b"HTTP/1.1 200 ")

    run(test, head_seconds=60, max_connections_per_address=3)


def test_a_socket_counts_once_for_its_address_from_its_handshake_to_its_end(run: Run) -> None:
    async def test(house: TlsHouse) -> None:
        _, first = await house.connect()
        first.write(HANDSHAKE)
        await eventually(lambda: house.connections.joining == 1, "the handshake")
        assert house.keeper.addresses.excess("127.0.0.1") == 0
        said = await house.exchange(HANDSHAKE)
        assert said.startswith(b"HTTP/1.1 429 ")
        first.close()
        await eventually(lambda: not house.keeper.addresses, "the address to be free again")

    run(test, max_connections_per_address=1)


@pytest.mark.parametrize("silent_count", [6, 5 + REFUSALS_RESERVE])
def test_who_is_long_in_its_handshake_makes_room_where_there_is_none(run: Run, silent_count: int) -> None:
    async def test(house: TlsHouse) -> None:
        house.keeper._limit = 5 - SOCKETS_RESERVE
        silent = [await house.connect(tls=False) for _ in range(silent_count)]
        await eventually(lambda: len(house.keeper.doors) == silent_count, "the sockets to count")
        house.tick(PATIENCE_SECONDS)
        if silent_count == 5 + REFUSALS_RESERVE:
            with pytest.raises(OSError):  # noqa: PT011 - how it ends differs
                await house.connect()  # too late for this one, but not for the next
            await eventually(lambda: len(house.keeper.doors) < silent_count, "the oldest to be gone")
        assert (await house.exchange(GET_HELLO)).startswith(b"HTTP/1.1 200 ")
        for _, writer in silent:
            writer.close()

    run(test, head_seconds=60)


def test_a_replica_that_goes_cuts_off_handshakes(run: Run) -> None:
    async def test(house: TlsHouse) -> None:
        reader, writer = await house.connect(tls=False)
        await eventually(lambda: len(house.keeper.doors) == 1, "the socket to count")
        for door in list(house.keeper.doors):
            door.close()
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()

    run(test, head_seconds=60)


def test_an_old_version_of_tls_is_refused(run: Run, authority: Authority) -> None:
    old = authority.client_context()
    old.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():  # they are deprecated even to be named
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1

    async def test(house: TlsHouse) -> None:
        house.trust = old
        with pytest.raises(OSError):  # noqa: PT011 - how it ends differs
            await house.connect()

    run(test)


def test_who_is_one_too_many_after_the_handshake_is_cut_off(run: Run) -> None:
    async def test(house: TlsHouse) -> None:
        reader, writer = await house.connect(tls=False)
        await eventually(lambda: len(house.keeper.doors) == 1, "the socket to count")
        house.keeper._limit = -SOCKETS_RESERVE - REFUSALS_RESERVE
        with contextlib.suppress(OSError):
            await writer.start_tls(house.trust, server_hostname="localhost")
            writer.write(GET_HELLO)
            assert await reader.read() == b""
        writer.close()

    run(test, head_seconds=60)
