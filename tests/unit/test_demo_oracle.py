"""demo/oracle.py and demo/live.py: what counts as lost, doubled, out of order, altered, misdirected."""

import math
from dataclasses import asdict

import pytest

from demo.live import live_line, summary, verdict
from demo.oracle import LONGEST_SECONDS, LOST_AFTER_SECONDS, Counts, Latencies, Oracle
from demo.status import Figures

AT = 1_700_000_000.0
STAMP = "2023-11-14T22:13:20+00:00"  # the same


def risk(number: int, user: str = "ann") -> bytes:
    return b'{"n": %d, "user_id": "%s", "timestamp": "%s"}' % (number, user.encode(), STAMP.encode())


def alert(number: int) -> bytes:
    return b'{"n": %d, "timestamp": "%s"}' % (number, STAMP.encode())


def frame(data: bytes, type_: str = "risk_alert") -> str:
    return '{"type":"%s","data":%s}' % (type_, data.decode())  # noqa: UP031


@pytest.fixture
def oracle() -> Oracle:
    oracle = Oracle()
    oracle.joined("ann", "ann")
    oracle.joined("bob", "bob")
    return oracle


def faults(oracle: Oracle) -> dict[str, int]:
    return {
        name: count for name, count in asdict(oracle.counts).items() if count and name not in ("events", "delivered")
    }


def test_each_event_once_and_in_order_is_no_fault(oracle: Oracle) -> None:
    for number in range(3):
        oracle.produced("risk-events", 0, number, risk(number), AT)
        oracle.arrived("ann", frame(risk(number)), AT + 0.01)
    oracle.look(AT + LOST_AFTER_SECONDS)
    assert (oracle.counts.events, oracle.counts.delivered, faults(oracle)) == (3, 3, {})
    assert oracle.latencies.percentile_ms(50) == 10.0


def test_a_frame_may_be_seen_before_its_record(oracle: Oracle) -> None:
    oracle.arrived("ann", frame(risk(1)), AT + 0.002)
    assert oracle.outstanding() == 1
    oracle.produced("risk-events", 0, 1, risk(1), AT + 1)
    assert oracle.outstanding() == 0
    assert oracle.latencies.percentile_ms(100) == 2.0
    assert faults(oracle) == {}


def test_what_was_broken_on_purpose_makes_nothing_overdue(oracle: Oracle) -> None:
    oracle.produced("risk-events", 0, 1, risk(1), AT)
    mended = AT + 2.5 * LOST_AFTER_SECONDS
    oracle.look(mended, mended)
    oracle.look(mended + LOST_AFTER_SECONDS - 1, mended)
    assert (oracle.outstanding(), faults(oracle)) == (1, {})
    oracle.look(mended + LOST_AFTER_SECONDS, mended)
    assert (oracle.outstanding(), faults(oracle)) == (0, {"lost": 1})


def test_what_comes_while_something_is_broken_is_no_fault_and_is_forgotten(oracle: Oracle) -> None:
    oracle.produced("risk-events", 0, 1, risk(1), AT)
    broken = AT + 3 * LOST_AFTER_SECONDS
    oracle.look(broken, broken)
    oracle.arrived("ann", frame(risk(1)), broken)
    oracle.arrived("ann", frame(risk(1)), broken)
    assert faults(oracle) == {"doubled": 1}
    oracle.look(broken, broken)
    oracle.arrived("ann", frame(risk(1)), broken)
    assert oracle.outstanding() == 1, "its record is not remembered for ever"


def test_nothing_may_be_broken_for_ever(oracle: Oracle) -> None:
    oracle.produced("risk-events", 0, 1, risk(1), AT)
    late = AT + LONGEST_SECONDS + LOST_AFTER_SECONDS
    oracle.look(late - 1, late - 1)
    assert faults(oracle) == {}
    oracle.look(late, late)
    assert faults(oracle) == {"lost": 1}


def test_at_the_end_what_is_owed_is_lost(oracle: Oracle) -> None:
    oracle.produced("risk-events", 0, 1, risk(1), AT)
    oracle.arrived("bob", frame(alert(1)), AT)
    oracle.look(math.inf)
    assert (oracle.outstanding(), faults(oracle)) == (0, {"lost": 1, "altered": 1})


def test_a_broadcast_is_owed_to_everyone(oracle: Oracle) -> None:
    oracle.produced("alert-events", 0, 1, alert(1), AT)
    oracle.arrived("ann", frame(alert(1), "market_alert"), AT)
    assert oracle.outstanding() == 1
    oracle.look(AT + LOST_AFTER_SECONDS)
    assert faults(oracle) == {"lost": 1}
    assert oracle.outstanding() == 0


def test_a_second_arrival_is_doubled(oracle: Oracle) -> None:
    oracle.produced("risk-events", 0, 1, risk(1), AT)
    for _ in range(2):
        oracle.arrived("ann", frame(risk(1)), AT)
    assert faults(oracle) == {"doubled": 1}


