"""notify.v1 on a scripted socket: what is said to a client, and what it may say."""

import asyncio
import zlib
from typing import Any

import pytest
from clients import Office, controls_and_events, say
from scripted import CLOSE, TEXT, ScriptedTransport, client_frame, close_of, server_frames

from gateway.acks import Acks
from gateway.admission.wishes import Asked
from gateway.close_codes import CloseCode
from gateway.cursor import Cursor
from gateway.frames import Variant
from gateway.group import FAN_OUT_BYTES
from shared.links import Links
from shared.settings import RedisSettings

HOUR = 3_600


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def opened(transport: ScriptedTransport) -> list[Any]:
    head, _, rest = transport.take().partition(b"\r\n\r\n")
    assert b"Sec-WebSocket-Protocol: notify.v1" in head
    return controls_and_events(rest)


class PausingTransport(ScriptedTransport):
    """A socket that takes a first large write, and no more."""

    def write(self, data: Any) -> None:
        super().write(data)
        if len(data) > FAN_OUT_BYTES // 2:
            self.protocol.pause_writing()


def told(transport: ScriptedTransport) -> list[Any]:
    return controls_and_events(transport.take())


@pytest.mark.parametrize("variant", list(Variant))
async def test_a_connection_has_its_age_before_the_client_can_know_that_it_is_open(variant: Variant) -> None:
    """Else one that the client opens next, on another replica, might be older: and go instead of it."""

    class Answered(ScriptedTransport):
        age_us: int | None = None

        def write(self, data: Any) -> None:
            super().write(data)
            if self.age_us is None:
                self.age_us = self.protocol.opened_us

    transport = Answered()
    Office().connect(Asked("ann"), variant, transport)
    assert transport.age_us


async def test_the_first_frame_says_where_the_client_begins() -> None:
    office = Office()
    office.connect(Asked("bob"))
    office.publish()
    office.publish("bob")
    assert opened(office.connect(Asked("bob"))) == [
        {
            "control": "welcome",
            "global": {"epoch": "a", "seq": 1},
            "user": {"epoch": "a", "seq": 1},
            "heartbeat_ms": 15_000,
            "recovered": False,
            "replayed": 0,
        }
    ]


async def test_events_say_what_they_are_and_where_they_stand() -> None:
    office = Office()
    transport = office.connect()
    opened(transport)
    office.publish("ann", "order_executed", b'{"qty":"1"}')
    office.publish(None, "regime_change")
    await turn()
    assert told(transport) == [
        {"type": "order_executed", "data": {"qty": "1"}, "id": "risk-events/0/1", "stream": "user", "epoch": "a",
         "seq": 1, "ts": 7},
        {"type": "regime_change", "data": {}, "id": "risk-events/0/1", "stream": "global", "epoch": "a",
         "seq": 1, "ts": 7},
    ]  # fmt: skip


async def test_a_heartbeat_comes_in_its_period_and_tells_the_tops() -> None:
    office = Office(ping_interval_seconds=60, ping_timeout_seconds=60)
    transport = office.connect()
    opened(transport)
    office.publish("ann")
    await turn()
    told(transport)
    office.tick(15)
    (heartbeat,) = (frame for frame in told(transport) if frame.get("control") == "heartbeat")
    assert heartbeat["user"] == {"epoch": "a", "seq": 1}
    assert heartbeat["global"] == {"epoch": "0", "seq": 0}
    assert heartbeat["ts"] > 0


async def test_a_heartbeat_is_written_after_what_it_speaks_of() -> None:
    office = Office()
    transport = office.connect()
    opened(transport)
    office.publish("ann")
    office.publish()
    say(transport, '{"control":"filter","types":[]}')  # answered with a heartbeat
    await turn()
    frames = told(transport)
    assert [frame.get("control", "event") for frame in frames] == ["event", "event", "heartbeat"]


