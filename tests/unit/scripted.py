"""Stand-ins that do what a script says and write down what was done to them."""

import asyncio
import struct
from collections.abc import Callable
from typing import Any

from gateway.close_codes import CloseCode
from gateway.hub import Audience

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
CONTINUATION = 0x0


def client_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    mask: bytes | None = b"\x01\x02\x03\x04",
    length: int | None = None,
) -> bytes:
    """A frame as a client sends it (RFC 6455 section 5.2). `length` may lie; `mask` None breaks the rule."""
    size = len(payload) if length is None else length
    masked = 0x80 if mask is not None else 0
    head = bytes([(0x80 if fin else 0) | reserved << 4 | opcode])
    if size < 126:
        head += bytes([masked | size])
    elif size < 65_536:
        head += bytes([masked | 126]) + struct.pack("!H", size)
    else:
        head += bytes([masked | 127]) + struct.pack("!Q", size)
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))


def client_close(code: int = 1000, reason: bytes = b"") -> bytes:
    return client_frame(CLOSE, struct.pack("!H", code) + reason)


def server_frames(data: bytes) -> list[tuple[int, bytes]]:
    """What a server wrote, as (opcode, payload). Fails on anything but whole, plain server frames."""
    frames = []
    while data:
        first, size = data[0], data[1]
        assert first & 0xF0 == 0x80, "not a final frame without reserved bits"
        at = 2
        if size == 126:
            (size,) = struct.unpack_from("!H", data, 2)
            at = 4
        elif size == 127:
            (size,) = struct.unpack_from("!Q", data, 2)
            at = 10
        assert size < 2**62, "masked"
        assert len(data) >= at + size, "a frame is cut off"
        frames.append((first & 0x0F, data[at : at + size]))
        data = data[at + size :]
    return frames


def close_of(data: bytes) -> tuple[int, str]:
    """Code and reason of the close frame that ends `data`, which is frames only."""
    opcode, payload = server_frames(data)[-1]
    assert opcode == CLOSE, server_frames(data)
    return struct.unpack("!H", payload[:2])[0], payload[2:].decode()


class ScriptedTransport(asyncio.Transport):
    """A socket without one. It keeps what is written and refuses what a real one would complain of."""

    def __init__(self, peer: tuple[str, int] | None = ("127.0.0.1", 50_000)) -> None:
        super().__init__({"peername": peer} if peer else {})
        self.protocol: Any = None
        self.written = b""
        self.writes = 0
        self.is_closed = False
        self.is_aborted = False
        self.wrote_eof = False
        self.is_lost = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self.protocol
        return protocol

    def write(self, data: Any) -> None:
        assert not self.is_closed, "written after close"
        assert not self.wrote_eof, "written after the end"
        assert not self.is_lost, "written after the socket was lost"
        self.written += bytes(data)
        self.writes += 1

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.wrote_eof = True

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = self.is_aborted = True

    def is_closing(self) -> bool:
        return self.is_closed

    # What a script does

    def take(self) -> bytes:
        """What was written since the last call."""
        written, self.written = self.written, b""
        return written

    def receive(self, data: bytes) -> None:
        """The client sent bytes. A closed transport reads no more."""
        if not self.is_closed and not self.is_lost:
            self.protocol.data_received(data)

    def lose(self) -> None:
        """The socket is gone."""
        if not self.is_lost:
            self.is_lost = True
            self.protocol.connection_lost(None)


class ScriptedMember:
    """A connection, as far as the hub knows it."""

    def __init__(self, types: frozenset[bytes] | None = None, name: str = "") -> None:
        self.types = types
        self.name = name
        self.audience: Audience | None = None
        self.write: Callable[[bytes], object] = self._written
        self.writes: list[bytes] = []
        self.opened_times = 0
        self.closed: CloseCode | None = None
        self.on_close: Callable[[], None] = lambda: None
        self.on_write: Callable[[], None] = lambda: None

    def _written(self, data: bytes) -> None:
        self.writes.append(data)
        self.on_write()

    def opened(self) -> None:
        self.opened_times += 1

    def close(self, code: CloseCode) -> None:
        self.closed = code
        self.on_close()

    @property
    def payloads(self) -> list[bytes]:
        return [payload for data in self.writes for _, payload in server_frames(data)]
