"""Settings of a gateway replica, a class for each concern (DESIGN section 9)."""

import resource
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from shared.settings import Settings

FILE_RESERVE: Final = 200
"""Open files kept for everything that is not a client: links, listeners, logs."""


class ListenerSettings(Settings):
    """Where clients and operators connect."""

    ws_host: str = Field("0.0.0.0", description="address that clients connect to")  # noqa: S104
    ws_port: int = Field(8000, ge=0, le=65535, description="port that clients connect to")
    admin_host: str = Field("127.0.0.1", description="address of /metrics")
    admin_port: int = Field(8001, ge=0, le=65535, description="port of /metrics")


class AdmissionSettings(Settings):
    """Who may connect, and how many."""

    auth_mode: Literal["none"] | None = Field(
        None, description="none lets everybody in; unset lets in only what is local to this machine"
    )
    max_connections: int | None = Field(
        None, ge=1, description="clients at once; unset: 20000, or what the limit of open files allows"
    )
    head_seconds: int = Field(5, ge=1, le=60, description="for a new socket to send its request's head")
    max_head_bytes: int = Field(16_384, ge=1_024, le=65_536, description="size of a request's head")
    max_handshakes: int = Field(5_000, ge=1, description="handshakes in progress at once; above it 503")

    @model_validator(mode="after")
    def _fits_open_files(self) -> Self:
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if allowed == resource.RLIM_INFINITY:
            return self
        if allowed <= FILE_RESERVE:
            raise ValueError(f"the limit of open files is {allowed}; raise it (ulimit -n) above {FILE_RESERVE}")
        if self.max_connections is not None and self.max_connections + FILE_RESERVE > allowed:
            raise ValueError(
                f"MAX_CONNECTIONS={self.max_connections}: at most {allowed - FILE_RESERVE} with a limit of "
                f"{allowed} open files"
            )
        return self

    @property
    def connection_limit(self) -> int:
        """MAX_CONNECTIONS, or 20,000, or what the limit of open files, as it was raised, leaves."""
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if self.max_connections is not None:
            return self.max_connections
        return 20_000 if allowed == resource.RLIM_INFINITY else max(1, min(20_000, allowed - FILE_RESERVE))


class ConnectionSettings(Settings):
    """What one connection may take."""

    slow_client_bytes: int = Field(1_048_576, ge=65_536, description="held for a client that reads too slowly")
    max_buffered_bytes: int = Field(268_435_456, ge=1_048_576, description="held for all slow clients together")
    heartbeat_seconds: int = Field(15, ge=1, le=60, description="between heartbeats of notify.v1 and /events")
    ping_interval_seconds: int = Field(25, ge=1, le=60, description="between pings")
    ping_timeout_seconds: int = Field(10, ge=1, le=60, description="for a client to answer a ping")
    join_seconds: int = Field(5, ge=1, le=60, description="for a handshake's stream to be subscribed")
    max_replays: int = Field(64, ge=1, le=1_000, description="pages of the log for resuming clients read at once")
    max_connection_seconds: int = Field(
        0, ge=0, description="after that a client is sent elsewhere, so that new replicas get their share; 0: never"
    )
    max_client_message_bytes: int = Field(4_096, ge=125, le=1_048_576, description="size of a message from a client")
    client_frames_per_second: int = Field(
        20, ge=1, description="frames from a client, control frames included; five seconds' worth at once"
    )


class DrainSettings(Settings):
    """How a replica leaves."""

    drain_delay_seconds: int = Field(5, ge=0, description="after SIGTERM, while the load balancer learns of it")
    drain_seconds: int = Field(20, ge=0, description="over which the clients' slots to leave are spread")