@pytest.mark.parametrize("trouble", ["not subscribed", "compared long ago", "unsettled", "filling"])
async def test_tops_that_cannot_be_proven_are_left_out(trouble: str) -> None:
    office = Office(ping_interval_seconds=60, ping_timeout_seconds=60)
    transport = office.connect()
    opened(transport)
    ann = next(audience for audience in office.hub.audiences if not audience.name.is_global)
    if trouble == "not subscribed":
        office.hub.is_fed = lambda: False
    elif trouble == "compared long ago":
        office.tick(46)
    elif trouble == "unsettled":
        ann.stream._carried = {b"risk-events/0": 5}
    else:
        ann.stream.begin_fill()
    transport.take()
    office.tick(15)
    heartbeats = [frame for frame in told(transport) if frame.get("control") == "heartbeat"]
    assert len(heartbeats) == 1
    assert "user" not in heartbeats[0]
    assert "global" not in heartbeats[0]


async def test_a_filter_divides_what_came_before_from_what_comes_after() -> None:
    office = Office()
    transport = office.connect()
    opened(transport)
    office.publish("ann", "risk_alert")
    say(transport, '{"control":"filter","types":["order_executed"]}')
    office.publish("ann", "risk_alert")
    office.publish("ann", "order_executed")
    await turn()
    assert [(frame.get("control"), frame.get("seq")) for frame in told(transport)] == [
        (None, 1), ("heartbeat", None), (None, 3)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("hello", "bad_json"),
        ('{"control":"dance"}', "bad_control"),
        ('{"control":"filter","types":["gossip"]}', "unknown_type"),
        ('{"control":"auth","token":"secret"}', "auth_disabled"),
        ('{"control":"ack","cursor":"0.0.0.0"}', "no_device"),
        ('{"control":"ack","cursor":"nonsense"}', "bad_cursor"),
    ],
)
async def test_what_is_wrong_is_told_and_the_connection_stays(text: str, code: str) -> None:
    transport = Office().connect()
    opened(transport)
    say(transport, text)
    (error,) = told(transport)
    assert (error["control"], error["code"]) == ("error", code)
    assert "secret" not in error["message"]
    say(transport, '{"control":"ping"}')
    assert told(transport) == [{"control": "pong"}]


async def test_too_many_of_them_end_it() -> None:
    transport = Office(client_frames_per_second=2).connect()
    opened(transport)
    for _ in range(11):
        say(transport, '{"control":"ping"}')
    *_, (opcode, payload) = server_frames(transport.take())
    assert (opcode, int.from_bytes(payload[:2], "big")) == (CLOSE, CloseCode.TOO_MANY_MESSAGES)


async def test_a_plain_client_may_say_what_it_likes() -> None:
    office = Office()
    transport = office.connect(variant=Variant.PLAIN)
    transport.take()
    say(transport, "hello")
    say(transport, '{"control":"ping"}')
    assert transport.take() == b""


async def test_a_heartbeat_that_speaks_of_less_than_there_is_takes_nobody_back() -> None:
    """Messages that a group does not want move nothing in it; who came to it later has been told of them."""
    office = Office(ping_interval_seconds=60, ping_timeout_seconds=60)
    office.connect(Asked("ann", frozenset((b"risk_alert",))))
    office.publish("ann", "risk_alert")
    await turn()
    for _ in range(20):
        office.publish("ann", "order_executed")
    late = office.connect(Asked("ann"))
    opened(late)
    say(late, '{"control":"filter","types":["risk_alert"]}')
    office.publish("ann", "risk_alert")
    office.tick(15)  # a heartbeat before the message is written
    await turn()
    office.tick(15)
    places = [frame["user"]["seq"] for frame in told(late) if frame.get("control") == "heartbeat"]
    assert places == [21, 21, 22]


async def test_what_is_owed_when_a_filter_changes_is_written_in_parts_and_bounded() -> None:
    office = Office(slow_client_bytes=200_000)
    transport = PausingTransport()
    office.connect(transport=transport)
    opened(transport)
    for _ in range(100):
        office.publish(None, "market_alert", b'"%s"' % (b"x" * 20_000))
    say(transport, '{"control":"filter","types":[]}')
    assert len(transport.written) < 3 * FAN_OUT_BYTES
    assert close_of(transport.written) == (CloseCode.SLOW_CONSUMER, CloseCode.SLOW_CONSUMER.reason)
    assert office.connections.held_bytes == 0


