"""Redis is a cluster: streams live on three nodes, and what happens to one of them under load loses
and doubles nothing, on any replica."""

import signal

import pytest
from harness.stage import Stage
from harness.topologies import BUCKETS, RedisCluster, role_of, stop_following
from harness.v1 import V1Client, WebsocketsV1
from harness.waiting import eventually
from harness.wandering import wandering

from demo.process import Process
from shared.keys import Keys


async def crowded(stage: Stage) -> tuple[RedisCluster, list[str]]:
    """A cluster with relay, two replicas, and clients whose buckets are on all nodes."""
    cluster = await stage.use_cluster()
    _, replicas = await stage.start_relay_and_replicas(2)
    users = cluster.users(stage.users[0])
    await stage.crowd(users, replicas)
    return cluster, users


def life_of(user: str) -> str:
    keys = Keys(user_buckets=BUCKETS)
    return keys.life(keys.user_stream(user).bucket)


async def test_events_reach_the_clients_of_every_node(stage: Stage) -> None:
    cluster, users = await crowded(stage)
    assert len({cluster.primary_of(life_of(user)).name for user in users}) == 3
    async with stage.load(users) as load:
        await load.more(400)
    await stage.exact()
    assert len(cluster.logs("scenario-*")) == 1 + len(users)


async def test_a_replica_takes_its_primarys_place_and_gives_it_back(stage: Stage) -> None:
    cluster, users = await crowded(stage)
    async with stage.load(users) as load:
        for _ in range(3):  # once more: at the end it must not be as at the beginning
            await load.more(200)
            await cluster.fail_over()
        await load.more(200)
    await stage.exact()


async def test_a_killed_primary_is_replaced(stage: Stage) -> None:
    cluster, users = await crowded(stage)
    replica, primary = cluster.replica, cluster.primary_of("{g}")
    async with stage.load(users) as load:
        await load.more(200)
        await primary.kill()
        await eventually(lambda: role_of(replica) == "master", "the replica to be promoted", seconds=60)
        await load.more(200)
        await primary.restart()
        await eventually(cluster.is_whole, "the cluster to be whole", seconds=60)
        await load.more(200)
    await stage.exact()


async def test_a_promoted_replica_lacks_the_tail(stage: Stage) -> None:
    """What it lacks is published again; who had it already does not get it twice."""
    cluster, users = await crowded(stage)
    replica, primary = cluster.replica, cluster.primary_of("{g}")
    async with stage.load(users) as load:
        await load.more(200)
        await stop_following(replica, primary)
        await load.more(100)
    await stage.everything_arrived()
    await primary.kill()
    await eventually(lambda: role_of(replica) == "master", "the replica to be promoted", seconds=60)
    async with stage.load(users) as load:
        await load.more(200)
    await stage.exact()


async def test_a_slot_moves_to_another_node(stage: Stage) -> None:
    cluster, users = await crowded(stage)

    async def half_way() -> None:
        """Whoever does not live in that slot may come."""
        await load.more(50)
        statuses = {await stage.status_of_a_handshake(stage.gateways[0], other) for _ in range(3)}
        assert statuses == {101}

    async with stage.load(users) as load:
        for number in (0, 1, 0):
            other = users[1 - number]
            key = life_of(users[number])
            await load.more(200)
            await eventually(lambda: _let_in(stage), "the replicas to be subscribed")
            before = cluster.primary_of(key)
            await cluster.migrate(key, then=half_way)
            await eventually(lambda key=key, before=before: cluster.primary_of(key) is not before, "the slot to move")
        await load.more(200)
    await stage.exact()


async def test_the_global_buckets_slot_moves_to_another_node(stage: Stage) -> None:
    cluster, users = await crowded(stage)
    async with stage.load(users) as load:
        await load.more(200)
        before = cluster.primary_of("{g}")
        await cluster.migrate("{g}", then=lambda: load.more(50))
        await eventually(lambda: cluster.primary_of("{g}") is not before, "the slot to move")
        await load.more(200)
    await stage.exact()


