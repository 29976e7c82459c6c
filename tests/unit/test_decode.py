import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.decode import MAX_DEPTH, Decode, Event, Reason, Rejected, Skipped
from relay.routes import ROUTES

REGIME = ROUTES["regime-events"]
RISK = ROUTES["risk-events"]
MAX_BYTES = 65_536

decode = Decode(MAX_BYTES, {})


def rejected(value: bytes) -> Reason:
    decoded = decode(REGIME, value)
    assert isinstance(decoded, Rejected), decoded
    return decoded.reason


def accepted(value: bytes) -> bytes:
    decoded = decode(REGIME, value)
    assert isinstance(decoded, Event), decoded
    return decoded.data


def test_an_event_keeps_its_bytes() -> None:
    value = b'{ "new_regime" :"bull","confidence":0.850,\t"unknown":{"b":[1,2 ],"a":null},"x":"\\u00e9\xc3\xa9\\/" }'
    assert decode(REGIME, value) == Event(None, value)


def test_line_breaks_between_tokens_become_spaces() -> None:
    assert accepted(b'{\r\n"a":\n1\r}\n') == b'{  "a": 1 } '


def test_an_escaped_line_break_in_a_string_stays() -> None:
    assert accepted(b'{"a":"x\\r\\ny"}') == b'{"a":"x\\r\\ny"}'


@pytest.mark.parametrize(
    "number",
    [
        b"123456789012345678901234567890",
        b"-123456789012345678901234567890",
        b"9" * 300,
        b"1e308",
        b"1e-999",
        b"-0",
        b"-0.0e-1",
        b"1E+5",
    ],
)
def test_numbers_that_json_allows_pass_through(number: bytes) -> None:
    value = b'{"a":[%s]}' % number
    assert accepted(value) == value


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"1" + b"0" * 400 + b".0", b"9" * 5000])
@pytest.mark.parametrize("place", [b'{"a":%s}', b'{"a":{"b":[1,{"c":%s}]}}'])
def test_a_number_out_of_range_is_rejected_wherever_it_is(number: bytes, place: bytes) -> None:
    assert rejected(place % number) is Reason.NUMBER_OUT_OF_RANGE


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b"nope",
        b"{",
        b'{"a":1,}',
        b'{"a":1} x',
        b'{"a":01}',
        b'{"a":1.}',
        b'{"a":.5}',
        b'{"a":+1}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":[{"b":NaN}]}',
        b"{'a':1}",
        b"{a:1}",
        b'{"a":"x\ny"}',
        b'{"a":"\t"}',
        b'{"a":"\\x41"}',
        b'{"a":"\\u12"}',
        b'{"a":"\\u12g4"}',
        b'{"a" 1}',
        b'{"a":tru}',
        b'{"a":1}{"b":2}',
        b'{\x0c"a":1}',
        b'{"a":1}//',
        b'\xc2\xa0{"a":1}',
    ],
)
def test_what_is_not_json_is_rejected(value: bytes) -> None:
    assert rejected(value) is Reason.NOT_JSON


@pytest.mark.parametrize("value", [b"[]", b'[{"a":1}]', b'"text"', b"1", b"null", b"true"])
def test_json_that_is_no_object_is_rejected(value: bytes) -> None:
    assert rejected(value) is Reason.NOT_AN_OBJECT


@pytest.mark.parametrize(
    "value",
    [
        b'{"a":"\xff"}',
        b'{"a":"\xc0\x80"}',
        b'{"a":"\xf4\x90\x80\x80"}',
        b'{"a":"\xed\xa0\x80"}',  # a surrogate, encoded as if it were a character
        b'{"\xed\xa0\x80":1}',
        b'{"a":"caf\xe9"}',
        b'\xef\xbb\xbf{"a":1}',
        '{"a":1}'.encode("utf-16"),
        '{"a":1}'.encode("utf-16-le"),
        '{"a":1}'.encode("utf-16-be"),
        '{"a":1}'.encode("utf-32"),
        '{"a":1}'.encode("utf-32-le"),
    ],
)
def test_what_is_not_plain_utf_8_is_rejected(value: bytes) -> None:
    assert rejected(value) is Reason.NOT_UTF8


@pytest.mark.parametrize("surrogate", [b"\\ud800", b"\\uDFFF", b"\\ud800x", b"\\ud800\\u0041", b"\\udc00\\ud800"])
@pytest.mark.parametrize("place", [b'{"a":"%s"}', b'{"%s":1}', b'{"a":[{"b":"x%sy"}]}', b'{"a":{"%s":{}}}'])
def test_a_lone_surrogate_is_rejected_wherever_it_is(surrogate: bytes, place: bytes) -> None:
    assert rejected(place % surrogate) is Reason.LONE_SURROGATE


def test_a_surrogate_pair_is_a_character() -> None:
    value = b'{"a":"\\ud83d\\ude00","\\uD83D\\uDE00":1}'
    assert accepted(value) == value


