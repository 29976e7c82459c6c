"""What the fuzzed tests share: how many examples, and bytes that are nearly right.

Always the same examples, so that a build does not fail by chance. FUZZ_EXAMPLES=20000 tries as many
others, new ones each time.
"""

import os
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from scripted import client_frame

_EXAMPLES = os.environ.get("FUZZ_EXAMPLES", "")

fuzzed = settings(max_examples=int(_EXAMPLES or 200), derandomize=not _EXAMPLES, deadline=None, database=None)


def split(data: bytes, cuts: list[float]) -> list[bytes]:
    """`data` in pieces, cut at these shares of it."""
    bounds = [0, *sorted(int(cut * len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(bounds) if end > start or len(data) == 0]


cuts = st.lists(st.floats(0, 1), max_size=12)

# Heads

_METHODS = st.sampled_from([b"GET"] * 12 + [b"POST", b"OPTIONS", b"HEAD", b"get", b"CONNECT", b"PRI", b"G\x00T", b""])
_PATHS = st.sampled_from(
    [b"/ws"] * 8
    + [b"/events"] * 3
    + [b"/health", b"/position", b"/", b"*", b"", b"/%77s", b"//ws", b"/ws/", b"/ws;a", b"/ws%00", b"/WS", b"/ws#a"]
    + [b"http://here/ws", b"http://here/health", b"here:443", b"/../ws", b"/x/%2e%2e/ws", b"/a b", b"/\xc3\xa9"]
)
_VALUES = st.sampled_from(
    [b"ann"] * 6
    + [b"", b"%00", b"%0d%0aX:y", b"%ed%a0%80", b"%c0%af", b"%f0%9f%98%80", b"%f5%80%80%80", b"%", b"%4", b"%zz"]
    + [b"a" * 128, b"a" * 129, b"%f0%9f%98%80" * 128, b"%f0%9f%98%80" * 129, b"+", b"%2B", b"a=b", b"\xff", b"1.2.3.4"]
    + [b"ack", b"0", b"1", b"risk_alert", b"risk_alert,order_executed", b"a" * 9_000]
)
_NAMES = st.sampled_from([b"types", b"snapshot", b"cursor", b"device", b"user_id", b"us%65r_id", b"x", b"", b"%00"])
_OPTION = st.builds(lambda name, value: name + b"=" + value, _NAMES, _VALUES)
_QUERY = st.builds(
    lambda user, more: b"?" + b"&".join([b"user_id=" + user, *more]), _VALUES, st.lists(_OPTION, max_size=2)
) | st.sampled_from([b"", b"?", b"?&&", b"?user_id"])
_VERSIONS = st.sampled_from(
    [b"HTTP/1.1"] * 12 + [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b""]
)

_HANDSHAKE = (
    b"Host: localhost",
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    b"Sec-WebSocket-Version: 13",
)
_LINES = st.sampled_from(
    [
        *_HANDSHAKE,
        b"Host: other",
        b"Host:",
        b"host:\tlocalhost\t",
        b"Upgrade: h2c",
        b"Upgrade: WebSocket",
        b"Connection: close",
        b"Connection: keep-alive, Upgrade",
        b"Proxy-Connection: keep-alive",
        b"Keep-Alive: timeout=99",
        b"Sec-WebSocket-Key: x",
        b"Sec-WebSocket-Version: 8",
        b"Sec-WebSocket-Protocol: notify.v1",
        b"Sec-WebSocket-Protocol: notify.plain, bearer.x",
        b"Sec-WebSocket-Protocol: other",
        b"Sec-WebSocket-Protocol: ,",
        b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        b"Content-Length: 0",
        b"Content-Length: 5",
        b"Content-Length: +0",
        b"Content-Length: 0, 0",
        b"Content-Length: 00",
        b"Content-Length : 5",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: \tchunked ",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding:\x0bchunked",
        b"Transfer_Encoding: chunked",
        b"Trailer: Host",
        b"Expect: 100-continue",
        b"Last-Event-ID: a.1.b.2",
        b"Last-Event-ID: \xff\x00",
        b"Cookie: " + b"c" * 9_000,
        b"X: " + b" " * 3_000 + b"y",
        b" folded",
        b"\tfolded",
        b"X",
        b": y",
        b"X:y:z",
        b"X: \xf0\x9f\x98\x80",
        b"X: \x00",
        b"X: \r",
        b"X: \n",
        b"X\x00: y",
        b"",
    ]
)
_ENDS = st.sampled_from([b"\r\n"] * 30 + [b"\n", b"\r", b"\r\r\n", b"\n\r\n", b" \r\n", b"\r\n ", b"\x00\r\n"])
_NOISE = st.sampled_from(
    [b"\x00", b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b"\x7f", b"\xff", b"\x85", b"\r\n\r\n", b"GET"]
)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """A handshake, or another request, or something not quite one; ends as a head does."""
    start = b" ".join((draw(_METHODS), draw(_PATHS) + draw(_QUERY), draw(_VERSIONS)))
    lines = list(_HANDSHAKE)
    for _ in range(draw(st.integers(0, 3))):
        if lines and draw(st.booleans()):
            lines.pop(draw(st.integers(0, len(lines) - 1)))
        else:
            lines.insert(draw(st.integers(0, len(lines))), draw(_LINES))
    if draw(st.integers(0, 30)) == 0:
        lines += [b"X-%d: y" % number for number in range(draw(st.integers(80, 3_000)))]
    end = draw(_ENDS)
    head = end.join((start, *lines)) + b"\r\n\r\n"
    for _ in range(max(0, draw(st.integers(-4, 2)))):
        at = draw(st.integers(0, len(head) - 4))
        head = head[:at] + draw(_NOISE) + head[at + draw(st.integers(0, 3)) :]
    return head


# Frames

_OPCODES = st.sampled_from([1] * 6 + [0] * 4 + [9, 9, 10, 8, 2, 3, 11, 15])
_PAYLOADS = st.sampled_from(
    [b"", b"x", b"\xf0\x9f", b"\x98\x80", b"\xed\xa0\x80", b"\xff", b"\xc0\xaf", b"\x03\xe8", b"\x03\xe8bye", b"\x03"]
    + [b"\x03\xed", b"\x13\x87\xff", "é😀".encode()]
    + [b"x" * size for size in (125, 126, 4_096, 4_097)]
) | st.binary(max_size=200)
_LIES = st.sampled_from([None] * 20 + [0, 1, 126, 65_536, 2**31, 2**63 - 1, 2**63, 2**64 - 1])
_FRAME = st.builds(
    lambda opcode, payload, fin, reserved, mask, length: client_frame(
        opcode, payload, fin=fin, reserved=reserved, mask=mask, length=length
    ),
    _OPCODES,
    _PAYLOADS,
    st.sampled_from([True, True, True, False]),
    st.sampled_from([0] * 20 + [1, 2, 4, 7]),
    st.sampled_from([b"\x00\x00\x00\x00", b"\x01\x02\x03\x04"] * 10 + [None]),
    _LIES,
)
_MANY = st.builds(lambda frame, count: frame * count, _FRAME, st.sampled_from([1, 2, 33, 300]))

frames = st.lists(_FRAME | _MANY | st.binary(max_size=20), max_size=8).map(lambda parts: b"".join(parts)[:100_000])
"""Bytes that are frames, or nearly."""
