"""What operators see of a whole deployment, and do: from any replica, of all of them."""

from typing import Any

from harness.producer import Record
from harness.stage import Stage
from harness.v1 import V1Client
from harness.waiting import eventually

from demo.process import Process

OPEN = {"ADMIN_OPEN": "true"}


async def test_one_console_shows_them_all_and_says_what_is_wrong(stage: Stage) -> None:
    relay = stage.add_relay()
    gateways = [stage.add_gateway(f"gateway-{number}", env=OPEN) for number in (1, 2)]
    await stage.start(relay, *gateways)
    await stage.crowd(stage.users, gateways)
    await stage.producer.publish_mixed(stage.users, 100)
    await stage.producer.send([Record("risk-events", b"not JSON", b"key")])
    await stage.everything_arrived()

    async def seen() -> Any:
        return await stage.fleet(gateways[0])

    async def has_letter() -> bool:
        fleet = await seen()
        return any(letter["reason"] == "not_json" for one in fleet["relays"] for letter in one["dead_letters"])

    await eventually(has_letter, "the dead letter to be shown")
    fleet = await seen()
    (shown,) = fleet["relays"]
    assert (shown["state"], shown["reason"], shown["redis_up"]) == ("ready", None, True)
    assert sum(results.get("published", 0) for results in shown["events"].values()) >= 100

    async def all_have_said() -> bool:
        """Each replica tells what it has once a second, by a clock of its own."""
        replicas = (await seen())["replicas"]
        connections = {int(one["address"]): one["connections"] for one in replicas}
        return connections == {gateway.port: _clients_of(stage, gateway.name) for gateway in gateways} and all(
            one["state"] == "ready" and one["deliveries"] for one in replicas
        )

    await eventually(all_have_said, "both replicas to be shown with their clients")

    await relay.kill()

    async def is_silent() -> bool:
        (shown,) = (await seen())["relays"]
        return bool(shown["seen_ms_ago"] > 5_000)

    await eventually(is_silent, "the relay's silence to be shown")

    await stage.redis.kill()

    async def redis_is_away() -> bool:
        fleet = await seen()
        return not fleet["redis"]["up"] and bool(fleet["redis"]["error"]) and len(fleet["replicas"]) == 2

    await eventually(redis_is_away, "Redis' absence to be shown")


def _clients_of(stage: Stage, gateway: str) -> int:
    return sum(client.replica == gateway for client in stage.clients)


async def _name_of(stage: Stage, gateway: Process, asked: Process) -> str:
    """As another replica knows it: it says so once a second."""
    names: list[str] = []

    async def is_known() -> bool:
        names[:] = [
            one["name"] for one in (await stage.fleet(asked))["replicas"] if one["address"] == str(gateway.port)
        ]
        return bool(names)

    await eventually(is_known, f"{gateway.name} to be known to {asked.name}")
    return names[0]


async def obeys(client: V1Client, elsewhere: Process) -> None:
    await client.told("going_away")
    await client.drop()
    await client.resume(elsewhere.port, elsewhere.name)


async def test_a_replica_is_drained_from_another_and_loses_nothing(stage: Stage) -> None:
    relay = stage.add_relay()
    drain = {"DRAIN_DELAY_SECONDS": "1", "DRAIN_SECONDS": "2"}
    gateways = [stage.add_gateway(f"gateway-{number}", env=OPEN | drain) for number in (1, 2)]
    await stage.start(relay, *gateways)
    clients = [await stage.connect_v1(user, gateways[1]) for user in stage.users]
    async with stage.load(stage.users, per_second=50) as load:
        await load.more(50)
        name = await _name_of(stage, gateways[1], gateways[0])
        assert await stage.act(gateways[0], "drain", {"replica": name}) == (200, {"done": f"{name} was told to drain"})
        for client in clients:
            await obeys(client, gateways[0])
        assert await gateways[1].wait(30) == 0
        await load.more(50)
    await stage.exact()
