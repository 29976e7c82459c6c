"""How much of something a client may have: so much at once, and so much a second after that. Pure."""


class Allowance:
    """A bucket of tokens. `burst` at first and at most; `per_second` come back."""

    __slots__ = ("_burst", "_left", "_per_second", "_second")

    def __init__(self, *, burst: int, per_second: int, second: int) -> None:
        self._burst = burst
        self._per_second = per_second
        self._left = burst
        self._second = second

    def take(self, count: int, second: int, *, paid: int = 0) -> bool:
        """Take `count`, also more than is left: what is owed has to come back first, a burst at most. So
        no `count` is too large to be ever had. False, and nothing taken, when nothing is left;
        what was `paid` for the same thing before counts as left. `second` is any clock that counts seconds."""
        passed, self._second = max(0, second - self._second), second
        self._left = min(self._burst, self._left + passed * self._per_second)
        if self._left + paid <= 0:
            return False
        self._left = max(self._left - count, -self._burst)
        return True
