"""The life of a token: it ends, is followed by a fresh one, is revoked; and the keys it is verified with."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from harness.raw import UPGRADE, Answer, RawSocket
from harness.stage import Stage
from harness.tokens import AUDIENCE, ISSUER, Provider, claims, jwk, rsa_key, token
from harness.waiting import eventually

from demo.process import Process

SECRET = "a secret that only the issuer and the gateway know"
ENV = {"AUTH_MODE": "jwt", "JWT_SECRET": SECRET, "JWT_ISSUER": ISSUER, "JWT_AUDIENCE": AUDIENCE}
PAGE = {"Origin": "https://app.example.com"}


_opened: list[RawSocket] = []


@pytest.fixture(autouse=True)
async def _close_sockets() -> AsyncIterator[None]:
    yield
    for socket in _opened:
        await socket.close()
    _opened.clear()
    await asyncio.sleep(0.05)


async def open_socket(gateway: Process) -> RawSocket:
    socket = await RawSocket.connect(gateway.port)
    _opened.append(socket)
    return socket


def bearer(sent: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {sent}"}


async def come(gateway: Process, sent: str, subprotocol: str = "") -> tuple[RawSocket, Answer]:
    socket = await open_socket(gateway)
    offered = {"Sec-WebSocket-Protocol": subprotocol} if subprotocol else {}
    return socket, await socket.request("/ws", UPGRADE | bearer(sent) | offered)


async def connected(gateway: Process, sent: str) -> RawSocket:
    """A client of notify.v1, welcomed."""
    socket, answer = await come(gateway, sent, "notify.v1")
    assert answer.status == 101, answer
    assert (await said(socket))["control"] == "welcome"
    return socket


async def said(socket: RawSocket, *, but: tuple[str, ...] = ("heartbeat",)) -> dict[str, Any]:
    """The next control frame that is not one of these; a close frame as its code."""
    while True:
        opcode, payload = await socket.read_frame()
        if opcode == 8:
            return {"closed": int.from_bytes(payload[:2])}
        if opcode == 9:
            socket.send_frame(10, payload)
        if opcode == 1 and (control := json.loads(payload))["control"] not in but:
            return control  # type: ignore[no-any-return]


async def send_fresh(socket: RawSocket, sent: str) -> dict[str, Any]:
    socket.send_frame(1, json.dumps({"control": "auth", "token": sent}).encode())
    return await said(socket)


async def status_of(gateway: Process, sent: str) -> int:
    socket, answer = await come(gateway, sent)
    await socket.close()
    return answer.status


async def revoke(stage: Stage, user: str) -> None:
    """`python -m gateway revoke`."""
    assert f"tokens of {user} issued until" in await stage.gateway_command("revoke", user, env=ENV)


async def test_a_connection_ends_with_its_token_unless_a_fresh_one_comes(stage: Stage) -> None:
    # Nobody here answers pings in time.
    gateway = stage.add_gateway(env=ENV | {"PING_INTERVAL_SECONDS": "60", "PING_TIMEOUT_SECONDS": "60"})
    await stage.start(gateway)
    of_ending = claims("ann", 8)
    ending = await connected(gateway, token(SECRET, of_ending))
    renewed = await connected(gateway, token(SECRET, claims("ann", 8)))
    plain, _ = await come(gateway, token(SECRET, claims("bob", 8)))
    for wrong, code in (
        (token("another secret that is just as long as it has to be"), "unauthorized"),
        (token(SECRET, claims("ann", 600)), "too_many_auth"),
    ):
        answer = await send_fresh(ending, wrong)
        assert (answer["control"], answer["code"]) == ("error", code), answer
    assert (await said(ending))["code"] == "token_expired"
    assert (await said(renewed))["code"] == "token_expired"
    other = await send_fresh(renewed, token(SECRET, claims("bob", 600)))
    assert other["code"] == "other_user", other
    await asyncio.sleep(11)  # one fresh token in 10 s
    fresh = claims("ann", 600)
    assert await send_fresh(renewed, token(SECRET, fresh)) == {"control": "auth", "expires_at": fresh["exp"]}
    assert (await said(ending))["closed"] == 4001
    assert time.time() >= of_ending["exp"] + 25
    assert (await said(plain))["closed"] == 4001
    renewed.send_frame(1, b'{"control":"ping"}')
    assert (await said(renewed))["control"] == "pong"


async def test_revoked_tokens_are_refused_everywhere_also_when_redis_lost_its_data(stage: Stage) -> None:
    # Nobody here answers pings in time.
    env = ENV | {"PING_INTERVAL_SECONDS": "60", "PING_TIMEOUT_SECONDS": "60"}
    one, two = gateways = [stage.add_gateway(f"gateway-{number}", env=env) for number in (1, 2)]
    await stage.start(*gateways)
    old, others = token(SECRET, claims("ann")), token(SECRET, claims("bob"))
    sockets = [await connected(gateway, old) for gateway in gateways]
    untouched = await connected(one, others)
    await revoke(stage, "ann")
    for socket in sockets:
        assert (await said(socket))["closed"] == 4500
    assert [await status_of(gateway, old) for gateway in gateways] == [401, 401]
    assert [await status_of(gateway, others) for gateway in gateways] == [101, 101]
    without_time = token(SECRET, claims("ann", iat=None))
    assert await status_of(one, without_time) == 401

    await asyncio.sleep(1.1)  # iat counts whole seconds
    later = token(SECRET, claims("ann", iat=int(time.time())))
    assert [await status_of(gateway, later) for gateway in gateways] == [101, 101]

    await stage.redis.kill()
    await stage.redis.restart()

    async def serves_again() -> bool:
        return await status_of(one, others) == 101 and await status_of(two, others) == 101

    await eventually(serves_again, "the replicas to be back")
    assert [await status_of(gateway, old) for gateway in gateways] == [401, 401]
    third = stage.add_gateway("gateway-3", env=ENV)
    await stage.start(third)

    async def knows() -> bool:
        return await status_of(third, old) == 401

    await eventually(knows, "a new replica to know what others put back")
    untouched.send_frame(1, b'{"control":"ping"}')
    assert (await said(untouched))["control"] == "pong"


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    provider = await Provider().start()
    yield provider
    await provider.stop()


async def test_keys_are_fetched_when_they_change_and_kept_while_the_provider_is_away(
    stage: Stage, provider: Provider
) -> None:
    first, second, strangers = rsa_key(), rsa_key(), rsa_key()
    provider.keys = [jwk(first, kid="first")]
    gateway = stage.add_gateway(
        env={"AUTH_MODE": "jwt", "JWT_JWKS_URL": provider.url, "JWT_ISSUER": ISSUER, "JWT_AUDIENCE": AUDIENCE}
    )
    await stage.start(gateway)
    good = token(first, None, kid="first")

    async def lets_in() -> bool:
        return await status_of(gateway, good) == 101

    await eventually(lets_in, "the first keys")
    assert provider.asked == 1

    async def has(sent: str, status: int) -> None:
        async def found() -> bool:
            return await status_of(gateway, sent) == status

        await eventually(found, f"a handshake answered {status}", seconds=30)

    # A new key: told to come again until the provider may be asked again, then let in.
    provider.keys = [jwk(first, kid="first"), jwk(second, kid="second")]
    new = token(second, None, kid="second")
    assert await status_of(gateway, new) in (101, 503)
    await has(new, 101)
    assert provider.asked == 2

    # A crowd of unknown keys, at once and for a while: hardly a fetch.
    crowd = [token(strangers, None, kid=f"stranger-{number}") for number in range(200)]
    statuses = await asyncio.gather(*(status_of(gateway, sent) for sent in crowd))
    assert set(statuses) <= {401, 503}, statuses
    assert provider.asked <= 3

    # A key that is not there, for good: 401 once the provider was asked.
    await has(crowd[0], 401)
    await provider.stop()
    assert await lets_in()
    assert await status_of(gateway, new) == 101
    statuses = await asyncio.gather(*(status_of(gateway, sent) for sent in crowd))
    assert set(statuses) <= {401, 503}, statuses
    assert await lets_in()

    async def asked_in_vain() -> bool:
        await status_of(gateway, token(strangers, None, kid=secrets.token_hex(4)))
        return "the identity provider gives no keys" in gateway.log()

    await eventually(asked_in_vain, "the provider to be asked while it is away", seconds=30)
    assert set(await asyncio.gather(*(status_of(gateway, sent) for sent in crowd[:20]))) == {503}
    assert await lets_in()
    assert await status_of(gateway, new) == 101


async def test_a_page_of_another_host_reads_event_streams_and_positions(stage: Stage) -> None:
    """What a browser sends and needs to see (CORS), with a token in a header and in a cookie."""
    env = ENV | {"ALLOWED_ORIGINS": PAGE["Origin"], "AUTH_COOKIE": "session"}
    relay, gateway = stage.add_relay(), stage.add_gateway(env=env)
    await stage.start(relay, gateway)
    url, sent = f"http://127.0.0.1:{gateway.port}", token(SECRET, claims("ann"))
    asking = PAGE | {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as client:
        for path in ("/events", "/position"):
            async with client.options(url + path, headers=asking) as answer:
                assert answer.status == 204
                assert answer.headers["Access-Control-Allow-Origin"] == PAGE["Origin"]
                assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
            async with client.options(url + path, headers=asking | {"Origin": "https://evil.example"}) as answer:
                assert (answer.status, answer.headers.get("Access-Control-Allow-Origin")) == (403, None)
            for credentials in (bearer(sent), {"Cookie": f"session={sent}"}):
                async with client.get(url + path, headers=PAGE | credentials) as answer:
                    assert answer.status == 200, await answer.text()
                    assert answer.headers["Access-Control-Allow-Origin"] == PAGE["Origin"]
                    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
            async with client.get(url + path, headers=PAGE) as answer:
                assert answer.status == 401
                assert answer.headers["Access-Control-Allow-Origin"] == PAGE["Origin"]  # the page may know why
            foreign = bearer(sent) | {"Origin": "https://evil.example"}
            async with client.get(url + path, headers=foreign) as answer:
                assert (answer.status, answer.headers.get("Access-Control-Allow-Origin")) == (403, None)


async def test_what_an_address_may_have_direct_and_behind_a_proxy(stage: Stage) -> None:
    direct = stage.add_gateway("direct", env={"MAX_CONNECTIONS_PER_ADDRESS": "2"})
    proxied = stage.add_gateway("proxied", env={"MAX_CONNECTIONS_PER_ADDRESS": "2", "TRUSTED_PROXIES": "127.0.0.0/8"})
    await stage.start(direct, proxied)
    held: list[RawSocket] = []

    async def comes(gateway: Process, forwarded_for: str, more: dict[str, str] | None = None) -> RawSocket | int:
        socket = await open_socket(gateway)
        headers = UPGRADE | ({"X-Forwarded-For": forwarded_for} if forwarded_for else {}) | (more or {})
        try:
            answer = await socket.request("/ws?user_id=ann", headers)
        except (asyncio.IncompleteReadError, ConnectionError):
            return 0  # far above the limit nobody is told
        if answer.status == 101:
            held.append(socket)
            return socket
        return answer.status

    for hops in ("", "10.1.1.1"):
        assert isinstance(await comes(direct, hops), RawSocket)
    # A forwarded address counts for nobody who is not a trusted proxy.
    assert await comes(direct, "10.9.9.9") == 429
    told = await comes(direct, "", {"Sec-WebSocket-Protocol": "notify.plain"})
    assert isinstance(told, RawSocket)
    assert await told.close_code() == 4004
    await told.close()
    assert (await stage.get(direct, "/livez"))[0] == 200

    for hops in ("203.0.113.7", "10.0.0.1, 203.0.113.7, 127.0.0.9"):
        assert isinstance(await comes(proxied, hops), RawSocket)
    for hops in ("203.0.113.7", "198.51.100.1, 203.0.113.7", "::ffff:203.0.113.7", "203.0.113.7:1234", "x,203.0.113.7"):
        assert await comes(proxied, hops) == 429, hops
    for hops in ("2001:db8:1:2::1", "2001:db8:1:2:ffff::1"):
        assert isinstance(await comes(proxied, hops), RawSocket)
    assert await comes(proxied, "2001:db8:1:2:3::3") == 429
    assert isinstance(await comes(proxied, "2001:db8:1:3::1"), RawSocket)
    # Who goes makes room.
    await held[0].close()
    await held[1].close()

    async def has_room() -> bool:
        return isinstance(await comes(direct, ""), RawSocket)

    await eventually(has_room, "room for one more")
