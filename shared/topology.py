"""Which server holds a bucket: read from REDIS_URL and from what servers answered. Pure.

Three ways to run Redis: one server, a Redis Cluster, or a primary that Sentinels watch over.
`shared.servers` asks; here is what is asked of whom, and what the answers mean.
"""

import binascii
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from shared.errors import RedisUnavailable, SettingsError
from shared.keys import Keys
from shared.link import RedisAddress

SLOTS: Final = 16_384
SENTINEL_PORT: Final = 26_379
_SENTINEL_SCHEMES: Final = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}


@dataclass(frozen=True)
class OneServer:
    """REDIS_URL names the one server that holds everything."""

    address: RedisAddress

    def __str__(self) -> str:
        return str(self.address)


@dataclass(frozen=True)
class Cluster:
    """REDIS_URL names nodes of a cluster, any of which knows the others."""

    nodes: tuple[RedisAddress, ...]

    def __str__(self) -> str:
        return f"cluster of {_shown(self.nodes)}"


@dataclass(frozen=True)
class Sentinels:
    """REDIS_URL names Sentinels, which know where the primary `master` is. `server` is how to
    enter it once its host and port are known."""

    sentinels: tuple[RedisAddress, ...]
    master: str
    server: RedisAddress = field(repr=False)

    def __str__(self) -> str:
        return f"{self.master} of sentinels {_shown(self.sentinels)}"


Deployment = OneServer | Cluster | Sentinels


def _shown(addresses: Iterable[RedisAddress]) -> str:
    return ",".join(str(address) for address in addresses)


def parse_deployment(url: str, cluster: bool) -> Deployment:
    """Read REDIS_URL, with REDIS_CLUSTER. Raises SettingsError, without the URL: it may hold a password.

        redis://[user:password@]host:port[/db]              one server
        redis://[user:password@]host:port,host:port         with `cluster`: nodes to begin with
        redis+sentinel://[user:password@]host:port,host:port/master[/db][?sentinel_password=...]

    `rediss` instead of `redis` is TLS, to the Sentinels as well; its options go into the query.
    """
    try:
        split = urlsplit(url)
        entry, at, hosts = split.netloc.rpartition("@")
        query = dict(parse_qsl(split.query))
    except ValueError:
        raise SettingsError("REDIS_URL is not a Redis URL") from None

    def address(scheme: str, entry: str, host: str, path: str) -> RedisAddress:
        return RedisAddress.from_url(urlunsplit((scheme, entry + host, path, urlencode(query), "")))

    hosts_of = [host for host in hosts.split(",") if host]
    if split.scheme in _SENTINEL_SCHEMES:
        if cluster:
            raise SettingsError("REDIS_CLUSTER=true does not go with Sentinels: a cluster does without")
        scheme = _SENTINEL_SCHEMES[split.scheme]
        master, _, database = split.path.strip("/").partition("/")
        if not master or not hosts_of:
            raise SettingsError("REDIS_URL names no Sentinel or no master: redis+sentinel://host:port/<master-name>")
        username, password = query.pop("sentinel_username", None), query.pop("sentinel_password", None)
        # Their own default port; `from_url` knows that of a server only.
        with_ports = [host if _has_port(host) else f"{host}:{SENTINEL_PORT}" for host in hosts_of]
        sentinels = (
            replace(address(scheme, "", host, ""), username=username, password=password) for host in with_ports
        )
        server = address(scheme, entry + at, hosts_of[0], f"/{database}")
        return Sentinels(tuple(sentinels), unquote(master), server)
    if cluster:
        if split.scheme not in ("redis", "rediss"):
            raise SettingsError("REDIS_CLUSTER=true takes redis:// or rediss://")
        named = [address(split.scheme, entry + at, host, split.path) for host in hosts_of or [""]]
        first = named[0]
        if first.database:
            raise SettingsError("REDIS_CLUSTER=true: a cluster has database 0 only")
        # Of one TLS context, so that a node is the same whichever of them told of it.
        return Cluster(tuple(replace(first, host=node.host, port=node.port) for node in named))
    if len(hosts_of) > 1:
        raise SettingsError("REDIS_URL names several servers: set REDIS_CLUSTER=true, or use redis+sentinel://")
    return OneServer(RedisAddress.from_url(url))


