"""The AsyncAPI 3.0 document of the sockets and the topics, `/asyncapi.json`, from the classes that the code uses. Pure.

In AsyncAPI's words the application is the whole service: it receives from the four topics and from clients, and
sends to clients and to the dead-letter topic.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.admission.credentials import BEARER_SUBPROTOCOL, QUERY_TOKEN
from gateway.admission.handshake import PLAIN, V1
from gateway.close_codes import CloseCode
from gateway.control import Ack, Auth, Filter, Ping
from gateway.control_frames import (
    Authenticated,
    Conflated,
    Error,
    GoingAway,
    Heartbeat,
    Place,
    Pong,
    ToResync,
    Welcome,
)
from gateway.cursor import CURSOR_PATTERN
from relay.decode import Reason
from relay.letters import HEADER_PREFIX
from relay.routes import DEAD_LETTER_TOPIC, ROUTES, Route
from shared.payloads import PAYLOAD_OF_TYPE, USER_ID_SCHEMA
from shared.version import VERSION

Schema = dict[str, Any]

_TO_CLIENTS: Final = (Welcome, Heartbeat, ToResync, Conflated, GoingAway, Authenticated, Pong, Error)
_OF_EVENT_STREAMS: Final = (ToResync, Conflated, GoingAway, Error)
_FROM_CLIENTS: Final = (Ack, Filter, Auth, Ping)

_SECURITY_SCHEMES: Final[Mapping[str, Schema]] = {
    "authorization": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "With AUTH_MODE=jwt a token has to come in one of four ways; this is the first.",
    },
    "subprotocol": {
        "type": "httpApiKey",
        "in": "header",
        "name": "Sec-WebSocket-Protocol",
        "description": f"`{BEARER_SUBPROTOCOL.decode()}<token>` beside `{V1.decode()}` or `{PLAIN.decode()}`: "
        "a page's WebSocket can send no header. It is never answered.",
    },
    "cookie": {
        "type": "httpApiKey",
        "in": "cookie",
        "name": "AUTH_COOKIE",
        "description": "The cookie that AUTH_COOKIE names, where it is set. It counts only with an Origin that may "
        "connect.",
    },
    "query": {
        "type": "httpApiKey",
        "in": "query",
        "name": QUERY_TOKEN,
        "description": "With ALLOW_QUERY_TOKEN=true only: proxies log it.",
    },
}


def asyncapi() -> Schema:
    """The document, ready to be encoded."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "BLOASIS notification gateway",
            "version": VERSION,
            "description": "Events of the trading platform to people's browsers, each exactly once and in order. The "
            "HTTP routes beside these channels are described by `/openapi.json`.",
        },
        "defaultContentType": "application/json",
        "servers": _servers(),
        "channels": {**_client_channels(), **_topic_channels()},
        "operations": {**_client_operations(), **_topic_operations()},
        "components": {"schemas": _schemas(), "securitySchemes": dict(_SECURITY_SCHEMES)},
    }


def _servers() -> Schema:
    host = {"default": "notifications.example.com", "description": "Where your replicas are reached."}
    security = [_ref("components", "securitySchemes", name) for name in _SECURITY_SCHEMES]
    return {
        "websocket": {
            "host": "{host}",
            "protocol": "wss",
            "description": "A replica (WS_PORT), or the load balancer before them; ws without TLS.",
            "variables": {"host": host},
            "security": security,
        },
        "http": {
            "host": "{host}",
            "protocol": "https",
            "description": "The same port; http without TLS.",
            "variables": {"host": host},
            "security": [one for one in security if not one["$ref"].endswith("/subprotocol")],
        },
        "redpanda": {
            "host": "{broker}",
            "protocol": "kafka",
            "description": "What REDPANDA_BROKERS names.",
            "variables": {"broker": {"default": "redpanda:9092", "description": "One of the brokers."}},
        },
    }


# Channels


