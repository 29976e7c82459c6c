"""Whether reading goes on as it could. Pure: it is told the time, and what was seen.

A relay must never be alive and deaf. What does not mend by itself is left to its supervisor.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from relay.routes import Partition, partition_name

DEAF_SECONDS: Final = 30.0
"""For how long nothing is read although some partition has more, while everything else works."""

LEFT_OUT_SECONDS: Final = 300.0
"""For how long one partition is not read although it has more, while others are: a broker answers with
records of some of those that it was asked for, in any order."""

STRANDED_SECONDS: Final = 300.0
"""For how long the relay is without partitions of its own to read, while Redpanda and Redis answer. A
group may take that long to form when another member does not answer it."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at one moment. `positions` are what is read next, None while the assignment or
    its starts are not known, or nothing is asked to be read; `ends` as Redpanda said just now; `fetched`
    those whose records are here already and wait for their turn."""

    positions: Mapping[Partition, int] | None
    ends: Mapping[Partition, int]
    fetched: Collection[Partition] = ()


class Watchdog:
    """Compares one look with those before it."""

    def __init__(self) -> None:
        self._stranded_since: float | None = None
        self._positions: Mapping[Partition, int] = {}
        self._read_at = 0.0
        # Since when each partition that has more is left out.
        self._waiting: dict[Partition, float] = {}

    def forget(self) -> None:
        """Redpanda or Redis was away: nothing could have been read."""
        self._stranded_since = None
        self._positions = {}

    def look(self, now: float, look: Look) -> str | None:
        """Take a look; gives why the relay is to end, None when all is well."""
        if look.positions is None:
            self._positions = {}
            if self._stranded_since is None:
                self._stranded_since = now
            if now - self._stranded_since < STRANDED_SECONDS:
                return None
            return f"for {STRANDED_SECONDS:g} s this relay reads nothing, although Redpanda and Redis answer"
        self._stranded_since = None
        moved = {partition for partition, at in look.positions.items() if self._positions.get(partition) != at}
        self._positions = look.positions
        waiting = {}
        for partition, position in look.positions.items():
            if look.ends.get(partition, position) > position:
                # What was fetched of one partition is read before the next one's: that may take long.
                is_well = partition in moved or (moved and partition in look.fetched)
                waiting[partition] = now if is_well else self._waiting.get(partition, now)
        self._waiting = waiting
        if moved or not waiting:
            self._read_at = now
        limit_seconds = DEAF_SECONDS if now - self._read_at >= DEAF_SECONDS else LEFT_OUT_SECONDS
        for partition, since in sorted(waiting.items()):
            if now - since >= limit_seconds:
                position, end = look.positions[partition], look.ends[partition]
                return (
                    f"{partition_name(partition)} has records up to offset {end}, and for {limit_seconds:g} s "
                    f"nothing was read from {position} on, although Redpanda answers"
                )
        return None
