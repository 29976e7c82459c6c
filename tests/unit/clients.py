"""Connections on scripted sockets, in as much of a replica as they need."""

import json
from typing import Any

from scripted import TEXT, ScriptedLinks, ScriptedTransport, client_frame, server_frames

from gateway.admission.admit import Admitted
from gateway.admission.handshake import Handshake
from gateway.admission.wishes import Asked, Resume
from gateway.connection import Connection, Connections
from gateway.cursor import parse_cursor
from gateway.event_source import EventSource
from gateway.frames import Variant
from gateway.hub import Hub
from gateway.replay import Replays
from gateway.settings import ConnectionSettings
from gateway.stream import Meta
from gateway.websocket import WebSocket
from gateway.wheel import Wheel
from shared.keys import GLOBAL, Keys
from shared.message import encode_body
from shared.settings import RedisSettings

KEYS = Keys()
REDIS = RedisSettings(_env_file=None)


class Office:
    """A hub whose streams are subscribed at once, the connections on it, and a Redis that is a dict."""

    def __init__(self, acks: Any = None, **settings: Any) -> None:
        self.wheel = Wheel()
        self.links = ScriptedLinks(KEYS)
        of_connections = ConnectionSettings(_env_file=None, **settings)
        self.hub = Hub(
            KEYS,
            heartbeat_seconds=15,
            deflate_min_bytes=of_connections.deflate_min_bytes,
            conflated={type_.encode() for type_ in of_connections.conflate},
        )
        links: Any = self.links
        self.replays = Replays(REDIS, of_connections, self.hub, links, acks, self.wheel)
        self.connections = Connections(of_connections, self.hub, self.wheel, self.replays, acks)
        self.seqs: dict[str, int] = {}

    def connect(
        self,
        asked: Asked = Asked("ann"),  # noqa: B008
        variant: Variant = Variant.V1,
        transport: ScriptedTransport | None = None,
        *,
        extensions: bytes | None = None,
    ) -> ScriptedTransport:
        transport = transport or ScriptedTransport()
        subprotocol = b"notify.v1" if variant is Variant.V1 else None
        handshake = Handshake(b"dGhlIHNhbXBsZSBub25jZQ==", subprotocol, extensions)
        connection: Connection
        if variant is Variant.EVENTS:
            connection = EventSource(self.connections, transport, Admitted(asked, variant, None))
        else:
            connection = WebSocket(self.connections, transport, Admitted(asked, variant, handshake))
        transport.set_protocol(connection)
        connection.join()
        for audience in self.hub.take_wanted(100):
            seq = self.seqs.get(audience.channel, 0)
            self.hub.joined(audience, Meta(b"a", seq) if seq else Meta(), {})
        return transport

    def resume(
        self,
        cursor: str,
        user_id: str = "ann",
        variant: Variant = Variant.V1,
        transport: ScriptedTransport | None = None,
    ) -> ScriptedTransport:
        """A client connects with a cursor."""
        return self.connect(Asked(user_id, resume=Resume(parse_cursor(cursor))), variant, transport)

    def publish(
        self, user_id: str | None = None, type_: str = "risk_alert", data: bytes = b"{}", *, arrives: bool = True
    ) -> None:
        """The next message of a user's stream, or of everyone's, is in its log, and comes in."""
        name = GLOBAL if user_id is None else KEYS.user_stream(user_id)
        channel = KEYS.live(name)
        seq = self.seqs[channel] = self.seqs.get(channel, 0) + 1
        payload = b"a %d %s" % (seq, encode_body("risk-events/0", seq, 7, type_, data))
        self.links.add(name, b"a", seq, payload)
        if arrives:
            self.hub.receive(channel.encode(), payload)

    def tick(self, seconds: int) -> None:
        for _ in range(seconds):
            self.wheel.tick()
            self.hub.tick(self.wheel.second)


def say(transport: ScriptedTransport, text: str) -> None:
    transport.receive(client_frame(TEXT, text.encode()))


def controls_and_events(data: bytes, *, may_be_compressed: bool = False) -> list[Any]:
    """What a WebSocket was written, but for pings: text frames as JSON."""
    frames = server_frames(data, may_be_compressed=may_be_compressed)
    return [json.loads(payload) for opcode, payload in frames if opcode == TEXT]
