"""The door given anything: it answers or cuts off, alike however the bytes were split, and it reads
nothing otherwise than other parsers do."""

import json
from typing import Any, NamedTuple
from urllib.parse import quote

import httptools
import pytest
from fuzzing import cuts, fuzzed, heads, split
from hypothesis import example, given
from hypothesis import strategies as st
from test_door import HANDSHAKE, House
from websockets.server import ServerProtocol

from gateway.admission.request import parse_head
from gateway.connection import Connection
from gateway.door import LINGER_SECONDS, Door
from shared.errors import InvalidUserId
from shared.http_head import END_OF_HEAD
from shared.users import validate_user_id

HOP_BY_HOP = (b"connection", b"proxy-connection", b"upgrade")


class Taker:
    """In the place of uvicorn's protocol: what it is handed."""

    def __init__(self) -> None:
        self.taken = b""

    def connection_made(self, transport: object) -> None: ...

    def connection_lost(self, exc: object) -> None: ...

    def data_received(self, data: bytes) -> None:
        self.taken = self.taken or data  # one request on a socket: the rest is dropped


class Outcome(NamedTuple):
    """What became of a socket."""

    kind: str
    """connection, http, refused, or cut off."""
    told: object
    """Who was admitted with what; the bytes handed on; the refusal."""


def outcome(pieces: list[bytes]) -> Outcome:
    """What comes of a socket that sends `pieces`; fails when it is left as it is."""
    house = House(head_seconds=5)
    transport = house.come()
    house.keeper._http = Taker  # type: ignore[assignment]
    for piece in pieces:
        transport.receive(piece)
    protocol, written = transport.protocol, transport.take()
    if isinstance(protocol, Taker):
        assert written == b""
        transport.lose()
        return Outcome("http", protocol.taken)
    if isinstance(protocol, Connection) and not transport.is_closed:
        assert written == b"", "answered before its stream was subscribed"
        asked, variant = protocol.asked, protocol.wishes.variant
        house.subscribe()
        if asked is not None and asked.resume is None:
            assert transport.take().startswith((b"HTTP/1.1 101 ", b"HTTP/1.1 200 "))
        transport.lose()
        assert house.sockets == 0
        return Outcome("connection", (asked, variant))
    if written:
        assert transport.is_closed or transport.wrote_eof
        house.tick(LINGER_SECONDS + 1)
        result = Outcome("refused", refusal(written))
    else:
        assert isinstance(protocol, Door)
        house.tick(6)
        result = Outcome("cut off", None)
    assert transport.is_closed, "the socket is left open"
    transport.lose()
    assert house.sockets == house.keeper.head_bytes == len(house.keeper.awaited) == 0
    return result


def refusal(written: bytes) -> object:
    head, _, body = written.partition(END_OF_HEAD)
    assert b"\n" not in head.replace(b"\r\n", b""), "a line of its own in an answer"
    status = int(head.split(b" ")[1])
    if status == 101:
        return status, body
    if status == 200:
        return status, b"retry:" in body
    parsed = json.loads(body)
    assert set(parsed) == {"error", "message"}
    return status, parsed


def accepted_by_websockets(head: bytes) -> bool:
    protocol = ServerProtocol()
    protocol.receive_data(head)
    events = protocol.events_received()
    return bool(events) and protocol.accept(events[0]).status_code == 101


class OneReader:
    """All that httptools reads out of bytes."""

    def __init__(self) -> None:
        self.begun = self.completed = 0
        self.url = self.body = b""
        self.headers: dict[bytes, bytes] = {}
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name, value = name.lower(), value.strip(b" \t")
        self.headers[name] = b"%s, %s" % (self.headers[name], value) if name in self.headers else value

    def on_headers_complete(self) -> None:
        self.keeps_alive = self.parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.completed += 1


