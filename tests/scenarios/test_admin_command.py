"""`python -m gateway admin`, against real replicas."""

import asyncio
import json
import uuid

from harness.stage import Stage
from harness.v1 import WebsocketsV1
from harness.waiting import eventually

from demo.ports import free_port
from demo.process import Process

TOKEN = "t" * 40
ENV = {"ADMIN_TOKEN": TOKEN, "DRAIN_DELAY_SECONDS": "0", "DRAIN_SECONDS": "0"}


async def admin(stage: Stage, gateway: Process, *command: str, code: int = 0, token: str = TOKEN) -> str:
    """What the command prints, its standard error included; it ends with `code`."""
    env = {"ADMIN_PORT": str(gateway.ports["admin"]), "ADMIN_TOKEN": token}
    process = stage.processes.add_module("gateway", "admin", *command, name=f"admin-{uuid.uuid4().hex[:8]}", env=env)
    assert await process.start().wait(60) == code, process.log()
    assert TOKEN not in process.log()
    return process.log().strip()


async def test_what_operators_do_from_a_shell(stage: Stage) -> None:
    gateways = [stage.add_gateway(f"gateway-{number}", env=ENV) for number in (1, 2)]
    await stage.start(stage.add_relay(), *gateways)
    ann, bob = stage.users
    clients = [WebsocketsV1(gateway.port, user, gateway.name) for user in (ann, bob) for gateway in gateways]
    for client in clients:
        await client.open()

    async def are_told() -> bool:
        said = [json.loads(await admin(stage, gateways[0], "presence", user, "--json")) for user in (ann, bob)]
        return all(len(one["replicas"]) == 2 for one in said)

    await eventually(are_told, "both connections of both users to be known")
    lines = (await admin(stage, gateways[0], "presence", ann)).splitlines()
    assert [line.split()[1:3] for line in lines] == [["1", "opened"]] * 2

    status = json.loads(await admin(stage, gateways[1], "status", "--json"))
    names = {int(one["address"]): one["name"] for one in status["replicas"]}
    said = await admin(stage, gateways[1], "status")
    assert all(name in said for name in names.values())
    assert "ready" in said

    assert await admin(stage, gateways[0], "disconnect", ann) == f"2 connections of {ann} closed, to come again"
    assert [await client.ended() for client in clients[:2]] == [1012, 1012]
    assert await admin(stage, gateways[0], "presence", ann) == f"{ann} has no connection"
    said = await admin(stage, gateways[0], "disconnect", bob, "--no-retry", "--json")
    assert json.loads(said) == {"done": f"2 connections of {bob} closed, for good"}
    assert [await client.ended() for client in clients[2:]] == [4501, 4501]
    for client in clients[:2]:
        await client.open()
    said = await admin(stage, gateways[0], "disconnect", "--all", "--no-retry")
    assert said == "2 replicas were told to close all connections, for good"
    assert [await client.ended() for client in clients[:2]] == [4501, 4501]

    said = await admin(stage, gateways[0], "revoke", ann, code=1)
    assert said.startswith("gateway: not done: there are no tokens to revoke here")
    said = await admin(stage, gateways[0], "drain", "nobody", code=1)
    assert said == "gateway: not done: nothing was heard of a replica nobody lately"
    name = names[gateways[1].port]
    assert await admin(stage, gateways[1], "drain") == f"{name} was told to drain"
    assert await gateways[1].wait(30) == 0
    assert gateways[0].is_running
    for client in clients:
        await client.close()


async def test_a_replica_that_is_cut_off_drains_when_it_is_asked_itself(stage: Stage) -> None:
    proxy = await stage.redis_proxy()
    cut, other = stage.add_gateway("cut", redis=proxy, env=ENV), stage.add_gateway("other", env=ENV)
    await stage.start(cut, other)
    await proxy.aclose()
    assert (await admin(stage, cut, "drain")).endswith("was told to drain")
    assert await cut.wait(30) == 0
    assert other.is_running


async def test_why_it_was_not_done_and_what_to_do(stage: Stage) -> None:
    gateway, without = stage.add_gateway(env=ENV), stage.add_gateway("without")
    await stage.start(gateway, without)
    for token in ("", "another" * 6):
        said = await admin(stage, gateway, "presence", "ann", code=1, token=token)
        assert said == "gateway: refused: the replica's ADMIN_TOKEN is needed; set it in the environment or in .env"
    said = await admin(stage, without, "presence", "ann", code=1)
    assert "acts_are_off" in said
    assert "openssl rand -hex 32" in said
    said = await admin(stage, gateway, "status", "--url", f"http://127.0.0.1:{gateway.port}", code=1)
    assert "is not a replica's admin port" in said
    url = f"http://127.0.0.1:{free_port()}"
    said = await admin(stage, gateway, "status", "--url", url, code=1)
    assert said.startswith(f"gateway: nobody answers at {url} (Connection refused)")
    for wrong in (["presence"], ["disconnect"], ["presence", "a\nb"], ["status", "--url", "here"], ["explode"]):
        assert await admin(stage, gateway, *wrong, code=2)

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        said = await admin(stage, gateway, "status", "--url", f"http://127.0.0.1:{port}", code=1)
        assert "is not a replica's admin port" in said
