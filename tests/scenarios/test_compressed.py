"""Clients with and without compression (permessage-deflate, RFC 7692) beside each other."""

import asyncio
import contextlib
import json
import zlib
from collections.abc import AsyncIterator

import pytest
from harness.clients import AiohttpClient, Client, NodeClient, ThreadClient, WebsocketsClient
from harness.raw import UPGRADE, RawSocket
from harness.stage import Stage
from harness.v1 import AiohttpV1, EventSourceClient, V1Client, WebsocketsV1
from harness.waiting import eventually
from harness.wandering import wandering

LEAST_BYTES = 200
"""Less than some events have, and more than others."""

ENV = {"DEFLATE_MIN_BYTES": str(LEAST_BYTES)}
WANDER_SECONDS = 5.0
OFFER = {**UPGRADE, "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}
TEXT, PING, RSV1 = 1, 9, 4


class CompressedAiohttp(AiohttpClient):
    library = "aiohttp, compressed"
    window_bits = 12


async def test_clients_of_every_library_get_the_same_compressed_or_not(stage: Stage) -> None:
    relay, replicas = stage.add_relay(), [stage.add_gateway(env=ENV), stage.add_gateway("gateway-2")]
    await stage.start(relay, *replicas)
    kinds: dict[type[Client], bool] = {
        WebsocketsClient: True,  # offers it by itself, as browsers do
        CompressedAiohttp: True,
        AiohttpClient: False,
        ThreadClient: False,
        WebsocketsV1: True,
        AiohttpV1: False,
        EventSourceClient: False,
    }
    if NodeClient.missing() is None:
        kinds[NodeClient] = True
    for replica in replicas:
        for kind, offers in kinds.items():
            for user in stage.users:
                client = await stage.connect(user, replica, kind)
                agreed = client.extensions.startswith("permessage-deflate")
                assert agreed is (offers and replica is replicas[0]), f"{client}: {client.extensions}"
    await stage.producer.publish_mixed((*stage.users, "elsewhere"), 300)
    for size in (10, 125, 1_000, 4_000, 60_000):
        value = '{"message":"%s"}' % ("naïve 😀 " * (size // 12))
        await stage.producer.publish_value("alert-events", value.encode(), partition=0)
    await stage.exact()


async def test_clients_that_drop_and_resume_compressed_or_not_lose_and_double_nothing(stage: Stage) -> None:
    """Each replica knows it or does not: a client may come from one that compressed to one that does not."""
    relay, replicas = stage.add_relay(), [stage.add_gateway(env=ENV), stage.add_gateway("gateway-2")]
    await stage.start(relay, *replicas)
    devices = []
    for user in stage.users:
        for kind in (WebsocketsV1, AiohttpV1):
            device = await stage.connect(user, replicas[0], kind)
            assert isinstance(device, V1Client)
            devices.append(device)
        await stage.connect(user, replicas[0], CompressedAiohttp)
    async with stage.load(stage.users, per_second=200) as load:
        async with wandering(devices, replicas):
            await asyncio.sleep(WANDER_SECONDS)
            await eventually(lambda: all(len(one.knowledge.welcomes) > 3 for one in devices), "three times each")
        await load.more(50)
    await stage.exact()
    for device in devices:
        assert all(welcome["recovered"] for welcome in device.knowledge.welcomes[1:])


def deflate(text: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


@contextlib.asynccontextmanager
async def opened(port: int, user: str) -> AsyncIterator[RawSocket]:
    """A client of notify.v1 that offered compression, and was told welcome."""
    socket = await RawSocket.connect(port)
    try:
        answer = await socket.request(f"/ws?user_id={user}", {**OFFER, "Sec-WebSocket-Protocol": "notify.v1"})
        assert answer.status == 101
        assert answer.headers["sec-websocket-extensions"].startswith("permessage-deflate; server_no_context_takeover")
        assert (await text_of(socket))["control"] == "welcome"
        assert socket.reserved == 0
        yield socket
    finally:
        await socket.close()


async def text_of(socket: RawSocket) -> dict[str, object]:
    """The next text frame; pings and heartbeats come when it is time."""
    while True:
        opcode, payload = await socket.read_frame()
        if opcode == PING:
            continue
        assert opcode == TEXT
        if socket.reserved:
            payload = zlib.decompressobj(-12).decompress(payload + b"\x00\x00\xff\xff")
        read: dict[str, object] = json.loads(payload)
        if read.get("control") != "heartbeat":
            return read


async def test_a_large_message_goes_out_compressed_and_a_client_may_speak_so_too(stage: Stage) -> None:
    relay, gateway = stage.add_relay(), stage.add_gateway(env=ENV)
    await stage.start(relay, gateway)
    async with opened(gateway.port, stage.users[0]) as socket:
        socket.send_frame(TEXT, deflate(b'{"control":"ping"}'), reserved=RSV1)
        assert await text_of(socket) == {"control": "pong"}
        for size, reserved in ((0, 0), (2_000, RSV1), (1, 0), (50_000, RSV1)):
            message = ("sectors rise and fall " * (size // 20 + 1))[:size]
            await stage.producer.publish_value("alert-events", json.dumps({"message": message}).encode(), partition=0)
            event = await text_of(socket)
            assert event["data"] == {"message": message}
            assert socket.reserved == reserved


@pytest.mark.parametrize(
    ("opcode", "payload", "reserved", "code"),
    [
        pytest.param(TEXT, deflate(bytes(3_000_000)), RSV1, 1009, id="a bomb"),
        pytest.param(TEXT, deflate(b'{"control":"ping"}')[:-4], RSV1, 1007, id="cut off"),
        pytest.param(TEXT, b'{"control":"ping"}', RSV1, 1007, id="not compressed"),
        pytest.param(TEXT, deflate(b'{"control":"ping"}'), RSV1 | 2, 1002, id="another reserved bit"),
        pytest.param(PING, deflate(b"x"), RSV1, 1002, id="a control frame"),
    ],
)
async def test_what_is_no_compressed_message_ends_its_connection(
    stage: Stage, opcode: int, payload: bytes, reserved: int, code: int
) -> None:
    gateway = stage.add_gateway(env=ENV)
    await stage.start(gateway)
    async with opened(gateway.port, stage.users[0]) as socket:
        socket.send_frame(opcode, payload, reserved=reserved)
        assert await socket.close_code() == code
