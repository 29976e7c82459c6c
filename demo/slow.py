"""A client that connects and reads nothing, and a crowd of events for it, until it is closed."""

import asyncio
import re
import socket
import time
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

import aiohttp
from aiokafka import AIOKafkaProducer

from demo.events import Stamp, risk_alert
from demo.process import Process
from demo.stack import http_url

USER: Final = "user-slow"
LONGEST_SECONDS: Final = 60.0

MOST_EVENTS: Final = 600
"""1.2 MB, three times what closes it. The demo's broker keeps 5 MiB of a partition: while nobody reads that, more
would push out events of others."""

_EVENTS_A_TURN: Final = 25
_SLOW: Final = re.compile(r'^notify_gateway_closes_total\{code="4000"\} (\S+)$', re.MULTILINE)
_TURN_SECONDS: Final = 0.25
_MESSAGE: Final = "a long story " * 150
_HANDSHAKE: Final = (
    f"GET /ws?user_id={USER} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
).encode()


class SlowClient:
    """One that was started. `run` it once; it ends when the replica has closed it, or after a minute."""

    def __init__(self, gateway: Process) -> None:
        self.replica = gateway.name
        self.is_closed = False
        self._gateway = gateway
        self._began = time.monotonic()
        self._took = 0.0

    @property
    def seconds(self) -> float:
        """For which it reads nothing, or did until it was closed."""
        return self._took or time.monotonic() - self._began

    async def run(self, producer: AIOKafkaProducer) -> None:
        """Have events sent for it until it is closed. Raises OSError when nobody takes it, and KafkaError."""
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, ("127.0.0.1", self._gateway.port))
            await loop.sock_sendall(sock, _HANDSHAKE)
            before = await self._closed_slowly()
            # Nothing tells the client itself: what was sent to it comes first, and it reads nothing.
            left = MOST_EVENTS
            while await self._closed_slowly() <= before and self.seconds < LONGEST_SECONDS:
                for _ in range(min(left, _EVENTS_A_TURN)):
                    stamp = Stamp(uuid4(), datetime.now(UTC))
                    event = risk_alert(stamp, user_id=USER, risk_type="drawdown", severity="low", message=_MESSAGE)
                    await producer.send(event.topic, event.value, key=event.key)
                left = max(0, left - _EVENTS_A_TURN)
                await asyncio.sleep(_TURN_SECONDS)
            self._took = self.seconds
            self.is_closed = await self._closed_slowly() > before

    async def _closed_slowly(self) -> float:
        """How many clients the replica has closed since they read too slowly, as it says."""
        timeout = aiohttp.ClientTimeout(total=5)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session,
                session.get(http_url(self._gateway, "/metrics", "admin")) as response,
            ):
                found = _SLOW.search(await response.text())
                return float(found[1]) if found else 0
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OSError(f"{self.replica} does not answer: {error or type(error).__name__}") from None
