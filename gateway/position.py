"""Where a user's streams are now, for a page that is rendered with its state (GET /position)."""

from gateway.cursor import Cursor, Position
from gateway.history import parse_meta, read_meta
from shared.keys import GLOBAL, StreamName
from shared.links import Links, read_from_primary
from shared.settings import RedisSettings


async def read_position(links: Links, settings: RedisSettings, user_id: str) -> Cursor:
    """The cursor of now, from Redis. Raises RedisError."""
    keys = settings.keys

    async def read(stream: StreamName) -> Position:
        link = await links.of(stream.bucket)
        timeout_seconds = settings.redis_timeout_seconds
        (reply,) = await read_from_primary(link, [read_meta(keys, stream)], timeout_seconds=timeout_seconds)
        meta = parse_meta(reply)
        return Position(meta.epoch, meta.seq)

    return Cursor(await read(GLOBAL), await read(keys.user_stream(user_id)))
