"""What is held for a client that lags."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.held import Held

MUCH = 1 << 30


def notice(dropped: int) -> bytes:
    return b"<%d>" % dropped


def told_nothing(dropped: int) -> bytes:
    return b""


def test_frames_are_taken_in_order_as_many_as_fit_and_at_least_one() -> None:
    held = Held()
    for frame in (b"one", b"two", b"three"):
        held.add(frame)
    assert held.size_bytes == 11
    assert held.take(7) == b"onetwo"
    assert held.take(1) == b"three"
    assert not held
    assert (held.take(1), held.size_bytes) == (b"", 0)


def test_of_a_conflated_type_the_newest_is_held_and_where_the_first_was_it_is_told() -> None:
    held = Held()
    assert not held.add_newest(b"a", b"a1", notice)
    held.add(b"x")
    assert held.add_newest(b"a", b"a2", notice)
    held.add(b"y")
    assert held.add_newest(b"a", b"a3", notice)
    held.add(b"z")
    assert held.size_bytes == len(b"<2>xya3z")
    assert held.take(MUCH) == b"<2>xya3z"


def test_each_type_has_its_own_newest() -> None:
    held = Held()
    for number in range(3):
        held.add_newest(b"a", b"a%d" % number, notice)
        held.add_newest(b"b", b"b%d" % number, notice)
    assert held.take(MUCH) == b"<2><2>a2b2"


def test_one_that_cannot_be_told_gets_the_newest() -> None:
    held = Held()
    for number in range(3):
        held.add_newest(b"a", b"a%d" % number, told_nothing)
        held.add(b"x")
    assert held.take(MUCH) == b"xxa2x"
    held.add_newest(b"a", b"a3", told_nothing)
    held.add_newest(b"a", b"a4", told_nothing)
    assert held.take(MUCH) == b"a4"


def test_what_was_taken_is_not_dropped_any_more() -> None:
    held = Held()
    held.add_newest(b"a", b"a1", notice)
    assert held.take(1) == b"a1"
    assert not held.add_newest(b"a", b"a2", notice)
    assert held.take(MUCH) == b"a2"


def test_when_the_client_was_told_already_it_is_told_again_of_those_after() -> None:
    held = Held()
    for frame in (b"a1", b"a2"):
        held.add_newest(b"a", frame, notice)
    assert held.take(1) == b"<1>"
    held.add(b"x")
    for frame in (b"a3", b"a4"):
        held.add_newest(b"a", frame, notice)
    assert held.take(MUCH) == b"<2>xa4"


_FRAME = st.tuples(st.sampled_from([b"a", b"b", b""]), st.integers(1, 30))


@given(st.lists(st.tuples(st.lists(_FRAME, max_size=8), st.integers(0, 60)), max_size=8))
def test_whatever_is_dropped_is_told_before_the_newest_and_nothing_else_is(
    rounds: list[tuple[list[tuple[bytes, int]], int]],
) -> None:
    """Frames of no type, and of two that are conflated; what is taken in between is read."""
    held = Held()
    sent: list[tuple[bytes, int]] = []
    read: list[bytes] = []
    for frames, take_bytes in rounds:
        for type_, size in frames:
            number = len(sent)
            sent.append((type_, number))
            frame = b"%s:%d:%s;" % (type_, number, b"." * size)
            if type_:
                held.add_newest(type_, frame, lambda dropped, type_=type_: b"told:%s:%d;" % (type_, dropped))  # type: ignore[misc]
            else:
                held.add(frame)
        if take_bytes:
            read += held.take(take_bytes).split(b";")[:-1]
    read += held.take(MUCH).split(b";")[:-1]
    assert (held.size_bytes, bool(held)) == (0, False)

    missing = {b"a": 0, b"b": 0}
    told = {b"a": 0, b"b": 0}
    expected = iter(sent)
    for part in read:
        kind, first, *_ = part.split(b":")
        if kind == b"told":
            told[first] += int(_[0])
            continue
        for type_, number in expected:
            if (type_, number) == (kind, int(first)):
                break
            missing[type_] += 1  # a KeyError for one that is not conflated
            assert missing[type_] <= told[type_], "a hole before it was told"
        else:
            raise AssertionError(f"{part!r} is out of order, or twice")
        if kind:
            assert missing[kind] == told[kind], "told of too many"
    assert not list(expected), "the newest is missing"
