"""What every client of Redpanda has in common: where it is, how it is entered and for how long waited for."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any, Final

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)

from relay.settings import KafkaSettings
from shared.errors import BrokerUnavailable

_ADVICE: Final[tuple[tuple[type[Exception], str], ...]] = (
    (SaslAuthenticationFailed, "see that REDPANDA_USERNAME, REDPANDA_PASSWORD and REDPANDA_SASL_MECHANISM are right"),
    (UnsupportedSaslMechanismError, "set REDPANDA_SASL_MECHANISM to one that the broker takes"),
    (IllegalSaslStateError, "this listener of the broker takes no SASL: see REDPANDA_SECURITY and the port"),
    (
        ssl.SSLCertVerificationError,
        "see that REDPANDA_CA_FILE is the authority of the broker's certificate, and that this has the host's name",
    ),
    (ssl.SSLError, "see REDPANDA_SECURITY, whether this port of the broker speaks TLS, and REDPANDA_CERT_FILE"),
    (TopicAuthorizationFailedError, "the relay's user may not do this with the topic: see docs/tls.md"),
    (GroupAuthorizationFailedError, "the relay's user may not use REDPANDA_GROUP_ID: see docs/tls.md"),
    (ClusterAuthorizationFailedError, "the relay's user may not do this: see docs/tls.md"),
)
"""What to do about an error. Others mend, or say it themselves."""

_TLS_BROKEN_OFF: Final = "it ended in the TLS handshake: see whether this port of the broker speaks TLS"
"""asyncio raises a ConnectionResetError without words then; what the system resets has a number."""


def connection(settings: KafkaSettings, client_id: str) -> dict[str, Any]:
    """The options of any aiokafka client. They hold the password."""
    options: dict[str, Any] = {
        "bootstrap_servers": list(settings.redpanda_brokers),
        "client_id": client_id,
        "request_timeout_ms": int(settings.redpanda_timeout_seconds * 1000),
        "security_protocol": settings.redpanda_security,
        "ssl_context": settings.tls,
    }
    if settings.is_sasl:
        assert settings.redpanda_password is not None
        options |= {
            "sasl_mechanism": settings.redpanda_sasl_mechanism,
            "sasl_plain_username": settings.redpanda_username,
            "sasl_plain_password": settings.redpanda_password.get_secret_value(),
        }
    return options


def advice(error: BaseException) -> str | None:
    """What to do about an error of aiokafka, or about what it came from; None when nothing is known."""
    seen: BaseException | None = error
    while seen is not None:
        for kind, text in _ADVICE:
            if isinstance(seen, kind):
                return text
        if isinstance(seen, ConnectionResetError) and not seen.args:
            return _TLS_BROKEN_OFF
        seen = seen.__cause__
    return None


def with_advice(error: BaseException) -> str:
    """An error for the log: as it is, and what to do about it."""
    text = advice(error)
    return f"{error!r}: {text}" if text else repr(error)


@contextlib.asynccontextmanager
async def bounded(settings: KafkaSettings, what: str, seconds: float) -> AsyncIterator[None]:
    """Translate: whatever goes wrong within, or takes longer, is BrokerUnavailable."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except (KafkaError, TimeoutError, OSError) as error:
        brokers = ", ".join(settings.redpanda_brokers)
        raise BrokerUnavailable(f"Redpanda at {brokers} does not give {what}: {with_advice(error)}") from None
