"""What was handed to connections: how many messages, and how old they were. No I/O but the time of day."""

import time
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from gateway.group import Due
from shared.metrics import Cumulated

AGES_MS: Final = (1, 2, 5, 10, 20, 30, 50, 100, 200, 500, 1_000, 5_000, 30_000)
"""Upper bounds of the classes that ages are counted in; the last class has none."""


class Ages:
    """How many messages were how old."""

    __slots__ = ("counts", "sum_ms")

    def __init__(self) -> None:
        self.counts = [0] * (len(AGES_MS) + 1)
        """By class, not cumulative."""
        self.sum_ms = 0

    def cumulated(self) -> Cumulated:
        """As Prometheus has it."""
        bounds = [*(str(bound_ms / 1_000) for bound_ms in AGES_MS), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True)), self.sum_ms / 1_000


class OfType:
    """What was handed on of one type."""

    __slots__ = ("ages", "count", "frame_bytes")

    def __init__(self) -> None:
        self.count = 0
        self.frame_bytes = 0
        """Of all frames; an event stream's id lines are not in it."""
        self.ages = Ages()
        """Of those that came live: from the record's timestamp, by whoever's clock that is, to the write to a
        socket. One that is later than now is 0 old."""


class Deliveries:
    """Messages handed to connections, by type."""

    def __init__(self) -> None:
        self.of_types: dict[bytes, OfType] = {}

    @property
    def counts(self) -> dict[bytes, int]:
        """How many they are."""
        return {type_: delivered.count for type_, delivered in self.of_types.items()}

    def live(self, due: Sequence[Due], receivers: int) -> None:
        """So many connections were just written this."""
        if not receivers:
            return
        now_ms = time.time_ns() // 1_000_000
        for one in due:
            type_ = one.type
            if type_ is None:
                continue
            delivered = self.of_types.get(type_) or self._of_new(type_)
            delivered.count += receivers
            delivered.frame_bytes += receivers * len(one.frame)
            ages = delivered.ages
            age_ms = max(0, now_ms - one.ts_ms)
            ages.counts[bisect_left(AGES_MS, age_ms)] += receivers
            ages.sum_ms += receivers * age_ms

    def replayed(self, due: Sequence[Due]) -> None:
        """One connection was just written this from the log: as old as its client was away."""
        for one in due:
            if one.type is not None:
                delivered = self.of_types.get(one.type) or self._of_new(one.type)
                delivered.count += 1
                delivered.frame_bytes += len(one.frame)

    def _of_new(self, type_: bytes) -> OfType:
        delivered = self.of_types[type_] = OfType()
        return delivered