def test_a_lower_offset_of_the_same_partition_is_out_of_order(oracle: Oracle) -> None:
    for number in (1, 2):
        oracle.produced("risk-events", 0, number, risk(number), AT)
    oracle.produced("risk-events", 1, 0, risk(3), AT)
    for number in (2, 3, 1):
        oracle.arrived("ann", frame(risk(number)), AT)
    assert faults(oracle) == {"out_of_order": 1}


def test_another_users_event_is_misdirected(oracle: Oracle) -> None:
    oracle.arrived("bob", frame(risk(1)), AT)
    oracle.produced("risk-events", 0, 1, risk(1), AT)
    oracle.arrived("ann", frame(risk(1)), AT)
    assert faults(oracle) == {"misdirected": 1}


@pytest.mark.parametrize("sent", [frame(risk(1)).replace('"n": 1', '"n":1'), '{"type":"risk_alert"}', "hello", "[]"])
def test_other_bytes_than_were_produced_are_altered(oracle: Oracle, sent: str) -> None:
    oracle.produced("risk-events", 0, 1, risk(1), AT)
    oracle.arrived("ann", sent, AT)
    oracle.look(AT + LOST_AFTER_SECONDS)
    assert faults(oracle) == {"altered": 1, "lost": 1}


def test_another_type_is_altered(oracle: Oracle) -> None:
    oracle.produced("risk-events", 0, 1, risk(1), AT)
    oracle.arrived("ann", frame(risk(1), "market_alert"), AT)
    assert faults(oracle) == {"altered": 1}


def test_line_breaks_between_tokens_become_spaces(oracle: Oracle) -> None:
    oracle.produced("risk-events", 0, 1, risk(1).replace(b", ", b",\r\n"), AT)
    oracle.arrived("ann", frame(risk(1).replace(b", ", b",  ")), AT)
    assert (faults(oracle), oracle.outstanding()) == ({}, 0)


@pytest.mark.parametrize("value", [b"{", b"[]", b'{"timestamp": "%s"}' % STAMP.encode(), b'{"user_id": "ann"}'])
def test_what_is_no_event_is_owed_to_nobody(oracle: Oracle, value: bytes) -> None:
    oracle.produced("risk-events", 0, 1, value, AT)
    assert (oracle.counts.events, oracle.outstanding()) == (0, 0)


def test_what_was_seen_is_forgotten_in_time(oracle: Oracle) -> None:
    oracle.produced("risk-events", 0, 1, risk(1), AT)
    oracle.arrived("ann", frame(risk(1)), AT)
    oracle.look(AT + 2 * LOST_AFTER_SECONDS)
    oracle.arrived("ann", frame(risk(1)), AT)  # unknown by now, still a fault
    oracle.look(AT + 3 * LOST_AFTER_SECONDS)
    assert faults(oracle) == {"altered": 1}


def test_percentiles_are_of_all_latencies() -> None:
    latencies = Latencies()
    assert latencies.percentile_ms(50) is None
    for milliseconds in range(1, 101):
        latencies.add(milliseconds / 1000)
    assert [latencies.percentile_ms(percent) for percent in (50, 99, 100)] == [50.0, 99.0, 100.0]


def test_recent_latencies_start_anew_with_each_look(oracle: Oracle) -> None:
    oracle.produced("risk-events", 0, 1, risk(1), AT)
    oracle.arrived("ann", frame(risk(1)), AT + 0.005)
    assert oracle.recent().percentile_ms(50) == 5.0
    assert oracle.recent().percentile_ms(50) is None


@pytest.mark.parametrize(
    ("counts", "must_deliver", "words"),
    [
        (Counts(events=2, delivered=2), True, None),
        (Counts(), False, None),
        (Counts(events=2), True, "nothing was delivered"),
        (Counts(delivered=1, doubled=1), False, "1 deliveries were not exactly once"),
    ],
)
def test_the_verdict(counts: Counts, must_deliver: bool, words: str | None) -> None:
    given = verdict(counts, must_deliver=must_deliver)
    assert given == words if words is None else words in (given or "")


def test_the_live_line_shows_what_is_not_known_as_a_dash() -> None:
    line = live_line(Counts(events=1200, delivered=7, altered=3), Latencies(), Figures(None, 16), 3.2)
    assert line.strip().split("  ") == [
        *("3 s", "events in 1,200", "published -", "connections 16", "delivered 7"),
        *("p50 -", "p99 -", "lost 0", "doubled 0", "OTHER FAULTS 3"),
    ]


def test_the_summary_names_every_fault() -> None:
    assert "lost 1, doubled 0, out of order 2, altered 0, misdirected 0" in summary(
        Counts(lost=1, out_of_order=2), Latencies(), 20.0
    )