def _client_channels() -> Schema:
    plain = {_plain_name(type_): _event_message(type_, _plain_name(type_)) for type_ in PAYLOAD_OF_TYPE}
    v1 = {_v1_name(type_): _event_message(type_, _v1_name(type_)) for type_ in PAYLOAD_OF_TYPE}
    v1 |= {one.__name__: _control_message(one) for one in (*_TO_CLIENTS, *_FROM_CLIENTS)}
    streamed = {
        _streamed_name(type_): {
            **_event_message(type_, _streamed_name(type_)),
            "headers": _event_stream_fields(type_, {"id": _CURSOR_BEHIND}),
        }
        for type_ in PAYLOAD_OF_TYPE
    }
    of_control = _event_stream_fields("control", {})
    streamed |= {one.__name__: {**_control_message(one), "headers": of_control} for one in _OF_EVENT_STREAMS}
    return {
        "plain": {
            "address": "/ws",
            "title": "WebSocket",
            "description": 'Text frames that are exactly `{"type", "data"}`. What a client sends is read and dropped.',
            "servers": [_ref("servers", "websocket")],
            "messages": plain,
            "bindings": _websocket_binding({"type": "string", "pattern": _offers(PLAIN)}, {}),
            "x-close-codes": _close_codes(),
        },
        "v1": {
            "address": "/ws",
            "title": f"WebSocket with the subprotocol {V1.decode()}",
            "description": "Events that say where they stand, and control frames: a client that comes back with a "
            "cursor gets what it missed, in order and once, and can prove in silence that it missed nothing.",
            "servers": [_ref("servers", "websocket")],
            "messages": v1,
            "bindings": _websocket_binding(
                {"type": "string", "pattern": _offers(V1)},
                {"device": {**USER_ID_SCHEMA, "description": "Whose acks these are, for `cursor=ack`."}},
                required=["Sec-WebSocket-Protocol"],
            ),
            "x-close-codes": _close_codes(),
        },
        "events": {
            "address": "/events",
            "title": "Server-Sent Events",
            "description": "An event stream (text/event-stream): a message's headers are the fields `event` and `id`, "
            "its payload is `data`. A browser resumes by itself, with Last-Event-ID. A comment comes each heartbeat.",
            "servers": [_ref("servers", "http")],
            "messages": streamed,
        },
    }


def _topic_channels() -> Schema:
    topics = {
        topic: {
            "address": topic,
            "servers": [_ref("servers", "redpanda")],
            "messages": {route.type: _record_message(route)},
            "bindings": {"kafka": {"topic": topic, "bindingVersion": "0.5.0"}},
        }
        for topic, route in ROUTES.items()
    }
    letters = {
        "address": DEAD_LETTER_TOPIC,
        "description": "Records that are no events, as they came. `python -m relay redrive` puts them back, and "
        "remembers in records with a key of its own how far it is.",
        "servers": [_ref("servers", "redpanda")],
        "messages": {"deadLetter": _dead_letter_message()},
        "bindings": {"kafka": {"topic": DEAD_LETTER_TOPIC, "bindingVersion": "0.5.0"}},
    }
    return {**topics, DEAD_LETTER_TOPIC: letters}


def _websocket_binding(subprotocols: Schema, more_query: Schema, required: Sequence[str] = ()) -> Schema:
    headers = {
        "type": "object",
        "properties": {
            "Sec-WebSocket-Protocol": subprotocols,
            "Origin": {"type": "string", "description": "Of a page; it has to be one of ALLOWED_ORIGINS."},
        },
        "required": list(required),
    }
    return {"ws": {"method": "GET", "query": _query(more_query), "headers": headers, "bindingVersion": "0.1.0"}}


def _query(more: Schema) -> Schema:
    one = "|".join(PAYLOAD_OF_TYPE)
    cursor = {
        "type": "string",
        "pattern": f"^(ack|{CURSOR_PATTERN})$" if more else f"^{CURSOR_PATTERN}$",
        "description": "`<global epoch>.<seq>.<user epoch>.<seq>`, as this service gave it: go on behind it.",
    }
    return {
        "type": "object",
        "properties": {
            "user_id": {
                **USER_ID_SCHEMA,
                "description": "Whose events. With AUTH_MODE=jwt it may be left out: it is the token's user.",
            },
            "types": {"type": "string", "pattern": f"^({one})(,({one}))*$", "description": "Only these."},
            "snapshot": {"enum": ["0", "1"], "description": "1: first the newest event of each broadcast type."},
            "cursor": cursor,
            QUERY_TOKEN: {"type": "string", "description": "With ALLOW_QUERY_TOKEN=true only."},
            **more,
        },
    }


