"""What real replicas say, every kind of it, is what their /asyncapi.json says."""

import asyncio
import itertools
import json

from harness.asyncapi import Document
from harness.producer import ALL_TOPICS
from harness.stage import Stage
from harness.stubborn import Stubborn
from harness.tokens import AUDIENCE, ISSUER, claims, token
from harness.v1 import EventStreamParser
from harness.waiting import eventually

from demo.process import Process

SECRET = "a secret that only the issuer and the gateway know"
CONFLATING = {
    "CONFLATE": "market_alert",
    "SLOW_CLIENT_BYTES": "65536",
    "PING_INTERVAL_SECONDS": "60",  # who does not read does not answer
    "PING_TIMEOUT_SECONDS": "60",
    "DRAIN_DELAY_SECONDS": "0",
    "DRAIN_SECONDS": "1",
}
WITH_TOKENS = {
    "AUTH_MODE": "jwt",
    "JWT_SECRET": SECRET,
    "JWT_ISSUER": ISSUER,
    "JWT_AUDIENCE": AUDIENCE,
    "ALLOW_QUERY_TOKEN": "true",
}
ALERT_BYTES = 20_000
UNKNOWN_CURSOR = {"cursor": "nosuch.5.nosuch.7"}


class Listener(Stubborn):
    """Keeps every message as it came; of an event stream with its fields."""

    def __init__(self, document: Document, gateway: Process, user: str, variant: str, **query: str) -> None:
        super().__init__(gateway.port, user, gateway.name, variant, **query)  # type: ignore[arg-type]
        self._document, self._channel = document, variant
        self._parser = EventStreamParser()
        self.heard: set[str] = set()
        """The kinds of messages that came, by the document's names."""

    def _take(self, data: bytes) -> None:
        if self._channel == "events":
            for kind, payload in self._parser.feed(data):
                fields = {"event": kind} | ({"id": self._parser.last_event_id} if self._parser.last_event_id else {})
                self.heard.add(self._document.which("events", payload, fields))
            return
        for opcode, payload in self._splitter.feed(data):
            if opcode == 1:
                self.heard.add(self._document.which(self._channel, payload))
            elif opcode == 9:
                self._socket.send_frame(10, payload)

    def say(self, text: str) -> None:
        self._socket.send_frame(1, text.encode())

    async def hears(self, *kinds: str) -> None:
        """Wait for messages of these kinds. Raises what was wrong with one that came."""

        def heard() -> bool:
            if self._reader.done():
                self._reader.result()
            return set(kinds) <= self.heard

        await eventually(heard, lambda: f"{set(kinds) - self.heard} for {self}")


def of_events(document: Document, channel: str) -> set[str]:
    return {name for name in document.messages(channel) if "Message" in name}


async def published(gateway: Process, stage: Stage) -> Document:
    status, document = await stage.get(gateway, "/asyncapi.json")
    assert status == 200
    return Document(document)


async def test_all_that_replicas_say_is_described(stage: Stage) -> None:
    relay, gateway = stage.add_relay(), stage.add_gateway(env=CONFLATING)
    await stage.start(relay, gateway)
    document = await published(gateway, stage)
    user = stage.users[0]
    await stage.crowd(stage.users[:1], [gateway])
    v1, events = listeners = [Listener(document, gateway, user, kind, **UNKNOWN_CURSOR) for kind in ("v1", "events")]
    lagging = [Listener(document, gateway, user, kind) for kind in ("v1", "events")]
    plain = Listener(document, gateway, user, "plain")
    for listener in (*listeners, plain):
        await listener.open()
        listener.reads()
    for listener in lagging:
        await listener.open()
    await stage.producer.publish_mixed([user], 4, ALL_TOPICS)
    for text in ('{"control":"ping"}', '{"control":"filter","types":[]}', "hello"):
        v1.say(text)
    await v1.hears("Welcome", "ToResync", "Heartbeat", "Pong", "Error", *of_events(document, "v1"))
    await events.hears("ToResync", *of_events(document, "events"))
    await plain.hears(*document.messages("plain"))

    snapshot = Listener(document, gateway, user, "v1", snapshot="1")
    await snapshot.open()
    await snapshot.reads().hears("RegimeChangeMessageV1", "MarketAlertMessageV1")

    numbers = itertools.count()

    async def is_conflated() -> bool:
        for _ in range(20):
            value = json.dumps({"number": next(numbers), "pad": "x" * ALERT_BYTES}).encode()
            await stage.producer.publish_value("alert-events", value, partition=0)
        return await stage.metric(gateway, 'conflated_total{type="market_alert"}') > 60

    await eventually(is_conflated, "alerts of those who lag to be dropped for newer ones")
    for listener in lagging:
        await listener.reads().hears("Conflated")

    ending = asyncio.create_task(gateway.terminate())
    await v1.hears("GoingAway")
    await events.hears("GoingAway", "Error")
    assert await ending == 0
    for listener in (*listeners, *lagging, plain, snapshot):
        await listener.close()
    asked = {message for message in document.messages("v1") if message in ("Ack", "Filter", "Auth", "Ping")}
    heard = set().union(*(listener.heard for listener in (v1, lagging[0])))
    assert heard == document.messages("v1") - asked - {"Authenticated"}
    assert events.heard | lagging[1].heard == document.messages("events")


async def test_the_answer_to_a_fresh_token_is_described(stage: Stage) -> None:
    gateway = stage.add_gateway(env=WITH_TOKENS)
    await stage.start(gateway)
    document = await published(gateway, stage)
    user = stage.users[0]
    listener = Listener(document, gateway, user, "v1", token=token(SECRET, claims(user)))
    await listener.open()
    listener.reads().say(json.dumps({"control": "auth", "token": token(SECRET, claims(user))}))
    await listener.hears("Welcome", "Authenticated")
    await listener.close()
