"""A deployment is replaced under load, process by process, behind a load balancer that is set up as it ships."""

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import aiohttp
import pytest
from harness.load_balancers import (
    ENVOY,
    HAPROXY,
    NGINX,
    LoadBalancer,
    start_load_balancer,
    start_load_balancer_that_looks_up,
)
from harness.names import Names
from harness.oracle import TYPE_OF_TOPIC
from harness.producer import ALL_TOPICS
from harness.stage import GROUP_SECONDS, Stage
from harness.v1 import Control, EventSourceClient, V1Client
from harness.waiting import eventually
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import InvalidHandshake

from demo.ports import free_port
from demo.process import Process
from demo.stack import answers_ok

REPLICAS = 3
# About as long as HAProxy and Envoy take to learn of it: who is sent there later is refused, and sent to another.
DRAIN = {"DRAIN_DELAY_SECONDS": "2", "DRAIN_SECONDS": "4", "HEARTBEAT_SECONDS": "1", "ADMIN_OPEN": "true"}

Samples = Counter[tuple[str, str]]
"""Values, whole, by name and labels' values, in the order of the labels' names; those of several processes added."""


async def scrape(stage: Stage, *services: Process) -> Samples:
    """What Prometheus would read of all of them."""
    samples: Samples = Counter()
    for service in services:
        text = await stage.metrics(service)
        assert text, f"{service.name} gave no metrics"
        for family in text_string_to_metric_families(text):
            assert family.documentation, family.name
            assert family.type != "unknown", family.name
            for sample in family.samples:
                labels = ",".join(value for name, value in sorted(sample.labels.items()) if name != "le")
                samples[sample.name, labels] += int(sample.value)
    return samples


def increase(before: Samples, after: Samples, name: str, labels: str = "") -> int:
    return after[name, labels] - before[name, labels]


class Visitor:
    """Keeps a client connected through the load balancer, as the protocol asks of it: told to go it comes anew
    in its time, or (`stays`) when it is closed. `refused` are its attempts that were not let in."""

    def __init__(self, client: V1Client | EventSourceClient, balancer: Process, *, stays: bool) -> None:
        self.client = client
        self.resumed = 0
        self.refused: list[str] = []
        self._balancer = balancer
        self._stays = stays
        self._leaving = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def check(self) -> None:
        """Raise what ended it, if anything did."""
        if self._task.done():
            self._task.result()

    async def leave(self) -> None:
        """Follow no longer; the client stays as it is."""
        self._leaving.set()
        await self._task

    async def _run(self) -> None:
        told = 0
        while not self._leaving.is_set():
            await asyncio.sleep(0.02)
            going = [one for one in self._controls if one["control"] == "going_away"]
            if self.client.is_connected and len(going) > told and not self._stays:
                await asyncio.sleep(going[-1]["retry_after_ms"] / 1000)
                await self.client.drop()
            told = len(going)
            if not self.client.is_connected:
                await self._resume()

    async def _resume(self) -> None:
        try:
            await self.client.resume(self._balancer.port, self._balancer.name)
        except (OSError, aiohttp.ClientError, InvalidHandshake) as error:
            self.client.close_code = 1006
            self.refused.append(repr(error))
            await asyncio.sleep(0.1)
            return
        if not self.client.is_connected:
            self.refused.append(f"{self.client.close_code} {self.client.close_reason}")
            return
        self.resumed += 1

    @property
    def _controls(self) -> Sequence[Control]:
        return self.client.controls if isinstance(self.client, EventSourceClient) else self.client.knowledge.controls


class Visitors:
    """All clients of a test: of notify.v1, half of which stay until they are closed, and event streams."""

    def __init__(self) -> None:
        self.all: list[Visitor] = []

    async def come(self, stage: Stage, balancer: Process, *, v1: int, events: int) -> None:
        for number in range(v1):
            client = await stage.connect_v1(stage.users[number % 2], balancer)
            self.all.append(Visitor(client, balancer, stays=number % 4 > 1))
        for number in range(events):
            browser = await stage.connect_events(stage.users[number % 2], balancer)
            self.all.append(Visitor(browser, balancer, stays=True))

    @property
    def resumed(self) -> Counter[type]:
        """How many came anew, by kind."""
        kinds: Counter[type] = Counter()
        for visitor in self.all:
            kinds[V1Client if isinstance(visitor.client, V1Client) else EventSourceClient] += visitor.resumed
        return kinds

    async def come_anew(self, count: int) -> None:
        """Wait until `resumed` are as many."""

        def have_come() -> bool:
            for visitor in self.all:
                visitor.check()
            return self.resumed.total() >= count

        await eventually(have_come, lambda: f"{count} to come anew, and {self.resumed} have: {self._states}")

    @property
    def _states(self) -> list[str]:
        return [f"{one.client} {one.client.close_code} {one.resumed} {one.refused}" for one in self.all]

    async def leave(self) -> None:
        """Follow no longer. Nobody was ever refused."""
        for visitor in self.all:
            await visitor.leave()
        refused = {str(visitor.client): visitor.refused for visitor in self.all if visitor.refused}
        assert not refused, refused


