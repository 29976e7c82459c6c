"""Where a user's streams are now, for a page that is rendered with its state (GET /position)."""

from gateway.cursor import Cursor, Position
from gateway.history import META_FIELDS, parse_meta
from shared.errors import RedisUnavailable
from shared.keys import GLOBAL, StreamName
from shared.links import Links
from shared.settings import RedisSettings
from shared.topology import is_primary


async def read_position(links: Links, settings: RedisSettings, user_id: str) -> Cursor:
    """The cursor of now, from Redis. Raises RedisError."""
    keys = settings.keys

    async def read(stream: StreamName) -> Position:
        link = await links.of(stream.bucket)
        reply, role = await link.transaction(
            (("HMGET", keys.meta(stream), *META_FIELDS), ("ROLE",)), timeout_seconds=settings.redis_timeout_seconds
        )
        if not is_primary(role):
            link.close()
            raise RedisUnavailable(f"{link.address} is a replica: only a primary has the last word")
        meta = parse_meta(reply)
        return Position(meta.epoch, meta.seq)

    return Cursor(await read(GLOBAL), await read(keys.user_stream(user_id)))
