"""The whole deployment as the console sees it: relays, Redis, replicas. Pure."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.deliveries import AGES_MS
from shared.message import BROADCAST_TOPICS, TYPE_OF_TOPIC
from shared.statuses import GATEWAY, RELAY, Told


@dataclass(frozen=True)
class RedisLook:
    """What became of the last look at Redis."""

    address: str
    ms: float | None = None
    """That it took; None when it failed."""
    error: str | None = None


def fleet(told: Sequence[Told], redis: RedisLook) -> bytes:
    """One message of the feed, JSON."""
    return msgspec.json.encode(
        {
            "at_ms": time.time_ns() // 1_000_000,
            "redis": {"up": redis.error is None, "ms": redis.ms, "error": redis.error, "address": redis.address},
            "topics": [
                {"topic": topic, "type": type_, "audience": "everyone" if topic in BROADCAST_TOPICS else "user"}
                for topic, type_ in TYPE_OF_TOPIC.items()
            ],
            "relays": _of_kind(told, RELAY),
            "replicas": _of_kind(told, GATEWAY),
            "latency_bounds_ms": AGES_MS,
        }
    )


def _of_kind(told: Sequence[Told], kind: str) -> list[dict[str, Any]]:
    return [
        {"name": one.process, "seen_ms_ago": one.seen_ms_ago, **one.status}
        for one in told
        if one.status.get("kind") == kind
    ]
