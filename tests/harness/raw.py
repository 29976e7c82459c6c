"""A raw socket to the front door, for what no well-behaved library can be made to send."""

import asyncio
import json
import os
import struct
from dataclasses import dataclass
from typing import Any, Self

from harness.waiting import PATIENCE

_WAIT_SECONDS = 20.0 * PATIENCE

UPGRADE = {
    "Host": "127.0.0.1",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


@dataclass(frozen=True)
class Answer:
    """An HTTP answer. Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        assert self.headers.get("content-type", "").startswith("application/json"), self
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed


class RawSocket:
    """One TCP connection. Every read has a deadline and raises TimeoutError."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.reserved = 0
        """The reserved bits of the frame read last."""

    @classmethod
    async def connect(cls, port: int, receive_buffer_bytes: int | None = None) -> Self:
        """`receive_buffer_bytes` makes a socket that is full soon when nobody reads."""
        if receive_buffer_bytes is None:
            return cls(*await asyncio.open_connection("127.0.0.1", port))
        import socket

        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
        return cls(*await asyncio.open_connection(sock=raw, limit=1024))

    @property
    def is_closing(self) -> bool:
        return self.writer.transport.is_closing()

    async def request(self, target: str, headers: dict[str, str], method: str = "GET") -> Answer:
        """Send a request's head and read the answer."""
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.writer.write(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1"))
        return await self.answer()

    async def upgrade(self, user: str) -> None:
        """Become a WebSocket of `user`."""
        answer = await self.request(f"/ws?user_id={user}", UPGRADE)
        assert answer.status == 101, answer

    async def answer(self) -> Answer:
        """Read one HTTP answer; its body as long as Content-Length says."""
        async with asyncio.timeout(_WAIT_SECONDS):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status_line, *lines = head.rstrip("\r\n").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(status_line.split(" ")[1]), headers, body)

    def send_frame(
        self, opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = True, reserved: int = 0
    ) -> None:
        """Write one frame, right or wrong (RFC 6455 5.2)."""
        first = (0x80 if fin else 0) | reserved << 4 | opcode
        mask_bit = 0x80 if masked else 0
        if len(payload) < 126:
            head = struct.pack("!BB", first, mask_bit | len(payload))
        elif len(payload) < 65_536:
            head = struct.pack("!BBH", first, mask_bit | 126, len(payload))
        else:
            head = struct.pack("!BBQ", first, mask_bit | 127, len(payload))
        if masked:
            key = os.urandom(4)
            stretched = (key * (len(payload) // 4 + 1))[: len(payload)]
            mixed = int.from_bytes(payload) ^ int.from_bytes(stretched)
            payload = key + mixed.to_bytes(len(payload))
        self.writer.write(head + payload)

    async def read_frame(self) -> tuple[int, bytes]:
        """Read one frame of the server: opcode and payload."""
        async with asyncio.timeout(_WAIT_SECONDS):
            first, second = await self.reader.readexactly(2)
            assert not second & 0x80, "a server's frame is never masked"
            self.reserved = first >> 4 & 7
            length = second & 0x7F
            if length == 126:
                (length,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 0x0F, await self.reader.readexactly(length)

    async def close_code(self) -> int:
        """Read until the server's close frame and give its code; 1006 when it just hung up."""
        while True:
            try:
                opcode, payload = await self.read_frame()
            except (asyncio.IncompleteReadError, ConnectionError):
                return 1006
            if opcode == 8:
                return int(struct.unpack("!H", payload[:2])[0]) if payload else 1005

    async def until_closed(self) -> bytes:
        """Read whatever still comes until the server has closed the connection."""
        async with asyncio.timeout(_WAIT_SECONDS):
            try:
                return await self.reader.read(-1)
            except ConnectionError:
                return b""

    async def close(self) -> None:
        self.writer.transport.abort()
