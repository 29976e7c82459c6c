"""What was handed to connections: how many messages, and how old they were. No I/O but the time of day."""

import time
from bisect import bisect_left
from collections import Counter
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


class Deliveries:
    """Messages handed to connections, by type."""

    def __init__(self) -> None:
        self.counts: Counter[bytes] = Counter()
        """All of them."""
        self.ages: dict[bytes, Ages] = {}
        """Of those that came live: from the record's timestamp, by whoever's clock that is, to the write to a
        socket. One that is later than now is 0 old."""

    def live(self, due: Sequence[Due], receivers: int) -> None:
        """So many connections were just written this."""
        if not receivers:
            return
        now_ms = time.time_ns() // 1_000_000
        for _, type_, _, ts_ms, _ in due:
            if type_ is None:
                continue
            self.counts[type_] += receivers
            ages = self.ages.get(type_)
            if ages is None:
                ages = self.ages[type_] = Ages()
            age_ms = now_ms - ts_ms if now_ms > ts_ms else 0
            ages.counts[bisect_left(AGES_MS, age_ms)] += receivers
            ages.sum_ms += receivers * age_ms

    def replayed(self, due: Sequence[Due]) -> None:
        """One connection was just written this from the log: as old as its client was away."""
        for one in due:
            if one.type is not None:
                self.counts[one.type] += 1
