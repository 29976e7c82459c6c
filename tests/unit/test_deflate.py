"""Compression: what is agreed on, what goes out, what comes in."""

import os
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from gateway.deflate import InflatedTooLarge, deflated, inflated, negotiate
from gateway.frames import text_frame

NONE_TAKEN_OVER = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"


@pytest.mark.parametrize(
    ("offers", "answer"),
    [
        # As clients send them: browsers and ws, Firefox, websockets, gorilla, aiohttp.
        (b"permessage-deflate; client_max_window_bits", NONE_TAKEN_OVER),
        (b"permessage-deflate", NONE_TAKEN_OVER),
        (
            b"permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
            NONE_TAKEN_OVER + b"; server_max_window_bits=12; client_max_window_bits=12",
        ),
        (NONE_TAKEN_OVER, NONE_TAKEN_OVER),
        (b"permessage-deflate; server_max_window_bits=15", NONE_TAKEN_OVER + b"; server_max_window_bits=15"),
        (b'permessage-deflate; server_max_window_bits="15"', NONE_TAKEN_OVER + b"; server_max_window_bits=15"),
        (b"permessage-deflate ;client_max_window_bits = 8 ", NONE_TAKEN_OVER + b"; client_max_window_bits=8"),
        # Another extension, or an offer that cannot be taken, leaves the next.
        (b"x-webkit-deflate-frame, permessage-deflate", NONE_TAKEN_OVER),
        (b"permessage-deflate; server_max_window_bits=9, permessage-deflate", NONE_TAKEN_OVER),
        (b"permessage-deflate; unknown, permessage-deflate", NONE_TAKEN_OVER),
        # What is compressed once for all fits no smaller window.
        *((b"permessage-deflate; server_max_window_bits=%d" % bits, None) for bits in (8, 9, 10, 11)),
        # RFC 7692 section 7.1: declined.
        (b"x-webkit-deflate-frame", None),
        (b"Permessage-Deflate", None),
        (b"permessage-deflate; unknown", None),
        (b"permessage-deflate; server_no_context_takeover=1", None),
        (b"permessage-deflate; client_no_context_takeover=true", None),
        (b"permessage-deflate; server_no_context_takeover; server_no_context_takeover", None),
        (b"permessage-deflate; client_max_window_bits; client_max_window_bits=15", None),
        (b"permessage-deflate; server_max_window_bits", None),
        *(
            (b"permessage-deflate; %s_max_window_bits=%s" % (side, bits), None)
            for side in (b"server", b"client")
            for bits in (b"7", b"16", b"012", b"-9", b"x", b"999999999999")
        ),
        (b"permessage-deflate; x=" + b"x" * 600 + b", permessage-deflate", None),
    ],
)
def test_of_the_offers_the_first_that_can_be_taken_is(offers: bytes, answer: bytes | None) -> None:
    assert negotiate(offers) == answer


@pytest.mark.parametrize(
    "offers",
    [
        b";",
        b"permessage-deflate;",
        b"permessage-deflate; =1",
        b"a b",
        b'x; y="',
        b'x; y="a b"',
        b"x; y=",
        b"\xff",
        b"x=1",
    ],
)
def test_what_is_no_list_of_extensions_is_said_to_be_none(offers: bytes) -> None:
    with pytest.raises(ValueError, match="Sec-WebSocket-Extensions"):
        negotiate(offers)


@given(st.binary(max_size=80))
def test_any_header_is_answered_declined_or_malformed(offers: bytes) -> None:
    try:
        answer = negotiate(b"permessage-deflate" + offers)
    except ValueError:
        return
    assert answer is None or answer.startswith(NONE_TAKEN_OVER)


def another_reads(frame: bytes) -> bytes:
    """A server's frame as the `websockets` package reads it on the client's side."""
    extension = PerMessageDeflate(
        remote_no_context_takeover=True,
        local_no_context_takeover=True,
        remote_max_window_bits=12,
        local_max_window_bits=12,
    )
    rest = memoryview(frame)

    def read_exact(size: int):  # type: ignore[no-untyped-def]
        nonlocal rest
        data, rest = rest[:size], rest[size:]
        assert len(data) == size
        return bytes(data)
        yield

    parser = Frame.parse(read_exact, mask=False, extensions=[extension])
    with pytest.raises(StopIteration) as parsed:
        next(parser)
    assert not rest
    read: Frame = parsed.value.value
    assert read.opcode is Opcode.TEXT
    assert read.fin
    return bytes(read.data)


@pytest.mark.parametrize("size", [1, 100, 250, 1_000, 4_096, 65_536, 200_000])
def test_what_is_compressed_another_implementation_reads(size: int) -> None:
    message = (b'{"type":"market_alert","data":{"message":"%d"}}' % size * (size // 40 + 1))[:size]
    frame = deflated(text_frame(message), 1)
    assert another_reads(frame) == message
    assert len(frame) <= len(text_frame(message))
    assert bool(frame[0] & 0x40) is (size >= 100)


def test_what_would_not_become_smaller_or_is_too_small_stays_as_it_is() -> None:
    random, small = text_frame(os.urandom(300)), text_frame(b"x" * 99)
    assert deflated(random, 1) is random
    assert deflated(small, 100) is small
    assert deflated(small, 99) is not small


def compressed(message: bytes, bits: int = 15, level: int = 6) -> bytes:
    compressor = zlib.compressobj(level, zlib.DEFLATED, -bits)
    return (compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("bits", [9, 12, 15])
@pytest.mark.parametrize("size", [0, 1, 40, 4_095, 4_096])
def test_what_a_client_compressed_is_read(size: int, bits: int, level: int) -> None:
    message = (b"abcdefg" * 600)[:size]
    assert inflated(compressed(message, bits, level), 4_096) == message


def test_a_message_in_several_blocks_is_read() -> None:
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    parts = [compressor.compress(b"ab") + compressor.flush(zlib.Z_SYNC_FLUSH) for _ in range(3)]
    assert inflated(b"".join(parts)[:-4], 4_096) == b"ababab"


def test_a_message_whose_last_block_says_so_is_read() -> None:
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    last = compressor.compress(b"message") + compressor.flush(zlib.Z_FINISH)
    assert inflated(last + b"\x00", 4_096) == b"message"
    for more in (b"", b"\x00\x00", b"more", compressed(b"more")):
        with pytest.raises(ValueError, match="not a whole"):
            inflated(last + more, 4_096)


@pytest.mark.parametrize("size", [4_097, 5_000, 1_000_000, 100_000_000])
def test_a_message_that_is_too_large_decompressed_is_refused_before_it_is_made(size: int) -> None:
    bomb = compressed(b"x" * size)
    tracemalloc.start()
    try:
        with pytest.raises(InflatedTooLarge):
            inflated(bomb, 4_096)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 100_000 + 3 * len(bomb)


def test_one_that_is_cut_off_anywhere_is_refused() -> None:
    whole = compressed(b'{"control":"ack","cursor":"a.1.b.2"}' * 20)
    assert len(whole) > 30
    for size in range(len(whole)):
        with pytest.raises(ValueError, match=r".+"):
            inflated(whole[:size], 4_096)


@given(st.binary(max_size=300))
def test_anything_is_a_message_or_refused(data: bytes) -> None:
    try:
        message = inflated(data, 100)
    except (ValueError, InflatedTooLarge):
        return
    assert len(message) <= 100