def test_the_size_of_a_record_is_bounded_to_the_byte() -> None:
    value = b'{"a":"' + b"x" * (MAX_BYTES - 8) + b'"}'
    assert len(value) == MAX_BYTES
    assert accepted(value) == value
    assert rejected(value + b" ") is Reason.TOO_LARGE


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_the_depth_of_an_event_is_bounded_to_the_level(opening: bytes, closing: bytes) -> None:
    def nested(depth: int) -> bytes:
        return b'{"x":' + opening * (depth - 1) + b"1" + closing * (depth - 1) + b"}"

    assert accepted(nested(MAX_DEPTH)) == nested(MAX_DEPTH)
    assert rejected(nested(MAX_DEPTH + 1)) is Reason.TOO_DEEP
    assert rejected(nested(8000)) is Reason.TOO_DEEP


def test_many_brackets_beside_one_another_are_not_deep() -> None:
    value = b'{"a":[' + b",".join([b'{"b":"[[[[{{{{"}'] * 200) + b"]}"
    assert accepted(value) == value


def test_endless_opening_brackets_are_rejected() -> None:
    assert rejected(b"[" * MAX_BYTES) in (Reason.TOO_DEEP, Reason.NOT_JSON)


def test_a_tombstone_is_skipped() -> None:
    assert decode(RISK, None) == Skipped()


def test_an_event_of_the_topics_type_or_without_one_is_taken() -> None:
    for value in (b'{"event_type":"regime_change"}', b"{}"):
        assert accepted(value) == value


@pytest.mark.parametrize("type_", [b'"risk_alert"', b'""', b"null", b"1", b"[]"])
def test_an_event_of_another_type_is_skipped(type_: bytes) -> None:
    assert decode(REGIME, b'{"event_type":%s}' % type_) == Skipped()


def test_another_type_is_skipped_before_anybody_asks_for_its_user() -> None:
    assert decode(RISK, b'{"event_type":"audit"}') == Skipped()


@pytest.mark.parametrize(
    ("user_id", "expected"), [(b'"user-123"', "user-123"), (b"42", "42"), (b'"\\u00fc \xf0\x9f\x98\x80"', "ü 😀")]
)
def test_a_users_event_goes_to_its_user(user_id: bytes, expected: str) -> None:
    value = b'{"user_id":%s}' % user_id
    assert decode(RISK, value) == Event(expected, value)


@pytest.mark.parametrize(
    "value",
    [b"{}"]
    + [b'{"user_id":%s}' % v for v in (b"null", b'""', b"true", b"1.0", b"[]", b'"a\\u0000"', b'"%s"' % (b"x" * 129))],
)
def test_a_users_event_without_a_usable_user_is_rejected(value: bytes) -> None:
    assert decode(RISK, value) == Rejected(Reason.NO_USER_ID)


def test_a_broadcast_needs_no_user() -> None:
    assert decode(REGIME, b'{"user_id":null}') == Event(None, b'{"user_id":null}')


def test_dropped_fields_are_gone_and_the_others_keep_their_bytes() -> None:
    dropping = Decode(MAX_BYTES, {"regime_change": ("reasoning", "metadata")})
    value = b'{"a" : 1.50, "reasoning":"why", "b":{"metadata":[1, 2]},\n"metadata":{},"\\u00e9":"\\u00e9"}'
    decoded = dropping(REGIME, value)
    assert decoded == Event(None, '{"a":1.50,"b":{"metadata":[1, 2]},"é":"\\u00e9"}'.encode())


def test_fields_are_dropped_from_their_type_only_and_untouched_events_keep_their_bytes() -> None:
    dropping = Decode(MAX_BYTES, {"regime_change": ("reasoning",)})
    value = b'{ "user_id":"u", "reasoning":"why" }'
    assert dropping(RISK, value) == Event("u", value)
    assert dropping(REGIME, b'{ "a" : 1 }') == Event(None, b'{ "a" : 1 }')


def test_dropping_every_field_leaves_an_empty_object() -> None:
    assert Decode(MAX_BYTES, {"regime_change": ("a",)})(REGIME, b'{"a":1}') == Event(None, b"{}")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), _json), st.booleans())
def test_every_json_object_passes_with_its_bytes(fields: dict[str, Any], ascii_only: bool) -> None:
    fields.pop("event_type", None)
    value = json.dumps(fields, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    decoded = decode(REGIME, value)
    assert decoded == Event(None, value)


@given(st.binary(max_size=200) | st.text(alphabet='{}[]":,0123456789.eE+-\\udDcC8ntrufalsbN \n').map(str.encode))
def test_no_bytes_make_it_raise(value: bytes) -> None:
    for route in ROUTES.values():
        decoded = decode(route, value)
        if isinstance(decoded, Event):
            assert json.loads(decoded.data) == json.loads(value)
            json.dumps(json.loads(value), ensure_ascii=False, allow_nan=False).encode()


@given(st.binary(max_size=12), st.integers(0, 60))
def test_no_damage_to_an_event_makes_it_raise(damage: bytes, at: int) -> None:
    value = b'{"user_id":"user-123","message":"\\ud83d\\ude00 \xc3\xa9","qty":1.5e3,"x":[{}]}'
    damaged = value[:at] + damage + value[at + len(damage) :]
    for drop in ({}, {"risk_alert": ("message",)}):
        decoded = Decode(MAX_BYTES, drop)(RISK, damaged)
        if isinstance(decoded, Event):
            json.loads(decoded.data)
