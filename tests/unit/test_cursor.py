"""How far a client got, as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cursor import START, Cursor, Position, parse_cursor

EPOCHS = st.from_regex(r"[0-9a-z]{1,32}-?", fullmatch=True).map(str.encode)
POSITIONS = st.builds(Position, EPOCHS, st.integers(0, 10**15 - 1))


@given(st.builds(Cursor, POSITIONS, POSITIONS))
def test_a_cursor_is_read_as_it_was_written(cursor: Cursor) -> None:
    assert parse_cursor(cursor.encode().decode()) == cursor


def test_a_client_that_never_got_anything_stands_at_nothing() -> None:
    assert Cursor(START, START).encode() == b"0.0.0.0"


@pytest.mark.parametrize(
    "text",
    ["", "a.1", "a.1.b", "a.1.b.", "a.1.b.x", "a.-1.b.2", "A.1.b.2", "a.1.b.2.", "a.1.b.2 ", "a.1.b.2\n", ".1.b.2",
     "a.1.b." + "9" * 16, "a" * 33 + ".1.b.2", "a.1--.b.2", "a.\u0661.b.2", "a.1.b.2\x00", "ack"],
)  # fmt: skip
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no cursor"):
        parse_cursor(text)
