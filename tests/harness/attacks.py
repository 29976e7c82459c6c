"""Attacks on a replica's ports: what each sends, and the process that sends it (bench/c/attack.c)."""

import asyncio
import json
import os
import random
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from bench.tools import CLIENT_CORE, build, pin
from harness.raw import UPGRADE

CONTINUATION, TEXT, BINARY, CLOSE, PING = 0, 1, 2, 8, 9
USER = "########"
"""Becomes a number, another one for each socket."""


def head(target: str, headers: dict[str, str] | None = None, *, method: str = "GET", more: str = "") -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in {"Host": "127.0.0.1", **(headers or {})}.items())
    return f"{method} {target} HTTP/1.1\r\n{lines}{more}\r\n".encode()


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0) -> bytes:
    """A client's frame, with a mask of zeros."""
    size = len(payload)
    length = (
        bytes([0x80 | size])
        if size < 126
        else b"\xfe" + size.to_bytes(2)
        if size < 65_536
        else b"\xff" + size.to_bytes(8)
    )
    return bytes([(0x80 if fin else 0) | reserved << 4 | opcode]) + length + bytes(4) + payload


@dataclass(frozen=True)
class Attack:
    """What to send, how often, and what each socket is told: statuses and close codes that may come."""

    first: bytes
    sockets: int = 64
    then: bytes = b""
    repeat: int = 1
    options: dict[str, int] = field(default_factory=dict)
    statuses: frozenset[int] = frozenset()
    codes: frozenset[int] = frozenset()
    may_be_cut: bool = False
    """Without a word, that is."""
    may_fill: bool = False
    """A socket that was closed counts for a moment: a fast attacker fills the replica, and is told so by a 503."""
    needs_files: int = 1_000
    seconds: float = 3.0


def _told(*numbers: int) -> frozenset[int]:
    return frozenset(numbers)


def _packed(message: bytes, *, fin: bool = True) -> bytes:
    """A compressed text frame (RFC 7692). One that is not the last may be followed by others."""
    compressor = zlib.compressobj(wbits=-15)
    return frame(TEXT, (compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4], fin=fin, reserved=4)


_WS = head(f"/ws?user_id=eve-{USER}", UPGRADE)
_V1 = {**UPGRADE, "Sec-WebSocket-Protocol": "notify.v1"}
_DEFLATE = {**UPGRADE, "Sec-WebSocket-Extensions": "permessage-deflate"}
_SPEAKS = head(f"/ws?user_id=eve-{USER}&device=d", _V1)
_PAUSE = {"REOPEN_MS": 50}
"""The replica's answer is what is measured, not how fast sockets can be opened."""

HEADS = {
    "half-open heads, a byte a second": Attack(
        _WS, 4_000, options={"DRIP_MS": 1_000, "REOPEN_MS": 1_000},
        statuses=_told(503), may_be_cut=True, needs_files=9_000,
    ),
    "half-open heads of 16 KB": Attack(
        b"GET / HTTP/1.1\r\nX: " + b"x" * 16_300, 4_000, options={"REOPEN_MS": 1_000},
        statuses=_told(503), may_be_cut=True, needs_files=9_000,
    ),
    "connects without a byte": Attack(
        b"", 4_000, options={"REOPEN_MS": 1_000}, statuses=_told(503), may_be_cut=True, needs_files=9_000
    ),
    "connects and drops": Attack(head("/health"), 64, options={"DROP": 1}, may_be_cut=True),
    "handshakes and drops": Attack(_WS, 64, options={"DROP": 1}, may_be_cut=True),
    "malformed heads": Attack(b"GET  /ws HTTP/1.1\r\n\r\n", statuses=_told(400)),
    "handshakes without a user, 500 at once": Attack(head("/ws", UPGRADE), 500, statuses=_told(400)),
    "binary garbage": Attack(
        random.Random(7).randbytes(60_000).replace(b"\r\n\r\n", b"\r\n\r!"), statuses=_told(431)
    ),
    "cookies of 60 KB": Attack(head("/health", {"Cookie": "c" * 60_000}), statuses=_told(431)),
    "3,000 header lines": Attack(head("/health", more="A:b\r\n" * 3_000), statuses=_told(431)),
    "bodies": Attack(head("/health", {"Content-Length": "99999"}, method="POST") + b"x" * 9_999, statuses=_told(400)),
    "chunked bodies": Attack(
        head("/ws?user_id=eve", {**UPGRADE, "Transfer-Encoding": "chunked"}) + b"1\r\nx\r\n", statuses=_told(400)
    ),
    "requests pipelined before a handshake": Attack(head("/health") * 10 + _WS, statuses=_told(200)),
    "requests of /health": Attack(head("/health"), statuses=_told(200)),
    "requests of /openapi.json, 500 at once": Attack(head("/openapi.json"), 500, statuses=_told(200)),
}  # fmt: skip

