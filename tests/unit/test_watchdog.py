from relay.routes import Partition
from relay.watchdog import DEAF_SECONDS, LEFT_OUT_SECONDS, STRANDED_SECONDS, Look, Watchdog

A = Partition("risk-events", 0)
B = Partition("risk-events", 1)


def verdicts(*looks: tuple[float, dict[Partition, int] | None, dict[Partition, int]]) -> list[str | None]:
    watchdog = Watchdog()
    return [watchdog.look(now, Look(positions, ends)) for now, positions, ends in looks]


def test_a_partition_that_has_more_and_gives_nothing_ends_the_relay_after_a_while() -> None:
    positions = {A: 5, B: 9}
    first, early, late = verdicts(
        (0, positions, {A: 8, B: 9}),
        (DEAF_SECONDS - 1, positions, {A: 9, B: 9}),
        (DEAF_SECONDS, positions, {A: 9, B: 9}),
    )
    assert (first, early) == (None, None)
    assert late is not None
    assert "risk-events/0 has records up to offset 9" in late
    assert "from 5 on" in late


def test_slow_reading_is_reading() -> None:
    looks = [(n * DEAF_SECONDS, {A: n}, {A: 1000}) for n in range(9)]
    assert verdicts(*looks) == [None] * 9


def test_a_partition_whose_turn_it_is_not_yet_waits_without_end() -> None:
    # aiokafka drains what it fetched of one partition before it comes to the next.
    watchdog = Watchdog()
    for n in range(100):
        look = Look({A: 5, B: 1000 * n}, {A: 9, B: 10**6}, fetched={A, B})
        assert watchdog.look(n * DEAF_SECONDS, look) is None


def test_a_partition_that_alone_is_not_even_fetched_ends_the_relay_after_longer() -> None:
    watchdog = Watchdog()
    looks = int(LEFT_OUT_SECONDS)
    for n in range(looks):
        assert watchdog.look(n, Look({A: 5, B: 1000 * n}, {A: 9, B: 10**6}, fetched={B})) is None
    why = watchdog.look(looks, Look({A: 5, B: 1000 * looks}, {A: 9, B: 10**6}, fetched={B}))
    assert why is not None
    assert "risk-events/0 has records up to offset 9, and for 300 s nothing was read from 5 on" in why


def test_fetched_records_that_nobody_is_given_are_not_read() -> None:
    looks = [(0, {A: 5, B: 7}, {A: 9, B: 9}), (DEAF_SECONDS, {A: 5, B: 7}, {A: 9, B: 9})]
    watchdog = Watchdog()
    first, second = (watchdog.look(now, Look(at, ends, fetched={A, B})) for now, at, ends in looks)
    assert first is None
    assert second is not None


def test_when_the_others_have_no_more_the_one_that_is_left_out_is_not_given_longer() -> None:
    first, last = (0, {A: 5, B: 7}, {A: 9, B: 9}), (1, {A: 5, B: 9}, {A: 9, B: 9})
    assert verdicts(first, last, (DEAF_SECONDS, *last[1:]))[-1] is None
    assert verdicts(first, last, (DEAF_SECONDS + 1, *last[1:]))[-1] is not None


def test_nothing_to_read_is_nothing_missed() -> None:
    assert verdicts((0, {A: 5}, {A: 5}), (10 * DEAF_SECONDS, {A: 5}, {A: 5})) == [None, None]
    assert verdicts((0, {}, {}), (10 * STRANDED_SECONDS, {}, {})) == [None, None]


def test_records_that_just_came_have_their_time() -> None:
    assert verdicts((0, {A: 5}, {A: 5}), (DEAF_SECONDS, {A: 5}, {A: 6}))[-1] is None


def test_a_rebalance_begins_the_count_anew() -> None:
    half = DEAF_SECONDS / 2
    looks = [(0, {A: 5}, {A: 8}), (half, None, {}), (2 * half, {A: 5}, {A: 8}), (3 * half, {A: 5}, {A: 8})]
    assert verdicts(*looks) == [None] * 4


def test_what_could_not_be_read_is_not_held_against_it() -> None:
    watchdog = Watchdog()
    watchdog.look(0, Look({A: 5}, {A: 8}))
    watchdog.forget()
    assert watchdog.look(DEAF_SECONDS, Look({A: 5}, {A: 8})) is None
    assert watchdog.look(2 * DEAF_SECONDS, Look({A: 5}, {A: 8})) is not None


def test_a_relay_that_reads_nothing_at_all_ends_after_longer() -> None:
    first, second = verdicts((0, None, {}), (STRANDED_SECONDS - 1, None, {}))
    assert (first, second) == (None, None)
    assert verdicts((0, None, {}), (STRANDED_SECONDS, None, {}))[-1] is not None
    assert verdicts((0, None, {}), (1, {A: 5}, {A: 5}), (STRANDED_SECONDS, None, {}))[-1] is None
