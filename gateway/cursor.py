"""How far a client got: `<global epoch>.<seq>.<user epoch>.<seq>` (DESIGN section 1). Pure."""

import re
from typing import Final, NamedTuple

from gateway.stream import NO_EPOCH

CURSOR_PATTERN: Final = r"([0-9a-z]{1,32}-?)\.([0-9]{1,15})\.([0-9a-z]{1,32}-?)\.([0-9]{1,15})"
_CURSOR: Final = re.compile(CURSOR_PATTERN)


class Position(NamedTuple):
    """A place in one stream: everything up to `seq` was had. An epoch that ends with `-` names a
    place that nobody can resume from (Stream.label)."""

    epoch: bytes
    seq: int


class Cursor(NamedTuple):
    """A client's places in the two streams that it gets."""

    everyone: Position
    user: Position

    def encode(self) -> bytes:
        """As clients see it."""
        return b"%s.%d.%s.%d" % (*self.everyone, *self.user)


START: Final = Position(NO_EPOCH, 0)
"""Where a stream stands that never had a message."""


def parse_cursor(text: str) -> Cursor:
    """Raises ValueError for what is no cursor."""
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise ValueError("no cursor")
    epoch, seq, user_epoch, user_seq = match.groups()
    return Cursor(Position(epoch.encode(), int(seq)), Position(user_epoch.encode(), int(user_seq)))
