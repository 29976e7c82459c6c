"""What the server says besides events: control frames of notify.v1, control events of /events (DESIGN section 4).
Pure. /asyncapi.json describes them from these classes.
"""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gateway.cursor import Cursor, Position
from gateway.resume import Resync
from shared.message import TYPE_OF_TOPIC

TypeName = Annotated[str, Meta(extra_json_schema={"enum": list(TYPE_OF_TOPIC.values())})]
StreamWord = Annotated[str, Meta(extra_json_schema={"enum": ["global", "user"]})]


class Place(msgspec.Struct, frozen=True):
    """A place in a stream: everything up to `seq`."""

    epoch: Annotated[str, Meta(description="Opaque. One that ends in - is of no use in a cursor.")]
    seq: Annotated[int, Meta(ge=0)]


class Welcome(msgspec.Struct, frozen=True, kw_only=True, tag_field="control", tag="welcome"):
    """The first frame. Everything behind these places follows."""

    everyone: Place = msgspec.field(name="global")
    user: Place
    heartbeat_ms: Annotated[int, Meta(gt=0, description="Between two heartbeats.")]
    recovered: Annotated[bool, Meta(description="The places are the cursor's.")]
    replayed: Annotated[int, Meta(ge=0, description="Messages behind the places that were published already.")]


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, tag_field="control", tag="heartbeat"):
    """Every message up to these places that this client wants was written before. Without them nothing can be
    proven at present."""

    everyone: Place | UnsetType = msgspec.field(name="global", default=UNSET)
    user: Place | UnsetType = UNSET
    ts: Annotated[int, Meta(description="The server's clock, Unix milliseconds.")]


class ToResync(msgspec.Struct, frozen=True, tag_field="control", tag="resync"):
    """Something of this stream may be missing. What the log still has follows."""

    stream: StreamWord
    reason: Annotated[str, Meta(extra_json_schema={"enum": [reason.value for reason in Resync]})]


class Conflated(msgspec.Struct, frozen=True, tag_field="control", tag="conflated"):
    """This client did not read: up to its next event of this type, so many of that type were dropped."""

    stream: StreamWord
    type: TypeName
    dropped: Annotated[int, Meta(ge=1)]


class GoingAway(msgspec.Struct, frozen=True, tag_field="control", tag="going_away"):
    """Be elsewhere by then: the connection is closed two seconds after."""

    retry_after_ms: Annotated[int, Meta(ge=0)]


class Authenticated(msgspec.Struct, frozen=True, tag_field="control", tag="auth"):
    """The fresh token was taken; the connection lives as long as that one."""

    expires_at: Annotated[int, Meta(description="Unix seconds.")]


class Pong(msgspec.Struct, frozen=True, tag_field="control", tag="pong"):
    """The answer to a ping."""


class Error(msgspec.Struct, frozen=True, tag_field="control", tag="error"):
    """What a client said was not done; on /events why the stream ends. `message` says what to do."""

    code: Annotated[str, Meta(description="One word for machines.")]
    message: str


ControlFrame = Welcome | Heartbeat | ToResync | Conflated | GoingAway | Authenticated | Pong | Error


def place_of(position: Position) -> Place:
    """A position as control frames have it."""
    return Place(position.epoch.decode(), position.seq)


def welcome(starts_at: Cursor, *, heartbeat_ms: int, recovered: bool, replayed: int) -> Welcome:
    """The first frame of a connection that starts there."""
    return Welcome(
        everyone=place_of(starts_at.everyone),
        user=place_of(starts_at.user),
        heartbeat_ms=heartbeat_ms,
        recovered=recovered,
        replayed=replayed,
    )


def heartbeat(tops: Cursor | None, ts_ms: int) -> Heartbeat:
    """`tops`: everything up to there was written before; None when that cannot be proven at present."""
    if tops is None:
        return Heartbeat(ts=ts_ms)
    return Heartbeat(everyone=place_of(tops.everyone), user=place_of(tops.user), ts=ts_ms)


def resync(*, is_global: bool, reason: Resync) -> ToResync:
    """What a client is told of a hole that cannot be filled."""
    return ToResync(stream_name(is_global=is_global), reason.value)


def stream_name(*, is_global: bool) -> str:
    """A stream as clients are told it."""
    return "global" if is_global else "user"
