"""The rules of gateway.stream, each as a sentence."""

from collections.abc import Mapping, Sequence

import pytest

from gateway.stream import MAX_HELD_MESSAGES, NO_EPOCH, Filled, Meta, Stream, Verdict
from shared.message import Message

P0, P1 = b"risk-events/0", b"risk-events/1"


def message(epoch: bytes, seq: int, offset: int, partition: bytes = P0) -> Message:
    return Message(epoch, seq, partition, offset, 0, b"risk_alert", b"{}")


def page(epoch: bytes, seqs: Sequence[int], first_offset: int | None = None) -> list[Message]:
    """A part of a log. Unless told otherwise the offset of seq n is 10 + n."""
    first_offset = 10 + seqs[0] if first_offset is None else first_offset
    return [message(epoch, seq, first_offset + place) for place, seq in enumerate(seqs)]


def stream_at(epoch: bytes, seq: int, next_offsets: Mapping[bytes, int] | None = None) -> Stream:
    """A live stream that joined there; by default everything up to offset 10 + seq was published."""
    stream = Stream()
    assert stream.join(Meta(epoch, seq), {P0: 11 + seq} if next_offsets is None else next_offsets) == []
    assert stream.is_live
    return stream


def ids(messages: Sequence[Message]) -> list[tuple[bytes, int]]:
    return [(taken.epoch, taken.seq) for taken in messages]


# Joining


def test_a_new_stream_is_not_live_and_holds_what_comes() -> None:
    stream = Stream()
    assert not stream.is_live
    assert stream.receive(message(b"a", 1, 0)) is Verdict.HOLD


def test_joining_pushes_what_came_after_the_meta_that_was_read_and_nothing_before() -> None:
    stream = Stream()
    for seq in (3, 4, 5, 6):
        stream.receive(message(b"a", seq, 10 + seq))
    assert ids(stream.join(Meta(b"a", 4), {P0: 15})) == [(b"a", 5), (b"a", 6)]
    assert stream.is_live
    assert (stream.epoch, stream.seq) == (b"a", 6)


def test_joining_a_stream_that_never_had_a_message_takes_its_first() -> None:
    stream = Stream()
    assert stream.join(Meta(), {}) == []
    assert (stream.epoch, stream.seq) == (NO_EPOCH, 0)
    assert stream.receive(message(b"a", 1, 0)) is Verdict.PUSH


def test_joining_with_a_gap_in_what_was_held_leaves_the_stream_filling() -> None:
    stream = Stream()
    stream.receive(message(b"a", 5, 15))
    stream.receive(message(b"a", 7, 17))
    assert ids(stream.join(Meta(b"a", 4), {P0: 15})) == [(b"a", 5)]
    assert not stream.is_live


def test_the_watermark_starts_below_the_next_offset_to_publish() -> None:
    stream = stream_at(b"a", 4, {P0: 100})
    assert stream.receive(message(b"a", 5, 99)) is Verdict.DROP
    assert stream.receive(message(b"a", 6, 100)) is Verdict.PUSH


def test_a_partition_without_next_offset_has_no_watermark() -> None:
    stream = stream_at(b"a", 4, {P0: 100})
    assert stream.receive(message(b"a", 5, 0, P1)) is Verdict.PUSH


# Live


def test_the_next_message_is_pushed() -> None:
    stream = stream_at(b"a", 4)
    assert stream.receive(message(b"a", 5, 15)) is Verdict.PUSH
    assert stream.receive(message(b"a", 6, 16)) is Verdict.PUSH
    assert (stream.epoch, stream.seq) == (b"a", 6)


@pytest.mark.parametrize("seq", [1, 4, 5])
def test_a_message_that_came_before_is_dropped(seq: int) -> None:
    stream = stream_at(b"a", 4)
    stream.receive(message(b"a", 5, 15))
    assert stream.receive(message(b"a", seq, 10 + seq)) is Verdict.DROP
    assert stream.seq == 5


def test_a_gap_asks_for_the_log_once_and_holds_from_then_on() -> None:
    stream = stream_at(b"a", 4)
    assert stream.receive(message(b"a", 6, 16)) is Verdict.FETCH
    assert stream.receive(message(b"a", 7, 17)) is Verdict.HOLD
    assert stream.receive(message(b"a", 5, 15)) is Verdict.HOLD
    assert not stream.is_live


def test_a_message_of_another_epoch_is_a_gap() -> None:
    stream = stream_at(b"a", 4)
    assert stream.receive(message(b"b", 5, 15)) is Verdict.FETCH


