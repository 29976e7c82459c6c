"""A replica's share of a user's connections, and which of all are too many."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.share import NAMED, Share, encode_share, living, oldest_above, parse_share


@pytest.mark.parametrize(
    ("opened_us", "value"), [((), b""), ((7,), b"1 7"), ((7, 9), b"2 7 9"), ((1, 2, 3), b"3 1 2 3")]
)
def test_a_share_is_how_many_and_when_each_was_opened(opened_us: tuple[int, ...], value: bytes) -> None:
    assert encode_share(opened_us) == value
    if value:
        assert parse_share(value) == Share(len(opened_us), opened_us)


def test_of_very_many_the_newest_are_named_and_all_are_counted() -> None:
    share = parse_share(encode_share(range(NAMED + 5)))
    assert share == Share(NAMED + 5, tuple(range(5, NAMED + 5)))


@pytest.mark.parametrize("value", [b"", b"x", b"1 x", b"1 7.5"])
def test_what_is_no_share_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_share(value)


def test_the_oldest_go_wherever_they_are() -> None:
    shares = {b"a": Share(3, (1, 4, 5)), b"b": Share(2, (2, 6)), b"c": Share(1, (3,))}
    assert oldest_above(6, shares) == {}
    assert oldest_above(5, shares) == {b"a": {1}}
    assert oldest_above(2, shares) == {b"a": {1, 4}, b"b": {2}, b"c": {3}}


def test_of_the_same_moment_one_goes_the_same_for_whoever_asks() -> None:
    assert oldest_above(1, {b"b": Share(1, (1,)), b"a": Share(1, (1,))}) == {b"a": {1}}


def test_only_replicas_with_a_lease_count_and_what_is_no_share_does_not() -> None:
    shares = {b"a": b"1 7", b"b": b"1 8", b"c": b"1 9", b"d": b"none of ours"}
    leases = {b"a": 1000.0, b"b": 999.0, b"d": 2000.0}
    assert living(shares, leases, 1000) == {b"a": Share(1, (7,))}


@given(
    cap=st.integers(1, 4),
    homes=st.lists(st.integers(0, 2), max_size=12),
    turns=st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=30),
)
def test_replicas_that_decide_by_old_news_keep_exactly_the_newest(
    cap: int, homes: list[int], turns: list[tuple[int, bool]]
) -> None:
    """Each tells what it has and closes what is too many of its own by what the others told last. Nobody
    closes one too many, whatever the order; and once each had its last word, there are not too many."""
    open_at: list[list[int]] = [[] for _ in range(3)]
    told: dict[bytes, Share] = {}
    coming = list(enumerate(homes, start=1))

    def turn(replica: int) -> None:
        name = b"%d" % replica
        told[name] = Share(len(open_at[replica]), tuple(open_at[replica]))
        if sum(share.connections for share in told.values()) > cap:
            above = oldest_above(cap, told).get(name, frozenset())
            open_at[replica] = [opened for opened in open_at[replica] if opened not in above]

    for replica, comes in turns:
        if comes and coming:
            opened, home = coming.pop(0)
            open_at[home].append(opened)
        else:
            turn(replica)
        opened_so_far = len(homes) - len(coming)
        newest = range(max(1, opened_so_far - cap + 1), opened_so_far + 1)
        assert {one for share in open_at for one in share} >= set(newest)
    for opened, home in coming:
        open_at[home].append(opened)
    for replica in (0, 1, 2, 0, 1, 2):
        turn(replica)
    newest = range(max(1, len(homes) - cap + 1), len(homes) + 1)
    assert sorted(one for share in open_at for one in share) == list(newest)
