"""A client changes what it wants, under load: by the answering heartbeat it had what it wanted before,
and after it comes what it wants now; nothing else, nothing less."""

import asyncio
import itertools
import random
from collections.abc import Sequence

from harness.stage import Load, Stage
from harness.v1 import STREAMS, Control, V1Client, V1Event
from harness.waiting import eventually

ALL = ("regime_change", "market_alert", "risk_alert", "order_executed")


async def changes_its_mind(client: V1Client, load: Load, events: int, seed: int) -> list[list[str]]:
    """New wishes again and again until so many more events were published; gives them. Each is
    followed by a ping: the last heartbeat before its pong is the answer."""
    chance, goal, wishes = random.Random(seed), load.published + events, list[list[str]]()
    while load.published < goal:
        wishes.append(chance.sample(ALL, chance.randrange(len(ALL))))
        await client.say({"control": "filter", "types": wishes[-1]})
        await client.say({"control": "ping"})
        while len(client.knowledge.said("pong")) < len(wishes):
            assert client.is_connected
            await asyncio.sleep(0)
    return wishes


def answers(frames: Sequence[V1Event | Control]) -> list[int]:
    """Where the heartbeats are that answered."""
    found, last = [], 0
    for number, frame in enumerate(frames):
        if isinstance(frame, V1Event):
            continue
        if frame["control"] == "heartbeat":
            last = number
        elif frame["control"] == "pong":
            assert {"global", "user"} <= frames[last].keys(), frames[last]  # type: ignore[union-attr]
            found.append(last)
    return found


def check(client: V1Client, wishes: Sequence[Sequence[str]], witness: V1Client) -> None:
    """What was owed from one answer to the next is known from one who gets everything."""
    frames = client.knowledge.frames
    edges = [0, *answers(frames), len(frames)]
    tops: list[Control] = [client.welcome, *(frames[number] for number in edges[1:-1])]  # type: ignore[list-item]
    assert len(tops) == len(wishes) + 1
    end = {"global": {"seq": 1e9}, "user": {"seq": 1e9}}
    for wanted, (a, b), (since, until) in zip(
        [ALL, *(one or ALL for one in wishes)], itertools.pairwise(edges), itertools.pairwise([*tops, end]), strict=True
    ):
        for stream in STREAMS:
            owed = [
                event.as_plain
                for event in witness.knowledge.events
                if event.stream == stream
                and since[stream]["seq"] < event.place.seq <= until[stream]["seq"]
                and event.type.decode() in wanted
            ]
            got = [one.as_plain for one in frames[a:b] if isinstance(one, V1Event) and one.stream == stream]
            assert got == owed, f"{client} wanted {wanted} of {stream}, after {since} and up to {until}"


async def test_a_filter_takes_effect_exactly_at_the_answering_heartbeat(stage: Stage) -> None:
    relay, gateway = stage.add_relay(), stage.add_gateway(env={"CLIENT_FRAMES_PER_SECOND": "100000"})
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
