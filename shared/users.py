"""The one validator of user ids, for relay and gateway alike."""

import unicodedata

from shared.errors import InvalidUserId

MAX_USER_ID_CHARACTERS = 128


def validate_user_id(value: object) -> str:
    """Give the user id that `value` stands for.

    Takes a non-empty string of at most 128 characters without control characters and lone
    surrogates, or an integer (not a boolean), which is taken as its decimal text.

    Raises InvalidUserId with the reason.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        # Python refuses to print integers of thousands of digits; a bound first, cheap and exact.
        if value.bit_length() > 4 * MAX_USER_ID_CHARACTERS:
            raise InvalidUserId(f"longer than {MAX_USER_ID_CHARACTERS} characters")
        value = str(value)
    if not isinstance(value, str):
        raise InvalidUserId("neither a string nor an integer")
    if not value:
        raise InvalidUserId("empty")
    if len(value) > MAX_USER_ID_CHARACTERS:
        raise InvalidUserId(f"longer than {MAX_USER_ID_CHARACTERS} characters")
    # isprintable() is false for all that is refused here and for some that is fine (spaces other
    # than U+0020, unassigned characters), so the slow look is taken only when it says no.
    if not value.isprintable():
        for character in value:
            category = unicodedata.category(character)
            if category == "Cc":
                raise InvalidUserId("contains a control character")
            if category == "Cs":
                raise InvalidUserId("contains a lone surrogate")
    return value
