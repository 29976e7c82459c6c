from dataclasses import dataclass

from relay.batch import Batch, DeadLetter, Progress, make_batch
from relay.decode import Decode, Reason
from relay.routes import Partition
from shared.keys import Keys


@dataclass(frozen=True)
class R:
    """A record."""

    offset: int
    value: bytes | None
    timestamp: int = 1000
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


REGIME = Partition("regime-events", 0)
RISK = Partition("risk-events", 2)
ORDERS = Partition("execution-events", 1)


def batch_of(records: dict[Partition, list[R]], *, keys: Keys | None = None, generation: int = 1) -> Batch:
    return make_batch(
        records,
        term=4,
        generations=dict.fromkeys(records, generation),
        decode=Decode(1000, {}),
        keys=keys or Keys(),
    )


def test_broadcasts_and_users_events_go_to_their_buckets_and_streams() -> None:
    batch = batch_of({REGIME: [R(7, b"{}")], RISK: [R(3, b'{"user_id":"a b"}')]})
    assert batch.buckets["g"].keys == ["notify:{g}:log:global", "notify:{g}:meta:global"]
    assert batch.buckets["g"].arguments == [
        "notify:{g}:live:global", 1, 1, 7, b"regime-events/0 7 1000 regime_change\n{}",
    ]  # fmt: skip
    assert batch.buckets["u0"].keys == ["notify:{u0}:log:a%20b", "notify:{u0}:meta:a%20b"]
    assert batch.buckets["u0"].arguments == [
        "notify:{u0}:live:a%20b", 1, 2, 3, b'risk-events/2 3 1000 risk_alert\n{"user_id":"a b"}',
    ]  # fmt: skip
    assert batch.term == 4


def test_a_streams_messages_stay_in_the_order_they_were_read() -> None:
    batch = batch_of(
        {
            RISK: [R(3, b'{"user_id":1}'), R(4, b'{"user_id":2}'), R(5, b'{"user_id":1}')],
            ORDERS: [R(1, b'{"user_id":"1"}')],
        }
    )
    bucket = batch.buckets["u0"]
    assert bucket.stream_count == 2
    assert bucket.arguments[:2] == ["notify:{u0}:live:1", 3]
    assert bucket.arguments[2:11:3] == [1, 1, 2]
    assert bucket.arguments[3:11:3] == [3, 5, 1]
    assert bucket.arguments[11:15] == ["notify:{u0}:live:2", 1, 1, 4]


def test_users_are_spread_over_the_buckets() -> None:
    keys = Keys(user_buckets=16)
    records = {RISK: [R(n, b'{"user_id":%d}' % n) for n in range(64)]}
    batch = batch_of(records, keys=keys)
    assert len(batch.buckets) > 8
    assert sum(bucket.stream_count for bucket in batch.buckets.values()) == 64


def test_next_passes_records_that_are_not_published() -> None:
    batch = batch_of({RISK: [R(3, b'{"user_id":1}'), R(9, None), R(12, b"nope", timestamp=77)]})
    assert batch.next_offsets == {"risk-events/2": 13}
    assert batch.progress == {RISK: Progress(13, 77)}
    assert (batch.read["risk-events"], batch.skipped["risk-events"]) == (3, 1)
    assert batch.dead_letters == [DeadLetter(RISK, R(12, b"nope", timestamp=77), Reason.NOT_JSON)]


def test_a_later_generation_is_in_the_source_of_each_event() -> None:
    batch = batch_of({REGIME: [R(0, b"{}")]}, generation=2)
    assert batch.next_offsets == {"regime-events~2/0": 1}
    assert batch.buckets["g"].arguments[-1] == b"regime-events~2/0 0 1000 regime_change\n{}"
