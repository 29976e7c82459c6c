"""Redis with TLS and least-privilege users: all works, nothing is denied; what a service needs not is refused to it."""

import asyncio
import functools

import pytest
from harness.dead_letters import DeadLetters
from harness.producer import Record
from harness.raw import UPGRADE, RawSocket
from harness.secured_redis import SecuredRedis, password_of
from harness.stage import Stage
from harness.tokens import claims, token
from harness.waiting import eventually
from redis.exceptions import RedisError

from demo.process import Process


def check_no_password_was_said(stage: Stage) -> None:
    for name, log in stage.logs().items():
        assert "s3cret" not in log, f"{name}:\n{log}"


async def test_everything_works_and_nothing_is_denied(stage: Stage) -> None:
    """Messages, acks, snapshots, positions, a Redis that dies and comes back empty, a drain, dead letters."""
    redis = await stage.use_secured_redis()
    relay = stage.add_relay()
    gateways = [stage.add_gateway(f"gateway-{number}", env={"ADMIN_OPEN": "true"}) for number in (1, 2)]
    await stage.start(relay, *gateways)
    ann = stage.users[0]
    await stage.crowd(stage.users, gateways)
    phone = await stage.connect_v1(ann, gateways[0], device="phone")
    letters = DeadLetters(stage.bootstrap)
    await stage.producer.publish_mixed(stage.users, 100)
    await stage.producer.send([Record("risk-events", b"not JSON", b"key")])
    await stage.everything_arrived()
    await letters.wait_for(1)
    letters.close()

    cursor = phone.knowledge.cursor_text
    await phone.say({"control": "ack", "cursor": cursor})
    await eventually(lambda: redis.acks(stage.prefix, ann) == {"phone": cursor}, "the ack to be written")
    await phone.drop()
    await stage.producer.publish_mixed([ann], 20)
    phone.query["cursor"], phone.resumes = "ack", False
    await phone.resume(gateways[1].port, gateways[1].name)
    assert phone.welcome["recovered"]
    status, position = await stage.get(gateways[0], f"/position?user_id={ann}")
    assert (status, set(position)) == (200, {"cursor"})
    await stage.connect_v1(ann, gateways[0], snapshot="1")
    # A link that broke: what was missed is read from the log.
    redis.kill_clients()
    await stage.producer.publish_mixed(stage.users, 100)
    await stage.exact()
    await revokes(stage)
    stage.clients.remove(await stage.connect_v1("eve", gateways[1]))
    await eventually(lambda: _is_seen(stage, gateways[0], "eve"), "eve's connection to be seen")
    assert await stage.act(gateways[0], "disconnect", {"user_id": "eve", "retry": False}) == (
        200,
        {"done": "1 connection of eve closed, for good"},
    )
    fleet = await stage.fleet(gateways[0])
    assert (len(fleet["relays"]), len(fleet["replicas"]), fleet["redis"]["up"]) == (1, 2, True)
    assert redis.denied() == []

    # Whole, and empty: the ACL log begins anew with it.
    await stage.starts_are_committed()
    await redis.server.kill()
    await stage.producer.publish_mixed(stage.users, 100)
    await redis.server.restart()
    await stage.exact(seconds=90)
    assert await gateways[1].terminate() == 0
    await relay.restart()
    await stage.producer.publish_mixed(stage.users, 20)
    await stage.exact([client for client in stage.clients if client.is_connected])
    # A replica compares every stream with its meta within 25 s, and probes every two.
    await asyncio.sleep(3)
    assert redis.denied() == []
    check_no_password_was_said(stage)


async def _is_seen(stage: Stage, gateway: Process, user: str) -> bool:
    return bool((await stage.act(gateway, "presence", {"user_id": user}))[1]["replicas"])


async def revokes(stage: Stage) -> None:
    """A replica that takes tokens, and learns that one is revoked."""
    env = {"AUTH_MODE": "jwt", "JWT_SECRET": "s" * 40}
    patient = {"PING_INTERVAL_SECONDS": "60", "PING_TIMEOUT_SECONDS": "60"}  # nobody here answers pings
    gateway = stage.add_gateway("gateway-3", env=env | patient)
    await stage.start(gateway)
    sent = token("s" * 40, claims(stage.users[1], iss=None, aud=None))
    handshake = UPGRADE | {"Authorization": f"Bearer {sent}"}
    socket = await RawSocket.connect(gateway.port)
    assert (await socket.request("/ws", handshake)).status == 101
    await stage.gateway_command("revoke", stage.users[1], env=env)
    assert await socket.close_code() == 4500
    await socket.close()
    await gateway.terminate()


