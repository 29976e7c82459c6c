"""The oracle itself: it must catch what it is there to catch."""

import pytest

from harness.oracle import Event, Oracle, check_log


def event(offset: int, user: str | None = None, partition: int = 0) -> Event:
    topic = "alert-events" if user is None else "risk-events"
    return Event(topic, partition, offset, user, b'{"n":"%d/%d/%s"}' % (partition, offset, str(user).encode()))


def frame(event: Event) -> bytes:
    return b'{"type":"%s","data":%s}' % (event.type.encode(), event.data)


@pytest.fixture
def oracle() -> Oracle:
    oracle = Oracle()
    for offset in range(5):
        oracle.add(event(offset))
        oracle.add(event(offset, partition=1))
        oracle.add(event(offset, user="ann"))
        oracle.add(event(offset, user="bob"))
    return oracle


def good(oracle: Oracle, user: str) -> list[bytes]:
    return [frame(each) for each in oracle.owed(user)]


def test_all_of_it_in_order_is_good(oracle: Oracle) -> None:
    oracle.check("ann's", "ann", good(oracle, "ann"))
    assert oracle.first_missing("ann", good(oracle, "ann")) is None


def test_order_across_partitions_is_free(oracle: Oracle) -> None:
    frames = good(oracle, "ann")
    oracle.check("ann's", "ann", sorted(frames, key=lambda each: b'"n":"1/' in each))


def test_a_lost_one_is_named(oracle: Oracle) -> None:
    frames = good(oracle, "ann")
    frames.remove(frame(event(2, user="ann")))
    with pytest.raises(AssertionError, match="lost risk-events/0/2 for 'ann'"):
        oracle.check("ann's", "ann", frames)
    assert oracle.first_missing("ann", frames) == event(2, user="ann")


def test_a_lost_tail_is_named_unless_it_may_be_missing(oracle: Oracle) -> None:
    frames = good(oracle, "ann")
    frames.remove(frame(event(4, partition=1)))
    with pytest.raises(AssertionError, match="lost alert-events/1/4 for everyone"):
        oracle.check("ann's", "ann", frames)
    oracle.check("ann's", "ann", frames, complete=False)


def test_a_doubled_one_is_named(oracle: Oracle) -> None:
    with pytest.raises(AssertionError, match=r"doubled, frames 1 and 15: alert-events/1/0"):
        oracle.check("ann's", "ann", [*good(oracle, "ann"), frame(event(0, partition=1))])


def test_a_disordered_one_is_named(oracle: Oracle) -> None:
    frames = [frame(event(0)), frame(event(2)), frame(event(1)), frame(event(3)), frame(event(4))]
    with pytest.raises(AssertionError, match="out of order, after offset 2 came alert-events/0/1"):
        oracle.check("ann's", "ann", frames)


def test_somebody_elses_is_named(oracle: Oracle) -> None:
    with pytest.raises(AssertionError, match="somebody else's: risk-events/0/3 for 'bob'"):
        oracle.check("ann's", "ann", [*good(oracle, "ann"), frame(event(3, user="bob"))])


@pytest.mark.parametrize(
    "altered",
    [b'{"type":"market_alert","data":{"n": "0/0/None"}}', b'{"type":"market_alert","data":{"n":"0/0/None"},"seq":1}'],
)
def test_other_bytes_are_foreign(oracle: Oracle, altered: bytes) -> None:
    with pytest.raises(AssertionError, match="no published event"):
        oracle.check("ann's", "ann", [altered])


def test_a_late_joiner_owes_no_past_but_may_not_have_holes_in_it(oracle: Oracle) -> None:
    since = len(oracle.events) - 4
    late = [frame(event(4)), frame(event(4, partition=1)), frame(event(4, user="ann"))]
    oracle.check("ann's", "ann", late, since=since)
    oracle.check("ann's", "ann", [frame(event(3)), *late], since=since)
    with pytest.raises(AssertionError, match="lost alert-events/0/3"):
        oracle.check("ann's", "ann", [frame(event(2)), *late], since=since)


def test_a_log_is_checked_for_holes_doubles_and_order() -> None:
    check_log("global", [(7, "alert-events/0", 3), (8, "alert-events/1", 0), (9, "alert-events/0", 5)])
    with pytest.raises(AssertionError, match="a hole in the log before seq 9"):
        check_log("global", [(7, "alert-events/0", 3), (9, "alert-events/0", 4)])
    with pytest.raises(AssertionError, match="seq 8 is alert-events/0/3, after alert-events/0/3"):
        check_log("global", [(7, "alert-events/0", 3), (8, "alert-events/0", 3)])
