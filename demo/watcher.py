"""A watching client: notify.v1, resuming on whatever replica takes it, so that it is owed every event."""

import asyncio
import itertools
import json
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import aiohttp

RETRY_SECONDS: Final = 0.3
RELOAD_SECONDS: Final = 3.0
"""After an operator disconnected it for good: a person reloads the page, which has kept its cursor."""

CONNECT_SECONDS: Final = 10.0
AWAY_SECONDS: Final = 60.0
"""Without a connection, after which a client gives up."""

_BY_OPERATOR: Final = 4501
_FINAL_CODES: Final = range(4500, 5000)


class WatchFailed(Exception):
    """A watching client was refused, told of a gap, or found nobody. Its text says which, and why."""


def plain_frame(frame: str) -> str:
    """What a plain client is sent for an event of notify.v1: its data byte for byte."""
    return frame[: frame.rindex(',"id":"')] + "}"


class Watcher:
    """Follows one user's events. `replicas` are `ws://host:port`, the one to begin with first."""

    def __init__(self, name: str, user_id: str, replicas: Sequence[str], took: Callable[[str], None]) -> None:
        self.name = name
        self._user_id = user_id
        self._replicas = replicas
        self._took = took
        self._cursor: dict[str, str] = {}
        self._heard_at = 0.0
        self.is_connected = asyncio.Event()
        """Told that it may be sent events for the first time."""

    async def run(self, session: aiohttp.ClientSession) -> None:
        """Until cancelled. Raises WatchFailed."""
        self._heard_at = time.monotonic()
        for url in itertools.cycle(self._replicas):
            reason = await self._follow(session, url)
            if time.monotonic() - self._heard_at > AWAY_SECONDS:
                raise WatchFailed(f"{self.name} found nobody for {AWAY_SECONDS:g} s: {reason}")
            await asyncio.sleep(RETRY_SECONDS * random.uniform(0.5, 1.5))

    async def _follow(self, session: aiohttp.ClientSession, url: str) -> str:
        """One connection. Gives why it is none any more."""
        params = {"user_id": self._user_id}
        if self._cursor:
            params["cursor"] = f"{self._cursor['global']}.{self._cursor['user']}"
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                ws = await session.ws_connect(f"{url}/ws", params=params, protocols=["notify.v1"], max_msg_size=0)
            async with ws:
                async for message in ws:
                    if message.type is aiohttp.WSMsgType.TEXT:
                        self._take(message.data)
                if ws.close_code == _BY_OPERATOR:
                    await asyncio.sleep(RELOAD_SECONDS)
                elif ws.close_code in _FINAL_CODES:
                    raise WatchFailed(f"{self.name} was disconnected for good: close code {ws.close_code}")
                return f"close code {ws.close_code}"
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return str(error) or type(error).__name__

    def _take(self, text: str) -> None:
        self._heard_at = time.monotonic()
        frame: dict[str, Any] = json.loads(text)
        match frame.get("control"):
            case None:
                self._cursor[frame["stream"]] = f"{frame['epoch']}.{frame['seq']}"
                self._took(plain_frame(text))
            case "welcome" | "heartbeat":
                for stream in ("global", "user"):
                    if stream in frame:
                        self._cursor[stream] = f"{frame[stream]['epoch']}.{frame[stream]['seq']}"
                self.is_connected.set()
            case "resync":
                raise WatchFailed(f"{self.name} was told of a gap: {text}")
