"""What comes in from a client: messages, answers, and the first offence."""

import random
import struct
import tracemalloc
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    client_close,
    client_frame,
    close_of,
    server_frames,
)

from gateway.close_codes import CloseCode
from gateway.inbound import MAX_FRAGMENTS, SLICE_BYTES, Inbound, Received

MAX_MESSAGE_BYTES = 4_096


def inbound(frames_per_second: int = 1_000, *, takes_compressed: bool = False) -> Inbound:
    return Inbound(
        max_message_bytes=MAX_MESSAGE_BYTES, frames_per_second=frames_per_second, takes_compressed=takes_compressed
    )


def receive(data: bytes) -> Received:
    return read(inbound(), data)


def read(reader: Inbound, data: bytes, second: int = 0) -> Received:
    """The sum of what came of all slices of it."""
    reader.feed(data, second)
    total = Received()
    while reader.unread and not (total.closed or total.offence):
        received = reader.read_slice()
        total.frames += received.frames
        total.messages += received.messages
        total.answer += received.answer
        total.closed, total.offence = received.closed, received.offence
    return total


def in_pieces(reader: Inbound, pieces: list[bytes]) -> Received:
    """The sum of what came of pieces handed in one after the other, up to the first end."""
    total = Received()
    for piece in pieces:
        received = read(reader, piece)
        total.frames += received.frames
        total.messages += received.messages
        total.answer += received.answer
        total.closed, total.offence = received.closed, received.offence
        if received.closed or received.offence:
            break
    return total


def test_nothing_comes_of_nothing() -> None:
    assert receive(b"") == Received()


@pytest.mark.parametrize("text", ["", "x", "naïve 😀", "x" * MAX_MESSAGE_BYTES])
def test_a_text_message_is_read(text: str) -> None:
    assert receive(client_frame(TEXT, text.encode())) == Received(1, [text])


def test_a_message_in_fragments_is_put_together_with_control_frames_between() -> None:
    data = (
        client_frame(TEXT, b"na\xc3", fin=False)
        + client_frame(PING, b"p")
        + client_frame(CONTINUATION, b"\xaf", fin=False)
        + client_frame(CONTINUATION, b"ve")
    )
    received = receive(data)
    assert received.messages == ["naïve"]
    assert server_frames(received.answer) == [(PONG, b"p")]


def test_a_ping_is_answered_with_its_payload_and_a_pong_with_nothing() -> None:
    received = receive(client_frame(PING, b"x" * 125) + client_frame(PONG, b"late"))
    assert server_frames(received.answer) == [(PONG, b"x" * 125)]
    assert not received.closed


@pytest.mark.parametrize("payload", [b"", struct.pack("!H", 1000), struct.pack("!H", 4999) + "bye é".encode()])
def test_a_close_is_echoed(payload: bytes) -> None:
    received = receive(client_frame(CLOSE, payload))
    assert received.closed
    assert server_frames(received.answer) == [(CLOSE, payload)]


def test_what_follows_a_close_is_not_read() -> None:
    received = receive(client_close() + client_frame(TEXT, b"late") + client_frame(PING))
    assert received.messages == []
    assert len(server_frames(received.answer)) == 1


