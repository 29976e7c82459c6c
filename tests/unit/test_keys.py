"""Names in Redis."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.keys import GLOBAL, Keys, StreamName

user_ids = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=128)


def test_the_names_are_those_of_the_contract() -> None:
    keys = Keys()
    ann = keys.user_stream("ann")
    assert keys.life("g") == "notify:{g}:life"
    assert keys.log(GLOBAL) == "notify:{g}:log:global"
    assert keys.meta(ann) == "notify:{u0}:meta:ann"
    assert keys.live(ann) == "notify:{u0}:live:ann"
    assert keys.beat("u3") == "notify:{u3}:beat"
    assert (keys.last, keys.layout, keys.start) == ("notify:{g}:last", "notify:layout", "notify:start")


def test_all_names_begin_with_the_prefix() -> None:
    keys = Keys("other:app", 2)
    stream = keys.user_stream("ann")
    names = [keys.life("g"), keys.log(stream), keys.meta(stream), keys.live(stream), keys.beat("g")]
    assert all(name.startswith("other:app:") for name in [*names, keys.last, keys.layout, keys.start])


@pytest.mark.parametrize("buckets", [1, 2, 64, 16_384])
def test_a_users_bucket_is_the_crc_of_the_id_modulo_the_buckets(buckets: int) -> None:
    keys = Keys(user_buckets=buckets)
    for user_id in ("ann", "bob", "42", "😀"):
        stream = keys.user_stream(user_id)
        assert stream.bucket == f"u{zlib.crc32(user_id.encode()) % buckets}"
        assert stream.bucket in keys.buckets
        assert not stream.is_global


def test_buckets_are_all_there_the_global_one_first() -> None:
    assert Keys(user_buckets=3).buckets == ("g", "u0", "u1", "u2")


@pytest.mark.parametrize(
    ("user_id", "name"),
    [
        ("a b", "a%20b"),
        ("{g}", "%7Bg%7D"),
        ("a:b/c", "a%3Ab%2Fc"),
        ("é", "%C3%A9"),
        ("100%", "100%25"),
        ("a-b_c.~", "a-b_c.~"),
    ],
)
def test_user_ids_are_percent_encoded(user_id: str, name: str) -> None:
    assert Keys().user_stream(user_id).name == name


@given(user_ids)
def test_no_user_can_reach_another_hash_tag_or_break_a_name(user_id: str) -> None:
    keys = Keys(user_buckets=4)
    stream = keys.user_stream(user_id)
    for key in (keys.log(stream), keys.meta(stream), keys.live(stream)):
        assert key[key.index("{") + 1 : key.index("}")] == stream.bucket
        assert key.count("{") == key.count("}") == 1
        assert key.isascii()
        assert key.isprintable()
        assert " " not in key


@given(user_ids, user_ids)
def test_different_users_have_different_streams(one: str, other: str) -> None:
    keys = Keys()
    assert (keys.user_stream(one) == keys.user_stream(other)) == (one == other)


def test_a_user_called_global_is_not_everyone() -> None:
    stream = Keys().user_stream("global")
    assert stream != GLOBAL
    assert Keys().log(stream) != Keys().log(GLOBAL)


def test_a_stream_is_its_name() -> None:
    assert StreamName("u0", "ann") == Keys().user_stream("ann")
    assert len({StreamName("u0", "ann"), Keys().user_stream("ann")}) == 1