async def test_what_is_owed_when_a_connection_is_closed_goes_ahead_of_that_also_when_its_socket_is_full() -> None:
    office = Office()
    transport = PausingTransport()
    office.connect(variant=Variant.PLAIN, transport=transport)
    transport.take()
    for _ in range(10):
        office.publish(None, "market_alert", b'"%s"' % (b"x" * 30_000))
    transport.protocol.close(CloseCode.SERVICE_RESTART)
    assert [opcode for opcode, _ in server_frames(transport.written)] == [TEXT] * 10 + [CLOSE]
    assert office.connections.held_bytes == 0


class Told:
    """Acks, written down."""

    def __init__(self) -> None:
        links = Links(RedisSettings(_env_file=None), "unit")
        self.acks = Acks(RedisSettings(_env_file=None), links)

    @property
    def said(self) -> dict[tuple[str, str], Cursor]:
        return self.acks._said


async def test_an_ack_is_kept_and_only_rises() -> None:
    kept = Told()
    office = Office(kept.acks)
    transport = office.connect(Asked("ann", device="phone"))
    opened(transport)
    for _ in range(3):
        office.publish("ann")
    await turn()
    transport.take()
    for user_seq in (2, 1, 3, 2):
        say(transport, f'{{"control":"ack","cursor":"0.0.a.{user_seq}"}}')
    assert told(transport) == []
    assert kept.said["ann", "phone"].user.seq == 3
    say(transport, '{"control":"ack","cursor":"0.0.a.4"}')
    (error,) = told(transport)
    assert error["code"] == "bad_cursor"
    say(transport, '{"control":"ack","cursor":"0.0.x.1"}')
    assert told(transport)[0]["code"] == "bad_cursor"
    assert kept.said["ann", "phone"].user.seq == 3


async def test_a_client_is_told_when_to_be_elsewhere_and_gets_what_it_is_owed_first() -> None:
    office = Office()
    transport = office.connect()
    opened(transport)
    (connection,) = office.connections.open
    connection.going_away(3_000)
    office.publish("ann")
    connection.close(CloseCode.SERVICE_RESTART)
    written = transport.take()
    kinds = [opcode for opcode, _ in server_frames(written)]
    assert kinds == [1, 1, 8], "going_away, the event that was due, the close frame"
    assert not office.connections.open


