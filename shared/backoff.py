"""How long to wait before trying again."""

import random


class Backoff:
    """Full jitter: a random time up to a ceiling that doubles with each failure.

    `first_seconds` is the first ceiling, `most_seconds` the last.
    """

    def __init__(self, first_seconds: float = 0.1, most_seconds: float = 5.0) -> None:
        self._first_seconds = first_seconds
        self._most_seconds = most_seconds
        self._ceiling_seconds = first_seconds

    def next_seconds(self) -> float:
        """The time to wait after one more failure, in hundredths of a second."""
        seconds = random.uniform(self._ceiling_seconds / 4, self._ceiling_seconds)  # noqa: S311
        self._ceiling_seconds = min(self._most_seconds, 2 * self._ceiling_seconds)
        return round(seconds, 2)

    def reset(self) -> None:
        """It worked: begin anew."""
        self._ceiling_seconds = self._first_seconds
