"""The clients that prove what they got: they must catch what they are there to catch."""

import json
from typing import Any

import pytest

from harness.oracle import Event, Oracle
from harness.v1 import EventStreamParser, Knowledge, V1Client, WebsocketsV1


def event(seq: int, *, epoch: str = "a", offset: int | None = None, stream: str = "global", more: str = "") -> bytes:
    offset = seq if offset is None else offset
    topic, type_ = ("alert-events", "market_alert") if stream == "global" else ("risk-events", "risk_alert")
    return (
        f'{{"type":"{type_}","data":{{"n":"{stream}/{offset}"}},"id":"{topic}/0/{offset}","stream":"{stream}",'
        f'"epoch":"{epoch}","seq":{seq},"ts":5{more}}}'
    ).encode()


def control(control: str, **more: Any) -> bytes:
    return json.dumps({"control": control, **more}, separators=(",", ":")).encode()


def place(epoch: str, seq: int) -> dict[str, Any]:
    return {"epoch": epoch, "seq": seq}


def welcome(at: int = 0, user: int = 0, recovered: bool = False) -> bytes:
    return control("welcome", **{"global": place("a", at)}, user=place("a", user), recovered=recovered)


def taken(*frames: bytes, is_filtered: bool = False) -> Knowledge:
    knowledge = Knowledge(is_filtered)
    knowledge.connects()
    for frame in frames:
        knowledge.take(frame)
    return knowledge


def test_events_without_a_hole_are_good_and_move_the_cursor() -> None:
    knowledge = taken(welcome(4, 7), event(5), event(8, stream="user"), event(6))
    assert not knowledge.wrong
    assert knowledge.cursor_text == "a.6.a.8"
    assert [got.place.seq for got in knowledge.events] == [5, 8, 6]


@pytest.mark.parametrize(
    "frames",
    [
        (event(5), welcome(4)),
        (welcome(4), event(6)),
        (welcome(4), event(5), event(5)),
        (welcome(4), event(5), event(7)),
        (welcome(4), event(5), event(4)),
        (welcome(4), control("heartbeat", **{"global": place("a", 5)}, user=place("a", 0))),
        (welcome(4), control("heartbeat", **{"global": place("a", 3)}, user=place("a", 0))),
        (welcome(4), control("heartbeat", **{"global": place("b-", 3)}, user=place("a", 0))),
        (welcome(4), event(6), control("conflated", stream="global", dropped=1)),
        (welcome(4), control("conflated", stream="global", dropped=1), event(7)),
        (welcome(4), control("conflated", stream="user", dropped=1), event(6)),
        (welcome(4), control("conflated", stream="global", dropped=1), event(6), event(8)),
    ],
)
def test_holes_doubles_and_wrong_heartbeats_are_noticed(frames: tuple[bytes, ...]) -> None:
    assert taken(*frames).wrong


def test_with_a_filter_only_what_goes_back_is_wrong() -> None:
    beat = control("heartbeat", **{"global": place("a", 9)}, user=place("a", 0))
    assert not taken(welcome(4), event(6), beat, event(12), is_filtered=True).wrong
    assert taken(welcome(4), event(6), event(6), is_filtered=True).wrong


def test_what_a_client_was_told_is_left_out_may_be_missing() -> None:
    beat = control("heartbeat", **{"global": place("a", 8)}, user=place("a", 0))
    knowledge = taken(welcome(4), control("conflated", stream="global", dropped=3), event(6), event(7), beat, event(10))
    assert not knowledge.wrong
    assert not knowledge.left_out.total()


def test_holes_are_allowed_while_an_epoch_is_not_proven() -> None:
    beat = control("heartbeat", **{"global": place("b", 9)}, user=place("a", 0))
    assert not taken(welcome(4), event(5), event(2, epoch="b-"), event(8, epoch="b-"), beat, event(10, epoch="b")).wrong


def test_what_is_known_is_dropped_once_told_to_resync_and_not_before() -> None:
    known = [welcome(0), event(1), event(2), welcome(0)]
    assert len(taken(*known, event(1), event(2)).events) == 4
    knowledge = taken(*known, control("resync", stream="global", reason="gap"), event(1), event(2), event(3))
    assert [got.offset for got in knowledge.events] == [1, 2, 3]
    assert knowledge.known == 2


def test_a_snapshot_is_no_cursor() -> None:
    knowledge = taken(welcome(4), event(2, more=',"snapshot":true'), event(5))
    assert not knowledge.wrong
    assert [got.offset for got in knowledge.snapshot] == [2]


def client_with(*frames: bytes) -> V1Client:
    client = WebsocketsV1(1, "ann", "nowhere")
    for frame in frames:
        client._took(frame)
    return client


def test_the_proof_looks_at_ids_and_streams() -> None:
    oracle = Oracle()
    for offset in (1, 2):
        oracle.add(Event("alert-events", 0, offset, None, b'{"n":"global/%d"}' % offset))
    client_with(welcome(), event(1), event(2)).check(oracle)
    for bad in (
        event(2, offset=3),
        event(2).replace(b"alert-events/0", b"alert-events/1"),
        event(2).replace(b"alert-events/0", b"alert-events~2/0"),
        event(2).replace(b'"stream":"global"', b'"stream":"user"'),
        event(2).replace(b'{"n"', b'{ "n"'),
    ):
        with pytest.raises(AssertionError):
            client_with(welcome(), event(1), bad).check(oracle)


def test_an_event_stream_is_read_as_the_standard_says() -> None:
    text = (
        b"\xef\xbb\xbfretry: 2000\n\nid: 1\n\n: a comment\n"
        b"event: alert\ndata: one\ndata:two\nid: 2\n\ndata: three\r\n\r\n"
        b"id: 3\0\nevent: nothing\n\ndata: unfinished\nid: 9\n"
    )
    for size in (1, 7, len(text)):
        parser = EventStreamParser()
        got = [
            (one, parser.last_event_id) for i in range(0, len(text), size) for one in parser.feed(text[i : i + size])
        ]
        assert [one for one, _ in got] == [("alert", b"one\ntwo"), ("message", b"three")], size
        assert parser.last_event_id == "2"
        assert parser.retry_ms == 2000
        assert parser.comments == [b"a comment"]


def test_an_id_alone_counts() -> None:
    parser = EventStreamParser()
    assert not list(parser.feed(b"id: a.1.b.2\n"))
    assert parser.last_event_id == ""
    assert not list(parser.feed(b"\n"))
    assert parser.last_event_id == "a.1.b.2"
