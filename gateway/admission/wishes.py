"""What a client asked for in its query. Pure (DESIGN section 4)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from gateway.cursor import Cursor, parse_cursor
from gateway.resume import Resync
from shared.errors import InvalidUserId
from shared.message import EVENT_TYPES
from shared.users import validate_user_id


class Asked(NamedTuple):
    """A query, read."""

    user_id: str
    types: frozenset[bytes] | None = None
    """Only these event types; None for all."""
    device: str | None = None
    """Whose acknowledgements these are."""
    resume: "Resume | None" = None


class Resume(NamedTuple):
    """Where a connection is to begin, when that is not the present."""

    cursor: Cursor | Resync | None = None
    """Resync: there was one, and it is none."""
    from_ack: bool = False
    """From what the device acknowledged last."""
    snapshot: bool = False
    """With the newest message of each broadcast type first."""


def parse_wishes(options: Mapping[str, str], last_event_id: bytes | None = None) -> Asked:
    """Read the options of a connection.
    `last_event_id` is what a browser's EventSource says when it comes again: it has the word over
    `cursor=`, which is still in its URL.

    Raises ValueError with a sentence that says what to do.
    """
    if "user_id" not in options:
        raise ValueError("user_id is missing; add user_id=<id> to the query.")
    try:
        user_id = validate_user_id(options["user_id"])
    except InvalidUserId as error:
        raise ValueError(f"user_id is {error}; it takes 1 to 128 characters without control characters.") from None
    types = parse_types(options["types"].split(",")) if "types" in options else None
    device = options.get("device")
    if device is not None:
        try:
            validate_user_id(device)
        except InvalidUserId as error:
            raise ValueError(f"device is {error}; it takes 1 to 128 characters without control characters.") from None
    return Asked(user_id, types, device, _parse_resume(options, last_event_id))


def parse_types(names: Sequence[str]) -> frozenset[bytes] | None:
    """Event types by name; none of them are all. Raises ValueError for an unknown one."""
    types = frozenset(name.encode() for name in names)
    if not types <= EVENT_TYPES:
        known = ", ".join(sorted(name.decode() for name in EVENT_TYPES))
        raise ValueError(f"types names an unknown type; known are {known}.")
    return types or None


def _parse_resume(options: Mapping[str, str], last_event_id: bytes | None) -> Resume | None:
    snapshot = options.get("snapshot", "0")
    if snapshot not in ("0", "1"):
        raise ValueError("snapshot takes 1, or 0.")
    cursor: Cursor | Resync | None = None
    from_ack = False
    if last_event_id:
        try:
            cursor = parse_cursor(last_event_id.decode())
        except ValueError:
            cursor = Resync.UNKNOWN_CURSOR  # the browser would offer it again and again
    elif options.get("cursor") == "ack":
        if "device" not in options:
            raise ValueError("cursor=ack takes device=<name of the device that acknowledged>, too.")
        from_ack = True
    elif "cursor" in options:
        try:
            cursor = parse_cursor(options["cursor"])
        except ValueError:
            raise ValueError(
                "cursor is malformed; it is <global epoch>.<seq>.<user epoch>.<seq> as this service gave it, or ack."
            ) from None
    if cursor is None and not from_ack and snapshot == "0":
        return None
    return Resume(cursor, from_ack, snapshot == "1")


def parse_options(query: bytes) -> dict[str, str]:
    """A query's options. Values are UTF-8, percent-encoded; `+` is a plus. Raises ValueError."""
    options: dict[str, str] = {}
    for part in query.split(b"&"):
        if not part:
            continue
        raw_name, _, raw_value = part.partition(b"=")
        try:
            name, value = _decode(raw_name), _decode(raw_value)
        except UnicodeDecodeError:
            raise ValueError("The query is not percent-encoded UTF-8.") from None
        if name in options:
            raise ValueError("An option is in the query twice.")
        options[name] = value
    return options


def _decode(raw: bytes) -> str:
    return unquote_to_bytes(raw).decode() if b"%" in raw else raw.decode()
