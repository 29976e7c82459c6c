"""The one validator of user ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidUserId
from shared.users import MAX_USER_ID_CHARACTERS, validate_user_id


@pytest.mark.parametrize(
    ("value", "user_id"),
    [
        ("ann", "ann"),
        ("  ", "  "),
        ("0", "0"),
        ("naïve", "naïve"),
        ("用户", "用户"),
        ("😀" * 128, "😀" * 128),
        ("e\u0301", "e\u0301"),
        ("a\u00a0b", "a\u00a0b"),
        ("\u200b", "\u200b"),
        ("\U000e0001", "\U000e0001"),
        ("\u2028", "\u2028"),
        ("x" * 128, "x" * 128),
        (0, "0"),
        (42, "42"),
        (-7, "-7"),
        (10**127, "1" + "0" * 127),
    ],
)
def test_a_user_id_is_a_string_or_the_text_of_an_integer(value: object, user_id: str) -> None:
    assert validate_user_id(value) == user_id


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "empty"),
        ("x" * 129, "longer than 128 characters"),
        (10**128, "longer than 128 characters"),
        (-(10**127), "longer than 128 characters"),
        ("a\x00", "contains a control character"),
        ("\r", "contains a control character"),
        ("a\nb", "contains a control character"),
        ("\t", "contains a control character"),
        ("\x1b", "contains a control character"),
        ("\x7f", "contains a control character"),
        ("\x85", "contains a control character"),
        ("\ud800", "contains a lone surrogate"),
        ("a\udfff", "contains a lone surrogate"),
        (None, "neither a string nor an integer"),
        (True, "neither a string nor an integer"),
        (False, "neither a string nor an integer"),
        (1.0, "neither a string nor an integer"),
        (b"ann", "neither a string nor an integer"),
        (["ann"], "neither a string nor an integer"),
        ({}, "neither a string nor an integer"),
    ],
)
def test_anything_else_is_refused_with_the_reason(value: object, reason: str) -> None:
    with pytest.raises(InvalidUserId, match=reason):
        validate_user_id(value)


def test_an_integer_that_python_refuses_to_print_is_refused_by_us() -> None:
    with pytest.raises(InvalidUserId, match="longer than 128 characters"):
        validate_user_id(10**10_000)


@given(st.text(max_size=140))
def test_what_is_accepted_can_be_encoded_and_has_no_control_characters(value: str) -> None:
    try:
        user_id = validate_user_id(value)
    except InvalidUserId:
        return
    assert user_id == value
    assert 0 < len(user_id) <= MAX_USER_ID_CHARACTERS
    assert user_id.encode().decode() == user_id
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in user_id)
