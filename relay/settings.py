"""The relay's own settings (DESIGN section 9)."""

import json
import ssl
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from relay.routes import ROUTES
from shared.errors import SettingsError
from shared.keys import GLOBAL_BUCKET
from shared.settings import CommaSeparated, Settings
from shared.tls import Names, client_context, load_identity


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


_OF_SASL: Final = ("redpanda_username", "redpanda_password")
_OF_TLS: Final = ("redpanda_ca_file", "redpanda_cert_file", "redpanda_key_file", "redpanda_key_password")
_OF_A_CERTIFICATE: Final = ("redpanda_key_file", "redpanda_key_password")


def _upper(value: Any) -> Any:
    return value.strip().upper() if isinstance(value, str) else value


class KafkaSettings(Settings):
    """Where the events come from, and how they are read."""

    redpanda_brokers: CommaSeparated = Field(
        ("redpanda:9092",), min_length=1, description="host:port of one or more brokers, separated by commas"
    )
    redpanda_security: Annotated[Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], BeforeValidator(_upper)] = (
        Field("PLAINTEXT", description="PLAINTEXT, SSL (TLS), SASL_PLAINTEXT, or SASL_SSL, as Kafka calls them")
    )
    redpanda_sasl_mechanism: Annotated[Literal["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"], BeforeValidator(_upper)] = (
        Field("SCRAM-SHA-256", description="with SASL: SCRAM-SHA-256, SCRAM-SHA-512 or PLAIN")
    )
    redpanda_username: str | None = Field(None, description="with SASL: who the relay is")
    redpanda_password: SecretStr | None = Field(None, description="with SASL: its password")
    redpanda_ca_file: str | None = Field(
        None, description="with TLS: the brokers' authority, PEM; unset: those that the system trusts"
    )
    redpanda_cert_file: str | None = Field(
        None, description="with TLS, where brokers ask for one: the relay's certificate, PEM"
    )
    redpanda_key_file: str | None = Field(
        None, description="that certificate's key, PEM; unset: it is in REDPANDA_CERT_FILE"
    )
    redpanda_key_password: SecretStr | None = Field(None, description="what that key is encrypted with, if it is")
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

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        def first(names: Iterable[str], *, is_set: bool) -> str | None:
            return next((name.upper() for name in names if (getattr(self, name) is not None) is is_set), None)

        if self.is_sasl and (missing := first(_OF_SASL, is_set=False)):
            raise ValueError(f"{missing}: REDPANDA_SECURITY={self.redpanda_security} needs it")
        for goes, names, owner in (
            (self.is_sasl, _OF_SASL, "REDPANDA_SECURITY=SASL_SSL or SASL_PLAINTEXT"),
            (self.is_tls, _OF_TLS, "REDPANDA_SECURITY=SASL_SSL or SSL"),
            (self.redpanda_cert_file is not None, _OF_A_CERTIFICATE, "REDPANDA_CERT_FILE"),
        ):
            if not goes and (unused := first(names, is_set=True)):
                raise ValueError(f"{unused}: goes with {owner} only")
        try:
            _ = self.tls
        except SettingsError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def is_sasl(self) -> bool:
        """Whether the relay says who it is, with name and password."""
        return self.redpanda_security.startswith("SASL_")

    @property
    def is_tls(self) -> bool:
        return self.redpanda_security.endswith("SSL")

    @cached_property
    def tls(self) -> ssl.SSLContext | None:
        """What brokers are connected to with; None without TLS. Its files are read once."""
        if not self.is_tls:
            return None
        context = client_context(self.redpanda_ca_file, "REDPANDA_CA_FILE")
        if self.redpanda_cert_file is not None:
            names = Names("REDPANDA_CERT_FILE", "REDPANDA_KEY_FILE", "REDPANDA_KEY_PASSWORD")
            password = self.redpanda_key_password.get_secret_value() if self.redpanda_key_password else None
            load_identity(context, self.redpanda_cert_file, self.redpanda_key_file, password, names)
        return context


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


class TracingSettings(Settings):
    """Whether traces that producers began go on here. OpenTelemetry reads the other OTEL_ variables by itself, from
    the environment only."""

    otel_exporter_otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^\s?#]+$",
        description="where spans go, OTLP over HTTP, like http://collector:4318; unset: no tracing",
    )
    otel_service_name: str | None = Field(None, description="the relay's name in traces; unset: SERVICE_NAME-relay")


class RelaySettings(Settings):
    """Where the relay answers, and how it ends."""

    relay_http_host: str = Field("0.0.0.0", description="address of /health, /livez, /readyz and /metrics")  # noqa: S104
    relay_http_port: int = Field(9100, ge=0, le=65_535, description="port of the same; 0 takes a free one")
    relay_stop_seconds: float = Field(
        5.0, gt=0, le=300, description="how long the batch under way may take to finish when the relay is told to end"
    )
