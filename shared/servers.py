"""Asks which server holds what; `shared.topology` understands the answers."""

import random
from collections.abc import Sequence
from typing import Final

from shared.errors import RedisError, RedisRefused, RedisUnavailable
from shared.link import Command, Link, RedisAddress, Reply
from shared.logging import get_logger
from shared.settings import RedisSettings
from shared.together import Together
from shared.topology import Cluster, OneServer, Placement, Sentinels, is_primary, parse_master_address, parse_slots

ADVISED_BUCKETS: Final = 64

ASK_SECONDS: Final = 2.0
"""For one node or Sentinel to answer (less when REDIS_TIMEOUT_SECONDS is less), before the next is asked."""


NODES_ASKED: Final = 5
"""Nodes of a cluster that are asked before it is given up, for this time: others the next time."""

log = get_logger("shared.servers")


class Servers:
    """Where every key is, as far as is known. One for everything in a process that must agree on it.

    Asked when it is needed first, and again after `doubt`. Nothing is repeated: whoever calls
    comes again, after a while.
    """

    def __init__(self, settings: RedisSettings) -> None:
        self.deployment = settings.deployment
        if isinstance(self.deployment, Cluster) and settings.redis_user_buckets == 1:
            log.warning(
                "all users are on one node of the cluster: with an empty Redis, set REDIS_USER_BUCKETS",
                got=1,
                advised=ADVISED_BUCKETS,
            )
        self._timeout_seconds = min(ASK_SECONDS, settings.redis_timeout_seconds)
        self._asking: Together[Placement] = Together()
        self._last: Placement | None = None
        self._placement: Placement | None = None

    async def placement(self) -> Placement:
        """Which server holds what. Raises RedisUnavailable when nobody could tell."""
        return self._placement or await self._asking.get(lambda: self._placement, self._ask)

    def doubt(self) -> None:
        """Something was not where it was said to be: the next call asks anew."""
        self._placement = None

    async def _ask(self) -> Placement:
        deployment = self.deployment
        if isinstance(deployment, OneServer):
            self._placement = Placement.on(deployment.address)
        elif isinstance(deployment, Sentinels):
            self._placement = Placement.on(await self._primary(deployment))
        else:
            self._placement = await self._slots(deployment)
        self._last = self._placement
        return self._placement

    async def _slots(self, cluster: Cluster) -> Placement:
        """The slots as one of the nodes knows them: one after the other, in any order, since one
        that was cut off may know an old state and would be asked again and again."""
        known = self._last.addresses if self._last else frozenset()
        nodes = list({*cluster.nodes, *known})
        reasons = []
        for node in random.sample(nodes, min(NODES_ASKED, len(nodes))):
            try:
                (reply,) = await self._asked(node, [("CLUSTER", "SLOTS")])
                if reply:
                    return parse_slots(reply, node)
                reasons.append(f"{node} knows of no slots")
            except RedisError as error:
                reasons.append(str(error))
            except ValueError as error:
                reasons.append(f"{node} gave {error}")
        raise RedisUnavailable(f"no node tells where the slots are: {'; '.join(reasons)}")

    async def _primary(self, watched: Sentinels) -> RedisAddress:
        """The server that a Sentinel names and that says itself that it is the primary."""
        reasons: dict[str, None] = {}  # several Sentinels may say the same
        refuted: set[RedisAddress] = set()
        for sentinel in random.sample(watched.sentinels, len(watched.sentinels)):
            try:
                (reply,) = await self._asked(sentinel, [("SENTINEL", "GET-MASTER-ADDR-BY-NAME", watched.master)])
                if reply is None:
                    raise RedisRefused(f"the Sentinel at {sentinel} knows no master {watched.master!r}")
                server = parse_master_address(reply, watched.server)
                if server in refuted:
                    continue
                refuted.add(server)
                (role,) = await self._asked(server, [("ROLE",)])
                if is_primary(role):
                    return server
                reasons[f"{server} is no primary, though the Sentinel at {sentinel} says so"] = None
            except RedisError as error:
                reasons[str(error)] = None
            except ValueError as error:
                reasons[f"the Sentinel at {sentinel} gave {error}"] = None
        raise RedisUnavailable(f"no primary found for {watched}: {'; '.join(reasons)}")

    async def _asked(self, address: RedisAddress, commands: Sequence[Command]) -> list[Reply]:
        link = await Link.connect(address, name="notify-topology", timeout_seconds=self._timeout_seconds)
        try:
            return await link.pipeline(commands, timeout_seconds=self._timeout_seconds)
        finally:
            link.close()
