"""What becomes of each dead letter; the run itself is in tests/scenarios/test_redrive.py."""

from dataclasses import dataclass

from relay.batch import DeadLetter
from relay.bookmarks import Bookmarks, Chosen
from relay.decode import Reason
from relay.letters import Kind, bare_headers, whole_headers
from relay.redrive import sort_letters
from relay.routes import Partition

EVERYTHING = Chosen()


@dataclass(frozen=True)
class R:
    """A record."""

    offset: int
    value: bytes | None = b"v"
    key: bytes | None = b"key"
    timestamp: int = 1000
    headers: tuple[tuple[str, bytes], ...] = ()


def dead(offset: int, reason: Reason = Reason.NOT_JSON, *, is_bare: bool = False) -> R:
    letter = DeadLetter(Partition("risk-events", 2), R(1000 + offset), reason)
    return R(offset, headers=tuple(bare_headers(letter) if is_bare else whole_headers(letter)))


def offsets(records: list[R], chosen: Chosen, marks: Bookmarks, end: int = 100) -> list[int]:
    return [letter.offset - 1000 for letter in sort_letters(0, records, chosen, marks, end).put_back]


def test_letters_from_their_kinds_bookmark_on_are_put_back() -> None:
    marks = Bookmarks(5, {Kind("risk-events", "too_large"): 8})
    records = [dead(4), dead(5), dead(6, Reason.TOO_LARGE), dead(7), dead(8, Reason.TOO_LARGE)]
    assert offsets(records, EVERYTHING, marks) == [5, 7, 8]


def test_letters_that_came_after_the_run_began_are_for_another() -> None:
    assert offsets([dead(8), dead(9), dead(10)], EVERYTHING, Bookmarks(0), end=9) == [8]


def test_other_kinds_are_counted_and_left() -> None:
    chosen = Chosen(reasons={"too_large"})
    sorted_ = sort_letters(0, [dead(1), dead(2, Reason.TOO_LARGE), dead(3)], chosen, Bookmarks(2), 100)
    assert [letter.offset for letter in sorted_.put_back] == [1002]
    assert sorted_.left == 1


def test_a_letter_without_its_value_is_named() -> None:
    sorted_ = sort_letters(3, [dead(7, Reason.TOO_LARGE, is_bare=True)], EVERYTHING, Bookmarks(0), 100)
    assert sorted_.put_back == []
    ((_, why),) = sorted_.stuck
    assert "notification-dead-letters/3/7 from risk-events/2/1007 (too_large)" in why


def test_a_record_that_is_no_letter_is_named_by_a_run_of_everything_only() -> None:
    assert len(sort_letters(0, [R(7)], EVERYTHING, Bookmarks(0), 100).stuck) == 1
    assert sort_letters(0, [R(7)], Chosen(topics={"risk-events"}), Bookmarks(0), 100).stuck == []
