"""What a client missed, from a log in memory, until it is seated. Redis answers when it is let."""

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from clients import KEYS, Office, controls_and_events, say
from scripted import CLOSE, ScriptedTransport, close_of, server_frames

from gateway.admission.wishes import Asked, Resume
from gateway.audience import Audience
from gateway.close_codes import CloseCode
from gateway.cursor import parse_cursor
from gateway.frames import Variant
from shared.keys import GLOBAL, StreamName

ANN = KEYS.user_stream("ann")


class StallingTransport(ScriptedTransport):
    """A socket that takes one write with messages in it, and no more."""

    def write(self, data: Any) -> None:
        super().write(data)
        if b"risk_alert" in data:
            self.protocol.pause_writing()


async def until(happened: Callable[[], object]) -> None:
    """Turns of the loop until something has happened, with a bound."""
    for number in range(2_000):
        if happened():
            return
        await asyncio.sleep(0 if number < 1_000 else 0.001)
    raise AssertionError("it does not happen")


async def turns(count: int = 30) -> None:
    """As many as all takes that can happen at once."""
    for _ in range(count):
        await asyncio.sleep(0)


async def replayed(office: Office) -> None:
    await until(lambda: not office.replays.count)
    await turns(3)


def frames(transport: ScriptedTransport) -> bytes:
    """What was written behind the answer to the request."""
    data = transport.take()
    return data.partition(b"\r\n\r\n")[2] if data.startswith(b"HTTP/") else data


def seqs(told: list[Any], stream: str = "user") -> list[int]:
    return [frame["seq"] for frame in told if frame.get("stream") == stream and "seq" in frame]


def controls(told: list[Any]) -> list[str]:
    return [frame["control"] for frame in told if "control" in frame]


async def with_log(messages: int, user_id: str | None = "ann", **settings: Any) -> Office:
    """A replica that has published so many messages to a user, who is connected."""
    office = Office(**settings)
    office.connect()
    for _ in range(messages):
        office.publish(user_id)
    await turns()
    return office


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a replica waits for is looked at within milliseconds."""
    monkeypatch.setattr("gateway.replay.POLL_SECONDS", 0.001)
    monkeypatch.setattr("gateway.replay.POLL_SECONDS_AT_MOST", 0.002)
    monkeypatch.setattr("gateway.replay.SUSPECT_SECONDS", 0.0015)


# To the present, with no seam


async def test_what_was_missed_comes_once_and_in_order_and_what_is_new_behind_it() -> None:
    office = await with_log(500)
    office.publish()
    office.links.wait()
    transport = office.resume("0.0.a.7")
    while office.replays.count:
        office.links.answer()
        await turns()
        if office.seqs[KEYS.live(ANN)] < 520:
            office.publish("ann")
            office.publish()
    await turns()
    told = controls_and_events(frames(transport))
    assert told[0]["recovered"] is True
    assert told[0]["replayed"] >= 493
    assert seqs(told) == list(range(8, office.seqs[KEYS.live(ANN)] + 1))
    assert seqs(told, "global") == list(range(1, office.seqs[KEYS.live(GLOBAL)] + 1))
    assert controls(told) == ["welcome", "heartbeat"]


async def test_who_resumes_from_a_heartbeat_has_nothing_twice_and_misses_nothing() -> None:
    office = Office()
    transport = office.connect()
    frames(transport)
    office.publish()
    office.hub.heartbeat(transport.protocol)
    office.publish()
    await turns()
    told, place = controls_and_events(frames(transport)), 0
    for number, frame in enumerate(told):
        place = frame["global"]["seq"] if "control" in frame else frame["seq"]
        again = office.resume(f"a.{place}.0.0")
        await replayed(office)
        had = seqs(told[: number + 1], "global")
        assert had + seqs(controls_and_events(frames(again)), "global") == [1, 2]
    assert controls(told) == ["heartbeat"]


async def test_more_than_a_user_may_have_at_once_comes_all_the_same_and_the_next_one_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A long history, after Redis lost everything: whoever asks for all of it must get in some time."""
    monkeypatch.setattr("gateway.replay.REPLAY_BURST", 100)
    monkeypatch.setattr("gateway.replay.REPLAY_PER_SECOND", 60)
    office = await with_log(300)
    for second in range(8):
        transport = office.resume("0.0.a.0")
        await replayed(office)
        told = seqs(controls_and_events(frames(transport)))
        # What is owed is at most a burst: it comes back in two seconds, and something more in the next.
        assert told == (list(range(1, 301)) if second % 2 == 0 else []), second
        transport.lose()
        office.wheel.tick()


