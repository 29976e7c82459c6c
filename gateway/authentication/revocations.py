"""Cut-offs: tokens of a user that were issued until then are refused, on every replica.

They are a sorted set in Redis, scored by the cut-off. Each replica reads what is new once a second,
keeps what it knows while Redis is away, and puts back what Redis has lost.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.resources import files
from typing import Final

from shared.errors import RedisError, RedisRefused
from shared.keys import GLOBAL_BUCKET
from shared.links import Links, read_from_primary
from shared.logging import get_logger
from shared.settings import RedisSettings
from shared.slices import slices

POLL_SECONDS: Final = 1.0

DAY_SECONDS: Final = 86_400

FORGET_SECONDS: Final = 3_600
"""Between looks for those to be forgotten, and by how much sooner than Redis that is done here: what
Redis has forgotten must not seem to be lost."""

PAGE_ENTRIES: Final = 1_000

_SCRIPT: Final = files("gateway.authentication").joinpath("revoke.lua").read_bytes()

log = get_logger("gateway.authentication")


class Cutoffs:
    """The cut-offs that are known, in Unix seconds by user id. Pure."""

    def __init__(self) -> None:
        self._by_user: dict[str, float] = {}
        self.newest = 0.0
        """The highest."""
        self.newest_users: set[str] = set()
        """Those with the highest."""

    def __len__(self) -> int:
        return len(self._by_user)

    def refuses(self, user_id: str, issued_at: float | None) -> bool:
        """Whether a token of this user, issued then, is refused. One that does not say when it was
        issued is, as soon as its user has a cut-off."""
        cutoff = self._by_user.get(user_id)
        return cutoff is not None and (issued_at is None or issued_at <= cutoff)

    def take(self, entries: Iterable[tuple[str, float]]) -> list[str]:
        """Learn cut-offs. They only rise; gives the users whose did."""
        risen = []
        for user_id, cutoff in entries:
            if cutoff > self._by_user.get(user_id, 0):
                self._by_user[user_id] = cutoff
                risen.append(user_id)
                if cutoff > self.newest:
                    self.newest, self.newest_users = cutoff, set()
                if cutoff == self.newest:
                    self.newest_users.add(user_id)
        return risen

    def all(self) -> Mapping[str, float]:
        return self._by_user

    def forget(self, until: float) -> None:
        """Forget those that are that old."""
        self._by_user = {user_id: cutoff for user_id, cutoff in self._by_user.items() if cutoff > until}
        if self.newest <= until:
            self.newest, self.newest_users = 0.0, set()


class Revocations:
    """The cut-offs of a deployment, as this replica knows them. `run` reads them, until cancelled.

    Older tokens than `max_age_days` are refused anyway: cut-offs are kept for a day longer.
    """

    def __init__(self, settings: RedisSettings, links: Links, max_age_days: int) -> None:
        self._remember_seconds = (max_age_days + 1) * DAY_SECONDS
        self._key = settings.keys.revoked
        self._timeout_seconds = settings.redis_timeout_seconds
        self._links = links
        self._is_failing = False
        self._forget_at = 0.0
        self.cutoffs = Cutoffs()
        self.are_known = False
        """They were read once: nobody can be let in before."""
        self.on_revoked: Callable[[str], None] = lambda _user_id: None
        """Told a user whose cut-off has risen."""

    async def run(self) -> None:
        while True:
            try:
                if time.time() >= self._forget_at:
                    await self._forget(time.time() - self._remember_seconds)
                    self._forget_at = time.time() + FORGET_SECONDS
                await self.read()
            except RedisError as error:
                if not self._is_failing:
                    log.warning("cut-offs of tokens cannot be read, trying again each second", error=str(error))
                self._is_failing = True
            else:
                self._is_failing = False
            await asyncio.sleep(POLL_SECONDS)

    async def read(self) -> None:
        """Learn what is new. Raises RedisError."""
        cutoffs = self.cutoffs
        had = cutoffs.newest_users
        entries = await self._entries_from(cutoffs.newest)
        if had and had.isdisjoint(dict(entries)):
            await self._put_back()
            entries = await self._entries_from(0)
        for user_id in cutoffs.take(entries):
            self.on_revoked(user_id)
        self.are_known = True

    async def revoke(self, user_id: str) -> float:
        """Refuse the user's tokens issued until now. Gives the cut-off, Unix seconds. Raises RedisError."""
        link = await self._links.of(GLOBAL_BUCKET)
        cutoff = await link.call("EVAL", _SCRIPT, 1, self._key, user_id, timeout_seconds=self._timeout_seconds)
        return float(cutoff)

    async def _forget(self, until: float) -> None:
        """Here and in Redis, which only those do that judge tokens: they know how old tokens may be."""
        self.cutoffs.forget(until + FORGET_SECONDS)
        link = await self._links.of(GLOBAL_BUCKET)
        await link.call("ZREMRANGEBYSCORE", self._key, "-inf", repr(until), timeout_seconds=self._timeout_seconds)

    async def _entries_from(self, cutoff: float) -> list[tuple[str, float]]:
        entries: list[tuple[str, float]] = []
        while True:
            link = await self._links.of(GLOBAL_BUCKET)
            page = ("ZRANGE", self._key, repr(cutoff), "+inf", "BYSCORE")
            limits = ("LIMIT", len(entries), PAGE_ENTRIES, "WITHSCORES")
            (found,) = await read_from_primary(link, [(*page, *limits)], timeout_seconds=self._timeout_seconds)
            try:
                entries += [(user_id.decode(), float(score)) for user_id, score in found]
            except (AttributeError, TypeError, ValueError):
                raise RedisRefused(f"{self._key} is not a sorted set of user ids") from None
            if len(found) < PAGE_ENTRIES:
                return entries

    async def _put_back(self) -> None:
        """Redis has lost the newest: whatever it has lost, it is given again."""
        log.warning("Redis has lost cut-offs of tokens; putting back those known here", count=len(self.cutoffs))
        for batch in slices(list(self.cutoffs.all().items()), PAGE_ENTRIES):
            link = await self._links.of(GLOBAL_BUCKET)
            scored = [part for user_id, cutoff in batch for part in (repr(cutoff), user_id)]
            await link.call("ZADD", self._key, "GT", *scored, timeout_seconds=self._timeout_seconds)