async def roll(stage: Stage, gateway: Process, others: Sequence[Process], visitors: Visitors) -> None:
    """Replace a replica. Its clients go to the others, all with their cursor, and nobody else moves."""
    before, resumed_before = await scrape(stage, *others), visitors.resumed
    clients = await stage.metric(gateway, "connections")
    assert clients > 0, f"{gateway.name} has no clients: the load balancer passes it over"
    gateway.expected_to_run = False
    gateway.signal(signal.SIGTERM)

    async def is_draining() -> bool:
        return (await stage.get(gateway, "/readyz"))[0] == 503

    await eventually(is_draining, f"{gateway.name} to drain")
    # It is read while it goes, too.
    assert (await scrape(stage, gateway))["notify_gateway_handshakes_total", "101"] > 0
    assert await gateway.wait(60) == 0
    await visitors.come_anew(resumed_before.total() + int(clients))
    moved = Counter(visitors.resumed)
    moved.subtract(resumed_before)
    assert moved.total() == clients, f"{clients} clients were on {gateway.name}, {moved} came anew"

    async def are_counted() -> bool:
        after = await scrape(stage, *others)
        return (
            increase(before, after, "notify_gateway_handshakes_total", "101") == moved[V1Client]
            and increase(before, after, "notify_gateway_handshakes_total", "200") == moved[EventSourceClient]
            and increase(before, after, "notify_gateway_replays_total", "recovered") == moved.total()
        )

    await eventually(are_counted, f"the other replicas to count those who came anew: {moved}")
    await gateway.start().wait_until_ready()


async def replace_relay(relay: Process) -> None:
    relay.expected_to_run = False
    relay.signal(signal.SIGTERM)
    assert await relay.wait(60) == 0
    await relay.start().wait_until_ready()


async def start_deployment(stage: Stage, balancer: LoadBalancer, relays: int) -> Process:
    """The services, and the load balancer before the replicas, which it gives."""
    balancer.program()
    for number in range(relays):
        await stage.start(stage.add_relay(f"relay-{number + 1}"))
    await stage.start(*(stage.add_gateway(f"gateway-{number + 1}", env=DRAIN) for number in range(REPLICAS)))
    return await start_load_balancer(stage.processes, balancer, [gateway.port for gateway in stage.gateways])


async def end(stage: Stage, visitors: Visitors, *gateways: Process) -> None:
    """The verdict, and the end of these replicas at once: one after the other would take as long as all drains."""
    await visitors.leave()
    await stage.exact(seconds=GROUP_SECONDS)
    for client in stage.clients:
        await client.close()
    assert not any(await asyncio.gather(*(gateway.terminate() for gateway in gateways)))


async def at_rest(stage: Stage, relays: Sequence[Process]) -> Samples:
    """What relays have counted, once that is the same in looks over half a second: a batch is counted when Redis has
    answered, which is later than clients get it."""
    looks: list[Samples] = []

    async def is_at_rest() -> bool:
        looks.append(await scrape(stage, *relays))
        published = [{key: look[key] for key in look if key[0] == "notify_relay_events_total"} for look in looks[-6:]]
        return len(looks) > 5 and all(one == published[0] for one in published)

    await eventually(is_at_rest, "the relays to be at rest", poll_seconds=0.1)
    return looks[-1]


async def publish_and_count(stage: Stage, visitors: Visitors) -> None:
    """Some events: the relays say of each topic how many they published, the replicas of each type how many they
    delivered, to how many clients."""
    await stage.everything_arrived()
    relays, gateways = await at_rest(stage, stage.relays), await scrape(stage, *stage.gateways)
    assert gateways["notify_gateway_connections", ""] == len(visitors.all)
    known = len(stage.oracle.events)
    for topic in ALL_TOPICS:
        await stage.producer.publish_mixed(stage.users, 25, [topic])
    events = stage.oracle.events[known:]
    await stage.everything_arrived()

    after = await at_rest(stage, stage.relays)
    for topic in ALL_TOPICS:
        count = sum(event.topic == topic for event in events)
        assert increase(relays, after, "notify_relay_events_total", f"published,{topic}") == count, topic
    after = await scrape(stage, *stage.gateways)
    for topic, type_ in TYPE_OF_TOPIC.items():
        audiences = Counter(event.user for event in events if event.topic == topic)
        owed = sum(audiences[None] + audiences[visitor.client.user] for visitor in visitors.all)
        assert increase(gateways, after, "notify_gateway_deliveries_total", type_) == owed, type_
        assert increase(gateways, after, "notify_gateway_latency_seconds_count", type_) == owed, type_