def _has_port(host: str) -> bool:
    return host.rpartition("]")[2].rpartition(":")[1] == ":"


def slot_of(key: str) -> int:
    """The slot of a key or shard channel: CRC-16 (XMODEM) of its hash tag, else of all of it."""
    start = key.find("{")
    end = key.find("}", start + 1)
    if start >= 0 and end > start + 1:
        key = key[start + 1 : end]
    return binascii.crc_hqx(key.encode(), 0) % SLOTS


@dataclass(frozen=True)
class Placement:
    """Which primary serves which slots: `servers[i]` those from `starts[i]` up to `starts[i + 1]`.
    None is a slot that no server serves."""

    starts: tuple[int, ...]
    servers: tuple[RedisAddress | None, ...]

    @classmethod
    def on(cls, address: RedisAddress) -> "Placement":
        """Everything on one server."""
        return cls((0,), (address,))

    def server_of(self, key: str) -> RedisAddress:
        """Raises RedisUnavailable when no server serves the key's slot."""
        place = bisect_right(self.starts, slot_of(key)) - 1 if len(self.starts) > 1 else 0
        server = self.servers[place]
        if server is None:
            raise RedisUnavailable(f"no node of the cluster serves slot {slot_of(key)}, that of {key}")
        return server

    def homes(self, keys: Keys) -> dict[RedisAddress, frozenset[str]]:
        """The buckets that each server holds. Raises RedisUnavailable when one has no server."""
        homes: defaultdict[RedisAddress, set[str]] = defaultdict(set)
        for bucket in keys.buckets:
            homes[self.server_of(keys.life(bucket))].add(bucket)
        return {server: frozenset(buckets) for server, buckets in homes.items()}

    @property
    def addresses(self) -> frozenset[RedisAddress]:
        return frozenset(server for server in self.servers if server is not None)


_NOT_AS_EXPECTED: Final = (AttributeError, LookupError, TypeError, ValueError)
"""What comes of taking an answer for something that it is not."""


def parse_slots(reply: Any, asked: RedisAddress) -> Placement:
    """The answer of `asked` to CLUSTER SLOTS. A node whose host it does not tell has its own.

    Raises ValueError when it is not one.
    """
    places: list[tuple[int, RedisAddress | None]] = []
    following = 0
    try:
        for first, last, (told, port, *_), *_ in sorted(reply, key=lambda entry: int(entry[0])):
            if first > following:
                places.append((following, None))
            host = (told or b"").decode()
            places.append((first, replace(asked, host=asked.host if host in ("", "?") else host, port=int(port))))
            following = last + 1
    except _NOT_AS_EXPECTED as error:
        raise ValueError(f"no answer to CLUSTER SLOTS: {error!r}") from None
    if following < SLOTS:
        places.append((following, None))
    return Placement(tuple(start for start, _ in places), tuple(server for _, server in places))


def parse_master_address(reply: Any, server: RedisAddress) -> RedisAddress:
    """The answer to SENTINEL GET-MASTER-ADDR-BY-NAME, entered like `server`. Raises ValueError."""
    try:
        host, port = reply
        return replace(server, host=host.decode(), port=int(port))
    except _NOT_AS_EXPECTED as error:
        raise ValueError(f"no answer to SENTINEL GET-MASTER-ADDR-BY-NAME: {error!r}") from None


def is_primary(role: Any) -> bool:
    """Whether the answer to ROLE is that of a server which takes writes."""
    return isinstance(role, list) and role[:1] == [b"master"]