async def test_a_slot_moves_at_once(stage: Stage) -> None:
    cluster, users = await crowded(stage)
    if not cluster.moves_slots_at_once():
        pytest.skip("this server moves slots key by key only")
    async with stage.load(users) as load:
        for key in (life_of(users[0]), "{g}", life_of(users[0])):
            await load.more(200)
            await cluster.migrate_at_once(key)
        await load.more(200)
    await stage.exact()


async def test_a_primary_that_hangs_is_replaced_and_wakes_up_as_one(stage: Stage) -> None:
    """It takes itself for the primary until it hears of the other one."""
    cluster, users = await crowded(stage)
    replica, primary = cluster.replica, cluster.primary_of("{g}")
    async with stage.load(users) as load:
        await load.more(200)
        primary.signal(signal.SIGSTOP)
        await eventually(lambda: role_of(replica) == "master", "the replica to be promoted", seconds=60)
        await load.more(200)
        primary.signal(signal.SIGCONT)
        await eventually(cluster.is_whole, "the cluster to be whole", seconds=60)
        await load.more(200)
    await stage.exact()


async def test_who_drops_and_resumes_meanwhile_loses_and_doubles_nothing(stage: Stage) -> None:
    """On any replica, while a node is replaced and a slot moves: each time where it was."""
    cluster, users = await crowded(stage)
    devices = []
    for number, user in enumerate(users):
        device = await stage.connect(user, stage.gateways[number % 2], WebsocketsV1)
        assert isinstance(device, V1Client)
        devices.append(device)
    async with stage.load(users) as load, wandering(devices, stage.gateways):
        await load.more(200)
        await cluster.fail_over()
        await load.more(200)
        await cluster.migrate(life_of(users[0]))
        await load.more(200)
    await stage.exact()
    for device in devices:
        assert len(device.knowledge.welcomes) > 3
        assert not device.knowledge.said("resync"), device


async def test_a_users_connections_are_counted_over_all_replicas(stage: Stage) -> None:
    """Also after the node that knows them was replaced, and after their slot has moved."""
    cluster = await stage.use_cluster()
    replicas = [stage.add_gateway(f"gateway-{number}", env={"MAX_CONNECTIONS_PER_USER": "2"}) for number in (1, 2)]
    await stage.start(*replicas)
    users = cluster.users(stage.users[0])
    here = {user: [await stage.connect(user, replica) for replica in replicas] for user in users}

    async def one_more_each(number: int) -> None:
        for user, (first, second) in here.items():
            newest = await stage.connect(user, replicas[number])
            oldest = f"the oldest of {user} to go, not {second} or {newest}"
            await eventually(
                lambda first=first: not first.is_connected,  # type: ignore[misc]
                lambda user=user, oldest=oldest: f"{oldest}; Redis knows {cluster.presence(stage.prefix, user)}",  # type: ignore[misc]
            )
            assert (first.close_code, first.close_reason) == (4502, "replaced")
            stage.clients.remove(first)
            here[user] = [second, newest]

    await one_more_each(0)
    await one_more_each(0)
    await one_more_each(1)
    before = _subscriptions(replicas)
    await cluster.fail_over()
    await _subscribe_again(stage, before)
    await one_more_each(1)
    before = _subscriptions(replicas)
    await cluster.migrate(life_of(users[0]))
    await _subscribe_again(stage, before)
    await one_more_each(0)
    assert all(client.is_connected for clients in here.values() for client in clients)


def _subscriptions(replicas: list[Process]) -> list[int]:
    return [replica.log().count("] subscribed") for replica in replicas]


async def _let_in(stage: Stage) -> bool:
    """Whether each replica lets somebody in."""
    statuses = [await stage.status_of_a_handshake(gateway, "nobody") for gateway in stage.gateways]
    return statuses == [101] * len(stage.gateways)


async def _subscribe_again(stage: Stage, before: list[int]) -> None:
    """They have noticed that something moved: until then a client may be let in, and the next one not."""

    async def have() -> bool:
        if any(now == then for now, then in zip(_subscriptions(stage.gateways), before, strict=True)):
            return False
        return await _let_in(stage)

    await eventually(have, "the replicas to be subscribed again", seconds=60)
