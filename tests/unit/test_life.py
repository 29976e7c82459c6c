from shared.life import parse_next


def test_next_offsets_are_read_from_a_buckets_life() -> None:
    life = {b"epoch": b"a", b"beat": b"3", b"run_id": b"n", b"n:risk-events/0": b"7", b"n:risk-events~2/1": b"0"}
    assert parse_next(life) == {b"risk-events/0": 7, b"risk-events~2/1": 0}
    assert parse_next({}) == {}
