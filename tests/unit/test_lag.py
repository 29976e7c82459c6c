"""How old what is not published yet has become."""

from relay.lag import Lag
from relay.routes import Partition

ONE, OTHER = Partition("risk-events", 0), Partition("risk-events", 1)


def test_what_is_not_behind_does_not_wait() -> None:
    lag = Lag()
    lag.waits({ONE: 1_000})
    assert lag.seconds(9_000, ONE, is_behind=False) == 0
    assert lag.seconds(9_500, ONE, is_behind=True) == 0, "it was found to be behind now, and nothing more is known"


def test_records_under_way_are_as_old_as_the_first() -> None:
    lag = Lag()
    lag.waits({ONE: 1_000, OTHER: 4_000})
    assert lag.seconds(5_000, ONE, is_behind=True) == 4
    assert lag.seconds(6_000, ONE, is_behind=True) == 5
    assert lag.seconds(6_000, OTHER, is_behind=True) == 2


def test_behind_what_was_published_nothing_is_older_than_the_last_of_it() -> None:
    lag = Lag()
    lag.waits({ONE: 1_000})
    lag.waits({ONE: 3_000})
    assert lag.seconds(5_000, ONE, is_behind=True) == 2


def test_a_partition_of_which_nothing_is_known_waits_since_it_was_seen_to() -> None:
    lag = Lag()
    assert lag.seconds(5_000, ONE, is_behind=True) == 0
    assert lag.seconds(8_000, ONE, is_behind=True) == 3


def test_one_that_waits_goes_on_waiting_while_nobody_can_tell_and_others_do_not_begin_to() -> None:
    lag = Lag()
    lag.waits({ONE: 1_000})
    assert lag.seconds(5_000, ONE, is_behind=None) == 4
    assert lag.seconds(5_000, OTHER, is_behind=None) == 0
    assert lag.seconds(9_000, OTHER, is_behind=None) == 0


def test_times_that_are_not_known_or_to_come_are_none() -> None:
    lag = Lag()
    lag.waits({ONE: -1, OTHER: 9_000})
    assert lag.seconds(5_000, ONE, is_behind=True) == 0
    assert lag.seconds(5_000, OTHER, is_behind=True) == 0


def test_what_another_relay_reads_is_forgotten() -> None:
    lag = Lag()
    lag.waits({ONE: 1_000, OTHER: 1_000})
    lag.keep([OTHER])
    assert lag.seconds(5_000, ONE, is_behind=None) == 0
    assert lag.seconds(5_000, OTHER, is_behind=None) == 4
