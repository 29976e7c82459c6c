"""shared/log_lines.py: how many lines an event gets, and how users are named in them."""

import json
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.keys import GLOBAL, Keys
from shared.log_lines import LINES_A_SECOND, MOST_EVENTS, Limiter, UserIds, hidden, hide_users


class Clock:
    """Stands still until it is told otherwise."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_event_has_so_many_lines_a_second_and_the_next_says_how_many_were_left_out() -> None:
    clock = Clock()
    limiter = Limiter(clock)
    assert [limiter.admit("dead_letter") for _ in range(LINES_A_SECOND + 990)] == [0] * LINES_A_SECOND + [None] * 990
    assert limiter.admit("another") == 0
    clock.now += 1
    assert limiter.admit("dead_letter") == 990
    assert limiter.admit("dead_letter") == 0


def test_what_is_left_out_over_several_seconds_is_counted_together() -> None:
    clock = Clock()
    limiter = Limiter(clock)
    for _ in range(LINES_A_SECOND + 3):
        limiter.admit("it")
    clock.now += 3_600
    assert limiter.admit("it") == 3


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 0.4)), max_size=200))
def test_every_line_is_let_through_or_counted(steps: list[tuple[str, float]]) -> None:
    clock = Clock()
    limiter = Limiter(clock)
    seen = {"a": 0, "b": 0}
    in_second: dict[tuple[str, int], int] = {}
    for event, seconds in steps:
        clock.now += seconds
        left_out = limiter.admit(event)
        if left_out is not None:
            seen[event] += 1 + left_out
            key = event, int(clock.now)
            in_second[key] = in_second.get(key, 0) + 1
    assert max(in_second.values(), default=0) <= LINES_A_SECOND
    clock.now += 1
    for event in seen:
        left_out = limiter.admit(event)
        assert left_out is not None
        assert seen[event] + left_out == sum(name == event for name, _ in steps)


def test_events_without_end_do_not_fill_the_memory() -> None:
    limiter = Limiter(Clock())
    for number in range(3 * MOST_EVENTS):
        assert limiter.admit(f"event {number}") == 0
    assert len(limiter._counts) == MOST_EVENTS


HASH = sha256(b"ann k\xc3\xa9").hexdigest()[:12]


@pytest.mark.parametrize(("how", "said"), [("hash", HASH), ("none", "-"), ("plain", "ann ké")])
def test_a_user_is_named_as_the_setting_says(how: UserIds, said: str) -> None:
    fields: dict[str, Any] = {"event": "it", "user": "ann ké", "count": 1, "streams": ["g"]}
    hide_users(fields, how)
    assert fields == {"event": "it", "user": said, "count": 1, "streams": ["g"]}


@pytest.mark.parametrize("buckets", [1, 64])
def test_keys_and_channels_name_nobody(buckets: int) -> None:
    keys = Keys("notify", buckets)
    stream = keys.user_stream("ann ké")
    for key in (keys.log(stream), keys.meta(stream), keys.live(stream), keys.ack(stream), keys.presence(stream)):
        fields: dict[str, Any] = {"key": key, "keys": [key, key], "error": f"WRONGTYPE of {key}!", "event": "it"}
        hide_users(fields, "hash")
        hashed = key.replace(stream.name, HASH)
        assert hashed != key
        assert fields == {"key": hashed, "keys": [hashed, hashed], "error": f"WRONGTYPE of {hashed}!", "event": "it"}
    for key in (*map(keys.life, keys.buckets), keys.last, keys.log(GLOBAL)):
        fields = {"key": key}
        hide_users(fields, "hash")
        assert fields == {"key": key}


def test_users_are_found_in_what_is_within_what() -> None:
    keys = Keys("notify", 1)
    stream = keys.user_stream("ann ké")
    log, live = keys.log(stream), keys.live(stream)
    fields: dict[str, Any] = {
        "lag": {log: [(live, {"user": "ann ké", "count": 1})], 7: None},
        "error": ValueError(log),
        "raw": log.encode(),
        "exact": [True, 1, 0.5, None],
    }
    hide_users(fields, "hash")
    hashed = {text: text.replace(stream.name, HASH) for text in (log, live)}
    assert fields == {
        "lag": {hashed[log]: [[hashed[live], {"user": HASH, "count": 1}]], "7": None},
        "error": f"ValueError('{hashed[log]}')",
        "raw": f"b'{hashed[log]}'",
        "exact": [True, 1, 0.5, None],
    }


def test_what_has_no_end_is_cut() -> None:
    without_end: dict[str, Any] = {"event": "it"}
    without_end["again"] = [without_end]
    fields: dict[str, Any] = {"event": "it", "value": without_end}
    hide_users(fields, "hash")
    assert len(json.dumps(fields)) < 1_000


@given(st.text(max_size=128))
def test_any_user_id_is_hidden(user_id: str) -> None:
    assert len(hidden(user_id, "hash")) == 12
    assert hidden(user_id, "none") == "-"
    assert hidden(user_id, "plain") == user_id
