"""Whether a client can go on where it was, and where else. Pure (DESIGN sections 3 and 4)."""

from enum import Enum

from gateway.cursor import START, Position
from gateway.stream import Meta


class Resync(Enum):
    """Why a client has to be told that it may have missed something of a stream."""

    TRIMMED = "trimmed"
    """The log does not reach back to the cursor."""
    UNKNOWN_CURSOR = "unknown_cursor"
    """Ahead of the stream, or of where its epoch ended; or no cursor at all."""
    UNKNOWN_EPOCH = "unknown_epoch"
    """Of an epoch that Redis does not know (any more)."""
    GAP = "gap"
    """A hole that nothing can fill."""


def judge(position: Position, meta: Meta, first_seq: int | None) -> Resync | None:
    """None when everything after `position` is in the log, whose first entry is `first_seq`."""
    end = end_of(position.epoch, meta)
    if end is None:
        return Resync.UNKNOWN_EPOCH
    if position.seq > end:
        return Resync.UNKNOWN_CURSOR
    if position.seq == meta.seq or (first_seq is not None and first_seq <= position.seq + 1):
        return None
    return Resync.TRIMMED


def end_of(epoch: bytes, meta: Meta) -> int | None:
    """The last seq of `epoch` in the stream's life; None for an epoch that is no part of it."""
    if epoch == meta.epoch:
        return meta.seq
    if epoch == START.epoch:
        return 0
    return meta.forks.get(epoch)


def before_all(meta: Meta, first_seq: int | None) -> Position:
    """The place after which comes everything that the log still has."""
    return Position(meta.epoch, meta.seq if first_seq is None else first_seq - 1)
