"""A handshake's refusal: an HTTP status with a JSON body that says what to do. Pure."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from gateway.close_codes import CloseCode


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a handshake is not answered with 101.

    `error` is one word for machines, `message` a sentence for people that says what to do. A client
    that offered one of our subprotocols gets `close` after an accepted handshake, since browsers
    hide the status; without `close` it gets the status as well.
    """

    status: HTTPStatus
    error: str
    message: str
    close: CloseCode | None = CloseCode.BAD_REQUEST
    headers: tuple[tuple[str, str], ...] = field(default=())
    retry_after_ms: int | None = None

    @property
    def close_reason(self) -> str:
        """For the close frame: `unavailable retry_after_ms=1200`, or the error and the message."""
        if self.close is not None and self.retry_after_ms is not None:
            return f"{self.close.reason} retry_after_ms={self.retry_after_ms}"
        return f"{self.error}: {self.message}"


def spread_ms() -> int:
    """A time for a refused client to wait, other for each, so that a crowd does not come at once."""
    return random.randint(500, 3_000)  # noqa: S311


def unavailable(message: str, retry_after_ms: int) -> Refusal:
    """503: try again after a time that the caller has spread."""
    return _later(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", message, retry_after_ms)


def too_many_replays(retry_after_ms: int) -> Refusal:
    """429: this user's clients resume more than one user may."""
    message = "This user's clients had too much replayed lately; connect again, later."
    return _later(HTTPStatus.TOO_MANY_REQUESTS, "too_many_replays", message, retry_after_ms)


def _later(status: HTTPStatus, error: str, message: str, retry_after_ms: int) -> Refusal:
    retry_after = ("Retry-After", str(max(1, round(retry_after_ms / 1000))))
    return Refusal(status, error, message, CloseCode.UNAVAILABLE, (retry_after,), retry_after_ms)


def too_many_of_address(retry_after_ms: int) -> Refusal:
    """429: this address has as many connections as one may have."""
    message = "This address has too many connections (MAX_CONNECTIONS_PER_ADDRESS); close some, or connect later."
    return _later(HTTPStatus.TOO_MANY_REQUESTS, "too_many_of_address", message, retry_after_ms)


def refusal_response(refusal: Refusal, more_headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """The whole HTTP response; the socket is closed after it."""
    body = json.dumps({"error": refusal.error, "message": refusal.message}).encode()
    lines = [
        f"HTTP/1.1 {refusal.status.value} {refusal.status.phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
        *(f"{name}: {value}" for name, value in (*refusal.headers, *more_headers)),
    ]
    return "\r\n".join((*lines, "", "")).encode() + body
