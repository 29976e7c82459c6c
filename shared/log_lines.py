"""What of the log's lines is let through, and what they say of users. Pure, but for the clock that is given."""

import re
from collections.abc import Callable, MutableMapping
from hashlib import sha256
from typing import Any, Final, Literal
from urllib.parse import unquote

UserIds = Literal["hash", "plain", "none"]

LINES_A_SECOND: Final = 10
"""Of one event. Whatever a client, a producer or an outage does, it fills the log no faster."""

MOST_EVENTS: Final = 1_000
"""That are counted at once: far more than the code has. Beyond them the one that was first counted is forgotten."""

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
    """Have `fields` of a line name users as LOG_USER_IDS says, also where a key or channel of Redis does."""
    if how == "plain":
        return

    def in_text(text: str) -> str:
        return _OF_A_USER.sub(lambda match: match[1] + hidden(unquote(match[2]), how), text)

    for name, value in fields.items():
        if name in _USER_FIELDS:
            fields[name] = hidden(str(value), how)
        elif isinstance(value, str):
            fields[name] = in_text(value)
        elif isinstance(value, list | tuple):
            fields[name] = [in_text(item) if isinstance(item, str) else item for item in value]


def hidden(user_id: str, how: UserIds) -> str:
    """A user id as lines have it. A hash is the first 12 digits of its SHA-256: the same everywhere, and found by
    whoever knows the id."""
    if how == "plain":
        return user_id
    return "-" if how == "none" else sha256(user_id.encode(errors="surrogatepass")).hexdigest()[:12]
