"""What of the log's lines is let through, and what they say of users. Pure, but for the clock that is given."""

import re
from collections.abc import Callable, Mapping, MutableMapping
from hashlib import sha256
from typing import Any, Final, Literal
from urllib.parse import unquote

UserIds = Literal["hash", "plain", "none"]

LINES_A_SECOND: Final = 10
"""Of one event. Whatever a client, a producer or an outage does, it fills the log no faster."""

MOST_EVENTS: Final = 1_000
"""That are counted at once: far more than the code has. Beyond them the one that was first counted is forgotten."""

DEEPEST: Final = 4
"""How many mappings and lists in one another a line shows."""

_OF_A_USER: Final = re.compile(r"(\{u[0-9]+\}:[a-z]+:)([0-9A-Za-z_.~%-]+)")
"""A key or channel of a user (shared/keys.py): its last word is the user id, percent-encoded."""

_USER_FIELDS: Final = ("user", "user_id")


class Limiter:
    """Counts lines by event, in seconds of the clock that is given."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # Of each event: the second, its lines in it, and those left out since one was let through.
        self._counts: dict[str, tuple[int, int, int]] = {}

    def admit(self, event: str) -> int | None:
        """How many of this event were left out since the last that was let through; None: leave this one out."""
        second = int(self._clock())
        last, lines, left_out = self._counts.get(event, (second, 0, 0))
        if last != second:
            lines = 0
        if lines >= LINES_A_SECOND:
            self._counts[event] = second, lines, left_out + 1
            return None
        if event not in self._counts and len(self._counts) >= MOST_EVENTS:
            del self._counts[next(iter(self._counts))]
        self._counts[event] = second, lines + 1, 0
        return left_out


def hide_users(fields: MutableMapping[str, Any], how: UserIds) -> None:
    """Have `fields` of a line name users as LOG_USER_IDS says: a user's field, and keys and channels of Redis in texts.

    Looks into mappings and lists as well, DEEPEST of them in one another; what is not JSON becomes its `repr`. An id
    in a text that says nothing of what it is, as a library may have it, cannot be found.
    """
    if how == "plain":
        return

    def in_text(text: str) -> str:
        return _OF_A_USER.sub(lambda match: match[1] + hidden(unquote(match[2]), how), text)

    def in_field(name: object, value: object, depth: int) -> object:
        return hidden(str(value), how) if name in _USER_FIELDS else in_value(value, depth)

    def in_value(value: object, depth: int) -> object:
        if value is None or isinstance(value, int | float):
            return value
        if isinstance(value, str):
            return in_text(value)
        if not isinstance(value, Mapping | list | tuple):
            return in_text(repr(value))
        if depth == DEEPEST:
            return "..."
        if isinstance(value, Mapping):
            return {in_text(str(name)): in_field(name, item, depth + 1) for name, item in value.items()}
        return [in_value(item, depth + 1) for item in value]

    for name, value in fields.items():
        fields[name] = in_field(name, value, 0)


def hidden(user_id: str, how: UserIds) -> str:
    """A user id as lines have it. A hash is the first 12 digits of its SHA-256: the same everywhere, and found by
    whoever knows the id."""
    if how == "plain":
        return user_id
    return "-" if how == "none" else sha256(user_id.encode(errors="surrogatepass")).hexdigest()[:12]