OFFENCES = {
    "unmasked": (client_frame(TEXT, b"x", mask=None), 1002),
    "first reserved bit": (client_frame(TEXT, b"x", reserved=4), 1002),
    "second reserved bit": (client_frame(TEXT, b"x", reserved=2), 1002),
    "third reserved bit": (client_frame(TEXT, b"x", reserved=1), 1002),
    "unknown data opcode": (client_frame(0x3, b"x"), 1002),
    "unknown control opcode": (client_frame(0xB, b"x"), 1002),
    "fragmented ping": (client_frame(PING, b"x", fin=False), 1002),
    "ping too large": (client_frame(PING, b"x" * 126), 1002),
    "continuation of nothing": (client_frame(CONTINUATION, b"x"), 1002),
    "text within a message": (client_frame(TEXT, b"x", fin=False) + client_frame(TEXT, b"y"), 1002),
    "close with one byte": (client_frame(CLOSE, b"\x03"), 1002),
    "close with a code that is never sent": (client_close(1005), 1002),
    "close with a code out of range": (client_close(999), 1002),
    "close within a message": (client_frame(TEXT, b"x", fin=False) + client_close(), 1002),
    "close reason not UTF-8": (client_close(1000, b"\xff"), 1007),
    "binary": (client_frame(BINARY, b"x"), 1003),
    "not UTF-8": (client_frame(TEXT, b"\xff"), 1007),
    "a lone surrogate": (client_frame(TEXT, b"\xed\xa0\x80"), 1007),
    "overlong": (client_frame(TEXT, b"\xc0\xaf"), 1007),
    "cut off": (client_frame(TEXT, b"\xe2\x82"), 1007),
    "cut off in the last fragment": (
        client_frame(TEXT, b"\xe2\x82", fin=False) + client_frame(CONTINUATION, b""),
        1007,
    ),
    "one byte too large": (client_frame(TEXT, b"x" * (MAX_MESSAGE_BYTES + 1)), 1009),
    "says it is huge": (client_frame(TEXT, b"", length=2**62), 1009),
    "too large in fragments": (
        client_frame(TEXT, b"x" * MAX_MESSAGE_BYTES, fin=False) + client_frame(CONTINUATION, b"x"),
        1009,
    ),
    "endless fragments": (
        client_frame(TEXT, b"x", fin=False) + client_frame(CONTINUATION, b"", fin=False) * MAX_FRAGMENTS,
        1009,
    ),
}


@pytest.mark.parametrize(("data", "code"), OFFENCES.values(), ids=OFFENCES)
@pytest.mark.parametrize("in_bytes", [False, True], ids=["at once", "byte by byte"])
def test_an_offence_has_its_code(data: bytes, code: int, in_bytes: bool) -> None:
    pieces = [data[at : at + 1] for at in range(len(data))] if in_bytes else [data]
    received = in_pieces(inbound(), pieces)
    assert received.offence == code
    assert not received.closed


@pytest.mark.parametrize(("data", "code"), OFFENCES.values(), ids=OFFENCES)
def test_what_came_before_an_offence_is_read_and_what_follows_is_not(data: bytes, code: int) -> None:
    before, after = client_frame(TEXT, b"before"), client_frame(TEXT, b"after")
    received = receive(before + data + after)
    assert received.offence == code
    assert received.messages[:1] == ["before"]
    assert "after" not in received.messages


@pytest.mark.parametrize("fragments", [2, MAX_FRAGMENTS])
def test_a_message_may_come_in_some_fragments(fragments: int) -> None:
    data = client_frame(TEXT, b"x", fin=False) + client_frame(CONTINUATION, b"x", fin=False) * (fragments - 2)
    assert receive(data + client_frame(CONTINUATION, b"x")).messages == ["x" * fragments]


def test_fragments_are_counted_for_each_message() -> None:
    one = client_frame(TEXT, b"x", fin=False) + client_frame(CONTINUATION, b"x", fin=False) * (MAX_FRAGMENTS - 2)
    one += client_frame(CONTINUATION, b"x")
    assert receive(one * 10).messages == ["x" * MAX_FRAGMENTS] * 10


# The rate


@pytest.mark.parametrize("opcode", [TEXT, PING, PONG])
def test_frames_of_every_kind_count_and_five_seconds_worth_may_come_at_once(opcode: int) -> None:
    reader = inbound(frames_per_second=10)
    assert read(reader, client_frame(opcode) * 50).offence is None
    assert read(reader, client_frame(opcode)).offence is CloseCode.TOO_MANY_MESSAGES


def test_fragments_count_too() -> None:
    data = client_frame(TEXT, b"x", fin=False) + client_frame(CONTINUATION, b"x", fin=False) * 9
    assert read(inbound(frames_per_second=1), data).offence is CloseCode.TOO_MANY_MESSAGES


