"""Bytes that go out: WebSocket frames (RFC 6455 section 5.2) and what is in them. Pure.

A server's frames are not masked, so one frame serves every socket.
"""

from typing import Final

from gateway.close_codes import CloseCode
from shared.message import Message

PING: Final = b"\x89\x00"
PONG_HEADER: Final = b"\x8a\x80"
"""How an empty pong of a client begins; four bytes of mask follow."""

_TEXT: Final = 0x81
_CLOSE: Final = 0x88
_MAX_CONTROL_BYTES: Final = 125


def text_frame(payload: bytes) -> bytes:
    """One unfragmented text frame around `payload`, which is UTF-8."""
    length = len(payload)
    if length < 126:
        return b"%c%c%s" % (_TEXT, length, payload)
    if length < 65_536:
        return b"%c\x7e%s%s" % (_TEXT, length.to_bytes(2, "big"), payload)
    return b"%c\x7f%s%s" % (_TEXT, length.to_bytes(8, "big"), payload)


def close_frame(code: CloseCode, reason: str | None = None) -> bytes:
    """A close frame with the code's own reason, or another; cut to what a control frame holds,
    between characters, since a reason is UTF-8 (RFC 6455 section 5.5.1)."""
    text = (reason or code.reason).encode()[: _MAX_CONTROL_BYTES - 2].decode(errors="ignore")
    payload = code.to_bytes(2, "big") + text.encode()
    return b"%c%c%s" % (_CLOSE, len(payload), payload)


def plain_frame(message: Message) -> bytes:
    """The frame of plain clients: exactly `{"type": ..., "data": {...}}`."""
    return text_frame(b'{"type":"%s","data":%s}' % (message.type, message.data))