def test_the_first_message_of_another_epoch_is_no_gap_since_nothing_can_be_before_it() -> None:
    stream = stream_at(b"a", 4)
    assert stream.receive(message(b"b", 1, 15)) is Verdict.PUSH
    assert (stream.epoch, stream.seq) == (b"b", 1)


def test_what_was_published_again_in_a_new_epoch_is_dropped() -> None:
    stream = stream_at(b"a", 4)
    assert [stream.receive(message(b"b", seq, 12 + seq)) for seq in (1, 2, 3)] == [
        Verdict.DROP,
        Verdict.DROP,
        Verdict.PUSH,
    ]
    assert (stream.epoch, stream.seq) == (b"b", 3)


def test_partitions_have_a_watermark_each() -> None:
    stream = stream_at(b"a", 4, {P0: 100, P1: 5})
    assert stream.receive(message(b"b", 1, 99, P0)) is Verdict.DROP
    assert stream.receive(message(b"b", 2, 5, P1)) is Verdict.PUSH


# Filling


def filling_at(epoch: bytes, seq: int) -> Stream:
    stream = stream_at(epoch, seq)
    assert stream.begin_fill()
    return stream


def fill(stream: Stream, meta: Meta, messages: list[Message]) -> Filled:
    return stream.fill(meta, stream.read_from(meta), messages)


def test_filling_begins_once() -> None:
    stream = stream_at(b"a", 4)
    assert stream.begin_fill()
    assert not stream.begin_fill()


def test_a_gap_is_filled_in_order_and_what_was_held_follows() -> None:
    stream = stream_at(b"a", 4)
    stream.receive(message(b"a", 7, 17))
    stream.receive(message(b"a", 8, 18))
    filled = fill(stream, Meta(b"a", 7), page(b"a", [5, 6, 7]))
    assert ids(filled.push) == [(b"a", 5), (b"a", 6), (b"a", 7), (b"a", 8)]
    assert filled.complete
    assert not filled.hole
    assert stream.is_live


def test_nothing_missing_is_filled_with_nothing() -> None:
    stream = filling_at(b"a", 4)
    assert fill(stream, Meta(b"a", 4), []) == Filled([], complete=True, hole=False)


def test_a_gap_in_what_was_held_leads_to_another_read() -> None:
    stream = filling_at(b"a", 4)
    stream.receive(message(b"a", 6, 16))
    stream.receive(message(b"a", 8, 18))
    first = fill(stream, Meta(b"a", 5), page(b"a", [5]))
    assert ids(first.push) == [(b"a", 5), (b"a", 6)]
    assert not first.complete
    second = fill(stream, Meta(b"a", 8), page(b"a", [7, 8]))
    assert ids(second.push) == [(b"a", 7), (b"a", 8)]
    assert second.complete


def test_a_long_log_is_filled_page_by_page_while_live_messages_are_held() -> None:
    stream = filling_at(b"a", 0)
    pushed: list[Message] = []
    filled = fill(stream, Meta(b"a", 4), page(b"a", [1, 2]))
    assert not filled.complete
    assert not filled.hole
    pushed += filled.push
    assert stream.receive(message(b"a", 5, 15)) is Verdict.HOLD
    filled = fill(stream, Meta(b"a", 5), page(b"a", [3, 4]))
    assert not filled.complete
    pushed += filled.push
    filled = fill(stream, Meta(b"a", 5), page(b"a", [5]))
    assert filled.complete
    assert ids(pushed + filled.push) == [(b"a", seq) for seq in range(1, 6)]


def test_in_another_epoch_the_log_is_read_from_where_the_old_one_ended() -> None:
    stream = filling_at(b"a", 9)
    meta = Meta(b"c", 12, {b"a": 6, b"b": 8})
    assert stream.read_from(meta) == 6
    messages = [*page(b"b", [7, 8], 17), *page(b"c", [9, 10, 11, 12], 19)]
    filled = stream.fill(meta, 6, messages)
    # Up to offset 19 the clients had everything.
    assert ids(filled.push) == [(b"c", 10), (b"c", 11), (b"c", 12)]
    assert filled.complete
    assert not filled.hole
    assert (stream.epoch, stream.seq) == (b"c", 12)


def test_a_stream_below_the_fork_reads_on_from_its_own_place() -> None:
    assert filling_at(b"a", 4).read_from(Meta(b"b", 9, {b"a": 6})) == 4