def _offers(subprotocol: bytes) -> str:
    return rf"(^|,)\s*{subprotocol.decode().replace('.', '[.]')}\s*(,|$)"


def _close_codes() -> list[Schema]:
    """RFC 6455 section 7.4; `retry`: whether a client is to come back."""
    return [{"code": code.value, "reason": code.reason, "retry": code.retry} for code in CloseCode]


# Messages


def _plain_name(type_: str) -> str:
    return f"{PAYLOAD_OF_TYPE[type_].__name__}Message"


def _v1_name(type_: str) -> str:
    return f"{PAYLOAD_OF_TYPE[type_].__name__}MessageV1"


def _streamed_name(type_: str) -> str:
    return f"{PAYLOAD_OF_TYPE[type_].__name__}MessageStreamed"


def _event_message(type_: str, schema: str) -> Schema:
    return {"name": type_, "payload": _ref("components", "schemas", schema)}


def _control_message(frame: type[msgspec.Struct]) -> Schema:
    tag = frame.__struct_config__.tag
    return {"name": str(tag), "payload": _ref("components", "schemas", frame.__name__)}


def _event_stream_fields(event: str, more: Schema) -> Schema:
    return {"type": "object", "properties": {"event": {"const": event}, **more}, "required": ["event"]}


_CURSOR_BEHIND: Final[Schema] = {
    "type": "string",
    "pattern": f"^{CURSOR_PATTERN}$",
    "description": "The cursor behind this event; one of a snapshot has none.",
}


def _record_message(route: Route) -> Schema:
    payload = _ref("components", "schemas", PAYLOAD_OF_TYPE[route.type].__name__)
    to = "everyone" if route.is_broadcast else "the user that it names"
    return {
        "name": route.type,
        "summary": f"For {to}.",
        "description": "UTF-8 of at most MAX_EVENT_BYTES, nested 64 deep at most. What is none becomes a dead letter; "
        "a null value, and an event_type that is not the topic's, are skipped.",
        "payload": payload if route.is_broadcast else {"allOf": [payload, {"required": ["user_id"]}]},
        "bindings": {"kafka": {"key": _KEY, "bindingVersion": "0.5.0"}},
    }


_KEY: Final[Schema] = {
    "type": ["string", "null"],
    "description": "Any. Events with the same key keep their order: for a user's, use the user id.",
}


def _dead_letter_message() -> Schema:
    number = {"type": "string", "pattern": "^-?[0-9]+$"}
    said = {
        "topic": {"enum": list(ROUTES), "description": "Where the record was; partition and offset the same."},
        "partition": number,
        "offset": number,
        "timestamp": {**number, "description": "The record's, Unix milliseconds."},
        "reason": {"enum": [reason.value for reason in Reason]},
    }
    size = {**number, "description": "Of a record that this topic could not take: it has no value here."}
    properties = {HEADER_PREFIX + name: schema for name, schema in said.items()}
    return {
        "name": "dead_letter",
        "contentType": "application/octet-stream",
        "headers": {
            "type": "object",
            "description": "The record's own, and these, in UTF-8.",
            "properties": {**properties, f"{HEADER_PREFIX}value-bytes": size},
            "required": list(properties),
        },
        "payload": {"description": "The record's value, byte for byte."},
        "bindings": {"kafka": {"key": {"description": "The record's."}, "bindingVersion": "0.5.0"}},
    }


# Operations