def check_one_request(head: bytes, handed: bytes) -> None:
    """`handed` is one request to httptools, the one that the door read in `head`, or none at all."""
    reader = OneReader()
    try:
        reader.parser.feed_data(handed)
    except httptools.HttpParserUpgrade:
        pass  # CONNECT, which is served as the request that it is, too
    except httptools.HttpParserError:
        assert reader.completed == 0
        return
    meant = parse_head(head)
    if meant.method == b"PRI":
        return  # HTTP/2's preface waits for more, and BoundedHttp refuses it
    assert (reader.begun, reader.completed, reader.body) == (1, 1, b"")
    assert reader.parser.get_method() == meant.method
    assert reader.url == meant.path + (b"?" + meant.query if b"?" in head.split(b" ")[1] else b"")
    assert not reader.keeps_alive
    expected = {name: value for name, value in meant.headers.items() if name not in HOP_BY_HOP}
    assert reader.headers == {**expected, b"connection": b"close"}


@fuzzed
@given(heads(), cuts)
@example(HANDSHAKE, [0.5])
def test_a_head_split_anywhere_has_one_end(data: bytes, where: list[float]) -> None:
    head = data[: data.find(END_OF_HEAD) + len(END_OF_HEAD)]
    whole = outcome([head])
    assert outcome(split(head, where)) == whole
    bare = head.removesuffix(END_OF_HEAD)
    if whole.kind == "http":
        assert isinstance(whole.told, bytes)
        check_one_request(bare, whole.told)
    is_upgraded = whole.kind == "connection" or (isinstance(whole.told, tuple) and whole.told[0] == 101)
    if is_upgraded and parse_head(bare).path == b"/ws" and _is_within_their_limits(bare):
        assert accepted_by_websockets(head)


def _is_within_their_limits(head: bytes) -> bool:
    """`websockets` takes one Upgrade and one Origin only, and no longer lines."""
    read = parse_head(head)
    return len(read.tokens(b"upgrade")) == 1 and max(map(len, head.split(b"\r\n"))) < 8_000


@fuzzed
@given(heads(), st.binary(max_size=20) | heads(), cuts)
def test_what_follows_a_head_is_never_read_as_a_request(head: bytes, rest: bytes, where: list[float]) -> None:
    head = head if END_OF_HEAD in head else head + END_OF_HEAD
    end = head.find(END_OF_HEAD) + len(END_OF_HEAD)
    alone = outcome([head[:end]])
    for pieces in ([head + rest], split(head + rest, where)):
        with_rest = outcome(pieces)
        if alone.kind != "connection":
            assert with_rest == alone
        elif len(head) + len(rest) > end and with_rest.kind != "connection":
            assert isinstance(with_rest.told, tuple)
            assert with_rest.told[0] in (400, 101), "told to wait for the answer, or by a close frame"


@fuzzed
@given(st.binary(max_size=600), cuts)
@example(b"\r\n\r\n", [])
@example(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", [])
def test_garbage_has_an_end_however_it_is_split(data: bytes, where: list[float]) -> None:
    whole = outcome([data])
    assert whole.kind in ("refused", "cut off")
    assert outcome(split(data, where)) == whole


@pytest.mark.parametrize(
    "data", [b"x", b"GET /ws?user_id=", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 100]
)
@pytest.mark.parametrize("piece_bytes", [1, 100, 65_536])
def test_a_head_without_an_end_is_refused_at_its_bound(data: bytes, piece_bytes: int) -> None:
    data += b"x" * 20_000
    pieces = [data[at : at + piece_bytes] for at in range(0, len(data), piece_bytes)]
    assert outcome(pieces).told == (
        431,
        {"error": "head_too_large", "message": "The request's head is larger than 16384 bytes."},
    )


@fuzzed
@given(st.text(min_size=1, max_size=130) | st.text("😀é\x00\r\n%&=+ #", min_size=120, max_size=129), st.booleans())
@example("😀" * 128, True)
@example("😀" * 129, True)
@example("a\r\nX: y", True)
@example("\ud800", True)
def test_a_user_id_arrives_as_it_was_sent_or_is_refused(user_id: str, raw: bool) -> None:
    encoded = quote(user_id.encode("utf-8", "surrogatepass"), safe="").encode()
    target = HANDSHAKE.replace(b"user_id=ann", b"user_id=" + encoded)
    try:
        validate_user_id(user_id)
    except InvalidUserId:
        told: Any = outcome([target]).told
        assert told[0] == 400
        return
    result = outcome([target])
    assert result.kind == "connection"
    told = result.told
    assert told[0].user_id == user_id
