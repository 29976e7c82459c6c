"""A page open in a browser, with the client of clients/typescript: each event once, whatever fails on the way."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest
from harness.browser import Page, PageServer
from harness.stage import Stage
from harness.tokens import AUDIENCE, ISSUER, claims, token
from harness.waiting import eventually

from demo.process import Process
from demo.proxy import Proxy

pytestmark = pytest.mark.skipif(Page.missing() is not None and not os.environ.get("CI"), reason=str(Page.missing()))

DELAY_SECONDS = 1
GRACE_SECONDS = 2
"""In which a client that was told to go may do so."""

SECRET = "a secret that only the issuer and the gateway know"


@pytest.fixture
async def server() -> AsyncIterator[PageServer]:
    async with PageServer() as server:
        yield server


def add_gateway(stage: Stage, server: PageServer, name: str, *, redis: Proxy | None = None, **env: str) -> Process:
    return stage.add_gateway(name, redis=redis, env={"ALLOWED_ORIGINS": server.origin, **env})


async def open_page(
    stage: Stage, server: PageServer, port: int, *, with_tokens: bool = False, blocked: bool = False
) -> Page:
    page = Page(server, port, stage.users[0], "a load balancer", with_tokens=with_tokens, blocked=blocked)
    stage.clients.append(page)
    await page.open()
    page.since = await stage.producer.settled()
    return page


async def reopened(page: Page, times: int) -> None:
    """Wait until it was open that often, and is."""
    await eventually(
        lambda: page.states.count("open") >= times and page.state == "open",
        lambda: f"{page} to be open {times} times: {page.states} {page.errors}",
        seconds=60,
    )


async def test_a_page_gets_each_event_once_through_kills_cuts_and_a_drain(stage: Stage, server: PageServer) -> None:
    to_redis = await stage.redis_proxy()
    relay = stage.add_relay()
    drain = {"DRAIN_DELAY_SECONDS": str(DELAY_SECONDS), "DRAIN_SECONDS": "3"}
    goes = add_gateway(stage, server, "gateway-goes", redis=to_redis, **drain)
    killed, stays = (add_gateway(stage, server, f"gateway-{name}") for name in ("killed", "stays"))
    await stage.start(relay, goes, killed, stays)
    balancer = await stage.use_proxy(Proxy(goes.port))
    page = await open_page(stage, server, balancer.port)
    async with stage.load(stage.users) as load:
        await load.more(50)
        await relay.kill()
        await load.more(50)
        await relay.start().wait_until_ready()

        await load.more(50)
        assert to_redis.cut() > 0
        await load.more(50)
        assert page.states == ["connecting", "open"], "neither is a reason to connect again"

        balancer.cut()
        await reopened(page, 2)
        await load.more(50)

        # Drained: the next connection is open before this one ends.
        states, welcomes = list(page.states), len(page.told("welcome"))
        balancer.upstream_port = killed.port
        goes.expected_to_run = False
        closed_after = asyncio.get_running_loop().time() + DELAY_SECONDS + GRACE_SECONDS
        goes.signal(signal.SIGTERM)
        await eventually(lambda: len(page.told("welcome")) > welcomes, f"{page} to be elsewhere")
        # This process is its way there, and may be late.
        was_in_time = asyncio.get_running_loop().time() < closed_after
        assert await goes.wait(30) == 0
        assert page.told("going_away")
        assert page.states == states or not was_in_time, "it was open all the time"
        await reopened(page, 2)
        await load.more(50)

        balancer.upstream_port = stays.port
        opened = page.states.count("open")
        await killed.kill()
        await reopened(page, opened + 1)
        await load.more(50)
    await stage.exact()
    assert all(welcome["recovered"] for welcome in page.told("welcome")[1:])
    assert not page.errors


async def test_a_page_that_was_stopped_goes_on_where_it_was(stage: Stage, server: PageServer) -> None:
    """A laptop that sleeps: first shorter than the service waits for an answer, then longer."""
    relay = stage.add_relay()
    patient = add_gateway(stage, server, "gateway-patient", HEARTBEAT_SECONDS="1")
    strict = add_gateway(
        stage, server, "gateway-strict", HEARTBEAT_SECONDS="1", PING_INTERVAL_SECONDS="2", PING_TIMEOUT_SECONDS="5"
    )
    await stage.start(relay, patient, strict)
    balancer = await stage.use_proxy(Proxy(patient.port))
    page = await open_page(stage, server, balancer.port)
    async with stage.load(stage.users, 50) as load:
        await load.more(20)
        page.signal(signal.SIGSTOP)
        await asyncio.sleep(2)
        had = len(page.frames)
        await asyncio.sleep(6)  # several times as long as the client waits in silence
        assert len(page.frames) == had, "it is stopped"
        page.signal(signal.SIGCONT)
        await load.more(50)
        await stage.everything_arrived()
        assert (page.states, balancer.accepted) == (["connecting", "open"], 1), "it was alive, and was not given up"

        balancer.upstream_port = strict.port
        balancer.cut()
        await reopened(page, 2)
        page.signal(signal.SIGSTOP)
        await load.more(50)
        await eventually(lambda: balancer.open_connections == 0, "the service to give it up")
        page.signal(signal.SIGCONT)
        await reopened(page, 3)
        await load.more(20)
    await stage.exact()
    assert all(welcome["recovered"] for welcome in page.told("welcome")[1:])


async def test_a_page_without_a_network_comes_back_with_it(stage: Stage, server: PageServer) -> None:
    relay, gateway = stage.add_relay(), add_gateway(stage, server, "gateway-1", HEARTBEAT_SECONDS="1")
    await stage.start(relay, gateway)
    balancer = await stage.use_proxy(Proxy(gateway.port))
    page = await open_page(stage, server, balancer.port)
    async with stage.load(stage.users, 50) as load:
        await load.more(20)
        await page.be_offline(True)
        await eventually(lambda: page.state == "reconnecting", f"{page} to notice")
        await load.more(50)
        await page.be_offline(False)
        await reopened(page, 2)

        # Connections that carry nothing any more, and say nothing of it.
        balancer.deaf()
        await eventually(lambda: page.state == "reconnecting", f"{page} to give up what is silent", seconds=60)
        balancer.heal()
        await reopened(page, 3)
        await load.more(20)
    await stage.exact()


async def test_a_page_whose_websockets_are_blocked_has_an_event_stream(stage: Stage, server: PageServer) -> None:
    """Of another origin, with a token in a header: cut, drained, and brought a fresh token by another stream."""
    server.make_token = lambda: token(SECRET, claims(stage.users[0], 30))
    env = {"AUTH_MODE": "jwt", "JWT_SECRET": SECRET, "JWT_ISSUER": ISSUER, "JWT_AUDIENCE": AUDIENCE}
    relay, stays = stage.add_relay(), add_gateway(stage, server, "gateway-stays", **env)
    goes = add_gateway(stage, server, "gateway-goes", DRAIN_DELAY_SECONDS="1", DRAIN_SECONDS="3", **env)
    await stage.start(relay, goes, stays)
    balancer = await stage.use_proxy(Proxy(goes.port))
    page = await open_page(stage, server, balancer.port, with_tokens=True, blocked=True)
    async with stage.load(stage.users, 50) as load:
        await load.more(50)
        balancer.cut()
        await reopened(page, 2)
        await load.more(50)
        welcomes = len(page.told("welcome"))
        balancer.upstream_port = stays.port
        goes.expected_to_run = False
        goes.signal(signal.SIGTERM)
        assert await goes.wait(30) == 0
        await eventually(lambda: len(page.told("welcome")) > welcomes, f"{page} to be elsewhere")
        await reopened(page, 2)
        await load.more(50)
        opened, welcomes = page.states.count("open"), len(page.told("welcome"))
        await eventually(lambda: len(page.told("welcome")) > welcomes, "a stream with a fresh token", seconds=60)
        assert page.states.count("open") == opened, "the old one went on until then"
        await load.more(50)
    await stage.exact()


async def test_a_page_sends_a_fresh_token_before_the_last_one_ends(stage: Stage, server: PageServer) -> None:
    server.make_token = lambda: token(SECRET, claims(stage.users[0], 22))
    env = {"AUTH_MODE": "jwt", "JWT_SECRET": SECRET, "JWT_ISSUER": ISSUER, "JWT_AUDIENCE": AUDIENCE}
    relay, gateway = stage.add_relay(), add_gateway(stage, server, "gateway-1", **env)
    await stage.start(relay, gateway)
    balancer = await stage.use_proxy(Proxy(gateway.port))
    page = await open_page(stage, server, balancer.port, with_tokens=True)
    async with stage.load(stage.users, 50) as load:
        await eventually(lambda: len(page.told("auth")) == 2, lambda: f"fresh tokens: {page.controls[-3:]}", seconds=40)
        await load.more(20)
    assert server.tokens == 3
    assert not page.told("error"), "before, and not since the service said that it had ended"
    assert balancer.accepted == 1
    await stage.exact()