REFUSED_TO_ALL = [
    ("FLUSHALL",),
    ("KEYS", "*"),
    ("CONFIG", "SET", "maxmemory-policy", "allkeys-lru"),
    ("CONFIG", "GET", "requirepass"),
    ("ACL", "LIST"),
    ("SHUTDOWN",),
    ("CLIENT", "LIST"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("SCRIPT", "FLUSH"),
    ("SAVE",),
    ("REPLICAOF", "127.0.0.1", "1"),
    ("DEL", "{p}:{{g}}:life"),
    ("GET", "another:layout"),
    ("PUBLISH", "{p}:{{g}}:live:global", "x"),
    ("MONITOR",),
]
REFUSED_TO_GATEWAY = [
    ("XADD", "{p}:{{g}}:log:global", "*", "m", "x"),
    ("XTRIM", "{p}:{{g}}:log:global", "MAXLEN", "0"),
    ("HSET", "{p}:{{g}}:life", "epoch", "x"),
    ("HSET", "{p}:{{u0}}:meta:ann", "seq", "1"),
    ("HSET", "{p}:{{g}}:last", "risk_alert", "x"),
    ("HDEL", "{p}:{{g}}:ack:ann", "phone"),
    ("EXPIRE", "{p}:{{u0}}:log:ann", "1"),
    ("SET", "{p}:layout", "2"),
    ("SPUBLISH", "{p}:{{g}}:beat", "1"),
    ("SPUBLISH", "{p}:{{g}}:live:global", "x"),
    ("SPUBLISH", "{p}:{{u0}}:live:ann", "x"),
    ("SSUBSCRIBE", "another:{{g}}:beat"),
    ("SUBSCRIBE", "{p}:{{g}}:beat"),
    ("SCRIPT", "LOAD", "return 1"),
    ("HGETALL", "{p}:start"),
    ("EVAL", "return redis.call('HSET', '{p}:{{g}}:life', 'epoch', 'x')", "0"),
    ("EVAL", "return redis.call('SPUBLISH', '{p}:{{g}}:beat', '1')", "0"),
]
REFUSED_TO_RELAY = [
    ("HSET", "{p}:{{u0}}:ack:ann", "phone", "x"),
    ("HGETALL", "{p}:{{u0}}:ack:ann"),
    ("SSUBSCRIBE", "{p}:{{g}}:beat"),
    ("EVAL", "return redis.call('DEL', '{p}:{{g}}:life')", "0"),
    ("EVAL", "return redis.call('ZRANGE', '{p}:{{g}}:revoked', 0, -1)", "0"),
]
NEEDED = {
    "relay": [("CLUSTER", "SLOTS"), ("SELECT", "0"), ("ROLE",), ("INFO", "memory")],
    "gateway": [("CLUSTER", "SLOTS"), ("SELECT", "0"), ("ROLE",), ("HGETALL", "{p}:{{u63}}:meta:a%20b")],
}


def is_denied(redis: SecuredRedis, prefix: str, user: str, command: tuple[str, ...]) -> bool:
    """Try it, and see what Redis says."""
    with redis.client(user) as client:
        try:
            client.execute_command(*(word.format(p=prefix) for word in command))
        except RedisError as error:
            return any(text in str(error).lower() for text in ("no permissions", "noperm", "user executing the script"))
    return False


@pytest.mark.parametrize("user", ["relay", "gateway"])
async def test_what_a_service_needs_not_is_refused_to_it(stage: Stage, user: str) -> None:
    redis = await stage.use_secured_redis()
    own = REFUSED_TO_RELAY if user == "relay" else REFUSED_TO_GATEWAY
    allowed = [command for command in (*REFUSED_TO_ALL, *own) if not is_denied(redis, stage.prefix, user, command)]
    assert allowed == []
    assert redis.denied()
    denied = [command for command in NEEDED[user] if is_denied(redis, stage.prefix, user, command)]
    assert denied == []


async def test_without_a_user_nobody_gets_in(stage: Stage) -> None:
    redis = await stage.use_secured_redis()
    relay = stage.add_relay(env={"REDIS_URL": redis.url("relay").replace(f"relay:{password_of('relay')}@", "")}).start()
    await eventually(lambda: "NOAUTH" in relay.log(), "the relay to say so")
    assert "a user and a password in REDIS_URL" in relay.log()


async def is_said(service: Process, *texts: str) -> bool:
    return any(all(text in line for text in texts) for line in service.log().splitlines())


async def test_why_redis_lets_nobody_in_is_said_until_it_does(stage: Stage) -> None:
    redis = await stage.use_secured_redis()
    relay = stage.add_relay(env={"REDIS_URL": redis.url("relay").replace("s3cret", "wr0ng-s3cret")})
    gateway = stage.add_gateway(env={"REDIS_URL": redis.url("gateway").replace("s3cret", "wr0ng-s3cret")})
    for service, user in ((relay, "relay"), (gateway, "gateway")):
        service.start()
        said = functools.partial(is_said, service, f"does not let in '{user}': WRONGPASS", "see that REDIS_URL has")
        await eventually(said, f"{service.name} to say so")
        assert service.is_running
    with redis.client("operator") as client:  # as somebody who mends it on the other side
        for user in ("relay", "gateway"):
            client.execute_command("ACL", "SETUSER", user, f">{password_of(user).replace('s3cret', 'wr0ng-s3cret')}")
    await asyncio.gather(relay.wait_until_ready(), gateway.wait_until_ready())
    await stage.crowd(stage.users, [gateway])
    await stage.producer.publish_mixed(stage.users, 20)
    await stage.exact()
    check_no_password_was_said(stage)


async def test_a_permission_that_is_missing_is_said_until_it_is_there(stage: Stage) -> None:
    redis = await stage.use_secured_redis()
    with redis.client("operator") as client:
        client.execute_command("ACL", "SETUSER", "relay", "-xadd")
        client.execute_command("ACL", "SETUSER", "gateway", "-role")
    relay, gateway = stage.add_relay(), stage.add_gateway()
    await stage.start(relay)
    gateway.start()
    await eventually(functools.partial(is_said, gateway, "'role' command", "deploy/redis"), "the gateway to say so")
    with redis.client("operator") as client:
        client.execute_command("ACL", "SETUSER", "gateway", "+role")
    await gateway.wait_until_ready()
    await stage.crowd(stage.users, [gateway])
    await stage.producer.publish_mixed(stage.users, 20)
    await eventually(functools.partial(is_said, relay, "redis_not_usable", "deploy/redis"), "the relay to say so")
    with redis.client("operator") as client:
        client.execute_command("ACL", "SETUSER", "relay", "+xadd")
    await stage.exact()
