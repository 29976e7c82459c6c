"""What a replica says of itself (shared/statuses.py): the figures of /metrics, and its state. Pure."""

from enum import Enum

from shared.metrics import Cumulated, GatewayCounts
from shared.statuses import GATEWAY, Status


class State(Enum):
    """What a replica is at present."""

    STARTING = "starting"
    READY = "ready"
    DEAF = "deaf"
    """Redis counts the relay's beat, and it is not heard here."""
    AWAY = "away"
    """Its subscription is down: Redis is away, for it at least."""
    DRAINING = "draining"


def replica_status(counts: GatewayCounts, state: State, reason: str | None, port: int, started_ms: int) -> Status:
    """`port` is where clients connect, `started_ms` when this process began: all that is counted is since then."""
    return {
        "kind": GATEWAY,
        "state": state.value,
        "reason": reason,
        "address": str(port),
        "started_ms": started_ms,
        "connections": counts.connections,
        "users": counts.users,
        "streams": counts.streams,
        "buffered_bytes": counts.buffered_bytes,
        "replaying": counts.replaying,
        "deliveries": {type_.decode(): count for type_, count in counts.deliveries.items()},
        "latency": {type_.decode(): _classes(ages) for type_, ages in counts.latencies.items()},
        "closes": {str(int(code)): count for code, count in counts.closes.items() if count},
        "gaps": dict(counts.gaps),
        "replays": dict(counts.replays),
        "handshakes": {str(status): count for status, count in counts.handshakes.items()},
        "refusals": dict(counts.refusals),
    }


def _classes(ages: Cumulated) -> dict[str, object]:
    """A histogram whose classes are counted each for itself, so that what is zero stays short."""
    buckets, sum_seconds = ages
    upto = [count for _, count in buckets]
    each = [count - before for count, before in zip(upto, [0, *upto], strict=False)]
    return {"counts": each, "sum_ms": round(1_000 * sum_seconds)}
