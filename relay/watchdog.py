"""Whether reading goes on as it could. Pure: it is told the time, and what was seen.

A relay must never be alive and deaf. What does not mend by itself is left to its supervisor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from relay.routes import Partition, partition_name

DEAF_SECONDS: Final = 30.0
"""For how long nothing is read from a partition that has more, while everything else works."""

STRANDED_SECONDS: Final = 300.0
"""For how long the relay is without partitions of its own to read, while Redpanda and Redis answer. A
group may take that long to form when another member does not answer it."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at one moment. `positions` are what is read next, None while the assignment or
    its starts are not known, or nothing is asked to be read; `ends` as Redpanda said just now."""

    positions: Mapping[Partition, int] | None
    ends: Mapping[Partition, int]


class Watchdog:
    """Compares one look with those before it."""

    def __init__(self) -> None:
        self._stranded_since: float | None = None
        # Position of each partition that has more, and since when it is that.
        self._waiting: dict[Partition, tuple[int, float]] = {}

    def forget(self) -> None:
        """Redpanda or Redis was away: nothing could have been read."""
        self._stranded_since = None
        self._waiting.clear()

    def look(self, now: float, look: Look) -> str | None:
        """Take a look; gives why the relay is to end, None when all is well."""
        if look.positions is None:
            self._waiting.clear()
            if self._stranded_since is None:
                self._stranded_since = now
            if now - self._stranded_since < STRANDED_SECONDS:
                return None
            return f"for {STRANDED_SECONDS:g} s this relay reads nothing, although Redpanda and Redis answer"
        self._stranded_since = None
        waiting = {}
        for partition, position in look.positions.items():
            if look.ends.get(partition, position) > position:
                before = self._waiting.get(partition)
                waiting[partition] = before if before is not None and before[0] == position else (position, now)
        self._waiting = waiting
        for partition, (position, since) in sorted(waiting.items()):
            if now - since >= DEAF_SECONDS:
                return (
                    f"{partition_name(partition)} has records up to offset {look.ends[partition]}, and for "
                    f"{DEAF_SECONDS:g} s nothing was read from {position} on, although Redpanda answers"
                )
        return None