def test_an_unknown_epoch_reads_the_log_from_its_beginning() -> None:
    stream = filling_at(b"a", 9)
    meta = Meta(b"z", 2)
    assert stream.read_from(meta) == 0
    filled = stream.fill(meta, 0, page(b"z", [1, 2], first_offset=19))
    assert ids(filled.push) == [(b"z", 2)]
    assert not filled.hole


def test_a_page_that_ends_in_an_earlier_epoch_goes_on_in_the_next() -> None:
    stream = filling_at(b"a", 4)
    meta = Meta(b"b", 8, {b"a": 6})
    assert not stream.fill(meta, 4, page(b"a", [5, 6])).complete
    assert stream.read_from(meta) == 6
    assert stream.fill(meta, 6, page(b"b", [7, 8])).complete


def test_a_lost_tail_that_nobody_has_published_again_yet_is_no_hole() -> None:
    stream = filling_at(b"a", 9)
    assert fill(stream, Meta(b"a", 6), []) == Filled([], complete=True, hole=False)
    assert stream.receive(message(b"b", 7, 17)) is Verdict.FETCH
    assert stream.read_from(Meta(b"b", 7, {b"a": 6})) == 6


@pytest.mark.parametrize("rest", [[7, 8], []], ids=["trimmed", "expired or removed"])
def test_what_the_log_has_no_more_is_a_hole(rest: list[int]) -> None:
    stream = filling_at(b"a", 4)
    filled = fill(stream, Meta(b"a", 8, offsets={P0: 18}), page(b"a", rest) if rest else [])
    assert filled.hole
    assert filled.complete
    assert stream.is_live
    assert stream.receive(message(b"a", 9, 19)) is Verdict.PUSH


def test_a_log_trimmed_between_two_pages_is_a_hole() -> None:
    stream = filling_at(b"a", 0)
    assert not fill(stream, Meta(b"a", 9), page(b"a", [1, 2])).hole
    assert fill(stream, Meta(b"a", 9), page(b"a", [6, 7, 8, 9])).hole


def test_messages_missing_within_a_page_are_a_hole() -> None:
    stream = filling_at(b"a", 4)
    filled = fill(stream, Meta(b"a", 8), page(b"a", [5, 7, 8], first_offset=15))
    assert filled.hole
    assert ids(filled.push) == [(b"a", 5), (b"a", 7), (b"a", 8)]


def test_without_meta_the_stream_stays_where_it_is_and_takes_the_rebuilt_one_from_its_first() -> None:
    stream = filling_at(b"a", 4)
    assert fill(stream, Meta(), []) == Filled([], complete=True, hole=False)
    assert stream.receive(message(b"b", 1, 14)) is Verdict.DROP
    assert stream.receive(message(b"b", 2, 15)) is Verdict.PUSH


# What is held has a bound and is given up when a read has overtaken it


def test_more_than_can_be_held_leads_to_another_read() -> None:
    stream = filling_at(b"a", 0)
    top = MAX_HELD_MESSAGES + 3
    for seq in range(1, top + 1):
        assert stream.receive(message(b"a", seq, 10 + seq)) is Verdict.HOLD
    filled = fill(stream, Meta(b"a", 1), page(b"a", [1]))
    assert ids(filled.push) == [(b"a", seq) for seq in range(1, MAX_HELD_MESSAGES + 1)]
    assert not filled.complete
    assert not stream.is_live
    filled = fill(stream, Meta(b"a", top), page(b"a", range(MAX_HELD_MESSAGES + 1, top + 1)))
    assert ids(filled.push)[-1] == (b"a", top)
    assert filled.complete


def test_a_late_message_of_an_epoch_that_has_ended_costs_one_read_and_no_more() -> None:
    stream = stream_at(b"a", 4)
    stream.receive(message(b"a", 7, 17))  # published before the server lost its tail
    meta = Meta(b"b", 5, {b"a": 4})
    filled = stream.fill(meta, 4, page(b"b", [5]))
    if not filled.complete:
        filled = fill(stream, meta, [])
    assert filled.complete
    assert stream.is_live


def test_late_messages_of_a_lost_epoch_do_not_keep_the_stream_from_becoming_live() -> None:
    stream = filling_at(b"a", 4)
    for seq in range(6, 100):
        stream.receive(message(b"a", seq, 10 + seq))
    meta = Meta(b"z", 1)
    reads = 0
    filled = fill(stream, meta, page(b"z", [1], first_offset=14))
    while not filled.complete and reads < 5:
        reads += 1
        filled = fill(stream, meta, [])
    assert stream.is_live
    assert reads <= 1


