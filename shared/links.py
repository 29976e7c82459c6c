"""Links for single calls, one to each server, made when they are needed."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from shared.errors import RedisUnavailable
from shared.link import Command, Link, RedisAddress, Reply
from shared.servers import Servers
from shared.settings import RedisSettings
from shared.together import Together
from shared.topology import is_primary


async def read_from_primary(link: Link, commands: Sequence[Command], *, timeout_seconds: float) -> list[Reply]:
    """The answers of one moment, of a server that was a primary in it: what a demoted one has may end too
    early, and nobody would look again. Raises RedisRefused and RedisUnavailable, and closes a replica's link."""
    *replies, role = await link.transaction((*commands, ("ROLE",)), timeout_seconds=timeout_seconds)
    if not is_primary(role):
        link.close()
        raise RedisUnavailable(f"{link.address} is a replica: only a primary has the last word")
    return replies


class Links:
    """Links to the primaries of the buckets, kept open between calls; for one event loop.

    After a link was lost, or its server said that another one is to be asked (MOVED, CLUSTERDOWN,
    READONLY), the next `of` asks anew which server that is. Nothing is repeated: whoever calls knows
    whether that may be done. `servers` is shared by those in a process that must ask the same ones.
    """

    def __init__(self, settings: RedisSettings, name: str, servers: Servers | None = None) -> None:
        self._servers = servers or Servers(settings)
        self._timeout_seconds = settings.redis_timeout_seconds
        self._keys = settings.keys
        self._name = name
        self._links: dict[RedisAddress, Link] = {}
        self._connecting: defaultdict[RedisAddress, Together[Link]] = defaultdict(Together)

    async def of(self, bucket: str) -> Link:
        """The link to the server that holds `bucket`. Raises RedisUnavailable or RedisRefused."""
        return await self.of_key(self._keys.life(bucket))

    async def of_key(self, key: str) -> Link:
        """The link to the server that holds `key`. Raises RedisUnavailable or RedisRefused."""
        if any(link.is_lost or link.is_displaced for link in self._links.values()):
            self._servers.doubt()
            self._drop([address for address, link in self._links.items() if link.is_lost or link.is_displaced])
        placement = await self._servers.placement()
        self._drop(self._links.keys() - placement.addresses)
        for gone in self._connecting.keys() - placement.addresses:
            del self._connecting[gone]
        address = placement.server_of(key)
        return self._usable(address) or await self._connecting[address].get(
            lambda: self._usable(address), lambda: self._connect(address)
        )

    def close(self) -> None:
        """Close all links. May be called twice."""
        self._drop(list(self._links))

    def _usable(self, address: RedisAddress) -> Link | None:
        link = self._links.get(address)
        return None if link is None or link.is_lost or link.is_displaced else link

    async def _connect(self, address: RedisAddress) -> Link:
        try:
            link = await Link.connect(address, name=self._name, timeout_seconds=self._timeout_seconds)
        except BaseException:
            self._servers.doubt()
            raise
        self._links[address] = link
        return link

    def _drop(self, addresses: Iterable[RedisAddress]) -> None:
        for address in addresses:
            self._links.pop(address).close()
