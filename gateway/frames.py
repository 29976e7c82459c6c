"""Bytes that go out, framed once for each variant: WebSocket frames (RFC 6455 section 5.2), the
events of an event stream (HTML, section 9.2), and what is in them (DESIGN section 4). Pure.

A server's frames are not masked, so one frame serves every socket.
"""

from enum import IntEnum
from typing import Final

import msgspec

from gateway.close_codes import CloseCode
from gateway.control_frames import ControlFrame, heartbeat
from gateway.cursor import Cursor
from shared.message import Message

PING: Final = b"\x89\x00"
PONG_HEADER: Final = b"\x8a\x80"
"""How an empty pong of a client begins; four bytes of mask follow."""

_TEXT: Final = 0x81
_COMPRESSED: Final = 0x40
"""RSV1, of a message's first frame (RFC 7692 section 6)."""

_CLOSE: Final = 0x88
_MAX_CONTROL_BYTES: Final = 125


class Variant(IntEnum):
    """How a client wants its messages. Messages are framed once for each variant in use. In an event
    stream whatever has a place is followed by the connection's own `id:` line and an empty one."""

    PLAIN = 0
    V1 = 1
    """Subprotocol notify.v1: with proof, and control frames."""
    EVENTS = 2
    """Server-Sent Events, which say where in Redpanda they are from."""


def frame_message(variant: Variant, message: Message, *, is_global: bool, label: bytes) -> bytes:
    """A message as clients of `variant` get it; `label` is the epoch that they are told
    (Stream.label)."""
    if variant is Variant.PLAIN:
        return text_frame(b'{"type":"%s","data":%s}' % (message.type, message.data))
    if variant is Variant.V1:
        return text_frame(_v1(message, is_global, label, b""))
    return b'event: %s\ndata: {"type":"%s","data":%s,"id":"%s/%d","ts":%d}\n' % (
        message.type,
        message.type,
        message.data,
        message.partition,
        message.offset,
        message.ts_ms,
    )


def frame_snapshot(variant: Variant, message: Message) -> bytes:
    """A message of a snapshot: older than where the connection starts, and said to be so in notify.v1."""
    if variant is Variant.V1:
        return text_frame(_v1(message, True, message.epoch, b',"snapshot":true'))
    frame = frame_message(variant, message, is_global=True, label=message.epoch)
    return frame + b"\n" if variant is Variant.EVENTS else frame  # no place: it is behind where the client is


def frame_control(variant: Variant, control: ControlFrame) -> bytes:
    """A control frame; nothing for plain clients, who have none."""
    if variant is Variant.PLAIN:
        return b""
    payload = msgspec.json.encode(control)
    return text_frame(payload) if variant is Variant.V1 else b"event: control\ndata: %s\n\n" % payload


def frame_heartbeat(variant: Variant, tops: Cursor | None, ts_ms: int) -> bytes:
    """A sign of life. `tops`: everything up to there was written before; None when that cannot be
    proven at present."""
    if variant is Variant.EVENTS:
        return b": heartbeat\n" if tops else b": heartbeat\n\n"
    return frame_control(variant, heartbeat(tops, ts_ms))


def event_id(cursor: Cursor) -> bytes:
    """The end of an event, with what lets a browser resume behind it (Last-Event-ID)."""
    return b"id: %s\n\n" % cursor.encode()


def _v1(message: Message, is_global: bool, label: bytes, more: bytes) -> bytes:
    return b'{"type":"%s","data":%s,"id":"%s/%d","stream":"%s","epoch":"%s","seq":%d,"ts":%d%s}' % (
        message.type,
        message.data,
        message.partition,
        message.offset,
        b"global" if is_global else b"user",
        label,
        message.seq,
        message.ts_ms,
        more,
    )


def text_frame(payload: bytes, *, is_compressed: bool = False) -> bytes:
    """One unfragmented text frame around `payload`, which is UTF-8, or was before it was compressed."""
    first, length = _TEXT | _COMPRESSED if is_compressed else _TEXT, len(payload)
    if length < 126:
        return b"%c%c%s" % (first, length, payload)
    if length < 65_536:
        return b"%c\x7e%s%s" % (first, length.to_bytes(2, "big"), payload)
    return b"%c\x7f%s%s" % (first, length.to_bytes(8, "big"), payload)


def payload_of(frame: bytes) -> bytes:
    """What is in a frame that `text_frame` made."""
    return frame[{126: 4, 127: 10}.get(frame[1], 2) :]


def close_frame(code: CloseCode, reason: str | None = None) -> bytes:
    """A close frame with the code's own reason, or another; cut to what a control frame holds,
    between characters, since a reason is UTF-8 (RFC 6455 section 5.5.1)."""
    text = (reason or code.reason).encode()[: _MAX_CONTROL_BYTES - 2].decode(errors="ignore")
    payload = code.to_bytes(2, "big") + text.encode()
    return b"%c%c%s" % (_CLOSE, len(payload), payload)
