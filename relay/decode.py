"""Bytes of a record to an event, or why they are none (DESIGN section 2). Pure.

msgspec decodes the whole value in one pass, which is strict about everything but what is checked
beside it: UTF-8 first, so that the reason is told apart; nesting, since msgspec stops only where
the interpreter's own limit is.
"""

import codecs
import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec

from relay.routes import Route
from shared.errors import InvalidUserId
from shared.users import validate_user_id

MAX_DEPTH: Final = 64
"""Objects and arrays inside one another, the event itself counted."""


class Reason(StrEnum):
    """Why a record is a dead letter. Its value is the dead letter's header and a metric's label."""

    TOO_LARGE = "too_large"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    LONE_SURROGATE = "lone_surrogate"
    NUMBER_OUT_OF_RANGE = "number_out_of_range"
    TOO_DEEP = "too_deep"
    NOT_AN_OBJECT = "not_an_object"
    NO_USER_ID = "no_user_id"
    UNDECODABLE = "undecodable"
    """Not even a record: its batch or its headers are malformed. The dead letter has no value."""


class Event(NamedTuple):
    """A record that is to be published. `user_id` is None when it is for everyone."""

    user_id: str | None
    data: bytes


class Skipped(NamedTuple):
    """A record that is not for this service: a tombstone, or of another type."""


class Rejected(NamedTuple):
    """A record for the dead-letter topic."""

    reason: Reason


Decoded = Event | Skipped | Rejected

_SKIPPED: Final = Skipped()
_ANY: Final = msgspec.json.Decoder()
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Decode:
    """Decodes the records of all topics. Holds no state between records.

    `max_event_bytes` bounds a record's value; `drop_fields` names, for each type, the top-level
    fields that clients must not see.
    """

    def __init__(self, max_event_bytes: int, drop_fields: Mapping[str, Sequence[str]]) -> None:
        self._max_event_bytes = max_event_bytes
        self._drop_fields = {type_: frozenset(fields) for type_, fields in drop_fields.items()}

    def __call__(self, route: Route, value: bytes | None) -> Decoded:
        """What a record's value is. Never raises, whatever the bytes."""
        if value is None:
            return _SKIPPED
        if len(value) > self._max_event_bytes:
            return Rejected(Reason.TOO_LARGE)
        try:
            if not value.isascii():
                value.decode()
            fields = _ANY.decode(value)
        except UnicodeDecodeError:
            return Rejected(Reason.NOT_UTF8)
        except RecursionError:
            return Rejected(Reason.TOO_DEEP)
        except msgspec.ValidationError:  # its only rule without a type: numbers must fit
            return Rejected(Reason.NUMBER_OUT_OF_RANGE)
        except msgspec.DecodeError:
            return Rejected(_why_malformed(value))
        if type(fields) is not dict:
            return Rejected(Reason.NOT_AN_OBJECT)
        # As many brackets as the limit cannot exceed it, in strings or not: most need no walk.
        if value.count(b"{") + value.count(b"[") > MAX_DEPTH and _is_too_deep(fields):
            return Rejected(Reason.TOO_DEEP)
        if fields.get("event_type", route.type) != route.type:
            return _SKIPPED
        user_id = None
        if not route.is_broadcast:
            try:
                user_id = validate_user_id(fields.get("user_id"))
            except InvalidUserId:
                return Rejected(Reason.NO_USER_ID)
        if drop := self._drop_fields.get(route.type):
            value = _without(value, drop.intersection(fields))
        # JSON allows CR and LF only between tokens, where a space means the same.
        if b"\n" in value or b"\r" in value:
            value = value.replace(b"\n", b" ").replace(b"\r", b" ")
        return Event(user_id, value)


def _why_malformed(value: bytes) -> Reason:
    """msgspec found `value` malformed. The standard parser is as strict, but for lone surrogates."""
    if value.startswith(codecs.BOM_UTF8) or b"\0" in value:  # a byte order mark; UTF-16 or UTF-32
        return Reason.NOT_UTF8
    try:
        json.loads(value.decode(), parse_constant=_refuse, parse_int=_ignore, parse_float=_ignore)
    except RecursionError:
        return Reason.TOO_DEEP
    except ValueError:
        return Reason.NOT_JSON
    return Reason.LONE_SURROGATE


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _ignore(_number: str) -> None:
    return None


def _is_too_deep(fields: dict[str, Any]) -> bool:
    level: list[Any] = [fields]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is dict or type(inner) is list
        ]
        if not level:
            return False
    return True


def _without(value: bytes, drop: frozenset[str]) -> bytes:
    """`value` without the top-level fields `drop`; the bytes of the other fields' values stay."""
    if not drop:
        return value
    kept = (
        msgspec.json.encode(name) + b":" + bytes(raw) for name, raw in _FIELDS.decode(value).items() if name not in drop
    )
    return b"{" + b",".join(kept) + b"}"
