"""gateway/asyncapi.py: the document is valid, whole, and says what the code does."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from harness.asyncapi import Document
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from gateway.asyncapi import asyncapi
from gateway.close_codes import CloseCode
from gateway.control import ControlMessage
from gateway.control_frames import (
    Authenticated,
    Conflated,
    ControlFrame,
    Error,
    GoingAway,
    Heartbeat,
    Pong,
    heartbeat,
    resync,
    welcome,
)
from gateway.cursor import START, Cursor, Position
from gateway.frames import Variant, frame_message, frame_snapshot, payload_of
from gateway.resume import Resync
from relay.batch import DeadLetter, NoRecord
from relay.decode import Decode, Event, Reason, Rejected, Skipped
from relay.letters import bare_headers
from relay.routes import DEAD_LETTER_TOPIC, ROUTES, Partition
from shared.message import EVENT_TYPES, Message

OFFICIAL = Path(__file__).parent / "specifications" / "asyncapi-3.0.0.json"

DOCUMENT = Document(msgspec.json.decode(msgspec.json.encode(asyncapi())))

CURSOR = Cursor(Position(b"a1b2", 7), Position(b"c3-", 0))

CONTROL_FRAMES: list[ControlFrame] = [
    welcome(CURSOR, heartbeat_ms=15_000, recovered=True, replayed=3),
    heartbeat(CURSOR, 1_700_000_000_000),
    heartbeat(None, 1_700_000_000_000),
    *(resync(is_global=is_global, reason=reason) for is_global in (True, False) for reason in Resync),
    Conflated("global", "market_alert", 1),
    GoingAway(0),
    Authenticated(1_700_000_000),
    Pong(),
    Error("bad_json", "Not JSON."),
]

decode = Decode(65_536, {})


def test_it_is_valid_by_the_official_schema() -> None:
    official = Draft7Validator(json.loads(OFFICIAL.read_text()))
    assert not list(official.iter_errors(DOCUMENT.document))
    broken = {**DOCUMENT.document, "operations": {"say": {"action": "shout"}}}
    assert list(official.iter_errors(broken)), "the official schema looks at nothing"


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_every_reference_leads_somewhere_and_every_schema_is_one() -> None:
    for reference in set(references(DOCUMENT.document)):
        DOCUMENT.resolved({"$ref": reference})
    for schema in DOCUMENT.document["components"]["schemas"].values():
        Draft7Validator.check_schema(schema)


def test_every_schema_is_used_and_every_message_is_sent_or_received() -> None:
    used = {reference.split("/")[3] for reference in references(DOCUMENT.document) if "/schemas/" in reference}
    assert used == set(DOCUMENT.document["components"]["schemas"])
    of_operations = set(references(DOCUMENT.document["operations"]))
    for channel in DOCUMENT.document["channels"]:
        for message in DOCUMENT.messages(channel):
            assert f"#/channels/{channel}/messages/{message}" in of_operations


def test_no_class_of_a_control_frame_is_left_out() -> None:
    assert {type(frame) for frame in CONTROL_FRAMES} == set(get_args(ControlFrame))
    frames = {one.__name__ for one in (*get_args(ControlFrame), *get_args(ControlMessage))}
    assert frames <= DOCUMENT.messages("v1")


@pytest.mark.parametrize("frame", CONTROL_FRAMES, ids=str)
def test_control_frames_are_what_the_document_says(frame: ControlFrame) -> None:
    assert DOCUMENT.which("v1", msgspec.json.encode(frame)) == type(frame).__name__


def test_a_heartbeat_without_a_time_is_none() -> None:
    assert not DOCUMENT.takes("v1", Heartbeat.__name__, {"control": "heartbeat"})


@pytest.mark.parametrize("route", ROUTES.values(), ids=lambda route: route.type)
def test_event_frames_are_what_the_document_says(route: Any) -> None:
    data = b'{"user_id":"ann","event_type":"%s","more":[1]}' % route.type.encode()
    message = Message(b"a1", 3, b"some-events~2/0", 17, 1_700_000_000_000, route.type.encode(), data)

    def framed(variant: Variant) -> bytes:
        return payload_of(frame_message(variant, message, is_global=route.is_broadcast, label=b"a1-"))

    plain = DOCUMENT.which("plain", framed(Variant.PLAIN))
    assert DOCUMENT.which("v1", framed(Variant.V1)) == f"{plain}V1"
    streamed = frame_message(Variant.EVENTS, message, is_global=route.is_broadcast, label=b"a1")
    event, data_line, end = streamed.split(b"\n")
    fields = {"event": event.removeprefix(b"event: ").decode(), "id": CURSOR.encode().decode()}
    assert DOCUMENT.which("events", data_line.removeprefix(b"data: "), fields) == f"{plain}Streamed"
    assert not end
    if route.is_broadcast:
        assert DOCUMENT.which("v1", payload_of(frame_snapshot(Variant.V1, message))) == f"{plain}V1"
    wrong = json.loads(framed(Variant.V1)) | {"stream": "user" if route.is_broadcast else "global"}
    assert not DOCUMENT.takes("v1", f"{plain}V1", wrong)


def test_every_type_and_every_close_code_is_there() -> None:
    channels = DOCUMENT.document["channels"]
    assert {message["name"] for message in channels["plain"]["messages"].values()} == {
        type_.decode() for type_ in EVENT_TYPES
    }
    for channel in ("plain", "v1"):
        assert {one["code"]: one["retry"] for one in channels[channel]["x-close-codes"]} == {
            int(code): code.retry for code in CloseCode
        }


@pytest.mark.parametrize(
    ("value", "is_good"),
    [("ack", True), ("0.0.a1.17", True), (CURSOR.encode().decode(), True), ("1.2.3", False), ("0.0.A.1", False)],
)
def test_the_query_s_cursor(value: str, is_good: bool) -> None:
    query = DOCUMENT.document["channels"]["v1"]["bindings"]["ws"]["query"]
    assert DOCUMENT.validator(query).is_valid({"user_id": "ann", "cursor": value}) is is_good
    plain = DOCUMENT.document["channels"]["plain"]["bindings"]["ws"]["query"]
    assert DOCUMENT.validator(plain).is_valid({"cursor": value}) is (is_good and value != "ack")


def test_start_is_a_cursor() -> None:
    query = DOCUMENT.document["operations"]["sendEventStream"]["bindings"]["http"]["query"]
    assert DOCUMENT.validator(query).is_valid({"cursor": Cursor(START, START).encode().decode()})


USER_TOPICS = [topic for topic, route in ROUTES.items() if not route.is_broadcast]


@pytest.mark.parametrize("topic", ROUTES)
@pytest.mark.parametrize("value", [[], "an event", 1, True, None, [{}]], ids=str)
def test_what_is_no_object_is_refused_by_both(topic: str, value: Any) -> None:
    assert decode(ROUTES[topic], json.dumps(value).encode()) == Rejected(Reason.NOT_AN_OBJECT)
    assert not DOCUMENT.takes(topic, ROUTES[topic].type, value)


@pytest.mark.parametrize("topic", ROUTES)
def test_another_type_is_for_neither(topic: str) -> None:
    value = {"event_type": "heartbeat", "user_id": "ann"}
    assert decode(ROUTES[topic], json.dumps(value).encode()) == Skipped()
    assert not DOCUMENT.takes(topic, ROUTES[topic].type, value)


# To JSON Schema 1.0 is an integer.
fractions = st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: number != int(number))

any_json = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**9), 10**9),
    fractions,
    st.text(st.characters(exclude_categories=["Cs"]), max_size=140),
    st.text(st.sampled_from("a\n\x00\x1f\x7f\x85é\u2028"), max_size=4),
    st.lists(st.integers(), max_size=2),
    st.sampled_from(["x" * 128, "x" * 129, "ann\n", "😀" * 128]),
)


@given(user_id=any_json, topic=st.sampled_from(USER_TOPICS))
def test_the_relay_and_the_schema_agree_on_users(user_id: Any, topic: str) -> None:
    value = {"user_id": user_id}
    is_event = isinstance(decode(ROUTES[topic], json.dumps(value).encode()), Event)
    assert DOCUMENT.takes(topic, ROUTES[topic].type, value) is is_event


@pytest.mark.parametrize("topic", USER_TOPICS)
def test_a_record_for_a_user_names_one(topic: str) -> None:
    assert decode(ROUTES[topic], b"{}") == Rejected(Reason.NO_USER_ID)
    assert not DOCUMENT.takes(topic, ROUTES[topic].type, {})


@pytest.mark.parametrize("topic", ROUTES)
def test_what_producers_add_is_fine(topic: str) -> None:
    value = {"user_id": "ann", "added": {"since": "yesterday"}}
    assert isinstance(decode(ROUTES[topic], json.dumps(value).encode()), Event)
    assert DOCUMENT.takes(topic, ROUTES[topic].type, value)


def test_the_headers_of_a_dead_letter_are_what_the_document_says() -> None:
    letter = DeadLetter(Partition("risk-events", 2), NoRecord(17), Reason.TOO_LARGE)
    headers = {name: value.decode() for name, value in bare_headers(letter)}
    described = DOCUMENT.document["channels"][DEAD_LETTER_TOPIC]["messages"]["deadLetter"]["headers"]
    DOCUMENT.validator(described).validate(headers)
    assert set(headers) == set(described["properties"])