def _client_operations() -> Schema:
    plain = [_plain_name(type_) for type_ in PAYLOAD_OF_TYPE]
    v1 = [_v1_name(type_) for type_ in PAYLOAD_OF_TYPE]
    streamed = [_streamed_name(type_) for type_ in PAYLOAD_OF_TYPE]
    told = [one.__name__ for one in (Welcome, Heartbeat, ToResync, Conflated, GoingAway, Error)]
    get = {"http": {"method": "GET", "query": _query({}), "bindingVersion": "0.3.0"}}
    return {
        "sendPlainEvents": _operation("send", "plain", plain, "Events to a WebSocket."),
        "sendEvents": _operation("send", "v1", [*v1, *told], f"Events and control frames, {V1.decode()}."),
        "sendEventStream": {
            **_operation(
                "send", "events", [*streamed, *(one.__name__ for one in _OF_EVENT_STREAMS)], "Server-Sent Events."
            ),
            "bindings": get,
        },
        "receiveAck": _operation("receive", "v1", ["Ack"], "How far a device has processed its messages."),
        "receiveFilter": _request("Filter", ["Heartbeat", "Error"], "Only these types from now on."),
        "receiveAuth": _request("Auth", ["Authenticated", "Error"], "A fresh token, once in 10 s."),
        "receivePing": _request("Ping", ["Pong"], "Answered at once."),
    }


def _topic_operations() -> Schema:
    received = {
        f"receive{PAYLOAD_OF_TYPE[route.type].__name__}": _operation(
            "receive", topic, [route.type], f"Becomes {route.type} of clients."
        )
        for topic, route in ROUTES.items()
    }
    letter = _operation("send", DEAD_LETTER_TOPIC, ["deadLetter"], "What is no event, never lost.")
    return {**received, "sendDeadLetter": letter}


def _operation(action: str, channel: str, messages: Sequence[str], summary: str) -> Schema:
    return {
        "action": action,
        "summary": summary,
        "channel": _ref("channels", channel),
        "messages": [_ref("channels", channel, "messages", name) for name in messages],
    }


def _request(message: str, answers: Sequence[str], summary: str) -> Schema:
    answered = {
        "channel": _ref("channels", "v1"),
        "messages": [_ref("channels", "v1", "messages", name) for name in answers],
    }
    return {**_operation("receive", "v1", [message], summary), "reply": answered}


# Schemas


def _schemas() -> Schema:
    of_control = (*_TO_CLIENTS, *_FROM_CLIENTS, Place)
    _, schemas = msgspec.json.schema_components(
        [*of_control, *PAYLOAD_OF_TYPE.values()], ref_template="#/components/schemas/{name}"
    )
    made: Schema = dict(schemas)
    for type_, payload in PAYLOAD_OF_TYPE.items():
        made[payload.__name__]["properties"]["event_type"] = {"const": type_}
        made[_plain_name(type_)] = _object({"type": {"const": type_}, "data": _data(payload)})
    for route in ROUTES.values():
        made[_v1_name(route.type)] = _v1_schema(route)
        made[_streamed_name(route.type)] = _object(_sourced(route.type))
    return made


def _v1_schema(route: Route) -> Schema:
    properties = {
        **_sourced(route.type),
        "stream": {"const": "global" if route.is_broadcast else "user"},
        "epoch": _ref("components", "schemas", "Place", "properties", "epoch"),
        "seq": {"type": "integer", "minimum": 1, "description": "Within an epoch it rises by one."},
    }
    if not route.is_broadcast:
        return _object(properties)
    snapshot = {"const": True, "description": "From before this connection: no place of its cursor."}
    return _object(properties, {"snapshot": snapshot})


def _sourced(type_: str) -> Schema:
    """An event with the record that it is from."""
    return {
        "type": {"const": type_},
        "data": _data(PAYLOAD_OF_TYPE[type_]),
        "id": {
            "type": "string",
            "pattern": "^[a-z-]+(~[0-9]+)?/[0-9]+/[0-9]+$",
            "description": "Its place in Redpanda, `topic/partition/offset`; it never changes.",
        },
        "ts": {"type": "integer", "description": "The record's time, Unix milliseconds."},
    }


def _data(payload: type[msgspec.Struct]) -> Schema:
    return _ref("components", "schemas", payload.__name__)


def _object(properties: Schema, optional: Schema | None = None) -> Schema:
    return {
        "type": "object",
        "properties": {**properties, **(optional or {})},
        "required": list(properties),
        "additionalProperties": False,
    }


def _ref(*path: str) -> Schema:
    return {"$ref": "#/" + "/".join(path)}
