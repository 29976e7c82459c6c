from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.bookmarks import ALL_KINDS, BOOKMARKS_KEY, Bookmarks, Chosen, last_bookmarks, parse_bookmarks
from relay.letters import Kind

BIG = Kind("risk-events", "too_large")
BAD = Kind("alert-events", "not_json")
UNKNOWN = Kind("alert-events", "of_the_future")
EVERYTHING = Chosen()
ONLY_BIG = Chosen(reasons={"too_large"})


@dataclass(frozen=True)
class R:
    """A record."""

    offset: int
    headers: tuple[tuple[str, bytes], ...] = ()
    key: bytes | None = BOOKMARKS_KEY
    value: bytes | None = b""
    timestamp: int = 1000


def written(offset: int, marks: Bookmarks) -> R:
    return R(offset, tuple(marks.headers))


def test_a_run_that_is_limited_leaves_the_other_kinds_where_they_were() -> None:
    marks = Bookmarks(10).moved(ONLY_BIG, 50)
    assert (marks.of(BIG), marks.of(BAD), marks.of(UNKNOWN)) == (50, 10, 10)
    assert (marks.start(ONLY_BIG), marks.start(EVERYTHING)) == (50, 10)


def test_a_run_of_everything_does_not_take_back_what_a_limited_one_did() -> None:
    marks = Bookmarks(10).moved(ONLY_BIG, 50).moved(EVERYTHING, 30)
    assert (marks.of(BIG), marks.of(BAD)) == (50, 30)
    assert marks.moved(EVERYTHING, 50) == Bookmarks(50)


def test_bookmarks_never_go_back() -> None:
    marks = Bookmarks(10).moved(ONLY_BIG, 50)
    assert marks.moved(ONLY_BIG, 40) == marks
    assert marks.moved(EVERYTHING, 5) == marks


def test_what_the_topic_has_forgotten_is_passed() -> None:
    marks = Bookmarks(10, {BIG: 50, BAD: 20})
    assert marks.not_before(30) == Bookmarks(30, {BIG: 50})


def test_topics_and_reasons_are_both_to_fit() -> None:
    chosen = Chosen({"risk-events"}, {"too_large"})
    assert list(chosen.kinds) == [BIG]
    assert Kind("alert-events", "too_large") not in chosen


def test_kinds_that_this_version_does_not_know_are_of_a_run_of_everything_only() -> None:
    # A run with a filter could put them back, but has no bookmark to say so.
    assert UNKNOWN in EVERYTHING
    assert UNKNOWN not in Chosen({UNKNOWN.topic})


@given(st.integers(0, 2**63), st.dictionaries(st.sampled_from(ALL_KINDS), st.integers(0, 2**63)))
def test_bookmarks_survive_being_written(rest: int, ahead: dict[Kind, int]) -> None:
    marks = Bookmarks(rest, ahead)
    assert parse_bookmarks(written(2**63, marks)) == marks


def test_all_kinds_together_take_little_space() -> None:
    ((_, text),) = Bookmarks(0, dict.fromkeys(ALL_KINDS, 2**63)).headers
    assert len(text) < 2800


def test_the_last_bookmarks_before_the_end_count() -> None:
    records = [written(9, Bookmarks(9)), written(5, Bookmarks(3)), R(6, key=b"a letter"), written(7, Bookmarks(6))]
    assert last_bookmarks(records[1:], 7) == Bookmarks(3)
    assert last_bookmarks(records[1:], 8) == Bookmarks(6)
    assert last_bookmarks(records[2:3], 8) is None


def test_bookmarks_that_were_copied_from_elsewhere_count_for_nothing() -> None:
    assert parse_bookmarks(written(49, Bookmarks(49))) == Bookmarks(49)
    assert parse_bookmarks(written(49, Bookmarks(50))) is None
    assert parse_bookmarks(written(49, Bookmarks(10, {BIG: 50}))) is None


@pytest.mark.parametrize("text", [b"", b"x", b"\xff", b"1,a/b", b"1,a=1", b"1,a/b=c", b"1,a/b=1=2", b"1,", None])
def test_what_no_redrive_wrote_is_none(text: bytes | None) -> None:
    ((name, _),) = Bookmarks(0).headers
    assert parse_bookmarks(R(50, ((name, text),))) is None  # type: ignore[arg-type]
    assert parse_bookmarks(R(50)) is None
    assert parse_bookmarks(R(50, tuple(Bookmarks(1).headers), key=b"other")) is None