class NoAcks:
    """Nothing is known of any device."""

    async def read(self, device: tuple[str, str]) -> None:
        return None


async def test_a_device_whose_ack_is_not_known_is_told_so_and_gets_what_there_is() -> None:
    """It was lost with a Redis, or forgotten after 30 days: an order of that time is not skipped in silence."""
    office = await with_log(3, acks=NoAcks())
    transport = office.connect(Asked("ann", device="phone", resume=Resume(from_ack=True)))
    await replayed(office)
    told = controls_and_events(frames(transport))
    assert told[0]["recovered"] is False
    assert [frame["reason"] for frame in told if "reason" in frame] == ["unknown_cursor"] * 2
    assert seqs(told) == [1, 2, 3]


# Holes in a log


async def test_a_hole_in_a_log_is_told_and_passed() -> None:
    office = await with_log(40)
    del office.links.logs[KEYS.log(ANN)][19]  # seq 20
    transport = office.resume("0.0.a.5")
    await replayed(office)
    told = controls_and_events(frames(transport))
    resync = {"control": "resync", "stream": "user", "reason": "gap"}
    assert seqs(told) == [*range(6, 20), *range(21, 41)]
    assert told.count(resync) == 1
    assert told.index(resync) < next(number for number, frame in enumerate(told) if frame.get("seq") == 21)
    again = office.resume("0.0.a.40")
    await replayed(office)
    assert controls(controls_and_events(frames(again))) == ["welcome", "heartbeat"]


async def test_an_entry_that_is_not_ours_is_a_hole() -> None:
    office = await with_log(40)
    office.links.logs[KEYS.log(ANN)][19][1] = [b"m", b"what is this"]
    transport = office.resume("0.0.a.5")
    await replayed(office)
    told = controls_and_events(frames(transport))
    assert seqs(told) == [*range(6, 20), *range(21, 41)]
    assert controls(told) == ["welcome", "resync", "heartbeat"]


async def test_a_log_that_ends_too_early_has_a_hole_at_its_end() -> None:
    office = await with_log(40)
    del office.links.logs[KEYS.log(ANN)][30:]
    transport = office.resume("0.0.a.5")
    await replayed(office)
    office.publish("ann")
    await turns()
    told = controls_and_events(frames(transport))
    assert seqs(told) == [*range(6, 31), 41]
    assert controls(told) == ["welcome", "resync", "heartbeat"]


async def test_a_client_that_cannot_be_told_of_a_hole_is_closed_before_it() -> None:
    office = await with_log(40)
    del office.links.logs[KEYS.log(ANN)][30]
    transport = office.resume("0.0.a.5", variant=Variant.PLAIN)
    await replayed(office)
    data = frames(transport)
    assert close_of(data) == (CloseCode.GAP, CloseCode.GAP.reason)
    assert len(server_frames(data)) - 1 <= 25


# Clients that take no page


async def test_clients_that_take_no_page_hold_up_nobody() -> None:
    office = await with_log(40, None, max_replays=2)
    stalled = [office.resume("a.5.0.0", "eve", transport=StallingTransport()) for _ in range(3)]
    await turns()
    good = office.resume("a.30.0.0", "bob")
    await until(lambda: office.replays.count == len(stalled))
    assert seqs(controls_and_events(frames(good)), "global") == list(range(31, 41))
    assert all(1 <= len(seqs(controls_and_events(frames(one)), "global")) < 35 for one in stalled)
    assert office.replays.outcomes == {"recovered": 4}


class PagedTransport(ScriptedTransport):
    """A socket that takes one page, and the next when it is told to."""

    def write(self, data: Any) -> None:
        super().write(data)
        if len(data) > 50_000:
            self.protocol.pause_writing()


async def test_a_long_replay_of_large_messages_makes_no_slow_client() -> None:
    """It takes three messages for two that are published."""
    office = await with_log(0)
    large = b'"%s"' % (b"x" * 20_000)
    for _ in range(250):
        office.publish(data=large)
    transport = office.resume("0.0.0.0", transport=PagedTransport())
    pages = 0
    while office.replays.count:
        pages += 1
        assert pages < 1_000
        await turns()
        replay = transport.protocol._replay
        if replay is not None and not replay.is_writable:
            for _ in range(4):
                office.publish(data=large)
            transport.protocol.resume_writing()
    transport.protocol.resume_writing()
    told = controls_and_events(frames(transport))
    assert pages > 100
    assert seqs(told, "global") == list(range(1, office.seqs[KEYS.live(GLOBAL)] + 1))
    assert controls(told) == ["welcome", "heartbeat"]


