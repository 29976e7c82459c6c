"""What a client of notify.v1 may say: its text messages read into one of four, or refused. Pure.

{"control":"ack","cursor":"..."}     {"control":"filter","types":[...]}
{"control":"auth","token":"..."}     {"control":"ping"}
"""

from typing import Final

import msgspec

from gateway.admission.wishes import parse_types
from gateway.control_frames import TypeName
from gateway.cursor import Cursor, parse_cursor


class BadControl(Exception):
    """Not a control message. Stays within the gateway; answered with an error frame."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Ack(msgspec.Struct, frozen=True, tag_field="control", tag="ack"):
    """How far this device has processed its messages."""

    cursor: str


class Auth(msgspec.Struct, frozen=True, tag_field="control", tag="auth"):
    """A fresh token."""

    token: str


class Filter(msgspec.Struct, frozen=True, tag_field="control", tag="filter"):
    """Only these types from now on; an empty list: all."""

    types: list[TypeName]


class Ping(msgspec.Struct, frozen=True, tag_field="control", tag="ping"):
    """Answered with a pong."""


ControlMessage = Ack | Auth | Filter | Ping

_DECODER: Final = msgspec.json.Decoder(ControlMessage)


def parse_control(text: str) -> ControlMessage:
    """Unknown fields are ignored. Raises BadControl with what is wrong, never with what was sent."""
    try:
        message: ControlMessage = _DECODER.decode(text)
        return message
    except msgspec.ValidationError:
        raise BadControl(
            "bad_control", "Not a control message; `control` is ack, auth, filter or ping, with its fields."
        ) from None
    except (msgspec.DecodeError, RecursionError):
        raise BadControl("bad_json", "Not JSON; control messages are JSON objects.") from None


def cursor_of(ack: Ack) -> Cursor:
    """Raises BadControl."""
    try:
        return parse_cursor(ack.cursor)
    except ValueError:
        raise BadControl("bad_cursor", "Not a cursor; it is <global epoch>.<seq>.<user epoch>.<seq>.") from None


def types_of(filter_: Filter) -> frozenset[bytes] | None:
    """Raises BadControl."""
    try:
        return parse_types(filter_.types)
    except ValueError as error:
        raise BadControl("unknown_type", str(error)) from None
