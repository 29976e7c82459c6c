"""What every client of Redpanda has in common: where it is, and how long it is waited for."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from aiokafka.errors import KafkaError

from relay.settings import KafkaSettings
from shared.errors import BrokerUnavailable


def connection(settings: KafkaSettings, client_id: str) -> dict[str, Any]:
    """The options of any aiokafka client."""
    return {
        "bootstrap_servers": list(settings.redpanda_brokers),
        "client_id": client_id,
        "request_timeout_ms": int(settings.redpanda_timeout_seconds * 1000),
    }


@contextlib.asynccontextmanager
async def bounded(settings: KafkaSettings, what: str, seconds: float) -> AsyncIterator[None]:
    """Translate: whatever goes wrong within, or takes longer, is BrokerUnavailable."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except (KafkaError, TimeoutError, OSError) as error:
        brokers = ", ".join(settings.redpanda_brokers)
        raise BrokerUnavailable(f"Redpanda at {brokers} does not give {what}: {error!r}") from None