async def test_a_client_that_takes_no_page_in_time_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.replay.STALL_SECONDS", 0.002)
    office = await with_log(40)
    transport = office.resume("0.0.a.5", transport=StallingTransport())
    await replayed(office)
    assert close_of(frames(transport)) == (CloseCode.SLOW_CONSUMER, CloseCode.SLOW_CONSUMER.reason)
    assert not office.connections.holding


# A filter, said during a replay


@pytest.mark.parametrize(
    ("before", "said"),
    [(None, ["order_executed"]), (frozenset((b"risk_alert",)), [])],
    ids=["narrower", "wider"],
)
async def test_a_filter_said_during_a_replay_is_answered_at_its_end(
    before: frozenset[bytes] | None, said: list[str]
) -> None:
    office = await with_log(0)
    for _ in range(250):
        office.publish("ann", "risk_alert")
        office.publish("ann", "market_alert")
    await turns()
    office.links.wait()
    transport = office.connect(Asked("ann", before, resume=Resume(parse_cursor("0.0.a.0"))))
    office.links.answer(3)  # where both streams are, and the first page
    await turns()
    say(transport, json.dumps({"control": "filter", "types": said}))
    begun = controls_and_events(frames(transport))
    assert 0 < len(seqs(begun)) < 250
    assert controls(begun) == ["welcome"], "an answer would prove what was not written"
    office.links.answer_all()
    await replayed(office)
    office.publish("ann", "order_executed")
    office.publish("ann", "risk_alert")
    await turns()
    told = begun + controls_and_events(frames(transport))
    last_beat = max(number for number, frame in enumerate(told) if frame.get("control") == "heartbeat")
    assert seqs(told[:last_beat]) == list(range(1, 501, 2 if before else 1))
    assert told[last_beat]["user"]["seq"] == 500
    assert [frame["type"] for frame in told[last_beat + 1 :]] == ["order_executed", *["risk_alert"] * (not said)]


# Snapshots


async def test_a_snapshot_comes_once_also_when_a_browser_comes_again_with_the_same_address() -> None:
    office = await with_log(0)
    office.publish(data=b'{"n":1}')
    await turns()
    office.links.last[b"risk_alert"] = office.links.logs[KEYS.log(GLOBAL)][-1][1][1]
    got, resume = b"", Resume(snapshot=True)
    for _ in range(3):
        transport = office.connect(Asked("ann", resume=resume), Variant.EVENTS)
        await replayed(office)
        data = transport.take()
        got += data
        last_event_id = re.findall(rb"id: (\S+)", data)[-1].decode()
        resume = Resume(parse_cursor(last_event_id), snapshot=True)
        transport.lose()
    assert got.count(b'{"n":1}') == 1
    assert office.replays.outcomes == {"fresh": 1, "recovered": 2}


async def test_a_newest_message_that_is_not_ours_is_left_out_of_a_snapshot() -> None:
    office = await with_log(0)
    office.publish(data=b'{"n":1}')
    await turns()
    office.links.last = {
        b"risk_alert": office.links.logs[KEYS.log(GLOBAL)][-1][1][1],
        b"market_alert": b"what is this",
    }
    transport = office.connect(Asked("ann", resume=Resume(snapshot=True)))
    await replayed(office)
    told = controls_and_events(frames(transport))
    assert [frame["data"] for frame in told if frame.get("snapshot")] == [{"n": 1}]


# When this replica is not where the client is


@pytest.mark.parametrize("variant", Variant, ids=lambda variant: variant.name)
async def test_while_a_lost_tail_is_published_again_a_good_cursor_is_put_off(quick: None, variant: Variant) -> None:
    office = await with_log(5)
    office.replays.settings = office.replays.settings.model_copy(update={"join_seconds": 0.02})
    stream = ann(office).stream
    stream._carried = {b"risk-events/0": 10**9}
    transport = office.resume("0.0.a.3", variant=variant)
    await replayed(office)
    data = transport.take()
    assert office.replays.outcomes == {"refused": 1}
    assert b"resync" not in data
    assert CloseCode.GAP.to_bytes(2, "big") not in data
    refused = {
        Variant.PLAIN: b"HTTP/1.1 503",
        Variant.V1: CloseCode.UNAVAILABLE.to_bytes(2, "big") + b"unavailable",
        Variant.EVENTS: b'"code":"unavailable"',
    }
    assert refused[variant] in data