# A log that is shorter than what was rebuilt


def test_what_is_gone_from_the_log_is_no_hole_where_the_rest_reaches_down_to_what_was_delivered() -> None:
    """Redis lost everything, and the log that was rebuilt does not keep all of it."""
    stream = filling_at(b"a", 30)  # offsets up to 40 were delivered
    meta = Meta(b"z", 60, offsets={P0: 70})
    filled = fill(stream, meta, page(b"z", range(31, 61), first_offset=41 - 5))
    assert not filled.hole
    assert ids(filled.push)[0] == (b"z", 36), "the first that was not delivered before"
    assert filled.complete


def test_it_is_one_where_the_rest_begins_above() -> None:
    stream = filling_at(b"a", 30)
    filled = fill(stream, Meta(b"z", 60, offsets={P0: 80}), page(b"z", range(31, 61), first_offset=51))
    assert filled.hole


def test_a_partition_of_which_nothing_is_left_is_judged_by_the_highest_that_was_published() -> None:
    for highest, hole in ((40, False), (41, True)):
        stream = stream_at(b"a", 30, {P0: 41, P1: 41})
        assert stream.begin_fill()
        rest = page(b"z", range(31, 34), first_offset=39)  # all of partition 0
        assert fill(stream, Meta(b"z", 33, offsets={P0: 41, P1: highest}), rest).hole is hole


def test_a_partition_that_nobody_knew_is_one() -> None:
    stream = filling_at(b"a", 30)
    rest = [message(b"z", 31, 39), message(b"z", 32, 0, P1)]
    assert fill(stream, Meta(b"z", 32, offsets={P0: 39, P1: 0}), rest).hole


def test_after_a_second_gap_the_first_ones_proof_is_worth_nothing() -> None:
    stream = filling_at(b"a", 4)
    meta = Meta(b"z", 20, offsets={P0: 40})
    assert not fill(stream, meta, page(b"z", [5, 6], first_offset=13)).hole
    assert fill(stream, meta, page(b"z", [15, 16], first_offset=30)).hole


# A lost tail is published again


def test_a_stream_whose_tail_was_lost_is_not_settled_until_all_of_it_is_published_again() -> None:
    stream = filling_at(b"a", 9)  # up to offset 19 were delivered
    assert stream.is_settled
    fill(stream, Meta(b"b", 7, {b"a": 6}), page(b"b", [7], first_offset=17))
    assert not stream.is_settled
    assert stream.label == b"b-"
    assert not stream.settle({P0: 19})
    assert not stream.settle({})
    assert stream.settle({P0: 20})
    assert stream.label == b"b"
    assert not stream.settle({P0: 20}), "it was before"


@pytest.mark.parametrize("forks", [{b"a": 9}, {b"a": 12}])
def test_a_stream_that_lost_nothing_goes_on_settled(forks: dict[bytes, int]) -> None:
    stream = filling_at(b"a", 9)
    fill(stream, Meta(b"b", 13, forks), page(b"b", range(10, 14)))
    assert stream.is_settled
    assert stream.label == b"b"


def test_one_that_was_lost_whole_stands_at_nothing_and_is_not_settled() -> None:
    stream = filling_at(b"a", 4)
    fill(stream, Meta(), [])
    assert (stream.epoch, stream.seq) == (NO_EPOCH, 0)
    assert not stream.is_settled
    assert stream.settle({P0: 15})


def test_a_first_message_of_a_new_epoch_is_taken_for_a_loss_of_what_was_there() -> None:
    stream = stream_at(b"a", 4)
    stream.receive(message(b"z", 1, 3))
    assert not stream.is_settled
    fresh = stream_at(NO_EPOCH, 0, {P0: 11})
    fresh.receive(message(b"z", 1, 11))
    assert fresh.is_settled


def test_a_tail_that_redis_has_lost_before_a_new_epoch_is_noticed() -> None:
    stream = filling_at(b"a", 9)
    fill(stream, Meta(b"a", 6), [])
    assert not stream.is_settled


def test_offsets_of_a_topic_that_was_made_anew_are_not_waited_for() -> None:
    stream = filling_at(b"a", 9)
    fill(stream, Meta(), [])
    assert not stream.settle({b"risk-events/1": 99, b"other~2/0": 5})
    assert stream.settle({b"risk-events~2/0": 3})
