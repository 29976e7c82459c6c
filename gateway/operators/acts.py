"""What operators do: who of a user is connected where, close connections, revoke tokens, drain a replica.

What concerns replicas is ordered over Redis, so it does not matter which one is asked.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.authentication.revocations import Revocations
from gateway.operators.orders import Disconnect, Drain, Order, encode_order
from gateway.presence import Presence
from gateway.share import Share
from shared.keys import GLOBAL_BUCKET
from shared.links import Links
from shared.settings import RedisSettings
from shared.statuses import Statuses

SEEN_SECONDS: Final = 10.0
"""For a user's connections to be seen to have gone."""

POLL_SECONDS: Final = 0.1


class NotDone(Exception):
    """An act was not done. Its text says why, and what to do."""


class Acts:
    """Each raises RedisError, when what became of it cannot be told, or NotDone."""

    def __init__(
        self,
        settings: RedisSettings,
        links: Links,
        presence: Presence,
        statuses: Statuses,
        revocations: Revocations | None,
        own_name: str,
        drain: Callable[[], None],
    ) -> None:
        self._timeout_seconds = settings.redis_timeout_seconds
        self._channel = settings.keys.notices(GLOBAL_BUCKET)
        self._links = links
        self._presence = presence
        self._statuses = statuses
        self._revocations = revocations
        self._own_name = own_name
        self._drain = drain

    async def presence(self, user_id: str) -> Mapping[str, Any]:
        """A user's connections, by replica; when they were opened by that one's clock, the newest of many."""
        shares = await self._presence.read(user_id)
        return {
            replica: {"connections": share.connections, "opened_ms": [opened // 1_000 for opened in share.opened_us]}
            for replica, share in shares.items()
        }

    async def disconnect(self, user_id: str, *, retry: bool) -> str:
        """Close a user's connections on all replicas, and see that they have gone."""
        before = await self._presence.read(user_id)
        if not before:
            return f"{user_id} has no connection"
        await self._order(Disconnect(user_id, retry))
        until = time.monotonic() + SEEN_SECONDS
        while left := _left(before, await self._presence.read(user_id)):
            if time.monotonic() > until:
                raise NotDone(f"{_count(left)} of {user_id} still there after {SEEN_SECONDS:g} s; order it again")
            await asyncio.sleep(POLL_SECONDS)
        closed = _count(sum(share.connections for share in before.values()))
        return f"{closed} of {user_id} closed, {'to come again' if retry else 'for good'}"

    async def disconnect_everyone(self, *, retry: bool) -> str:
        """Close all connections of all replicas."""
        told = await self._order(Disconnect(None, retry))
        how = "send their clients away bit by bit, to come again" if retry else "close all connections, for good"
        return f"{told} replicas were told to {how}"

    async def revoke(self, user_id: str) -> str:
        """Refuse a user's tokens that were issued until now."""
        if self._revocations is None:
            raise NotDone("there are no tokens to revoke here: AUTH_MODE is not jwt; disconnect the user instead")
        until = time.gmtime(await self._revocations.revoke(user_id))
        return f"tokens of {user_id} issued until {time.strftime('%Y-%m-%d %H:%M:%S', until)} UTC are refused"

    async def drain(self, replica: str) -> str:
        """Have a replica send its clients elsewhere and end. The one that is asked needs no Redis for it: it may be
        the one that is cut off."""
        if replica == self._own_name:
            self._drain()
        elif replica not in {told.process for told in await self._statuses.read()}:
            raise NotDone(f"nothing was heard of a replica {replica} lately")
        else:
            await self._order(Drain(replica))
        return f"{replica} was told to drain"

    async def _order(self, order: Order) -> int:
        """Gives how many replicas heard it."""
        link = await self._links.of(GLOBAL_BUCKET)
        heard = await link.call("SPUBLISH", self._channel, encode_order(order), timeout_seconds=self._timeout_seconds)
        if not heard:
            raise NotDone("no replica heard it: their subscriptions are down; try again when Redis is back")
        return int(heard)


def _left(before: Mapping[str, Share], now: Mapping[str, Share]) -> int:
    """How many of those who were there before are there still. Of more than are named nobody can tell who
    is who: there they count as long as there are more than are named."""
    left = 0
    for replica, share in now.items():
        had = before.get(replica)
        if had is not None:
            left += len(set(share.opened_us) & set(had.opened_us)) + share.connections - len(share.opened_us)
    return left


def _count(connections: int) -> str:
    return "1 connection" if connections == 1 else f"{connections} connections"
