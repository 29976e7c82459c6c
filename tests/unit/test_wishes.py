"""What a query asks for."""

import pytest

from gateway.admission.wishes import Asked, Resume, parse_options, parse_wishes
from gateway.cursor import Cursor, Position
from gateway.resume import Resync

CURSOR = Cursor(Position(b"a", 1), Position(b"b", 2))


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        (b"user_id=ann", Asked("ann")),
        (b"user_id=ann&snapshot=0", Asked("ann")),
        (b"user_id=ann&snapshot=1", Asked("ann", resume=Resume(snapshot=True))),
        (b"user_id=ann&cursor=a.1.b.2", Asked("ann", resume=Resume(CURSOR))),
        (b"user_id=ann&cursor=a.1.b.2&snapshot=1", Asked("ann", resume=Resume(CURSOR, snapshot=True))),
        (b"user_id=ann&device=phone", Asked("ann", device="phone")),
        (b"user_id=ann&device=my%20phone&cursor=ack", Asked("ann", None, "my phone", Resume(from_ack=True))),
        (b"user_id=ann&types=risk_alert", Asked("ann", frozenset((b"risk_alert",)))),
    ],
)
def test_a_query_is_read(query: bytes, asked: Asked) -> None:
    assert parse_wishes(parse_options(query)) == asked


@pytest.mark.parametrize(
    ("query", "word"),
    [
        (b"user_id=ann&cursor=", "cursor"),
        (b"user_id=ann&cursor=garbage", "cursor"),
        (b"user_id=ann&cursor=a.1.b.2.c", "cursor"),
        (b"user_id=ann&cursor=ack", "device"),
        (b"user_id=ann&cursor=ack&device=", "device"),
        (b"user_id=ann&device=%00", "device"),
        (b"user_id=ann&device=" + b"x" * 129, "device"),
        (b"user_id=ann&snapshot=yes", "snapshot"),
        (b"user_id=ann&snapshot=", "snapshot"),
    ],
)
def test_a_query_that_cannot_be_served_is_told_why(query: bytes, word: str) -> None:
    with pytest.raises(ValueError, match=word) as refused:
        parse_wishes(parse_options(query))
    assert str(refused.value).endswith(".")


def test_what_a_browser_says_when_it_comes_again_has_the_word() -> None:
    query = b"user_id=ann&cursor=x.7.y.8"
    assert parse_wishes(parse_options(query), b"a.1.b.2") == Asked("ann", resume=Resume(CURSOR))
    assert parse_wishes(parse_options(query), b"") == parse_wishes(parse_options(query))


@pytest.mark.parametrize("last_event_id", [b"7", b"\xff", b"a.1.b.2.c", b"x" * 5_000])
def test_a_last_event_id_that_is_none_is_an_unknown_cursor(last_event_id: bytes) -> None:
    asked = parse_wishes(parse_options(b"user_id=ann"), last_event_id)
    assert asked.resume == Resume(Resync.UNKNOWN_CURSOR)
