"""Bytes that come in from one WebSocket client: messages, answers, and the first offence. Pure.

The frames are read by the `websockets` package's sans-I/O protocol (RFC 6455 sections 5 and 7);
here are the bounds that it does not know, and the UTF-8 of text (section 8.1). A frame costs about ten
microseconds, so bytes are parsed in slices, each when the reader has time for it.
"""

import codecs
import logging
from dataclasses import dataclass, field
from typing import Final

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions import Extension
from websockets.frames import Frame, Opcode
from websockets.protocol import SEND_EOF, Event, Protocol, Side, State
from websockets.typing import ExtensionName

from gateway.close_codes import CloseCode
from gateway.deflate import InflatedTooLarge, inflated

MAX_FRAGMENTS: Final = 32
"""Frames that one message may come in."""

SLICE_BYTES: Final = 256
"""As much as most clients ever say at once, and 43 frames at most."""

_PART_BYTES: Final = 4_096

_OFFENCES: Final = {
    ProtocolError: CloseCode.PROTOCOL_ERROR,
    UnicodeDecodeError: CloseCode.INVALID_DATA,  # in a close frame's reason
    PayloadTooBig: CloseCode.MESSAGE_TOO_BIG,
}

_UTF8: Final = codecs.getincrementaldecoder("utf-8")
# What a client sends is never logged, at any level.
_SILENT: Final = logging.Logger("gateway.inbound", logging.CRITICAL + 1)


class _CompressedFrame(Frame):
    """The first frame of a compressed message."""


class _Compression(Extension):
    """Lets RSV1 be set where RFC 7692 section 6 does. It keeps nothing, so one serves every connection: a message
    is decompressed when all of it is there, and takes no more memory until then than any other."""

    name = ExtensionName("permessage-deflate")

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:  # noqa: ARG002 - of the frame as it came
        if not frame.rsv1 or frame.opcode not in (Opcode.TEXT, Opcode.BINARY):
            return frame
        return _CompressedFrame(frame.opcode, frame.data, frame.fin, False, frame.rsv2, frame.rsv3)

    def encode(self, frame: Frame) -> Frame:
        return frame  # answers are control frames


_COMPRESSION: Final[list[Extension]] = [_Compression()]


@dataclass(slots=True)
class Received:
    """What came of some bytes. `answer` is to be written (pongs, the echo of a close)."""

    frames: int = 0
    """Parsed."""
    messages: list[str] = field(default_factory=list)
    answer: bytes = b""
    closed: bool = False
    """The client closed: write the answer and close the socket."""
    offence: CloseCode | None = None
    """Close with this."""


class Inbound:
    """The reading side of one connection, from its first frame on. What came with a close or an offence,
    behind it, is dropped.

    `max_message_bytes` bounds a frame and a message, compressed and decompressed; `frames_per_second`
    bounds frames of every kind, control frames included, with a burst of five seconds' worth.
    `takes_compressed`: messages may be (permessage-deflate was agreed on).
    """

    __slots__ = (
        "_allowance",
        "_at",
        "_compressed",
        "_decoder",
        "_fragments",
        "_frames_per_second",
        "_max_message_bytes",
        "_protocol",
        "_second",
        "unread",
    )

    def __init__(self, *, max_message_bytes: int, frames_per_second: int, takes_compressed: bool = False) -> None:
        self._protocol = Protocol(Side.SERVER, state=State.OPEN, max_size=max_message_bytes, logger=_SILENT)
        if takes_compressed:
            self._protocol.extensions = _COMPRESSION
        self._max_message_bytes = max_message_bytes
        self._frames_per_second = frames_per_second
        self._allowance = 5 * frames_per_second
        self._second = 0
        self._fragments: list[str] | None = None
        self._compressed: bytearray | None = None
        """What is there of a message that is."""
        self._decoder = _UTF8()
        self.unread = b""
        """What came and is not all parsed; only up to `_at` it is."""
        self._at = 0

    def feed(self, data: bytes, second: int) -> None:
        """Take bytes as they came, split anywhere. `second` is any clock that counts seconds."""
        if self._allowance < 0:
            # The socket of who is told to go stays for a moment; what comes then is not worth the work.
            return
        if second > self._second:
            ceiling = 5 * self._frames_per_second
            self._allowance = min(ceiling, self._allowance + (second - self._second) * self._frames_per_second)
        self._second = second
        self.unread = self.unread[self._at :] + data if self.unread else data
        self._at = 0

    def read_slice(self) -> Received:
        """What comes of the next slice of what is unread, or of some more while no frame ends in it."""
        protocol, unread, at = self._protocol, self.unread, self._at
        size = len(unread)
        # Most of what comes is less than a slice: nothing is copied.
        protocol.receive_data(unread[at : at + SLICE_BYTES])
        at += SLICE_BYTES
        while at < size and not protocol.events and protocol.parser_exc is None and at - self._at < _PART_BYTES:
            protocol.receive_data(unread[at : at + SLICE_BYTES])
            at += SLICE_BYTES
        received = self._received(protocol.events_received())
        if at >= size or received.closed or received.offence is not None:
            self.unread, at = b"", 0
        self._at = at
        return received

    def _received(self, events: list[Event]) -> Received:
        received = Received(len(events))
        for place, event in enumerate(events, start=1):
            assert isinstance(event, Frame)
            self._allowance -= 1
            if self._allowance < 0:
                received.offence = CloseCode.TOO_MANY_MESSAGES
                return received
            if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                received.offence = self._data_frame(event, received.messages)
                if received.offence is not None:
                    self._allowance -= len(events) - place  # they were parsed, too
                    return received
            elif event.opcode is Opcode.CLOSE:
                received.closed = True
        answer = self._protocol.data_to_send()
        if self._protocol.parser_exc is not None:
            # The answer would be a close frame and no more reading. An offence gives the client the
            # time to read why: closing a socket with unread data takes what was written from it.
            received.offence = _OFFENCES.get(type(self._protocol.parser_exc), CloseCode.PROTOCOL_ERROR)
        elif answer:
            received.answer = b"".join(part for part in answer if part != SEND_EOF)
        return received

    def _data_frame(self, frame: Frame, messages: list[str]) -> CloseCode | None:
        if frame.opcode is Opcode.BINARY:
            return CloseCode.UNSUPPORTED_DATA
        if frame.opcode is Opcode.TEXT:
            self._fragments = []
            self._compressed = bytearray() if isinstance(frame, _CompressedFrame) else None
            self._decoder.reset()
        if self._fragments is None or len(self._fragments) >= MAX_FRAGMENTS:
            return CloseCode.MESSAGE_TOO_BIG
        try:
            data = self._decompressed(frame) if self._compressed is not None else bytes(frame.data)
            self._fragments.append(self._decoder.decode(data, final=frame.fin))
        except ValueError:  # UnicodeDecodeError is one
            return CloseCode.INVALID_DATA
        except InflatedTooLarge:
            return CloseCode.MESSAGE_TOO_BIG
        if frame.fin:
            messages.append("".join(self._fragments))
            self._fragments = self._compressed = None
        return None

    def _decompressed(self, frame: Frame) -> bytes:
        """The message, at its last frame. Raises ValueError and InflatedTooLarge."""
        assert self._compressed is not None
        self._compressed += frame.data
        return inflated(bytes(self._compressed), self._max_message_bytes) if frame.fin else b""
