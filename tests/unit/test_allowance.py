"""So much at once, and so much a second after that."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.allowance import Allowance


def test_a_burst_is_there_at_once_and_comes_back() -> None:
    allowance = Allowance(burst=100, per_second=10, second=5)
    assert allowance.take(60, 5)
    assert allowance.take(40, 5)
    assert not allowance.take(1, 5)
    assert allowance.take(10, 6)
    assert not allowance.take(1, 6)
    assert allowance.take(100, 1_000)
    assert not allowance.take(1, 1_000)


def test_more_than_is_left_is_owed_and_comes_back_first() -> None:
    allowance = Allowance(burst=100, per_second=10, second=0)
    assert allowance.take(130, 0)
    assert not allowance.take(1, 3)
    assert allowance.take(1, 4)


def test_what_was_paid_for_the_same_thing_is_no_reason_to_refuse_it() -> None:
    allowance = Allowance(burst=100, per_second=10, second=0)
    assert allowance.take(100, 0)
    assert allowance.take(50, 0, paid=100)
    assert not allowance.take(50, 0, paid=50)


def test_more_than_a_burst_is_never_owed() -> None:
    allowance = Allowance(burst=100, per_second=10, second=0)
    assert allowance.take(10_000, 0)
    assert not allowance.take(1, 10)
    assert allowance.take(10_000, 11)


def test_a_clock_that_goes_back_gives_nothing() -> None:
    allowance = Allowance(burst=10, per_second=10, second=100)
    assert allowance.take(10, 100)
    assert not allowance.take(1, 50)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 3))))
def test_never_more_than_burst_and_rate_and_the_last_one_together(takes: list[tuple[int, int]]) -> None:
    allowance, second, taken = Allowance(burst=50, per_second=7, second=0), 0, 0
    for count, passed in takes:
        second += passed
        taken += count if allowance.take(count, second) else 0
        assert taken < 50 + 7 * second + 50
