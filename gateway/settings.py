"""Settings of a gateway replica, a class for each concern (DESIGN section 9)."""

import resource
import ssl
from functools import cached_property
from typing import Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from gateway.admission.forwarded import parse_networks
from gateway.admission.locality import is_loopback
from gateway.admission.origin import parse_origin
from gateway.admission.wishes import parse_types
from gateway.authentication.keyring import Keyring, keyring_of_public_key, keyring_of_secret
from gateway.authentication.token import TokenRules
from gateway.operators.guard import Guard
from gateway.share import NAMED
from shared.errors import SettingsError
from shared.settings import CommaSeparated, Settings
from shared.tls import Names, server_context

FILE_RESERVE: Final = 1_000
"""Open files kept for everything that is not a connection: whoever is told to come again (most of them, see
door.REFUSALS_RESERVE), HTTP requests, links, listeners, operators, logs."""

FEW_CONNECTIONS: Final = 2_000
"""So few are said at the start, when nobody asked for them."""


class ListenerSettings(Settings):
    """Where clients connect."""

    ws_host: str = Field("0.0.0.0", description="address that clients connect to")  # noqa: S104
    ws_port: int = Field(8000, ge=0, le=65535, description="port that clients connect to")
    tls_cert_file: str | None = Field(
        None, description="certificate for WS_PORT and those up to its authority, PEM; unset: no TLS"
    )
    tls_key_file: str | None = Field(None, description="its key, PEM; unset: it is in TLS_CERT_FILE")
    tls_key_password: SecretStr | None = Field(None, description="what that key is encrypted with, if it is")

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if self.tls_cert_file is None:
            for name in ("tls_key_file", "tls_key_password"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name.upper()}: goes with TLS_CERT_FILE only")
        try:
            _ = self.tls
        except SettingsError as error:
            raise ValueError(str(error)) from None
        return self

    @cached_property
    def tls(self) -> ssl.SSLContext | None:
        """What clients are served with; None without TLS. Its files are read once."""
        if self.tls_cert_file is None:
            return None
        password = self.tls_key_password.get_secret_value() if self.tls_key_password else None
        names = Names("TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_KEY_PASSWORD")
        return server_context(self.tls_cert_file, self.tls_key_file, password, names)


