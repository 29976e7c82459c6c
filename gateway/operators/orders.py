"""What an operator orders all replicas to do, as it goes over the global bucket's notices. Pure.

    drain <replica>
    disconnect <again|for-good> <user id, percent-encoded>
    disconnect-everyone <again|for-good>

Carrying one out twice does no harm; one that is lost is ordered again by whoever sees that nothing happened.
"""

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from gateway.close_codes import CloseCode
from shared.errors import InvalidUserId
from shared.users import validate_user_id

_AGAIN: Final = b"again"
_FOR_GOOD: Final = b"for-good"


@dataclass(frozen=True)
class Drain:
    """One replica is to send its clients elsewhere and end."""

    replica: str


@dataclass(frozen=True)
class Disconnect:
    """A user's connections are to be closed, on all replicas; without a user, everybody's."""

    user_id: str | None
    retry: bool
    """Whether the clients are told to come back."""

    @property
    def code(self) -> CloseCode:
        return CloseCode.SERVICE_RESTART if self.retry else CloseCode.DISCONNECTED_BY_ADMIN


Order = Drain | Disconnect


def encode_order(order: Order) -> bytes:
    """As it is published."""
    if isinstance(order, Drain):
        return b"drain %s" % order.replica.encode()
    how = _AGAIN if order.retry else _FOR_GOOD
    if order.user_id is None:
        return b"disconnect-everyone %s" % how
    return b"disconnect %s %s" % (how, quote(order.user_id, safe="").encode())


def parse_order(notice: bytes) -> Order | None:
    """None for what is no order."""
    match notice.split(b" "):
        case [b"drain", replica]:
            return Drain(replica.decode(errors="replace"))
        case [b"disconnect-everyone", how] if how in (_AGAIN, _FOR_GOOD):
            return Disconnect(None, how == _AGAIN)
        case [b"disconnect", how, name] if how in (_AGAIN, _FOR_GOOD):
            try:
                return Disconnect(validate_user_id(unquote(name.decode(), errors="strict")), how == _AGAIN)
            except (InvalidUserId, UnicodeDecodeError):
                return None
    return None
