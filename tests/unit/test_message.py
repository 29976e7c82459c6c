"""A message as it lies in Redis."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.message import EVENT_TYPES, Message, encode_body, parse_message


def test_a_message_is_a_line_of_words_and_the_events_bytes() -> None:
    body = encode_body("risk-events/2", 1841, 1_700_000_000_000, "risk_alert", b'{"a":1}')
    assert body == b'risk-events/2 1841 1700000000000 risk_alert\n{"a":1}'
    message = parse_message(b"e1 7 " + body)
    assert message == Message(b"e1", 7, b"risk-events/2", 1841, 1_700_000_000_000, b"risk_alert", b'{"a":1}')
    assert message.id == "risk-events/2/1841"


def test_the_id_of_a_topic_made_anew_has_its_generation() -> None:
    assert parse_message(b"e 1 " + encode_body("risk-events~2/0", 3, 0, "risk_alert", b"{}")).id == "risk-events~2/0/3"


@given(
    st.integers(1, 2**53),
    st.integers(0, 2**63 - 1),
    st.integers(-1, 2**53),
    st.sampled_from(sorted(EVENT_TYPES)),
    st.binary(max_size=200),
)
def test_what_was_written_is_read(seq: int, offset: int, ts_ms: int, type_: bytes, data: bytes) -> None:
    payload = b"abc123 %d " % seq + encode_body("market-alerts/11", offset, ts_ms, type_.decode(), data)
    assert parse_message(payload) == Message(b"abc123", seq, b"market-alerts/11", offset, ts_ms, type_, data)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\n",
        b"{}",
        b"e 1 t/0 2 3 risk_alert",
        b"e 1 t/0 2 3\n{}",
        b"e 1 t/0 2 3 risk_alert more\n{}",
        b"e x t/0 2 3 risk_alert\n{}",
        b"e 1 t/0 x 3 risk_alert\n{}",
        b"e 1 t/0 2 x risk_alert\n{}",
        b"e  1 t/0 2 3\n{}",
        b"\xff\xfe\n{}",
    ],
)
def test_what_is_not_ours_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"no head line|unpack|invalid literal"):
        parse_message(payload)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_message_or_a_value_error(payload: bytes) -> None:
    try:
        parse_message(payload)
    except ValueError:
        return
