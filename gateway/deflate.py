"""Messages compressed for WebSockets (permessage-deflate, RFC 7692). Pure.

Each is compressed for itself (`server_no_context_takeover`): one result serves every socket, and nobody keeps a
state between messages. docs/performance.md says from when on that pays.
"""

import zlib
from functools import lru_cache
from typing import Final

from websockets.exceptions import InvalidHeader, NegotiationError
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import build_extension, parse_extension

from gateway.frames import payload_of, text_frame

WINDOW_BITS: Final = 12
"""Of what is compressed, for all alike: who cannot take as many gets none. More are slower and save no more."""

_LEVEL: Final = 1
_MEMORY_LEVEL: Final = 5
_TAIL: Final = b"\x00\x00\xff\xff"
"""What a message ends with, which is not sent (section 7.2.1)."""

_END: Final = b"\x01" + _TAIL
"""The last block of a stream, empty (RFC 1951 section 3.2.4)."""

_MAX_OFFER_BYTES: Final = 512
"""More is not read: an offer of some use has less than 150."""

_DEFLATE: Final = ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)


class InflatedTooLarge(Exception):
    """A message is larger than it may be once it is decompressed. Stays within the gateway."""


@lru_cache(maxsize=64)  # nearly all clients offer the same
def negotiate(offers: bytes) -> bytes | None:
    """The first of a client's offers (Sec-WebSocket-Extensions) that can be taken, as it is answered; None when
    all are declined (RFC 7692 section 7.1). Raises ValueError for what is not of that form (RFC 6455 section 9.1)."""
    if len(offers) > _MAX_OFFER_BYTES:
        return None
    try:
        parsed = parse_extension(offers.decode("latin-1"))
    except InvalidHeader as error:
        raise ValueError(str(error)) from None
    for name, parameters in parsed:
        if name != _DEFLATE.name:
            continue
        try:
            answer, agreed = _DEFLATE.process_request_params(parameters, [])
        except NegotiationError:
            continue
        if agreed.local_max_window_bits >= WINDOW_BITS:
            return build_extension([(name, answer)]).encode()
    return None


def deflated(frame: bytes, min_bytes: int) -> bytes:
    """A text frame with its message compressed; as it is, when the message has less than `min_bytes` or would not
    become smaller."""
    payload = payload_of(frame)
    if len(payload) < min_bytes:
        return frame
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -WINDOW_BITS, _MEMORY_LEVEL)
    compressed = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    compressed = compressed[: -len(_TAIL)]
    return text_frame(compressed, is_compressed=True) if len(compressed) < len(payload) else frame


def inflated(compressed: bytes, max_bytes: int) -> bytes:
    """A client's message as it was before it was compressed. Takes a block that says it is the last only where it
    is (section 7.2.3.4).

    Raises InflatedTooLarge, having made no more than `max_bytes` and one of it, and ValueError for what is no
    compressed message, or not all of one.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        message = inflater.decompress(compressed + _TAIL + _END, max_bytes + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if len(message) > max_bytes:
        raise InflatedTooLarge
    # All of it is read here. Cut off, it would not have come to its end.
    if not inflater.eof or inflater.unused_data not in (b"", b"\x00" + _TAIL + _END):
        raise ValueError("not a whole compressed message")
    return message