async def test_a_lost_tail_that_is_there_again_in_time_puts_nobody_off(quick: None) -> None:
    office = await with_log(5)
    stream = ann(office).stream
    stream._carried = {b"risk-events/0": 10**9}
    transport = office.resume("0.0.a.3")
    await turns()
    assert office.connections.joining == 1
    assert stream.settle({b"risk-events/0": 10**9})
    await replayed(office)
    told = controls_and_events(frames(transport))
    assert told[0]["recovered"] is True
    assert seqs(told) == [4, 5]


async def test_while_it_is_waited_for_nobody_has_the_log_read(quick: None) -> None:
    """A stream that is read again and again for those who wait for it is never looked at as a whole,
    so that it would not be settled."""
    office = await with_log(5)
    fetched: list[Audience] = []
    office.hub.on_fetch = fetched.append
    ann(office).stream._carried = {b"risk-events/0": 10**9}
    office.resume("0.0.a.3")
    await asyncio.sleep(0.05)
    assert office.connections.joining == 1
    assert not fetched
    assert ann(office).stream.settle({b"risk-events/0": 10**9})
    await replayed(office)
    assert office.replays.outcomes == {"recovered": 1}


def ann(office: Office) -> Audience:
    return next(audience for audience in office.hub.audiences if audience.name == ANN)


async def test_a_replica_that_comes_there_in_time_is_not_suspected(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log would be read, and everyone's live messages held meanwhile, though nothing is missing."""
    office = await with_log(1, None)
    fetched: list[Audience] = []
    office.hub.on_fetch = fetched.append
    office.publish(arrives=False)
    sleep, joining = asyncio.sleep, []

    async def arrives_meanwhile(seconds: float) -> None:
        """The last wait before the suspicion: no clock says what comes first."""
        if seconds and not joining:
            joining.append(office.connections.joining)
            arrive(office, GLOBAL)
        await sleep(0)

    monkeypatch.setattr("gateway.replay.asyncio.sleep", arrives_meanwhile)
    transport = office.connect(Asked("ann", resume=Resume(snapshot=True)))
    await until(lambda: joining)
    await replayed(office)
    assert joining == [1]
    assert controls(controls_and_events(frames(transport))) == ["welcome", "heartbeat"]
    assert not fetched


async def test_a_replica_that_does_not_come_there_has_its_log_read(quick: None) -> None:
    office = await with_log(1, None)
    fetched: list[Audience] = []
    office.hub.on_fetch = fetched.append
    office.publish(arrives=False)
    office.resume("a.2.0.0")
    await until(lambda: fetched)
    assert fetched == [office.hub.everyone]


def arrive(office: Office, name: StreamName) -> None:
    """The newest entry of a log comes in live."""
    office.hub.receive(KEYS.live(name).encode(), office.links.logs[KEYS.log(name)][-1][1][1])


# What is held


async def test_what_is_held_for_a_seated_replay_is_counted_and_the_largest_holder_goes_first() -> None:
    office = Office(max_buffered_bytes=1_048_576, slow_client_bytes=2_000_000)
    slow = office.connect(Asked("bob"))
    office.publish()
    await turns()
    office.links.wait()
    resuming = office.resume("a.0.0.0")
    office.links.answer(2)  # where both streams are
    await turns()
    office.publish()
    office.links.answer()  # the first page; there is one more then
    await turns()
    replay = resuming.protocol._replay
    assert replay.is_seated
    slow.protocol.pause_writing()
    office.publish("bob")
    await turns()
    assert slow.protocol.held_bytes
    for _ in range(17):
        office.publish("ann", data=b'"%s"' % (b"x" * 63_000))
    await turns()
    assert CLOSE not in [opcode for opcode, _ in server_frames(frames(slow))]
    assert close_of(frames(resuming)) == (CloseCode.SLOW_CONSUMER, CloseCode.SLOW_CONSUMER.reason)
    assert office.connections.held_bytes == slow.protocol.held_bytes
    await replayed(office)


async def test_what_is_held_until_a_replay_is_over_is_all_kept_also_of_a_conflated_type() -> None:
    """Its client reads; it is only not its turn yet."""
    office = Office(conflate=("market_alert",))
    office.publish()
    office.links.wait()
    resuming = office.resume("a.0.0.0")
    office.links.answer(2)  # where both streams are
    await turns()
    office.publish()
    office.links.answer()  # the first page; there is one more then
    await turns()
    assert resuming.protocol._replay.is_seated
    for _ in range(3):
        office.publish(type_="market_alert")
        await turns()
    office.links.answer_all()
    await replayed(office)
    events = [frame["seq"] for frame in controls_and_events(frames(resuming)) if "seq" in frame]
    assert events == [1, 2, 3, 4, 5]
    assert not office.connections.conflated