FRAMES = {
    "200,000 empty continuations": Attack(
        _WS, 16, frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * 200_000, 1,
        _PAUSE, _told(101), _told(1009, 4002),
    ),
    "pings by the thousand": Attack(_WS, 16, frame(PING, b"x" * 125) * 1_000, 200, _PAUSE, _told(101), _told(4002)),
    "pings by the thousand, and back at once": Attack(
        _WS, 64, frame(PING) * 5_000, 1, {"LEAVE": 1}, _told(101), _told(4002), may_fill=True
    ),
    "as many pings as may be, and back at once": Attack(
        _WS, 64, frame(PING) * 99 + frame(CLOSE, b"\x03\xe8"), 1, {"LEAVE": 1}, _told(101), _told(1000),
        may_fill=True,
    ),
    "tiny frames without an end": Attack(_WS, 16, frame(PING, b"xx") * 8_192, 1_000, _PAUSE, _told(101), _told(4002)),
    "large messages in fragments": Attack(
        _WS, 16, frame(TEXT, b"x" * 3_000, fin=False) + frame(CONTINUATION, b"x" * 3_000, fin=False) * 500, 10,
        _PAUSE, _told(101), _told(1009),
    ),
    "frames of 16 MB": Attack(_WS, 8, frame(BINARY, bytes(16_000_000)), 1, _PAUSE, _told(101), _told(1009)),
    "compressed frames": Attack(
        head(f"/ws?user_id=eve-{USER}", _DEFLATE), 32, frame(TEXT, bytes(100), reserved=4), 1, _PAUSE,
        _told(101), _told(1002),
    ),
    "control messages: filter": Attack(
        _SPEAKS, 100, frame(TEXT, b'{"control":"filter","types":["risk_alert"]}'), 10**9, {"THEN_MS": 55}, _told(101)
    ),
    "control messages: ping": Attack(
        _SPEAKS, 100, frame(TEXT, b'{"control":"ping"}'), 10**9, {"THEN_MS": 55}, _told(101)
    ),
    "control messages: not JSON": Attack(_SPEAKS, 100, frame(TEXT, b"{" * 4_000), 10**9, {"THEN_MS": 55}, _told(101)),
    "control messages: ack": Attack(
        _SPEAKS, 100, frame(TEXT, b'{"control":"ack","cursor":"0.0.0.0"}'), 10**9, {"THEN_MS": 55}, _told(101)
    ),
    "control messages, more than may be": Attack(
        _SPEAKS, 32, frame(TEXT, b'{"control":"filter","types":[]}'), 1_000, _PAUSE, _told(101), _told(4002)
    ),
    "event streams that nobody reads": Attack(
        head("/events?user_id={user}"), 500, options={"NOREAD": 1, "REOPEN_MS": 1_000}, statuses=_told(200)
    ),
}  # fmt: skip

_COMPRESSES = head(f"/ws?user_id=eve-{USER}", _V1 | _DEFLATE)

COMPRESSED = {
    "bombs": Attack(_COMPRESSES, 64, _packed(bytes(3_000_000)), 1, _PAUSE, _told(101), _told(1009)),
    "bombs, as many as may be, each just small enough": Attack(
        _COMPRESSES, 100, _packed(b"[" * 4_000), 10**9, {"THEN_MS": 55}, _told(101)
    ),
    "bombs in fragments, without an end": Attack(
        _COMPRESSES, 1_000, _packed(bytes(500_000), fin=False), 1, {"REOPEN_MS": 1_000}, _told(101), needs_files=5_000
    ),
    "compressed garbage": Attack(
        _COMPRESSES, 64, frame(TEXT, random.Random(7).randbytes(4_000), reserved=4), 1, _PAUSE, _told(101), _told(1007)
    ),
    "compressed control frames": Attack(
        _COMPRESSES, 64, frame(PING, b"x", reserved=4), 1, _PAUSE, _told(101), _told(1002)
    ),
    "offers of 15 KB": Attack(
        head("/ws?user_id=eve", UPGRADE | {"Sec-WebSocket-Extensions": "permessage-deflate;a," * 700 + "a"}),
        statuses=_told(101),
    ),
}  # fmt: skip
"""On a replica that takes compressed messages."""

CROWDS = {
    "new users that drop before they are answered": Attack(
        _WS, 512, options={"DROP": 1}, may_be_cut=True, seconds=15
    ),
    "new users that drop once they are answered": Attack(
        _WS, 512, options={"DROP": 2}, statuses=_told(101), seconds=15
    ),
    "event streams of new users": Attack(
        head(f"/events?user_id=eve-{USER}"), 512, options={"DROP": 2}, statuses=_told(200), seconds=15
    ),
}  # fmt: skip
"""Longer than streams stay subscribed that nobody has any more."""


class Attacker:
    """The process, on the clients' core. Async context manager; `told` is there once it was left."""

    def __init__(self, port: int, attack: Attack, folder: Path, user: str) -> None:
        self._attack = attack
        first, then = folder / "attack-first", folder / "attack-then"
        first.write_bytes(attack.first.replace(b"{user}", user.encode()))
        then.write_bytes(attack.then)
        self._arguments = [str(port), str(attack.sockets), str(first)]
        if attack.then:
            self._arguments += [str(then), str(attack.repeat)]
        self.told: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        options = {name: str(value) for name, value in self._attack.options.items()}
        self._process = await asyncio.create_subprocess_exec(
            build("attack"), *self._arguments, stdout=asyncio.subprocess.PIPE, env={**os.environ, **options}
        )
        pin(self._process.pid, CLIENT_CORE)
        assert self._process.stdout is not None
        await asyncio.wait_for(self._process.stdout.readline(), 30)  # from then on it takes a signal
        return self

    async def __aexit__(self, *_: object) -> None:
        self._process.terminate()
        said, _stderr = await asyncio.wait_for(self._process.communicate(), 30)
        self.told = json.loads(said)

    def check(self) -> None:
        """Each socket was told what this attack is to be told, and nothing else."""
        attack, told = self._attack, self.told
        assert told["opened"] >= attack.sockets, told
        statuses = {int(status) for status in told["statuses"]} - ({503} if attack.may_fill else set())
        assert statuses <= attack.statuses, told
        codes = {int(code) for code in told["codes"]}
        assert codes <= attack.codes, told
        assert codes or not attack.codes, told
        assert told["doubles"] == 0, told
        if not attack.may_be_cut:
            assert attack.statuses == statuses, told
            assert told["cut"] == 0, told
