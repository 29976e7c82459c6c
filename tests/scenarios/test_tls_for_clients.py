"""A replica that speaks TLS with its clients."""

import asyncio
import contextlib
import os
import signal
import ssl

import aiohttp
import pytest
from harness.certificates import Authority
from harness.clients import AiohttpClient, Client, ThreadClient, WebsocketsClient
from harness.raw import UPGRADE, RawSocket
from harness.stage import Stage
from harness.v1 import EventSourceClient
from harness.waiting import eventually

from demo.process import Process

KINDS: tuple[type[Client], ...] = (AiohttpClient, WebsocketsClient, ThreadClient, EventSourceClient)
BOUND = 256 * 1024


@pytest.fixture
def authority(stage: Stage) -> Authority:
    return Authority(stage.processes.folder)


async def get(gateway: Process, path: str, trust: ssl.SSLContext) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"https://127.0.0.1:{gateway.port}{path}", ssl=trust) as answer,
    ):
        return answer.status


async def test_events_flow_and_a_drain_says_goodbye(stage: Stage, authority: Authority) -> None:
    relay, plain = stage.add_relay(), stage.add_gateway()
    goes = stage.add_gateway("goes", authority=authority, env={"DRAIN_DELAY_SECONDS": "1", "DRAIN_SECONDS": "1"})
    await stage.start(relay, plain, goes)
    stays = await stage.crowd(stage.users, [plain])
    leaving = [await stage.connect(user, goes, kind, authority) for user in stage.users for kind in KINDS]
    assert await get(goes, "/health", authority.client_context()) == 200
    assert await stage.metric(goes, "connections") == len(leaving)
    async with stage.load(stage.users) as load:
        await load.more(200)
    await stage.exact()

    goes.expected_to_run = False
    goes.signal(signal.SIGTERM)
    assert await goes.wait(30) == 0
    await eventually(lambda: not any(client.is_connected for client in leaving), "all its clients to see its end")
    for client in leaving:
        assert client.close_code == (1000 if isinstance(client, EventSourceClient) else 1012), str(client)
        client.check(stage.oracle)
    await stage.exact(stays)


async def test_who_does_not_trust_it_stays_away(stage: Stage, authority: Authority) -> None:
    gateway = stage.add_gateway(authority=authority)
    await stage.start(gateway)
    other = Authority(stage.processes.folder, "other")
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await get(gateway, "/health", other.client_context())
    assert await get(gateway, "/health", authority.client_context()) == 200


async def test_a_refusal_is_read_over_tls(stage: Stage, authority: Authority) -> None:
    gateway = stage.add_gateway(authority=authority)
    await stage.start(gateway)
    for target, headers, status in (("/ws", UPGRADE, 400), ("/ws?user_id=ann", {"Host": "a"}, 426)):
        connected = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=authority.client_context())
        raw = RawSocket(*connected)
        answer = await raw.request(target, headers)
        assert answer.status == status
        assert answer.json["message"]
        assert await raw.until_closed() == b""
        await raw.close()


async def test_plain_http_and_silence_are_cut_off_and_not_logged(stage: Stage, authority: Authority) -> None:
    gateway = stage.add_gateway(authority=authority, env={"HEAD_SECONDS": "1"})
    await stage.start(gateway)
    client = await stage.connect(stage.users[0], gateway, authority=authority)
    before = gateway.log()
    crowd = [await RawSocket.connect(gateway.port) for _ in range(20)]
    crowd[0].writer.write(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
    crowd[1].writer.write(os.urandom(1000))
    crowd[2].writer.write(b"\x16\x03\x01\x02\x00\x01")
    for raw in crowd:
        with contextlib.suppress(asyncio.IncompleteReadError):
            assert not (await raw.until_closed()).startswith(b"HTTP")
        await raw.close()
    # One that finished its handshake and says nothing more.
    connected = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=authority.client_context())
    silent = RawSocket(*connected)
    assert await silent.until_closed() == b""
    await silent.close()
    since = gateway.log().removeprefix(before)
    # That a busy machine kept Redis waiting is no matter of these.
    assert [line for line in since.splitlines() if "subscribed" not in line] == []
    assert client.is_connected


async def test_a_client_that_stops_reading_goes(stage: Stage, authority: Authority) -> None:
    relay = stage.add_relay()
    gateway = stage.add_gateway(authority=authority, env={"SLOW_CLIENT_BYTES": str(BOUND)})
    await stage.start(relay, gateway)
    reads = await stage.connect(stage.users[0], gateway, authority=authority)
    trust = authority.client_context()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=trust, limit=1024)
    stopped = RawSocket(reader, writer)
    await stopped.upgrade(stage.users[0])

    async def is_closed() -> bool:
        await stage.producer.publish_mixed(stage.users, 200)
        await stage.everything_arrived([reads])
        return await stage.metric(gateway, 'closes_total{code="4000"}') == 1

    await eventually(is_closed, "the slow client to be closed", seconds=90)
    await eventually(lambda: reads.is_connected, "the other to stay")
    await stage.exact([reads])
    await stopped.close()
