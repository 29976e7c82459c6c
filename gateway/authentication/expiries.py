"""Whose token ends when. Pure."""

from typing import Protocol


class Expiring(Protocol):
    """Something with a token that ends. `expires_at` belongs to the expiries; it starts as None."""

    expires_at: int | None

    def expired(self) -> None:
        """The time set last has come. Must not raise."""


class Expiries:
    """Sets of those whose time comes in the same second. Times are Unix seconds."""

    def __init__(self, now: float) -> None:
        self._at: dict[int, set[Expiring]] = {}
        self._told_until = int(now)

    def __len__(self) -> int:
        return sum(map(len, self._at.values()))

    def set(self, expiring: Expiring, at: float) -> None:
        """Call `expiring.expired()` at `at`, or with the next tick if that is over, instead of at any
        time set before."""
        self.cancel(expiring)
        second = max(int(at), self._told_until) + 1
        expiring.expires_at = second
        self._at.setdefault(second, set()).add(expiring)

    def cancel(self, expiring: Expiring) -> None:
        """Forget `expiring`, whether it has a time or not."""
        second, expiring.expires_at = expiring.expires_at, None
        if second is not None and (others := self._at.get(second)) is not None:
            others.discard(expiring)
            if not others:
                del self._at[second]

    def tick(self, now: float) -> None:
        """Tell those whose time has come. A clock that was set back lets nobody stay: what was told
        is told."""
        until = int(now)
        if until <= self._told_until:
            return
        # Not second by second: a clock may be set forward by years.
        seconds = range(self._told_until + 1, until + 1)
        over = [second for second in seconds if second in self._at] if len(seconds) < 60 else None
        self._told_until = until
        for second in over if over is not None else sorted(second for second in self._at if second <= until):
            for expiring in list(self._at.pop(second, ())):
                if expiring.expires_at == second:  # not cancelled or moved by another one's end
                    expiring.expires_at = None
                    expiring.expired()
