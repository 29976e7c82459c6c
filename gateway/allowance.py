"""How much of something a client may have: so much at once, and so much a second after that. Pure."""


class Allowance:
    """A bucket of tokens. `burst` at first and at most; `per_second` come back."""

    __slots__ = ("_burst", "_left", "_per_second", "_second")

    def __init__(self, *, burst: int, per_second: int, second: int) -> None:
        self._burst = burst
        self._per_second = per_second
        self._left = burst
        self._second = second

    def take(self, count: int, second: int) -> bool:
        """Take `count`, at most what a burst is. False, and nothing taken, when they are not there.
        `second` is any clock that counts seconds."""
        passed, self._second = max(0, second - self._second), second
        self._left = min(self._burst, self._left + passed * self._per_second)
        count = min(count, self._burst)
        if count > self._left:
            return False
        self._left -= count
        return True