async def test_after_its_time_a_client_is_sent_elsewhere() -> None:
    office = Office(max_connection_seconds=HOUR, ping_interval_seconds=25, ping_timeout_seconds=10)
    transport = office.connect()
    opened(transport)
    for _ in range(HOUR * 9 // 10 - 60):
        office.tick(1)
        if office.connections.open:
            transport.receive(b"\x8a\x80\0\0\0\0")
    assert office.connections.open
    for _ in range(HOUR // 10 + 120):
        office.tick(1)
        if office.connections.open:
            transport.receive(b"\x8a\x80\0\0\0\0")
    assert not office.connections.open
    assert office.connections.closes == {CloseCode.REBALANCE: 1}


@pytest.mark.parametrize("moment", ["it is closed", "its time is over", "it changes its filter"])
async def test_one_that_is_owed_more_than_it_takes_is_closed_for_that_whatever_else_happens(moment: str) -> None:
    """And nothing raises: the wheel would end the replica."""
    office = Office(slow_client_bytes=65_536, max_connection_seconds=1)
    slow = office.connect()
    opened(slow)
    slow.protocol.pause_writing()
    office.publish(data=b'"%s"' % (b"x" * 60_000))
    await turn()
    office.publish(data=b'"%s"' % (b"x" * 60_000))  # owed, and not written yet
    if moment == "it is closed":
        slow.protocol.close(CloseCode.SERVICE_RESTART)
    elif moment == "its time is over":
        for _ in range(30):
            if not office.connections.closes:
                office.wheel.tick()
    else:
        say(slow, '{"control":"filter","types":["risk_alert"]}')
    assert office.connections.closes == {CloseCode.SLOW_CONSUMER: 1}
    assert [opcode for opcode, _ in server_frames(slow.take())] == [CLOSE]
    assert not office.hub.everyone.groups
    await turn()


async def test_compressed_messages_go_both_ways_and_a_filter_changes_nothing_about_that() -> None:
    office = Office(deflate_min_bytes=100)
    transport = office.connect(extensions=b"permessage-deflate; server_no_context_takeover")
    head, _, rest = transport.take().partition(b"\r\n\r\n")
    assert head.endswith(b"\r\nSec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover")
    assert controls_and_events(rest)[0]["control"] == "welcome"
    data = b'{"message":"%s"}' % (b"x" * 300)
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    said = compressor.compress(b'{"control":"filter","types":["risk_alert"]}') + compressor.flush(zlib.Z_SYNC_FLUSH)
    transport.receive(client_frame(TEXT, said[:-4], reserved=4))
    assert controls_and_events(transport.take())[0]["control"] == "heartbeat"
    office.publish("ann", "risk_alert", data)
    office.publish("ann", "order_executed", data)
    await turn()
    written = transport.take()
    assert len(written) < len(data)
    (event,) = controls_and_events(written, may_be_compressed=True)
    assert (event["type"], event["data"], event["seq"]) == ("risk_alert", {"message": "x" * 300}, 1)


async def test_without_an_agreement_nothing_is_compressed_and_nothing_may_be() -> None:
    office = Office(deflate_min_bytes=100)
    transport = office.connect()
    assert b"Extensions" not in transport.written
    opened(transport)
    office.publish("ann", "risk_alert", b'{"message":"%s"}' % (b"x" * 300))
    await turn()
    assert len(controls_and_events(transport.take())) == 1
    transport.receive(client_frame(TEXT, b"\xaaV*.)J,)U\xb2\x02\x00", reserved=4))
    assert close_of(transport.take())[0] == 1002


# Conflation

ALERT, REGIME = "market_alert", "regime_change"


async def conflating(variant: Variant, **settings: Any) -> tuple[Office, ScriptedTransport]:
    """A client that has stopped reading, and was sent alerts 1, 3, 5 among others."""
    office = Office(conflate=(ALERT,), **settings)
    transport = office.connect(variant=variant)
    transport.take()
    transport.protocol.pause_writing()
    for type_ in (ALERT, REGIME, ALERT, REGIME, ALERT, REGIME):
        office.publish(None, type_)
        await turn()
    return office, transport


async def test_a_client_that_lags_gets_the_newest_of_a_conflated_type_and_is_told() -> None:
    office, transport = await conflating(Variant.V1)
    assert transport.take() == b""
    transport.protocol.resume_writing()
    told, *events = controls_and_events(transport.take())
    assert told == {"control": "conflated", "stream": "global", "type": ALERT, "dropped": 2}
    assert [(event["type"], event["seq"]) for event in events] == [(REGIME, 2), (REGIME, 4), (ALERT, 5), (REGIME, 6)]
    assert office.connections.conflated == {b"market_alert": 2}
    assert office.connections.held_bytes == 0


async def test_a_plain_client_that_lags_gets_the_newest_without_a_word() -> None:
    _, transport = await conflating(Variant.PLAIN)
    transport.protocol.resume_writing()
    assert [event["type"] for event in controls_and_events(transport.take())] == [REGIME, REGIME, ALERT, REGIME]


async def test_an_event_stream_that_lags_is_told_and_its_ids_stay_right() -> None:
    _, transport = await conflating(Variant.EVENTS)
    transport.protocol.resume_writing()
    told, *events = transport.take().decode().split("\n\n")[:-1]
    assert told == ('event: control\ndata: {"control":"conflated","stream":"global","type":"market_alert","dropped":2}')
    assert [event.split("\n")[-1] for event in events] == [f"id: a.{seq}.0.0" for seq in (2, 4, 5, 6)]
    assert [event.split("\n")[0] for event in events] == [
        f"event: {type_}" for type_ in (REGIME, REGIME, ALERT, REGIME)
    ]


@pytest.mark.parametrize("variant", list(Variant))
async def test_one_that_does_not_lag_gets_everything(variant: Variant) -> None:
    office = Office(conflate=(ALERT,))
    transport = office.connect(variant=variant)
    transport.take()
    writes = transport.writes
    for _ in range(3):
        office.publish(None, ALERT)
        office.publish(None, ALERT)
        await turn()
    assert transport.take().count(b'"market_alert"') == 6
    assert transport.writes == writes + 3, "joined as ever"
    assert not office.connections.conflated


async def test_a_client_that_lags_is_no_slow_client_for_what_is_conflated() -> None:
    office = Office(conflate=(ALERT,), slow_client_bytes=65_536)
    slow, also_slow = office.connect(), office.connect(Asked("bob"))
    for transport in (slow, also_slow):
        transport.take()
        transport.protocol.pause_writing()
    for _ in range(50):
        office.publish(None, ALERT, b'"%s"' % (b"x" * 5_000))
        await turn()
    assert office.connections.held_bytes < 12_000
    for _ in range(20):
        office.publish("bob", "risk_alert", b'"%s"' % (b"x" * 5_000))
        await turn()
    assert office.connections.closes == {CloseCode.SLOW_CONSUMER: 1}
    slow.protocol.resume_writing()
    told, event = controls_and_events(slow.take())
    assert (told["dropped"], event["seq"]) == (49, 50)
    assert office.connections.held_bytes == 0


async def test_a_conflated_message_that_is_too_large_to_be_held_makes_a_slow_client() -> None:
    office = Office(conflate=(ALERT,), slow_client_bytes=65_536)
    transport = office.connect()
    transport.protocol.pause_writing()
    office.publish(None, ALERT, b'"%s"' % (b"x" * 1_000))
    office.publish(None, ALERT, b'"%s"' % (b"x" * 66_000))
    await turn()
    assert office.connections.closes == {CloseCode.SLOW_CONSUMER: 1}
    assert (office.connections.held_bytes, office.connections.holding) == (0, set())


async def test_a_heartbeat_stays_behind_what_it_speaks_of_or_is_told_of() -> None:
    office, transport = await conflating(Variant.V1)
    for second in range(15):
        office.hub.tick(second)
    office.publish(None, ALERT)
    await turn()
    transport.protocol.resume_writing()
    frames = controls_and_events(transport.take())
    assert [frame.get("seq", frame.get("control")) for frame in frames] == ["conflated", 2, 4, 6, "heartbeat", 7]
    assert frames[0]["dropped"] == 3
    assert frames[4]["global"]["seq"] == 6


async def test_what_is_owed_when_a_filter_changes_is_conflated_for_one_that_lags() -> None:
    office, transport = await conflating(Variant.V1)
    office.publish(None, ALERT)
    say(transport, '{"control":"filter","types":[]}')  # before the turn in which it would be written
    transport.protocol.resume_writing()
    frames = controls_and_events(transport.take())
    assert [frame.get("seq", frame.get("control")) for frame in frames] == ["conflated", 2, 4, 6, 7, "heartbeat"]


async def test_a_socket_that_is_full_again_goes_on_dropping_where_it_was() -> None:
    office = Office(conflate=(ALERT,))
    transport = PausingTransport()
    office.connect(transport=transport)
    transport.take()
    transport.protocol.pause_writing()
    office.publish(None, REGIME, b'"%s"' % (b"x" * FAN_OUT_BYTES))
    for _ in range(2):
        office.publish(None, ALERT)
        await turn()
    transport.protocol.resume_writing()
    assert [frame["seq"] for frame in controls_and_events(transport.take())] == [1]
    for _ in range(2):
        office.publish(None, ALERT)
        await turn()
    assert transport.take() == b""
    transport.protocol.resume_writing()
    told, event = controls_and_events(transport.take())
    assert (told["dropped"], event["seq"]) == (3, 5)
    assert office.connections.held_bytes == 0
