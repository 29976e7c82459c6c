"""The relay's own settings (DESIGN section 9)."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import NoDecode

from relay.routes import ROUTES
from shared.keys import GLOBAL_BUCKET
from shared.settings import CommaSeparated, Settings


def _split_drop_fields(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("{"):
        return json.loads(text)
    drop: dict[str, tuple[str, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        type_, colon, names = part.partition(":")
        fields = tuple(name.strip() for name in names.split(",") if name.strip())
        if not colon or not fields:
            raise ValueError("takes type:field,field;type:field")
        drop[type_.strip()] = drop.get(type_.strip(), ()) + fields
    return drop


DropFields = Annotated[Mapping[str, tuple[str, ...]], NoDecode, BeforeValidator(_split_drop_fields)]
"""`type:field,field;type:field`, or a JSON object of lists."""


class KafkaSettings(Settings):
    """Where the events come from, and how they are read."""

    redpanda_brokers: CommaSeparated = Field(
        ("redpanda:9092",), min_length=1, description="host:port of one or more brokers, separated by commas"
    )
    redpanda_group_id: str = Field(
        "notification-relay", min_length=1, description="consumer group; relays of one group share the partitions"
    )
    redpanda_timeout_seconds: float = Field(
        10.0, ge=1, le=120, description="how long one request to Redpanda, or connecting, may take"
    )
    redpanda_session_seconds: float = Field(
        10.0, ge=6, le=300, description="after how long without a sign of life another relay takes over"
    )
    redpanda_fetch_wait_ms: int = Field(
        500, ge=1, le=10_000, description="how long a broker holds a fetch while it has nothing; events end the wait"
    )
    start_from: Literal["latest", "earliest"] = Field(
        "latest", description="where the very first start begins: latest (new events only) or earliest"
    )
    batch_events: int = Field(1000, ge=1, le=10_000, description="records read and published at once, at most")

    @field_validator("redpanda_brokers")
    @classmethod
    def _hosts_and_ports(cls, brokers: tuple[str, ...]) -> tuple[str, ...]:
        for broker in brokers:
            host, _, port = broker.rpartition(":")
            if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ValueError("takes host:port, separated by commas")
        return brokers


class EventSettings(Settings):
    """What an event may be, and what of it clients see."""

    max_event_bytes: int = Field(
        65_536, ge=256, le=1_048_576, description="a larger record goes to the dead-letter topic"
    )
    drop_fields: DropFields = Field(
        {},
        description="top-level fields kept from clients, type:field,field;type:field: regime_change:reasoning,metadata",
    )

    @field_validator("drop_fields")
    @classmethod
    def _known_types(cls, drop: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
        known = [route.type for route in ROUTES.values()]
        if unknown := sorted(set(drop) - set(known)):
            raise ValueError(f"{unknown[0]!r} is not a type; takes {', '.join(known)}")
        return drop


class HistorySettings(Settings):
    """How much a stream's log keeps, and how much is rebuilt after a total loss."""

    history_messages_global: int = Field(
        10_000, ge=1, le=10_000_000, description="messages that the global stream's log keeps, about"
    )
    history_messages_user: int = Field(
        500, ge=1, le=1_000_000, description="messages that each user's log keeps, about"
    )
    history_seconds: int = Field(
        86_400, ge=60, le=31_536_000, description="a log expires this long after its last message"
    )
    rebuild_seconds: int = Field(
        300, ge=0, le=31_536_000, description="how far back logs are rebuilt after Redis lost a bucket whole"
    )

    def messages_of(self, bucket: str) -> int:
        """How many messages a log in `bucket` keeps, about."""
        return self.history_messages_global if bucket == GLOBAL_BUCKET else self.history_messages_user


class RelaySettings(Settings):
    """Where the relay answers, and how it ends."""

    relay_http_host: str = Field("0.0.0.0", description="address of /health, /livez, /readyz and /metrics")  # noqa: S104
    relay_http_port: int = Field(9100, ge=0, le=65_535, description="port of the same; 0 takes a free one")
    relay_stop_seconds: float = Field(
        5.0, gt=0, le=300, description="how long the batch under way may take to finish when the relay is told to end"
    )
