import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.bookmarks import ALL_KINDS, Bookmarks, Chosen, parse_bookmarks
from relay.letters import Kind

BIG = Kind("risk-events", "too_large")
BAD = Kind("alert-events", "not_json")
UNKNOWN = Kind("alert-events", "of_the_future")
EVERYTHING = Chosen()
ONLY_BIG = Chosen(reasons={"too_large"})


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
    assert marks.within(30, 100) == Bookmarks(30, {BIG: 50})


def test_bookmarks_of_a_topic_that_was_deleted_count_for_nothing() -> None:
    assert Bookmarks(10, {BIG: 50}).within(3, 49) == Bookmarks(3)
    assert Bookmarks(50).within(0, 49) == Bookmarks(0)
    assert Bookmarks(50).within(0, 50) == Bookmarks(50)


def test_topics_and_reasons_are_both_to_fit() -> None:
    chosen = Chosen({"risk-events"}, {"too_large"})
    assert list(chosen.kinds) == [BIG]
    assert Kind("alert-events", "too_large") not in chosen


def test_kinds_that_this_version_does_not_know_are_of_a_run_of_everything_only() -> None:
    # A run with a filter could put them back, but has no bookmark to say so.
    assert UNKNOWN in EVERYTHING
    assert UNKNOWN not in Chosen({UNKNOWN.topic})


@given(st.integers(0, 2**63), st.dictionaries(st.sampled_from(ALL_KINDS), st.integers(0, 2**63)))
def test_bookmarks_survive_a_commit(rest: int, ahead: dict[Kind, int]) -> None:
    marks = Bookmarks(rest, ahead)
    assert parse_bookmarks(rest, marks.metadata) == marks


def test_all_kinds_together_fit_into_a_commit() -> None:
    assert len(Bookmarks(0, dict.fromkeys(ALL_KINDS, 2**63)).metadata) < 2800  # brokers take 4096


def test_nothing_committed_is_the_beginning() -> None:
    assert parse_bookmarks(-1, "") == Bookmarks(0)


@pytest.mark.parametrize("metadata", ["x", "a/b", "a/b=c", "a=1"])
def test_what_somebody_else_committed_is_refused(metadata: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_bookmarks(5, metadata)
