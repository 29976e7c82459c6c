"""Why a connection was closed, as clients see it (RFC 6455 section 7.4, DESIGN section 4)."""

from enum import IntEnum


class CloseCode(IntEnum):
    """A close code with its reason and whether a client should connect again.

    1000-1015 mean what RFC 6455 and its registry say. 4000-4499: connect again with backoff;
    4500-4999: do not.
    """

    reason: str
    retry: bool

    def __new__(cls, code: int, reason: str, retry: bool) -> "CloseCode":
        member = int.__new__(cls, code)
        member._value_ = code
        member.reason = reason
        member.retry = retry
        return member

    NORMAL = 1000, "normal", False
    PROTOCOL_ERROR = 1002, "protocol_error", False
    UNSUPPORTED_DATA = 1003, "unsupported_data", False
    INVALID_DATA = 1007, "invalid_data", False
    MESSAGE_TOO_BIG = 1009, "message_too_big", False
    PING_TIMEOUT = 1011, "ping_timeout", True
    SERVICE_RESTART = 1012, "service_restart", True
    SLOW_CONSUMER = 4000, "slow_consumer", True
    TOKEN_EXPIRED = 4001, "token_expired", True
    TOO_MANY_MESSAGES = 4002, "too_many_messages", True
    GAP = 4003, "gap", True
    UNAVAILABLE = 4004, "unavailable", True
    REBALANCE = 4005, "rebalance", True
    UNAUTHORIZED = 4500, "unauthorized", False
    DISCONNECTED_BY_ADMIN = 4501, "disconnected_by_admin", False
    REPLACED = 4502, "replaced", False
    BAD_REQUEST = 4503, "bad_request", False
    ORIGIN_NOT_ALLOWED = 4504, "origin_not_allowed", False