async def disconnect_and_count(stage: Stage, visitors: Visitors) -> None:
    """An operator has a user's clients come anew: the replicas say how many they closed, and with which code."""
    user = stage.users[0]
    before, resumed_before = await scrape(stage, *stage.gateways), visitors.resumed.total()
    his = sum(visitor.client.user == user for visitor in visitors.all)
    assert (await stage.act(stage.gateways[0], "disconnect", {"user_id": user, "retry": True}))[0] == 200
    await visitors.come_anew(resumed_before + his)
    after = await scrape(stage, *stage.gateways)
    assert increase(before, after, "notify_gateway_closes_total", "1012") == his


async def test_all_replicas_and_relays_are_replaced_behind_nginx_and_cost_nobody_an_event(stage: Stage) -> None:
    # librdkafka's mock cluster fails groups of several: there one relay is away while it is replaced.
    relays = 1 if stage.kind == "embedded" else 2
    balancer = await start_deployment(stage, NGINX, relays)
    visitors = Visitors()
    await visitors.come(stage, balancer, v1=16, events=8)
    await publish_and_count(stage, visitors)
    async with stage.load(stage.users, per_second=100) as load:
        for gateway in stage.gateways:
            await load.more(20)
            await roll(stage, gateway, [other for other in stage.gateways if other is not gateway], visitors)
        for relay in stage.relays:
            await load.more(20)
            await replace_relay(relay)
        await load.more(20)
    await publish_and_count(stage, visitors)
    await disconnect_and_count(stage, visitors)
    await end(stage, visitors, *stage.gateways)


@pytest.mark.parametrize("balancer", [HAPROXY, ENVOY], ids=lambda balancer: balancer.name)
async def test_a_replica_is_drained_behind_a_load_balancer_that_checks_health_and_costs_nobody_an_event(
    stage: Stage, balancer: LoadBalancer
) -> None:
    process = await start_deployment(stage, balancer, 1)
    visitors = Visitors()
    await visitors.come(stage, process, v1=16, events=8)
    async with stage.load(stage.users, per_second=100) as load:
        await load.more(20)
        await roll(stage, stage.gateways[0], stage.gateways[1:], visitors)
        await load.more(20)
    await end(stage, visitors, *stage.gateways)


async def add_replica_at(stage: Stage, address: str, port: int) -> Process:
    """A replica that listens there, and is ready."""
    gateway = stage.add_gateway(f"gateway-{address}", env={**DRAIN, "WS_HOST": address, "WS_PORT": str(port)})
    gateway.start()
    await eventually(lambda: answers_ok(f"http://{address}:{port}/readyz"), f"{gateway.name} to be ready")
    return gateway


@pytest.fixture
async def names() -> AsyncIterator[Names]:
    names = await Names().start()
    yield names
    names.close()


@pytest.mark.skipif(sys.platform != "linux", reason="needs 127.0.0.2 and so on, which elsewhere have to be set up")
@pytest.mark.parametrize("balancer", [NGINX, HAPROXY, ENVOY], ids=lambda balancer: balancer.name)
async def test_replicas_that_come_and_go_are_found_by_their_name_without_a_reload(
    stage: Stage, names: Names, balancer: LoadBalancer
) -> None:
    balancer.program()
    port = free_port()
    await stage.start(stage.add_relay())
    first, second = [await add_replica_at(stage, f"127.0.0.{number}", port) for number in (2, 3)]
    names.addresses = ["127.0.0.2", "127.0.0.3"]
    process = await start_load_balancer_that_looks_up(stage.processes, balancer, names, port)
    visitors = Visitors()
    await visitors.come(stage, process, v1=4, events=2)
    third = await add_replica_at(stage, "127.0.0.4", port)
    names.addresses.append("127.0.0.4")

    async def has_clients() -> bool:
        await visitors.come(stage, process, v1=1, events=0)
        return await stage.metric(third, "connections") > 0

    await eventually(has_clients, "the new replica to get clients", poll_seconds=0.5)
    async with stage.load(stage.users, per_second=100) as load:
        names.addresses.remove("127.0.0.2")
        clients = await stage.metric(first, "connections")
        first.expected_to_run = False
        first.signal(signal.SIGTERM)
        assert await first.wait(60) == 0
        await visitors.come_anew(int(clients))
        await load.more(20)
    for gateway in (second, third):
        assert await stage.metric(gateway, "connections") > 0
    await end(stage, visitors, second, third)