def test_each_second_allows_some_more_but_never_more_than_five_seconds_worth() -> None:
    reader = inbound(frames_per_second=10)
    read(reader, client_frame(PONG) * 50)
    assert read(reader, client_frame(PONG) * 10, 1).offence is None
    assert read(reader, client_frame(PONG) * 20, 3).offence is None
    assert read(reader, client_frame(PONG) * 50, 1_000).offence is None
    assert read(reader, client_frame(PONG), 1_000).offence is CloseCode.TOO_MANY_MESSAGES


def test_a_connection_that_is_old_when_it_first_speaks_has_no_more_than_the_burst() -> None:
    reader = inbound(frames_per_second=10)
    assert read(reader, client_frame(PONG) * 51, 100_000).offence is CloseCode.TOO_MANY_MESSAGES


def test_a_flood_in_one_read_is_not_answered_beyond_the_bound() -> None:
    received = read(inbound(frames_per_second=10), client_frame(PING) * 40_000)
    assert received.offence is CloseCode.TOO_MANY_MESSAGES
    assert len(received.answer) <= 50 * 2


@pytest.mark.parametrize("size", [0, 2, 125])
def test_a_flood_that_goes_on_after_the_bound_is_not_parsed(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket of a client that is told to go stays for seconds: a slice of each of its reads would be
    milliseconds of work each time."""
    reader = inbound(frames_per_second=10)
    flood = client_frame(PING, b"x" * size) * 4_096
    assert read(reader, flood).offence is CloseCode.TOO_MANY_MESSAGES
    monkeypatch.setattr(reader._protocol, "receive_data", lambda data: pytest.fail("parsed"))
    for second in (0, 1, 2):
        assert read(reader, flood, second) == Received()


def test_a_flood_that_goes_on_after_another_offence_is_parsed_within_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = inbound(frames_per_second=10)
    flood = client_frame(TEXT, fin=False) + client_frame(CONTINUATION, b"xx", fin=False) * 10_000
    assert read(reader, flood).offence is CloseCode.MESSAGE_TOO_BIG
    frames = []
    recv_frame = reader._protocol.recv_frame
    monkeypatch.setattr(reader._protocol, "recv_frame", lambda frame: (frames.append(frame), recv_frame(frame)))
    for _ in range(100):
        read(reader, client_frame(CONTINUATION, b"xx", fin=False) * 512)
    assert len(frames) <= 50


@pytest.mark.parametrize("data", [client_frame(BINARY, b"x"), client_frame(TEXT, b"\xff")])
def test_who_answers_our_close_after_an_offence_is_heard(data: bytes) -> None:
    reader = inbound()
    assert read(reader, data).offence is not None
    assert read(reader, client_close(1003)).closed


# In slices


@pytest.mark.parametrize("frame", [client_frame(PING), client_frame(PONG), client_frame(TEXT, b"{}")])
def test_a_slice_is_few_frames_and_the_rest_waits(frame: bytes) -> None:
    reader = inbound()
    reader.feed(frame * 1_000, 0)
    frames = 0
    while reader.unread:
        received = reader.read_slice()
        assert 0 < received.frames <= SLICE_BYTES // len(frame) + 1
        frames += received.frames
    assert frames == 1_000


def test_one_large_message_is_one_slice() -> None:
    reader = inbound()
    reader.feed(client_frame(TEXT, b"x" * 4_000), 0)
    assert reader.read_slice() == Received(1, ["x" * 4_000])
    assert not reader.unread


def test_what_comes_while_some_is_unread_comes_behind_it() -> None:
    reader = inbound()
    for number in range(100):
        reader.feed(client_frame(TEXT, b"%d" % number), 0)
    read_to_the_end = read(reader, client_frame(TEXT, b"100"))
    assert read_to_the_end.messages == [str(number) for number in range(101)]


@pytest.mark.parametrize("end", [client_close(), client_frame(BINARY), client_frame(PING, reserved=1)])
def test_what_is_behind_the_end_is_dropped_at_once(end: bytes) -> None:
    reader = inbound()
    reader.feed(end + client_frame(PING) * 1_000, 0)
    received = reader.read_slice()
    assert received.closed or received.offence
    assert not reader.unread


# Split anywhere

GOOD = (
    client_frame(TEXT, "naïve 😀".encode())
    + client_frame(PING, b"hello")
    + client_frame(TEXT, b"\xf0\x9f", fin=False)
    + client_frame(PONG)
    + client_frame(CONTINUATION, b"\x98\x80", fin=False)
    + client_frame(CONTINUATION, b"!" * 300)
    + client_close(1000, b"bye")
)


@given(st.lists(st.integers(0, len(GOOD)), max_size=30))
def test_bytes_split_anywhere_mean_the_same(cuts: list[int]) -> None:
    whole = receive(GOOD)
    assert whole.messages == ["naïve 😀", "😀" + "!" * 300]
    assert whole.closed
    bounds = [0, *sorted(cuts), len(GOOD)]
    assert in_pieces(inbound(), [GOOD[start:end] for start, end in pairwise(bounds)]) == whole


@given(st.binary(max_size=300), st.integers(0, 2**32))
def test_garbage_never_raises(data: bytes, seed: int) -> None:
    chance = random.Random(seed)
    reader = inbound()
    while data:
        size = chance.randint(1, len(data))
        read(reader, data[:size])
        data = data[size:]


@given(
    st.lists(
        st.tuples(st.integers(0, 15), st.binary(max_size=130), st.booleans(), st.integers(0, 7), st.booleans()),
        max_size=12,
    )
)
def test_any_frames_lead_to_messages_answers_or_one_of_our_codes(
    frames: list[tuple[int, bytes, bool, int, bool]],
) -> None:
    data = b"".join(
        client_frame(opcode, payload, fin=fin, reserved=reserved, mask=b"abcd" if masked else None)
        for opcode, payload, fin, reserved, masked in frames
    )
    received = receive(data)
    assert received.offence in (None, 1002, 1003, 1007, 1009)
    assert not (received.closed and received.offence)
    if received.closed:
        assert close_of(received.answer) is not None or received.answer.endswith(b"\x88\x00")
    server_frames(received.answer)


# Compressed messages (RFC 7692)


def compressed(message: bytes) -> bytes:
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    return (compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


HELLO = compressed(b"hello hello")
BOMB = compressed(bytes(4_000_000))
RSV1 = 4


def test_compressed_messages_are_read_beside_others_and_each_for_itself() -> None:
    reader = inbound(takes_compressed=True)
    data = client_frame(TEXT, HELLO, reserved=RSV1) + client_frame(TEXT, b"plain") + client_frame(PING, b"p")
    for _ in range(2):
        received = read(reader, data)
        assert received.messages == ["hello hello", "plain"]
        assert server_frames(received.answer) == [(PONG, b"p")]
        assert received.offence is None


def test_a_compressed_message_in_fragments_is_put_together_with_control_frames_between() -> None:
    naive = compressed("naïve 😀".encode())
    data = b"".join(
        client_frame(CONTINUATION if at else TEXT, naive[at : at + 1], fin=False, reserved=0 if at else RSV1)
        + client_frame(PING)
        for at in range(len(naive))
    )
    received = read(inbound(takes_compressed=True), data + client_frame(CONTINUATION, b""))
    assert received.messages == ["naïve 😀"]
    assert received.offence is None


def test_after_a_compressed_message_a_fragmented_one_is_none() -> None:
    data = (
        client_frame(TEXT, HELLO, reserved=RSV1)
        + client_frame(TEXT, b"a", fin=False)
        + client_frame(CONTINUATION, b"b")
        + client_frame(TEXT, HELLO, reserved=RSV1)
    )
    assert read(inbound(takes_compressed=True), data).messages == ["hello hello", "ab", "hello hello"]


COMPRESSED_OFFENCES = {
    "a bomb": (client_frame(TEXT, BOMB, reserved=RSV1), 1009),
    "a bomb in fragments": (
        client_frame(TEXT, BOMB[:1_000], fin=False, reserved=RSV1) + client_frame(CONTINUATION, BOMB[1_000:]),
        1009,
    ),
    "one byte too large": (client_frame(TEXT, compressed(b"x" * (MAX_MESSAGE_BYTES + 1)), reserved=RSV1), 1009),
    "too large as it comes": (client_frame(TEXT, b"x" * (MAX_MESSAGE_BYTES + 1), reserved=RSV1), 1009),
    "too large as it comes in fragments": (
        client_frame(TEXT, b"x" * 4_000, fin=False, reserved=RSV1) + client_frame(CONTINUATION, b"x" * 4_000),
        1009,
    ),
    "endless fragments": (
        client_frame(TEXT, b"", fin=False, reserved=RSV1) + client_frame(CONTINUATION, b"", fin=False) * MAX_FRAGMENTS,
        1009,
    ),
    "not compressed": (client_frame(TEXT, b"\xff" * 10, reserved=RSV1), 1007),
    "nothing": (client_frame(TEXT, b"", reserved=RSV1), 1007),
    "cut off": (client_frame(TEXT, HELLO[:-3], reserved=RSV1), 1007),
    "more behind its end": (client_frame(TEXT, HELLO + b"more", reserved=RSV1), 1007),
    "not UTF-8": (client_frame(TEXT, compressed(b"\xff"), reserved=RSV1), 1007),
    "binary": (client_frame(BINARY, HELLO, reserved=RSV1), 1003),
    "a compressed ping": (client_frame(PING, HELLO, reserved=RSV1), 1002),
    "a compressed close": (client_frame(CLOSE, compressed(b"\x03\xe8"), reserved=RSV1), 1002),
    "a compressed continuation": (
        client_frame(TEXT, HELLO[:3], fin=False, reserved=RSV1) + client_frame(CONTINUATION, HELLO[3:], reserved=RSV1),
        1002,
    ),
    "a compressed continuation of a message that is not": (
        client_frame(TEXT, b"x", fin=False) + client_frame(CONTINUATION, HELLO, reserved=RSV1),
        1002,
    ),
    "the second reserved bit": (client_frame(TEXT, HELLO, reserved=RSV1 | 2), 1002),
    "the third reserved bit": (client_frame(TEXT, HELLO, reserved=RSV1 | 1), 1002),
}


@pytest.mark.parametrize(("data", "code"), COMPRESSED_OFFENCES.values(), ids=COMPRESSED_OFFENCES)
@pytest.mark.parametrize("in_bytes", [False, True], ids=["at once", "byte by byte"])
def test_an_offence_in_compressed_messages_has_its_code(data: bytes, code: int, in_bytes: bool) -> None:
    pieces = [data[at : at + 1] for at in range(len(data))] if in_bytes else [data]
    received = in_pieces(inbound(takes_compressed=True), pieces)
    assert (received.offence, received.messages, received.closed) == (code, [], False)


@pytest.mark.parametrize("data", [client_frame(TEXT, HELLO, reserved=RSV1), client_frame(TEXT, BOMB, reserved=RSV1)])
def test_nothing_is_decompressed_that_was_not_agreed_on(data: bytes) -> None:
    assert receive(data).offence == CloseCode.PROTOCOL_ERROR


def test_of_a_compressed_message_that_does_not_end_no_more_is_kept_than_came() -> None:
    """A decompressor for each connection that begins a message would be 40 KB."""
    reader = inbound(takes_compressed=True)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        read(reader, client_frame(TEXT, BOMB[:100], fin=False, reserved=RSV1))
        after, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 4_000
    assert most - before < 16_000
