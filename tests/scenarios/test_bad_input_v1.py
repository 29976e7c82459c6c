"""What clients of notify.v1 and event streams get wrong, by accident or on purpose. Each gets the
documented answer, and nobody else notices."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from harness.raw import UPGRADE, RawSocket
from harness.stage import Stage
from harness.v1 import EventSourceClient, V1Client, WebsocketsV1

from demo.process import Process

FRAMES_PER_SECOND = 5


@pytest.fixture
async def gateway(stage: Stage) -> AsyncIterator[Process]:
    """A replica with an undisturbed client of each user, who notice nothing."""
    relay = stage.add_relay(env={"HISTORY_MESSAGES_USER": "10000"})  # nothing is trimmed
    gateway = stage.add_gateway(env={"CLIENT_FRAMES_PER_SECOND": str(FRAMES_PER_SECOND)})
    await stage.start(relay, gateway)
    undisturbed = [await stage.connect_v1(user, gateway) for user in stage.users]
    await stage.producer.publish_mixed(stage.users, 40)
    await stage.everything_arrived()
    yield gateway
    await stage.producer.publish_mixed(stage.users, 40)
    await stage.exact(undisturbed)
    for client in undisturbed:
        assert len(client.knowledge.welcomes) == 1
        assert not client.knowledge.said("resync")


def v1(stage: Stage, gateway: Process, user: str, **query: str) -> V1Client:
    client = WebsocketsV1(gateway.port, user, gateway.name, **query)
    stage.clients.append(client)  # to be closed with the others
    return client


def events(stage: Stage, gateway: Process, user: str, **query: str) -> EventSourceClient:
    client = EventSourceClient(gateway.port, user, gateway.name, **query)
    stage.clients.append(client)
    return client


async def status_of(gateway: Process, target: str) -> tuple[int, Any]:
    socket = await RawSocket.connect(gateway.port)
    try:
        answer = await socket.request(target, UPGRADE)
        return answer.status, answer
    finally:
        await socket.close()


async def is_let_in(client: V1Client | EventSourceClient) -> bool:
    """Open it, and wait for the answer. A user's allowance grows each second: who comes too late for a
    refusal is let in."""
    await client.open()
    return bool(client.stream.ids if isinstance(client, EventSourceClient) else client.knowledge.welcomes)


@pytest.mark.parametrize(
    "query",
    [
        {"cursor": ""},
        {"cursor": "garbage"},
        {"cursor": "a.1.b"},
        {"cursor": "a.1.b.2.c.3"},
        {"cursor": "a.-1.b.2"},
        {"cursor": "A.1.b.2"},
        {"cursor": "a." + "9" * 16 + ".b.1"},
        {"cursor": "ack"},
        {"types": "nonsense"},
        {"types": ""},
        {"snapshot": "yes"},
        {"device": ""},
        {"device": "d" * 129},
    ],
    ids=str,
)
async def test_options_that_are_none_are_refused_for_good(stage: Stage, query: dict[str, str]) -> None:
    gateway = stage.add_gateway()
    await stage.start(gateway)
    options = "&".join(f"{name}={value}" for name, value in query.items())
    status, answer = await status_of(gateway, f"/ws?user_id=ann&{options}")
    assert status == 400
    assert answer.json["message"]
    client = v1(stage, gateway, "ann", **query)
    await client.open()
    assert await client.ended() == 4503
    assert client.close_reason.startswith("bad_request")
    assert (await stage.get(gateway, f"/events?user_id=ann&{options}"))[0] == 400


async def test_a_cursor_that_is_not_good_gets_a_resync_and_all_that_there_is(stage: Stage, gateway: Process) -> None:
    ann, bob = stage.users
    for _ in range(60):
        await stage.producer.publish("risk-events", bob)  # bob is further than ann ever was
    await stage.everything_arrived()
    anns, bobs = (client.knowledge for client in stage.clients[:2] if isinstance(client, V1Client))
    both = [("global", "unknown_cursor"), ("user", "unknown_cursor")]
    for bad, told in (
        (bobs.cursor_text, both[1:]),
        ("{epoch}.{past}.{own_epoch}.{own_top}", both[:1]),
        ("{epoch}.{future}.{own_epoch}.{own_past}", both),
        ("nobodys.5.{own_epoch}.{own_top}", [("global", "unknown_epoch")]),
        ("nobodys.5.another.{own_top}", [("global", "unknown_epoch"), ("user", "unknown_epoch")]),
        ("{epoch}-.{top}.{own_epoch}.{own_top}", [("global", "unknown_epoch")]),
    ):
        everyone, own = anns.cursor["global"], anns.cursor["user"]
        cursor = bad.format(
            epoch=everyone.epoch, top=everyone.seq, past=everyone.seq + 1, future=everyone.seq + 10**12,
            own_epoch=own.epoch, own_top=own.seq, own_past=own.seq + 1,
        )  # fmt: skip
        client = v1(stage, gateway, ann, cursor=cursor)
        await client.open()
        assert client.welcome["recovered"] is False, cursor
        await client.told("heartbeat")  # it is in the present
        assert [(one["stream"], one["reason"]) for one in client.knowledge.said("resync")] == told, cursor
        for stream, _ in told:
            owed = [event.as_plain for event in anns.events if event.stream == stream]
            assert [event.as_plain for event in client.knowledge.events if event.stream == stream] == owed, cursor
        client.since = len(stage.oracle.events)
        await stage.producer.publish_mixed([ann], 4)
        await stage.everything_arrived([client, *stage.clients[:2]])
        client.check(stage.oracle)
    # A browser would offer the same id for ever.
    browser = EventSourceClient(gateway.port, ann, gateway.name)
    browser.stream.last_event_id = "garbage"
    stage.clients.append(browser)
    await browser.open()
    await stage.everything_arrived([browser])
    browser.check(stage.oracle)
    assert [(one["stream"], one["reason"]) for one in browser.controls] == [
        ("global", "unknown_cursor"), ("user", "unknown_cursor"),
    ]  # fmt: skip


async def test_a_plain_client_that_cannot_go_on_is_told_so(stage: Stage, gateway: Process) -> None:
    socket = await RawSocket.connect(gateway.port)
    answer = await socket.request(f"/ws?user_id={stage.users[0]}&cursor=nobodys.5.nobodys.6", UPGRADE)
    assert answer.status == 101
    assert await socket.close_code() == 4003
    await socket.close()


async def test_wrong_control_frames_are_answered_and_change_nothing(stage: Stage, gateway: Process) -> None:
    client = await stage.connect_v1(stage.users[0], gateway)
    for number, (text, code) in enumerate(
        (
            ("nonsense", "bad_json"),
            ("[" * 1000, "bad_control"),
            ("{}", "bad_control"),
            ("[]", "bad_control"),
            ('{"control":"dance"}', "bad_control"),
            ('{"control":5}', "bad_control"),
            ('{"control":"ack"}', "bad_control"),
            ('{"control":"filter","types":"risk_alert"}', "bad_control"),
            ('{"control":"filter","types":["nonsense"]}', "unknown_type"),
            ('{"control":"filter","types":["risk_alert",""]}', "unknown_type"),
            ('{"control":"auth","token":"secret"}', "auth_disabled"),
        ),
        start=1,
    ):
        await client.say(text)
        error = await client.told("error", number)
        assert (error["code"], bool(error["message"])) == (code, True), text
        assert "secret" not in error["message"]
        assert "nonsense" not in error["message"]
    await client.say({"control": "ping", "more": "is ignored"})
    await client.told("pong")
    await stage.producer.publish_mixed(stage.users, 40)
    await stage.exact([client])


async def test_too_many_of_them_end_the_connection(stage: Stage, gateway: Process) -> None:
    client = v1(stage, gateway, stage.users[0])
    await client.open()
    for _ in range(20 * FRAMES_PER_SECOND):
        await client._send('{"control":"ping"}')
    assert await client.ended() == 4002
    assert client.close_reason == "too_many_messages"


async def test_a_client_that_resumes_in_a_loop_is_held_up_and_nobody_else(stage: Stage, gateway: Process) -> None:
    ann, bob = stage.users
    await stage.producer.publish_mixed([bob], 600)
    await stage.everything_arrived()
    target = f"/ws?user_id={ann}&cursor=0.0.0.0"

    async def resumes_until_refused() -> Any:
        while True:
            status, answer = await status_of(gateway, target)
            if status != 101:
                return answer

    async with stage.load(stage.users, per_second=100):
        async with asyncio.timeout(60):
            answer = await resumes_until_refused()
        assert (answer.status, answer.json["error"]) == (429, "too_many_replays")
        assert int(answer.headers["retry-after"]) >= 1
        async with asyncio.timeout(60):
            while await is_let_in(client := v1(stage, gateway, ann, cursor="0.0.0.0")):
                await resumes_until_refused()
        assert client.close_code == 4004
        reason, _, milliseconds = client.close_reason.partition(" retry_after_ms=")
        assert reason == "unavailable"
        assert int(milliseconds) > 0
        async with asyncio.timeout(60):
            while await is_let_in(browser := events(stage, gateway, ann, cursor="0.0.0.0")):
                await resumes_until_refused()
        assert (browser.status, [one["code"] for one in browser.refusals]) == (200, ["too_many_replays"])
        assert (browser.stream.retry_ms or 0) > 0
        # Without a cursor there is nothing to replay; and others have an allowance of their own.
        assert (await status_of(gateway, f"/ws?user_id={ann}"))[0] == 101
        other = v1(stage, gateway, bob, cursor="0.0.0.0")
        await other.open()
        assert other.welcome["recovered"]


async def test_a_snapshot_comes_first_and_nothing_comes_twice(stage: Stage, gateway: Process) -> None:
    ann = stage.users[0]
    clients: list[V1Client] = []
    async with stage.load([ann], per_second=300) as load:
        for _ in range(5):
            clients.append(await stage.connect_v1(ann, gateway, snapshot="1"))
            await stage.connect_events(ann, gateway, snapshot="1")
            await load.more(20)
            # Resuming with one: only what the cursor is past comes as a snapshot.
            resuming = await stage.connect_v1(ann, gateway)
            await load.more(20)
            await resuming.drop()
            resuming.query["snapshot"] = "1"
            await load.more(20)
            await resuming.open()
            assert resuming.welcome["recovered"]
            clients.append(resuming)
        await load.more(50)
    await stage.exact(stage.clients[2:])
    for client in clients:
        assert {event.type for event in client.knowledge.snapshot} <= {b"regime_change", b"market_alert"}
        had = {(event.source, event.offset) for event in client.knowledge.snapshot}
        first = client.knowledge.welcomes[0]["global"]["seq"]
        assert all(event.place.seq <= client.welcome["global"]["seq"] for event in client.knowledge.snapshot)
        if len(client.knowledge.welcomes) == 1:
            assert len(had) == 2
            assert max(event.place.seq for event in client.knowledge.snapshot) == first
            assert not had & {(event.source, event.offset) for event in client.knowledge.events}
