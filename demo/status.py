"""What relay and replicas say of themselves: asked over HTTP, as a dashboard would."""

import asyncio
import re
from dataclasses import dataclass
from typing import Self

import aiohttp

from demo.stack import Stack, http_url

_ASK_SECONDS = 0.8
_PUBLISHED = re.compile(r'^notify_relay_events_total\{[^}]*result="published"[^}]*\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True)
class Figures:
    """None where no answer came in time."""

    published: int | None
    connections: int | None


class Status:
    """Asks the processes of a stack. Use as a context manager."""

    def __init__(self, stack: Stack) -> None:
        self._metrics = http_url(stack.relay, "/metrics")
        self._health = [http_url(gateway, "/health") for gateway in stack.gateways]
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ASK_SECONDS))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(self) -> Figures:
        """Never raises; takes at most 0.8 s."""
        published, *connections = await asyncio.gather(self._published(), *map(self._connections, self._health))
        known = [count for count in connections if count is not None]
        return Figures(published, sum(known) if len(known) == len(connections) else None)

    async def _published(self) -> int | None:
        try:
            async with self._session.get(self._metrics) as response:
                return round(sum(float(value) for value in _PUBLISHED.findall(await response.text())))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return None

    async def _connections(self, url: str) -> int | None:
        try:
            async with self._session.get(url) as response:
                return int((await response.json())["connections"])
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError):
            return None
