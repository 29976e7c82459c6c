"""Names of everything in Redis (DESIGN section 3)."""

import zlib
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import quote

GLOBAL_BUCKET = "g"
GLOBAL_STREAM = "global"


@dataclass(frozen=True, slots=True)
class StreamName:
    """An audience's stream: the bucket it lives in and its name there.

    `name` is `global` in bucket `g`, else a user id, percent-encoded. The two cannot collide,
    since no user lives in bucket `g`.
    """

    bucket: str
    name: str

    @property
    def is_global(self) -> bool:
        return self.bucket == GLOBAL_BUCKET


GLOBAL = StreamName(GLOBAL_BUCKET, GLOBAL_STREAM)


@dataclass(frozen=True)
class Keys:
    """Key and channel names under one prefix.

    `prefix` is REDIS_PREFIX, `user_buckets` REDIS_USER_BUCKETS (at least 1).
    """

    prefix: str = "notify"
    user_buckets: int = 1

    def user_stream(self, user_id: str) -> StreamName:
        """The stream of one user: bucket `u<n>`, n = CRC-32 of the id modulo the bucket count."""
        number = zlib.crc32(user_id.encode()) % self.user_buckets
        return StreamName(f"u{number}", quote(user_id, safe=""))

    @cached_property
    def buckets(self) -> tuple[str, ...]:
        """All buckets, the global one first."""
        return (GLOBAL_BUCKET, *(f"u{number}" for number in range(self.user_buckets)))

    def life(self, bucket: str) -> str:
        """Hash: `epoch`, `run_id`, `master_replid`, `beat`, and `n:<partition>` for each next
        offset to publish, where <partition> is `topic/number` or `topic~generation/number`."""
        return f"{self.prefix}:{{{bucket}}}:life"

    def log(self, stream: StreamName) -> str:
        """Stream: entry `<seq>-0` with the one field `m`, a message as shared.message has it."""
        return f"{self.prefix}:{{{stream.bucket}}}:log:{stream.name}"

    def meta(self, stream: StreamName) -> str:
        """Hash: `epoch` and `seq` of the last message, `o:<partition>` for each highest offset
        published, `fork`: `<epoch>:<seq>` of the last few epochs that ended, oldest first,
        separated by spaces."""
        return f"{self.prefix}:{{{stream.bucket}}}:meta:{stream.name}"

    def ack(self, stream: StreamName) -> str:
        """Hash: for each device of the stream's user the cursor that it acknowledged, and when (Unix
        seconds), with a space between."""
        return f"{self.prefix}:{{{stream.bucket}}}:ack:{stream.name}"

    def presence(self, stream: StreamName) -> str:
        """Hash: for each replica the connections that it has of the stream's user (gateway.share)."""
        return f"{self.prefix}:{{{stream.bucket}}}:presence:{stream.name}"

    def replicas(self, bucket: str) -> str:
        """Sorted set: the replicas that have users of a bucket, by until when their word counts (Unix
        milliseconds)."""
        return f"{self.prefix}:{{{bucket}}}:replicas"

    def notices(self, bucket: str) -> str:
        """Shard channel of what the replicas that have users of a bucket tell each other: `tell
        <replica> <stream name>`, for one to tell anew which connections of that user it has. The global
        bucket's carries what operators order, to all replicas (gateway/operators/orders.py)."""
        return f"{self.prefix}:{{{bucket}}}:notices"

    def live(self, stream: StreamName) -> str:
        """Shard channel of a stream's live messages."""
        return f"{self.prefix}:{{{stream.bucket}}}:live:{stream.name}"

    def beat(self, bucket: str) -> str:
        """Shard channel of the relay's beat: a rising number each second."""
        return f"{self.prefix}:{{{bucket}}}:beat"

    @property
    def last(self) -> str:
        """Hash: the newest message of each broadcast type."""
        return f"{self.prefix}:{{{GLOBAL_BUCKET}}}:last"

    @property
    def witnesses(self) -> str:
        """Hash: for each partition a record that was read, `offset:timestamp`; another one there means
        that the topic was deleted and made again."""
        return f"{self.prefix}:{{{GLOBAL_BUCKET}}}:witnesses"

    @property
    def revoked(self) -> str:
        """Sorted set: user ids, scored by the Unix second until which issued tokens are refused."""
        return f"{self.prefix}:{{{GLOBAL_BUCKET}}}:revoked"

    @property
    def statuses(self) -> str:
        """Sorted set: the processes that told their status lately, by when (Unix milliseconds)."""
        return f"{self.prefix}:{{{GLOBAL_BUCKET}}}:statuses"

    def status(self, process: str) -> str:
        """String: what a process said of itself, JSON (shared/statuses.py). Expires."""
        return f"{self.prefix}:{{{GLOBAL_BUCKET}}}:status:{process}"

    @property
    def layout(self) -> str:
        """String: the number of user buckets this Redis was laid out with."""
        return f"{self.prefix}:layout"

    @property
    def start(self) -> str:
        """Hash: the end offset of every partition at the very first start."""
        return f"{self.prefix}:start"
