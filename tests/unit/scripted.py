"""Stand-ins that do what a script says and write down what was done to them."""

import asyncio
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from gateway.audience import Audience, Member
from gateway.close_codes import CloseCode
from gateway.cursor import START, Cursor
from gateway.frames import Variant
from gateway.group import Due, Wishes, with_ids
from gateway.hub import Hub
from shared.keys import Keys, StreamName

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


def server_frames(data: bytes, *, may_be_compressed: bool = False) -> list[tuple[int, bytes]]:
    """What a server wrote, as (opcode, payload). Fails on anything but whole server frames, and on compressed
    ones unless they may be."""
    frames = []
    while data:
        first, size = data[0], data[1]
        is_compressed = may_be_compressed and first == 0xC1
        assert is_compressed or first & 0xF0 == 0x80, "not a final frame without reserved bits"
        at = 2
        if size == 126:
            (size,) = struct.unpack_from("!H", data, 2)
            at = 4
        elif size == 127:
            (size,) = struct.unpack_from("!Q", data, 2)
            at = 10
        assert size < 2**62, "masked"
        assert len(data) >= at + size, "a frame is cut off"
        payload = data[at : at + size]
        if is_compressed:
            payload = zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff")
        frames.append((first & 0x0F, payload))
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
        self.is_paused = False
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

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

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
        """The client sent bytes. A closed or paused transport reads no more."""
        if not self.is_closed and not self.is_lost and not self.is_paused:
            self.protocol.data_received(data)

    def lose(self) -> None:
        """The socket is gone."""
        if not self.is_lost:
            self.is_lost = True
            self.protocol.connection_lost(None)


class ScriptedMember:
    """A connection, as far as the hub knows it."""

    def __init__(
        self,
        types: frozenset[bytes] | None = None,
        name: str = "",
        variant: Variant = Variant.PLAIN,
        *,
        deflated: bool = False,
    ) -> None:
        self.wishes = Wishes(variant, types, deflated)
        self.hub: Hub | None = None
        self.name = name
        self.opened_us = 0
        self.audience: Audience | None = None
        self.write: Callable[[bytes], object] = self._written
        self.writes: list[bytes] = []
        self.opened_times = 0
        self.cursor = Cursor(START, START)
        """Where it was seated; for an event stream, how far it has come."""
        self.closed: CloseCode | None = None
        self.on_close: Callable[[], None] = lambda: None
        self.on_write: Callable[[], None] = lambda: None

    def _written(self, data: bytes) -> None:
        self.writes.append(data)
        self.on_write()

    def write_events(self, due: Sequence[Due], *, is_global: bool) -> None:
        data, self.cursor = with_ids(due, self.cursor, is_global=is_global)
        self.write(data)

    def write_conflated(self, due: Sequence[Due], joined: bytes, *, is_global: bool) -> None:
        self.write(joined)

    def subscribed(self) -> None:
        self.opened_times += 1
        assert self.hub is not None
        self.cursor = self.hub.seat(self)

    def close(self, code: CloseCode, reason: str | None = None) -> None:
        self.closed = code
        self.on_close()

    @property
    def payloads(self) -> list[bytes]:
        may_be_compressed = self.wishes.deflated
        return [
            payload for data in self.writes for _, payload in server_frames(data, may_be_compressed=may_be_compressed)
        ]


class SeatingHub(Hub):
    """The hub, which tells scripted members who it is."""

    def join(self, member: Member, user_id: str) -> None:
        if isinstance(member, ScriptedMember):
            member.hub = self
        super().join(member, user_id)


class ScriptedLinks:
    """Links to a Redis that holds logs and metas in memory, and answers at once or when it is let."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.logs: dict[str, list[Any]] = {}
        self.metas: dict[str, list[bytes | None]] = {}
        self.last: dict[bytes, bytes] = {}
        """What the hash of each type's newest message holds."""
        self.address = "here"
        self._turns: asyncio.Semaphore | None = None

    def wait(self) -> None:
        """Answer nothing from now on but what is let by `answer`."""
        self._turns = asyncio.Semaphore(0)

    def answer(self, count: int = 1) -> None:
        """Answer so many of what is asked."""
        assert self._turns is not None
        for _ in range(count):
            self._turns.release()

    def answer_all(self) -> None:
        """Answer what is asked, and at once from now on."""
        self.answer(1_000)
        self._turns = None

    def add(self, stream: StreamName, epoch: bytes, seq: int, payload: bytes) -> None:
        """One more entry of a stream's log, which is its newest."""
        self.logs.setdefault(self._keys.log(stream), []).append([b"%d-0" % seq, [b"m", payload]])
        self.metas[self._keys.meta(stream)] = [epoch, b"%d" % seq, None]

    # shared.links.Links and shared.link.Link

    async def of(self, bucket: str) -> "ScriptedLinks":
        return self

    async def transaction(self, commands: Sequence[Any], *, timeout_seconds: float) -> list[Any]:
        if self._turns is not None:
            await self._turns.acquire()
        return [self._reply(command) for command in commands]

    def _reply(self, command: Sequence[Any]) -> Any:
        match command:
            case ("ROLE",):
                return [b"master", 0, []]
            case ("HMGET", key, *_):
                return self.metas.get(key, [None, None, None])
            case ("HGETALL", self._keys.last):
                return self.last
            case ("XRANGE", key, start, end, "COUNT", count):
                after = 0 if start == "-" else int(start.removeprefix("("))
                until = 10**15 if end == "+" else int(end)
                entries = self.logs.get(key, [])
                return [entry for entry in entries if after < int(entry[0].partition(b"-")[0]) <= until][:count]
        raise AssertionError(f"nobody scripted an answer to {command}")
