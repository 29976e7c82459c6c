"""A thousand clients of notify.v1 resume in one moment: each gets exactly what it missed."""

import asyncio
import logging
import re

from harness.raw import UPGRADE
from harness.stage import Stage
from harness.stubborn import FrameSplitter
from harness.v1 import parse_event
from harness.waiting import eventually

log = logging.getLogger(__name__)

CLIENTS = 1_000
MISSED = 300
_HEADERS = "".join(
    f"{name}: {value}\r\n" for name, value in (UPGRADE | {"Sec-WebSocket-Protocol": "notify.v1"}).items()
)


class Resuming(asyncio.Protocol):
    """Writes one handshake, takes what comes and answers pings, and nothing more: a thousand are to be quick."""

    def __init__(self, target: str) -> None:
        self.frames: list[bytes] = []
        self._target = target
        self._head: bytes | None = b""
        self.is_lost = False
        self._splitter = FrameSplitter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(f"GET {self._target} HTTP/1.1\r\n{_HEADERS}\r\n".encode())

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            head, end, data = (self._head + data).partition(b"\r\n\r\n")
            self._head = None if end else head
        if self._head is None:
            for opcode, payload in self._splitter.feed(data):
                if opcode == 9:
                    self.transport.write(b"\x8a\x80" + bytes(4))
                else:
                    self.frames.append(payload)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True

    @property
    def events(self) -> list[bytes]:
        return [frame for frame in self.frames if frame.startswith(b'{"type"')]


async def test_a_thousand_that_resume_at_once_get_exactly_what_they_missed(stage: Stage) -> None:
    # A thousand handshakes at once may take longer, here and there, than a gateway waits for one.
    patient = {"HEAD_SECONDS": "60", "JOIN_SECONDS": "60"}
    gateway, other = stage.add_gateway("gateway-1", env=patient), stage.add_gateway("gateway-2")
    await stage.start(stage.add_relay(), gateway, other)
    await stage.crowd(stage.users, [gateway, other])
    cursor = (await stage.get(other, f"/position?user_id={stage.users[0]}"))[1]["cursor"]
    missed = await stage.producer.publish_mixed(stage.users, MISSED, ["alert-events", "regime-events"])
    await stage.everything_arrived()
    everyone, _, _ = re.fullmatch(r"(\w+\.\d+)\.(\w+)\.(\d+)", cursor).groups()  # type: ignore[union-attr]
    loop = asyncio.get_running_loop()

    async def resume(number: int) -> Resuming:
        target = f"/ws?user_id={stage.users[0]}/{number}&cursor={everyone}.0.0"  # a user without a message yet
        _, client = await loop.create_connection(lambda: Resuming(target), "127.0.0.1", gateway.port)
        return client

    crowd = await asyncio.gather(*(resume(number) for number in range(CLIENTS)))
    await eventually(
        lambda: all(len(client.frames) > MISSED for client in crowd),
        lambda: f"all to have what they missed: {sorted({(len(one.frames), one.is_lost) for one in crowd})}",
        seconds=120,
        poll_seconds=0.2,
    )
    for client in crowd:
        assert b'"recovered":true' in client.frames[0], client.frames[0]
        assert client.events == crowd[0].events
        client.transport.abort()
    await asyncio.sleep(0)  # for the sockets to be closed
    first = [parse_event(frame) for frame in crowd[0].events]
    assert sorted((one.source, one.offset) for one in first) == sorted((one.source, one.offset) for one in missed)
    assert [one.place.seq for one in first] == list(range(first[0].place.seq, first[0].place.seq + MISSED))
    assert await stage.metric(gateway, 'replays_total{result="recovered"}') == CLIENTS, "none was refused"
    await stage.exact()
