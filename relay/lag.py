"""How old what is not published yet has become. Pure."""

from collections.abc import Iterable, Mapping

from relay.routes import Partition


class Lag:
    """Since when each partition waits: the timestamp of its oldest record that is not in Redis.

    While records of it are under way that is the first one's. Behind what was published it is not older than the
    last of these, which counts for it until it is read. Of a partition that is found to be behind with nothing
    known it is the time of that. Times are in milliseconds, those of records by the clock of whoever wrote them.
    """

    def __init__(self) -> None:
        self._since_ms: dict[Partition, int] = {}

    def waits(self, since_ms: Mapping[Partition, int]) -> None:
        """No record of these partitions that is not published is older than this. Negative: not known."""
        self._since_ms.update((partition, at_ms) for partition, at_ms in since_ms.items() if at_ms >= 0)

    def keep(self, partitions: Iterable[Partition]) -> None:
        """The others are not read here any more."""
        kept = set(partitions)
        self._since_ms = {partition: at_ms for partition, at_ms in self._since_ms.items() if partition in kept}

    def seconds(self, now_ms: int, partition: Partition, *, is_behind: bool | None) -> float:
        """How long the partition waits; 0 when it does not. None: whether it does is not known at present."""
        if is_behind is False or (is_behind is None and partition not in self._since_ms):
            self._since_ms.pop(partition, None)
            return 0.0
        return max(0, now_ms - self._since_ms.setdefault(partition, now_ms)) / 1_000
