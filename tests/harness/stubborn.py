"""A client that reads when it is told to, and answers pings only if it likes."""

import asyncio
import contextlib
import struct
from collections.abc import Iterator
from typing import Literal, Self
from urllib.parse import urlencode

from harness.clients import Client, finish
from harness.raw import UPGRADE, RawSocket
from harness.v1 import EventStreamParser, Knowledge, parse_streamed

Variant = Literal["plain", "v1", "events"]
VARIANTS: tuple[Variant, ...] = ("plain", "v1", "events")

_CHUNK_BYTES = 16_384
_CLOSE, _PING, _PONG = 8, 9, 10


class FrameSplitter:
    """A server's WebSocket frames (RFC 6455 5.2) out of bytes as they come."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Gives opcode and payload of each frame that is complete."""
        self._rest += data
        rest, at = bytes(self._rest), 0
        while len(rest) - at >= 2:
            length, head = rest[at + 1] & 0x7F, 2
            if length >= 126:
                head = 4 if length == 126 else 10
                length = int.from_bytes(rest[at + 2 : at + head])
            if len(rest) - at < head + length:
                break
            yield rest[at] & 0x0F, rest[at + head : at + head + length]
            at += head + length
        del self._rest[:at]


class Stubborn(Client):
    """A client of any variant over a raw socket with a small receive buffer: the smallest is full at
    once, and slow to fill again when it was.

    It reads from `reads()` until `stops()`, at `bytes_per_second` if that is set. `frames` are its
    events as plain frames. `knowledge` is what a client of notify.v1 was told.
    """

    library = "stubborn client"

    def __init__(
        self,
        port: int,
        user: str,
        replica: str,
        variant: Variant = "plain",
        *,
        answers_pings: bool = True,
        receive_buffer_bytes: int = 4_096,
        **query: str,
    ) -> None:
        super().__init__(port, user, replica)
        self.knowledge = Knowledge()
        self.bytes_per_second = 0
        self._port, self._variant, self._query, self._answers_pings = port, variant, query, answers_pings
        self._receive_buffer_bytes = receive_buffer_bytes
        self._may_read = asyncio.Event()
        self._splitter, self._stream = FrameSplitter(), EventStreamParser()

    async def open(self) -> None:
        """Connect and read the answer's head, and no more."""
        self._socket = await RawSocket.connect(self._port, receive_buffer_bytes=self._receive_buffer_bytes)
        path, headers = ("/events", {"Host": "127.0.0.1"}) if self._variant == "events" else ("/ws", dict(UPGRADE))
        if self._variant == "v1":
            headers["Sec-WebSocket-Protocol"] = "notify.v1"
        answer = await self._socket.request(f"{path}?{urlencode({'user_id': self.user, **self._query})}", headers)
        assert answer.status == (200 if self._variant == "events" else 101), answer
        self._reader = asyncio.create_task(self._read())

    def reads(self, bytes_per_second: int = 0) -> Self:
        self.bytes_per_second = bytes_per_second
        self._may_read.set()
        return self

    def stops(self) -> None:
        self._may_read.clear()

    def vanish(self) -> None:
        """End the connection without a close frame."""
        self._socket.writer.transport.abort()

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await self._may_read.wait()
                data = await self._socket.reader.read(_CHUNK_BYTES)
                if not data:
                    break
                self._take(data)
                if self.bytes_per_second:
                    await asyncio.sleep(len(data) / self.bytes_per_second)
        self._ended(None)

    def _take(self, data: bytes) -> None:
        if self._variant == "events":
            self.frames += [
                parse_streamed(event).as_plain for kind, event in self._stream.feed(data) if kind != "control"
            ]
            return
        for opcode, payload in self._splitter.feed(data):
            if opcode == _PING and self._answers_pings:
                self._socket.send_frame(_PONG, payload)
            elif opcode == _CLOSE:
                self._ended(struct.unpack("!H", payload[:2])[0], payload[2:].decode())
            elif opcode == 1 and self._variant == "v1":
                known = len(self.knowledge.events)
                self.knowledge.take(payload)
                self.frames += [event.as_plain for event in self.knowledge.events[known:]]
            elif opcode == 1:
                self.frames.append(payload)

    async def close(self) -> None:
        if hasattr(self, "_reader"):
            self.vanish()
            self._may_read.set()
            await finish(self._reader)
