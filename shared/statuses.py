"""What each process of a deployment says of itself, told once a second, for operators to see in one place.

It is for eyes only: nothing is decided by it, and nothing waits for it.
"""

import asyncio
import re
import secrets
import socket
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any, Final, NamedTuple

import msgspec

from shared.errors import RedisError
from shared.keys import GLOBAL_BUCKET
from shared.links import Links
from shared.logging import get_logger
from shared.settings import RedisSettings

TELL_SECONDS: Final = 1.0

KEEP_SECONDS: Final = 60
"""For which the last word of a process is kept that says nothing more."""

MOST: Final = 2_000
"""Processes that are looked at, those that were heard from last. One takes about 2 KB."""

_SCRIPT: Final = files("shared").joinpath("status.lua").read_bytes()

Status = Mapping[str, Any]
"""Has the `kind` of its process, RELAY or GATEWAY, and figures."""

RELAY: Final = "relay"
GATEWAY: Final = "gateway"

log = get_logger("shared.statuses")


class Told(NamedTuple):
    """The last that was heard from a process."""

    process: str
    seen_ms_ago: int
    status: Status


def process_name() -> str:
    """A name for this process: its host's, and what makes it another with each start. One word."""
    host = re.sub(r"[^0-9A-Za-z.-]", "-", socket.gethostname())[:63]
    return f"{host or 'host'}-{secrets.token_hex(3)}"


class Statuses:
    """The statuses of a deployment, in Redis. `links` are this process's own for calls."""

    def __init__(self, settings: RedisSettings, links: Links) -> None:
        self._keys = settings.keys
        self._timeout_seconds = settings.redis_timeout_seconds
        self._links = links

    async def run(self, process: str, status: Callable[[], Status]) -> None:
        """Tell the status of this process each second, until cancelled. What fails is said once in the log,
        and told anew a second later."""
        is_failing = False
        while True:
            try:
                await self.tell(process, status())
            except RedisError as error:
                if not is_failing:
                    log.warning("the status of this process cannot be told, trying again each second", error=str(error))
                is_failing = True
            else:
                is_failing = False
            await asyncio.sleep(TELL_SECONDS)

    async def tell(self, process: str, status: Status) -> None:
        """Raises RedisError."""
        link = await self._links.of(GLOBAL_BUCKET)
        keys = self._keys.statuses, self._keys.status(process)
        said = msgspec.json.encode(status)
        keep_ms = 1_000 * KEEP_SECONDS
        await link.call("EVAL", _SCRIPT, 2, *keys, process, said, keep_ms, timeout_seconds=self._timeout_seconds)

    async def leave(self, process: str) -> None:
        """This process ends in good order: nobody is to wait for its word. Raises RedisError."""
        link = await self._links.of(GLOBAL_BUCKET)
        await link.call("ZREM", self._keys.statuses, process, timeout_seconds=self._timeout_seconds)

    async def read(self) -> list[Told]:
        """The last word of each process, by name. Raises RedisError."""
        link = await self._links.of(GLOBAL_BUCKET)
        seen, (seconds, microseconds) = await link.transaction(
            [("ZRANGE", self._keys.statuses, 0, MOST - 1, "REV", "WITHSCORES"), ("TIME",)],
            timeout_seconds=self._timeout_seconds,
        )
        if not seen:
            return []
        now_ms = 1_000 * int(seconds) + int(microseconds) // 1_000
        processes = [(process.decode(), max(0, now_ms - int(at_ms))) for process, at_ms in seen]
        said = await link.call(
            "MGET", *(self._keys.status(process) for process, _ in processes), timeout_seconds=self._timeout_seconds
        )
        return sorted(
            Told(process, ms_ago, status)
            for (process, ms_ago), json in zip(processes, said, strict=True)
            if (status := _parse(json)) is not None
        )


def _parse(json: bytes | None) -> Status | None:
    """None for what has expired meanwhile, or was said by nobody of ours."""
    try:
        status = msgspec.json.decode(json or b"")
    except (ValueError, RecursionError):
        return None
    return status if isinstance(status, dict) else None
