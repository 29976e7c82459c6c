"""Whether a client can go on where it was (DESIGN sections 3 and 4)."""

import pytest

from gateway.cursor import START, Position
from gateway.resume import Resync, before_all, judge
from gateway.stream import Meta

META = Meta(b"c", 20, {b"a": 5, b"b": 12})


@pytest.mark.parametrize(
    ("position", "first_seq", "reason"),
    [
        (Position(b"c", 20), 1, None),
        (Position(b"c", 20), None, None),
        (Position(b"c", 20), 15, None),
        (Position(b"c", 14), 15, None),
        (Position(b"c", 13), 15, Resync.TRIMMED),
        (Position(b"c", 19), None, Resync.TRIMMED),
        (Position(b"c", 21), 1, Resync.UNKNOWN_CURSOR),
        (Position(b"a", 5), 1, None),
        (Position(b"a", 6), 1, Resync.UNKNOWN_CURSOR),
        (Position(b"b", 12), 13, None),
        (Position(b"b", 13), 1, Resync.UNKNOWN_CURSOR),
        (Position(b"a", 3), 7, Resync.TRIMMED),
        (Position(b"x", 1), 1, Resync.UNKNOWN_EPOCH),
        (Position(b"c-", 20), 1, Resync.UNKNOWN_EPOCH),
        (START, 1, None),
        (START, 2, Resync.TRIMMED),
        (START, None, Resync.TRIMMED),
        (Position(b"0", 1), 1, Resync.UNKNOWN_CURSOR),
    ],
)
def test_a_position_is_judged(position: Position, first_seq: int | None, reason: Resync | None) -> None:
    assert judge(position, META, first_seq) is reason


@pytest.mark.parametrize(
    ("position", "reason"),
    [(START, None), (Position(b"a", 1), Resync.UNKNOWN_EPOCH), (Position(b"a", 0), Resync.UNKNOWN_EPOCH)],
)
def test_of_a_stream_that_has_nothing_only_the_start_is_good(position: Position, reason: Resync | None) -> None:
    assert judge(position, Meta(), None) is reason


def test_everything_that_is_left_comes_after_the_place_before_its_first() -> None:
    assert before_all(META, 15) == Position(b"c", 14)
    assert before_all(META, None) == Position(b"c", 20)
    assert before_all(Meta(), None) == START
