"""The proxy must do to bytes what the scenarios say it does."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from confluent_kafka.admin import AdminClient
from harness.stage import Stage
from harness.waiting import eventually

from demo.proxy import Proxy


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """The port of a server that sends back what it gets."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1000):
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.fixture
async def proxy(echo: int) -> AsyncIterator[Proxy]:
    proxy = await Proxy(echo).start()
    yield proxy
    await proxy.aclose()
    assert proxy.open_connections == 0


async def open_line(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"hello\n")
    assert await reader.readline() == b"hello\n"
    return reader, writer


async def is_reset(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(1), 5) == b""
    except ConnectionError:
        return True


async def test_cut_ends_what_is_open_and_lets_new_ones_in(proxy: Proxy) -> None:
    reader, writer = await open_line(proxy)
    assert proxy.cut() == 1
    assert await is_reset(reader)
    writer.close()
    _, writer = await open_line(proxy)
    writer.close()


async def test_refuse_lets_nobody_in_until_healed(proxy: Proxy) -> None:
    proxy.refuse()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await is_reset(reader)
    writer.close()
    proxy.heal()
    _, writer = await open_line(proxy)
    writer.close()


async def test_deaf_swallows_bytes_and_healing_ends_the_connections_that_lost_some(proxy: Proxy) -> None:
    untouched, deaf = await open_line(proxy), await open_line(proxy)
    proxy.deaf()
    deaf[1].write(b"lost\n")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(deaf[0].readline(), 0.2)
    proxy.heal()
    assert await is_reset(deaf[0])
    untouched[1].write(b"fine\n")
    assert await untouched[0].readline() == b"fine\n"
    for _, writer in (untouched, deaf):
        writer.close()


async def test_a_kafka_client_that_came_through_the_proxy_stays_on_it(stage: Stage) -> None:
    proxy = await stage.kafka_proxy()
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{proxy.port}", "log_level": 0})
    metadata = await asyncio.to_thread(admin.list_topics, timeout=10)
    assert {broker.port for broker in metadata.brokers.values()} == {proxy.port}
    await eventually(lambda: proxy.open_connections > 0, "a connection through the proxy")
