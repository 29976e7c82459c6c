"""One clock for every connection: pings, answers awaited, handshakes that take too long.

A ring of sets, a second each. Whoever is on it has one place, and is told when its time comes; no
timer for each. An entry's time is exact to a second, never early.
"""

from typing import Final, Protocol

RING_SECONDS: Final = 64


class Timed(Protocol):
    """Something with a place on the wheel. `place` belongs to the wheel; it starts as -1."""

    place: int

    def due(self) -> None:
        """The time set last has come. Must not raise."""


class Wheel:
    """The ring. `second` counts ticks and serves as the replica's coarse clock."""

    def __init__(self) -> None:
        self.second = 0
        self._ring: list[set[Timed]] = [set() for _ in range(RING_SECONDS)]

    def set(self, timed: Timed, seconds: int) -> None:
        """Call `timed.due()` in `seconds` (1 to 62), instead of at any time set before."""
        assert 0 < seconds < RING_SECONDS - 1
        self.cancel(timed)
        timed.place = (self.second + seconds + 1) % RING_SECONDS
        self._ring[timed.place].add(timed)

    def cancel(self, timed: Timed) -> None:
        """Forget `timed`, whether it has a time or not."""
        if timed.place >= 0:
            self._ring[timed.place].discard(timed)
            timed.place = -1

    def tick(self) -> None:
        """A second has passed: tell those whose time has come."""
        self.second += 1
        place = self.second % RING_SECONDS
        due, self._ring[place] = self._ring[place], set()
        for timed in due:
            # Another one's due() may have cancelled or moved it meanwhile.
            if timed.place == place:
                timed.place = -1
                timed.due()