class OperatorSettings(Settings):
    """Where operators look, and what they may do."""

    admin_host: str = Field("127.0.0.1", description="address of /metrics, /console and what operators may do")
    admin_port: int = Field(8001, ge=0, le=65535, description="port of the same")
    admin_token: SecretStr | None = Field(
        None,
        min_length=32,
        description="what operators need to disconnect, revoke and drain: openssl rand -hex 32; unset: nobody may",
    )
    admin_open: bool = Field(
        False, description="whoever reaches ADMIN_PORT may do it without; for a demo, with a loopback ADMIN_HOST only"
    )
    admin_hosts: CommaSeparated = Field(
        (), description="names that operators reach ADMIN_PORT by, beside localhost and addresses"
    )
    console_demo: str | None = Field(
        None, pattern=r"^http://127\.0\.0\.1:[0-9]{1,5}$", description="the demo's own controls, which set this"
    )

    @field_validator("admin_token")
    @classmethod
    def _can_be_sent(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and not all("!" <= character <= "~" for character in token.get_secret_value()):
            raise ValueError("takes ASCII without white space: it goes into a header")
        return token

    @model_validator(mode="after")
    def _is_open_here_only(self) -> Self:
        if self.admin_open and not is_loopback(self.admin_host):
            raise ValueError(f"ADMIN_OPEN goes with a loopback ADMIN_HOST only, not {self.admin_host!r}")
        return self

    @property
    def guard(self) -> Guard:
        """What is asked of whoever acts."""
        token = self.admin_token.get_secret_value().encode() if self.admin_token else None
        return Guard(token, self.admin_open, frozenset(name.lower() for name in self.admin_hosts))


class AuthenticationSettings(Settings):
    """Who may connect. With AUTH_MODE=jwt one of JWT_SECRET, JWT_PUBLIC_KEY and JWT_JWKS_URL says what
    tokens are verified with."""

    auth_mode: Literal["jwt", "none"] | None = Field(
        None,
        description="jwt lets in who has a token, none everybody; unset lets in only what is local to this machine",
    )
    jwt_secret: SecretStr | None = Field(None, description="for HS256: shared with the issuer, at least 32 bytes")
    jwt_public_key: str | None = Field(None, description="for RS256, ES256 or EdDSA: the issuer's public key in PEM")
    jwt_jwks_url: str | None = Field(
        None, description="the identity provider's key set; https, or http on this machine; needs JWT_AUDIENCE"
    )
    jwt_issuer: str | None = Field(None, description="what a token's iss has to be; unset: anything")
    jwt_audience: CommaSeparated = Field((), description="one of these has to be in a token's aud")
    jwt_user_claim: str = Field("sub", min_length=1, description="the claim that says whose a token is")
    jwt_leeway_seconds: int = Field(5, ge=0, le=300, description="by how much the issuer's clock may differ")
    jwt_max_age_days: int = Field(
        30, ge=1, le=3_650, description="since a token was issued; revocations are kept a day longer"
    )
    auth_cookie: str | None = Field(
        None, pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$", description="the cookie that may carry a token; unset: none"
    )
    allow_query_token: bool = Field(False, description="whether ?token= may carry a token, which proxies may log")

    @field_validator("jwt_jwks_url")
    @classmethod
    def _is_safe_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        split = urlsplit(url)
        is_local = split.scheme == "http" and split.hostname in ("localhost", "127.0.0.1", "::1")
        if not split.hostname or split.username is not None or not (split.scheme == "https" or is_local):
            raise ValueError("takes https://..., or http:// on this machine, without a password")
        return url

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        keys = {"JWT_SECRET": self.jwt_secret, "JWT_PUBLIC_KEY": self.jwt_public_key, "JWT_JWKS_URL": self.jwt_jwks_url}
        given = [name for name, value in keys.items() if value is not None]
        if self.auth_mode != "jwt":
            fields = type(self).model_fields
            meant = sorted(name for name in self.model_fields_set if getattr(self, name) != fields[name].default)
            if meant and self.auth_mode is None:
                raise ValueError(f"{meant[0].upper()} is set, but AUTH_MODE is not: set AUTH_MODE=jwt")
            return self
        if len(given) != 1:
            got = f"got {' and '.join(given)}" if given else "got none of them"
            raise ValueError(f"AUTH_MODE=jwt takes one of JWT_SECRET, JWT_PUBLIC_KEY and JWT_JWKS_URL, {got}")
        if self.jwt_jwks_url is not None and not self.jwt_audience:
            raise ValueError("JWT_JWKS_URL takes JWT_AUDIENCE, too: a provider signs tokens for many")
        try:
            _ = self.keyring
        except ValueError as error:
            raise ValueError(f"{given[0]}: {error}") from None
        return self

    @cached_property
    def keyring(self) -> Keyring | None:
        """The keys that are set here; None when they are a provider's. Raises ValueError."""
        if self.jwt_secret is not None:
            return keyring_of_secret(self.jwt_secret.get_secret_value())
        return None if self.jwt_public_key is None else keyring_of_public_key(self.jwt_public_key)

    @property
    def token_rules(self) -> TokenRules:
        return TokenRules(
            self.jwt_issuer, self.jwt_audience, self.jwt_user_claim, self.jwt_leeway_seconds, self.jwt_max_age_days
        )


class AdmissionSettings(Settings):
    """From where clients may connect, and how many."""

    allowed_origins: CommaSeparated | None = Field(
        None, description="origins of pages that may connect, like https://app.example.com; unset: the host's own"
    )
    trusted_proxies: CommaSeparated = Field(
        (), description="addresses and networks of load balancers whose X-Forwarded-For counts"
    )
    max_connections_per_address: int = Field(
        0,
        ge=0,
        description="sockets of an address (IPv6: of a /64) on a replica; behind proxies name those; 0: any",
    )
    max_connections: int | None = Field(
        None, ge=1, description="clients at once; unset: 20000, or what the limit of open files allows"
    )
    max_connections_per_user: int = Field(
        100, ge=0, le=NAMED, description="of one user on all replicas together; one more and the oldest goes; 0: any"
    )
    head_seconds: int = Field(5, ge=1, le=60, description="for a new socket to send its request's head")
    max_head_bytes: int = Field(16_384, ge=1_024, le=65_536, description="size of a request's head")
    max_handshakes: int = Field(5_000, ge=1, description="handshakes in progress at once; above it 503")

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if origins is None else tuple(parse_origin(origin) for origin in origins)

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        parse_networks(networks)
        return networks

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
    def few_files(self) -> int | None:
        """The limit of open files, as it was raised, where it is what leaves fewer than FEW_CONNECTIONS."""
        is_few = self.max_connections is None and self.connection_limit < FEW_CONNECTIONS
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0] if is_few else None

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
    conflate: CommaSeparated = Field(
        (), description="types of which the newest is enough for a client that reads too slowly, like market_alert"
    )
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
    deflate_min_bytes: int = Field(
        0,
        ge=0,
        description="messages of so many bytes or more are compressed for those who offer permessage-deflate; 0: none",
    )
    client_frames_per_second: int = Field(
        20, ge=1, description="frames from a client, control frames included; five seconds' worth at once"
    )

    @field_validator("conflate")
    @classmethod
    def _are_types(cls, types: tuple[str, ...]) -> tuple[str, ...]:
        parse_types(types)
        return types


class DrainSettings(Settings):
    """How a replica leaves."""

    drain_delay_seconds: int = Field(5, ge=0, description="after SIGTERM, while the load balancer learns of it")
    drain_seconds: int = Field(20, ge=0, description="over which the clients' slots to leave are spread")
