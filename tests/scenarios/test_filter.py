"""A client changes what it wants, under load: by the answering heartbeat it had what it wanted before,
and after it comes what it wants now; nothing else, nothing less."""

import asyncio
import random
from collections.abc import Sequence

from harness.stage import Load, Stage
from harness.v1 import STREAMS, Control, V1Client, V1Event
from harness.waiting import eventually

ALL = ("regime_change", "market_alert", "risk_alert", "order_executed")


async def changes_its_mind(client: V1Client, load: Load, events: int, seed: int) -> list[list[str]]:
    """New wishes again and again until so many more events were published; gives them. Each is
    followed by a ping: one of the heartbeats before its pong is the answer."""
    chance, goal, wishes = random.Random(seed), load.published + events, list[list[str]]()
    while load.published < goal:
        wishes.append(chance.sample(ALL, chance.randrange(len(ALL))))
        await client.say({"control": "filter", "types": wishes[-1]})
        await client.say({"control": "ping"})
        while len(client.knowledge.said("pong")) < len(wishes):
            assert client.is_connected
            await asyncio.sleep(0)
    return wishes


def answers(frames: Sequence[V1Event | Control]) -> list[list[int]]:
    """Where the heartbeats are that may have answered, for each pong: the others between two pongs come by
    themselves."""
    found, since_pong = list[list[int]](), list[int]()
    for number, frame in enumerate(frames):
        if isinstance(frame, V1Event):
            continue
        if frame["control"] == "heartbeat":
            if {*STREAMS} <= frame.keys():  # else it proves nothing
                since_pong.append(number)
        elif frame["control"] == "pong":
            found.append(since_pong)
            since_pong = []
    return found


def check(client: V1Client, wishes: Sequence[Sequence[str]], witness: V1Client) -> None:
    """What was owed from one answer to the next is known from one who gets everything."""
    frames = client.knowledge.frames
    at, since, wanted = 0, client.welcome, ALL

    def differs(number: int, until: Control) -> str:
        """How what came before frames[number] differs from what was wanted up to `until`; empty if it does not."""
        for stream in STREAMS:
            owed = [
                event.as_plain
                for event in witness.knowledge.events
                if event.stream == stream
                and since[stream]["seq"] < event.place.seq <= until[stream]["seq"]
                and event.type.decode() in wanted
            ]
            got = [one.as_plain for one in frames[at:number] if isinstance(one, V1Event) and one.stream == stream]
            if got != owed:
                return f"{client} wanted {wanted} of {stream} after {since} up to {until}, and got {got}, not {owed}"
        return ""

    heartbeats = answers(frames)
    assert len(heartbeats) == len(wishes)
    for wish, may_have_answered in zip(wishes, heartbeats, strict=True):
        wrong = {number: differs(number, frames[number]) for number in may_have_answered}  # type: ignore[arg-type]
        right = [number for number, difference in wrong.items() if not difference]
        assert right, wrong
        at, since, wanted = right[-1], frames[right[-1]], tuple(wish) or ALL  # type: ignore[assignment]
    end = {stream: {"seq": 1e9} for stream in STREAMS}
    assert not differs(len(frames), end)


async def test_a_filter_takes_effect_exactly_at_the_answering_heartbeat(stage: Stage) -> None:
    often = {"CLIENT_FRAMES_PER_SECOND": "100000", "HEARTBEAT_SECONDS": "1"}
    relay, gateway = stage.add_relay(), stage.add_gateway(env=often)
    await stage.start(relay, gateway)
    ann = stage.users[0]
    witness = await stage.connect_v1(ann, gateway)
    clients = [await stage.connect_v1(ann, gateway) for _ in range(4)]
    for client in clients:
        client.knowledge.is_filtered = True
        assert witness.welcome["user"] == client.welcome["user"]
    async with stage.load([ann], per_second=600) as load:
        wishes = await asyncio.gather(
            *(changes_its_mind(client, load, 1_000, seed) for seed, client in enumerate(clients))
        )
    await stage.exact([witness])
    for client, its_wishes in zip(clients, wishes, strict=True):
        # All that was pushed before is written before the answer.
        await client.say({"control": "filter", "types": []})
        await client.say({"control": "ping"})
        await client.told("pong", len(its_wishes) + 1)
        its_wishes.append([])
        assert not client.knowledge.wrong
        check(client, its_wishes, witness)


async def test_types_in_the_query_are_all_that_comes(stage: Stage) -> None:
    _, (gateway,) = await stage.start_relay_and_replicas(1)
    ann = stage.users[0]
    witness = await stage.connect_v1(ann, gateway)
    query = {"types": "risk_alert,market_alert"}
    filtered = [await stage.connect_v1(ann, gateway, **query), await stage.connect_events(ann, gateway, **query)]
    async with stage.load([ann]) as load:
        await load.more(200)
    await stage.exact([witness])
    wanted = [event.as_plain for event in witness.knowledge.events if event.type in (b"risk_alert", b"market_alert")]
    for client in filtered:
        await eventually(lambda client=client: len(client.frames) >= len(wanted), str(client))  # type: ignore[misc]
        for stream in (b"risk_alert", b"market_alert"):
            mark = b'{"type":"%s"' % stream
            assert [f for f in client.frames if f.startswith(mark)] == [f for f in wanted if f.startswith(mark)], client
        assert len(client.frames) == len(wanted)
        assert client.is_connected
