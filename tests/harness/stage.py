"""One scenario's own system: servers, relays, replicas, faults between them, clients, the oracle."""

import asyncio
import contextlib
import itertools
import json
import re
import uuid
from collections.abc import Sequence
from typing import Any, Self

import aiohttp
import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from websocket import WebSocketBadStatusException
from websockets.exceptions import InvalidStatus

from demo.broker import add_broker, bootstrap
from demo.process import Process, Processes
from demo.proxy import Proxy, kafka_proxy
from demo.stack import add_gateway, add_relay, http_url
from demo.valkey import redis_url
from harness.certificates import Authority
from harness.clients import AiohttpClient, Client, ThreadClient, WebsocketsClient
from harness.oracle import DEAD_LETTER_TOPIC, TYPE_OF_TOPIC, Oracle, check_log
from harness.producer import ALL_TOPICS, EventProducer
from harness.secured_redis import SecuredRedis
from harness.servers import PARTITIONS, Kind, RedisControl, add_redis
from harness.topologies import RedisCluster, WatchedRedis
from harness.v1 import EventSourceClient, V1Client, WebsocketsV1
from harness.waiting import PATIENCE, eventually
from relay.bookmarks import BOOKMARKS_KEY, Bookmarks

_LET_IN_SECONDS = 20.0 * PATIENCE

GROUP_SECONDS = 90
"""For how long a group of several may form. The mock cluster fails a follower's SyncGroup that comes
after its leader's (Apache Kafka answers it): it may need several rounds of seconds each."""

_PYTHON_CLIENTS: tuple[type[Client], ...] = (WebsocketsClient, AiohttpClient, ThreadClient)


class Load:
    """Publishes events of all four types until its block is left; every one acknowledged.

    A moment's events are of one type, so that most of the relay's batches concern one bucket: the
    others learn a second later how far it is, and who begins there reads again what Redis has.
    """

    def __init__(self, producer: EventProducer, users: Sequence[str], per_second: int) -> None:
        self.published = 0
        self._producer = producer
        self._users = users
        self._batch = max(1, per_second // 50)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._publish())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        # A batch under way is finished (`_publish` shields it): its records would be unknown else.
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def more(self, count: int) -> None:
        """Wait until `count` more events were acknowledged."""
        goal = self.published + count
        assert self._task is not None
        task = self._task
        await eventually(lambda: self.published >= goal or task.done(), f"{count} more events published")
        if task.done():
            task.result()

    async def _publish(self) -> None:
        for topic in itertools.cycle(ALL_TOPICS):
            batch = asyncio.ensure_future(self._producer.publish_mixed(self._users, self._batch, [topic]))
            try:
                self.published += len(await asyncio.shield(batch))
            except asyncio.CancelledError:
                await batch
                raise
            await asyncio.sleep(1 / 50)


class Stage:
    """Everything one test starts; `aclose` ends it. Made by the fixture `stage`.

    `users` are two user ids of its own. The methods that start something wait until it is ready,
    unless they are named `add_`. Clients made by `connect` and `crowd` are those that `exact` speaks
    about.
    """

    def __init__(self, processes: Processes, kind: Kind, kafka: Process) -> None:
        self.processes = processes
        self.kind = kind
        self.oracle = Oracle()
        self.clients: list[Client] = []
        self.relays: list[Process] = []
        self.gateways: list[Process] = []
        self.redis = add_redis(processes, kind)
        self.redis_control = RedisControl(self.redis)
        self._redis_urls = dict.fromkeys(("relay", "gateway"), redis_url(self.redis))
        # Whoever has the logs that `exact` looks at.
        self._logs: RedisControl | RedisCluster | WatchedRedis = self.redis_control
        self.bootstrap = bootstrap(kafka) if kind == "embedded" else f"127.0.0.1:{kafka.port}"
        self.producer = EventProducer(self.bootstrap, self.oracle, PARTITIONS)
        self._proxies: list[Proxy] = []
        name = uuid.uuid4().hex[:8]
        # Nobody else's: on a shared broker the events of earlier tests may be read again.
        self.users = (f"ann-{name}", f"bob-{name}")
        self._env = {"REDIS_PREFIX": f"scenario-{name}", "LOG_LEVEL": "INFO", "LOG_FORMAT": "console"}
        # The shortest session that Kafka grants: so long a killed relay's partitions wait for another.
        self._group = {"REDPANDA_GROUP_ID": f"scenario-{name}", "REDPANDA_SESSION_SECONDS": "6"}

    @property
    def prefix(self) -> str:
        """REDIS_PREFIX."""
        return self._env["REDIS_PREFIX"]

    @property
    def group_id(self) -> str:
        """REDPANDA_GROUP_ID."""
        return self._group["REDPANDA_GROUP_ID"]

    def needs_groups_of_several(self) -> None:
        """Skip the test where the broker often fails them for minutes."""
        if self.kind == "embedded":
            pytest.skip("librdkafka's mock cluster fails groups of several too often: SCENARIO_STACK=real")

    # servers and what stands before them

    @classmethod
    async def open(cls, kind: Kind, apache_kafka: Process | None) -> Self:
        """A stage with Redis and a broker running and no service yet."""
        processes = Processes()
        try:
            kafka = apache_kafka
            if kafka is None:
                kafka = await add_broker(processes).start().wait_until_ready()
            stage = cls(processes, kind, kafka)
            await stage.redis.start().wait_until_ready()
        except BaseException:
            processes.close()
            raise
        return stage

    async def use_cluster(self) -> RedisCluster:
        """Have the services use a cluster instead of `redis`. Before any of them is added."""
        cluster = await RedisCluster.start(self.processes, self.kind)
        self._use(cluster)
        return cluster

    async def use_sentinel(self) -> WatchedRedis:
        """Have the services use a primary with a replica and a Sentinel instead of `redis`. Before
        any of them is added."""
        watched = await WatchedRedis.start(self.processes, self.kind)
        self._use(watched)
        return watched

    async def use_secured_redis(self) -> SecuredRedis:
        """Have the services use one with TLS, each as its own user, instead of `redis`. Before any of
        them is added."""
        secured, proxy = await SecuredRedis.start(self.processes, self.kind, self.prefix)
        if proxy is not None:
            self._proxies.append(proxy)
        self._redis_urls = {service: secured.url(service) for service in self._redis_urls}
        self._logs = secured
        return secured

    def _use(self, topology: RedisCluster | WatchedRedis) -> None:
        self._redis_urls = dict.fromkeys(self._redis_urls, topology.url)
        self._env |= topology.env
        self._logs = topology

    async def redis_proxy(self) -> Proxy:
        """A proxy before Redis; give its `port` to a service."""
        return await self._started(Proxy(self.redis.port))

    async def kafka_proxy(self) -> Proxy:
        """A proxy before the broker; give its `port` to a relay."""
        return await self._started(kafka_proxy(int(self.bootstrap.rpartition(":")[2])))

    async def use_proxy(self, proxy: Proxy) -> Proxy:
        """Start a proxy of another make; it ends with the stage."""
        return await self._started(proxy)

    async def _started(self, proxy: Proxy) -> Proxy:
        self._proxies.append(proxy)
        return await proxy.start()

    # services

    def add_relay(
        self,
        name: str = "relay",
        *,
        redis: Proxy | None = None,
        kafka: Proxy | None = None,
        env: dict[str, str] | None = None,
    ) -> Process:
        """A relay to be started."""
        # On a broker that tests share, a Redis that lost everything is given what the others published lately,
        # too: at times more than a log keeps, and so less of this test's own than its clients missed.
        history = {"HISTORY_MESSAGES_GLOBAL": "200000"} if self.kind == "real" else {}
        relay = add_relay(
            self.processes,
            name=name,
            brokers=f"127.0.0.1:{kafka.port}" if kafka else self.bootstrap,
            redis=_redis_url(redis) if redis else self._redis_urls["relay"],
            env={**self._env, **self._group, **history, **(env or {})},
        )
        self.relays.append(relay)
        return relay

    def add_gateway(
        self,
        name: str = "gateway-1",
        *,
        redis: Proxy | None = None,
        env: dict[str, str] | None = None,
        authority: Authority | None = None,
    ) -> Process:
        """A replica to be started. With an `authority` that of its certificate: it speaks TLS."""
        tls = None
        if authority is not None:
            ours = authority.issue(name)
            tls = authority.client_context()
            env = {"TLS_CERT_FILE": str(ours.cert_file), "TLS_KEY_FILE": str(ours.key_file), **(env or {})}
        gateway = add_gateway(
            self.processes,
            name=name,
            redis=_redis_url(redis) if redis else self._redis_urls["gateway"],
            env={**self._env, **(env or {})},
            tls=tls,
        )
        self.gateways.append(gateway)
        return gateway

    def add_redrive(self, name: str, *options: str, env: dict[str, str] | None = None) -> Process:
        """`python -m relay redrive`, to be started; it ends by itself."""
        env = {**self._env, "REDPANDA_BROKERS": self.bootstrap, **(env or {})}
        return self.processes.add_module("relay", "redrive", *options, name=name, env=env)

    async def gateway_command(self, *command: str, env: dict[str, str]) -> str:
        """What `python -m gateway <command>` prints; it has to succeed."""
        env = {**self._env, "REDIS_URL": self._redis_urls["gateway"], **env}
        name = f"{command[0]}-{uuid.uuid4().hex[:8]}"
        process = self.processes.add_module("gateway", *command, name=name, env=env).start()
        assert await process.wait(60 * PATIENCE) == 0, process.log()
        return process.log()

    async def older_letters_are_not_ours(self) -> None:
        """Have `add_redrive` begin behind the dead letters of earlier tests on a shared broker."""
        if self.kind == "embedded":
            return
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "look", "log_level": 0})
        producer = Producer({"bootstrap.servers": self.bootstrap, "log_level": 0})
        for number in range(PARTITIONS):
            partition = TopicPartition(DEAD_LETTER_TOPIC, number)
            _, end = await asyncio.to_thread(consumer.get_watermark_offsets, partition, 10)
            headers = Bookmarks(end).headers
            producer.produce(DEAD_LETTER_TOPIC, b"", BOOKMARKS_KEY, partition=number, headers=headers)
        assert await asyncio.to_thread(producer.flush, 10) == 0
        consumer.close()

    async def start(self, *services: Process, seconds: float = 90.0) -> None:
        """Start services together and wait until all are ready."""
        for service in services:
            service.start()
        await asyncio.gather(*(service.wait_until_ready(seconds) for service in services))

    async def start_relay_and_replicas(self, replicas: int = 2) -> tuple[Process, list[Process]]:
        """The usual cast."""
        relay = self.add_relay()
        gateways = [self.add_gateway(f"gateway-{number + 1}") for number in range(replicas)]
        await self.start(relay, *gateways)
        return relay, gateways

    async def starts_are_committed(self) -> None:
        """Wait until the relay has committed a position in every partition: from then on a Redis
        that loses everything does not take with it where the very first start began."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        wanted = [TopicPartition(topic, number) for topic in TYPE_OF_TOPIC for number in range(PARTITIONS)]
        request = ConsumerGroupTopicPartitions(self._group["REDPANDA_GROUP_ID"], wanted)

        async def committed() -> bool:
            (future,) = admin.list_consumer_group_offsets([request]).values()
            found = await asyncio.to_thread(future.result, 10)
            return all(partition.offset >= 0 for partition in found.topic_partitions)

        await eventually(committed, "a commit in every partition")

    async def get(self, service: Process, path: str, port: str = "") -> tuple[int, Any]:
        """GET of a service: status and JSON (text when it is not JSON); (0, None) when nobody answers."""
        timeout = aiohttp.ClientTimeout(total=5 * PATIENCE)  # longer than a call to Redis may take
        url = http_url(service, path, port)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
                if response.content_type == "application/json":
                    return response.status, await response.json()
                return response.status, await response.text()
        except (aiohttp.ClientError, OSError, TimeoutError):
            return 0, None

    async def act(self, gateway: Process, what: str, body: Any) -> tuple[int, Any]:
        """What an operator does on a replica's admin port (ADMIN_OPEN): status and JSON."""
        url = http_url(gateway, f"/admin/{what}", "admin")
        async with (
            aiohttp.ClientSession(headers={"X-Notify-Admin": "1"}) as session,
            session.post(url, json=body) as response,
        ):
            return response.status, await response.json()

    async def fleet(self, gateway: Process) -> Any:
        """What a replica's console is fed at this moment."""
        async with aiohttp.ClientSession() as session, session.get(http_url(gateway, "/console/feed", "admin")) as feed:
            async for line in feed.content:
                if line.startswith(b"data: "):
                    return json.loads(line.removeprefix(b"data: "))
        raise AssertionError("the feed ended without a word")

    async def metrics(self, service: Process) -> str:
        """What Prometheus would read of a relay or a replica; empty when it is not there."""
        _, text = await self.get(service, "/metrics", "admin" if "admin" in service.ports else "http")
        return text or ""

    async def metric(self, service: Process, name: str) -> float:
        """One of them, with its labels, without `notify_relay_` or `notify_gateway_`; 0 when there is none yet."""
        text = await self.metrics(service)
        match = re.search(rf"^notify_(?:relay|gateway)_{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(match[1]) if match else 0.0

    async def status_of_a_handshake(self, gateway: Process, user: str) -> int:
        """The HTTP status that a new client gets; 101 when it is let in (it leaves again)."""
        client = AiohttpClient(gateway.port, user, gateway.name)
        try:
            await client.open()
        except aiohttp.WSServerHandshakeError as refused:
            return refused.status
        except (aiohttp.ClientError, OSError, TimeoutError):
            return 0
        finally:
            await client.close()
        return 101

    # clients

    async def let_in(self, client: Client) -> None:
        """Open it; again, as clients do, where a replica is unavailable: a machine so busy that Redis does not answer
        is enough for that. Other refusals are as `open` has them."""
        deadline = asyncio.get_running_loop().time() + _LET_IN_SECONDS
        while True:
            try:
                await client.open()
            except (InvalidStatus, aiohttp.WSServerHandshakeError, WebSocketBadStatusException) as refused:
                if _status_of(refused) != 503 or asyncio.get_running_loop().time() > deadline:
                    raise
            else:
                if not _is_put_off(client) or asyncio.get_running_loop().time() > deadline:
                    return
            await client.close()
            await asyncio.sleep(0.3)

    async def connect(
        self,
        user: str,
        gateway: Process,
        kind: type[Client] = WebsocketsClient,
        authority: Authority | None = None,
    ) -> Client:
        """A client that will have got everything published from now on. With an `authority` it speaks TLS,
        and trusts only that."""
        client = kind(gateway.port, user, gateway.name)
        if authority is not None:
            client.use_tls(authority.client_context())
        self.clients.append(client)
        await self.let_in(client)
        client.since = await self.producer.settled()
        return client

    async def connect_v1(
        self, user: str, gateway: Process, kind: type[V1Client] = WebsocketsV1, **query: str
    ) -> V1Client:
        """The same, a client of notify.v1 with options in its query."""
        client = kind(gateway.port, user, gateway.name, **query)
        self.clients.append(client)
        await self.let_in(client)
        client.since = await self.producer.settled()
        return client

    async def connect_events(self, user: str, gateway: Process, **query: str) -> EventSourceClient:
        """The same, an EventSource."""
        client = EventSourceClient(gateway.port, user, gateway.name, **query)
        self.clients.append(client)
        await self.let_in(client)
        client.since = await self.producer.settled()
        return client

    async def crowd(self, users: Sequence[str], gateways: Sequence[Process]) -> list[Client]:
        """A client for each user on each replica, the libraries in turn."""
        crowd = []
        for gateway in gateways:
            for user in users:
                kind = _PYTHON_CLIENTS[len(self.clients) % len(_PYTHON_CLIENTS)]
                crowd.append(await self.connect(user, gateway, kind))
        return crowd

    def load(self, users: Sequence[str], per_second: int = 200) -> Load:
        """Events of all four types at about this rate while its block runs."""
        return Load(self.producer, users, per_second)

    # the verdict

    async def everything_arrived(self, clients: Sequence[Client] | None = None, seconds: float = 45.0) -> None:
        """Wait until each client has every event it is owed so far."""
        for client in self.clients if clients is None else clients:
            await self._caught_up(client, seconds)

    async def exact(self, clients: Sequence[Client] | None = None, seconds: float = 45.0) -> None:
        """Prove that each client is connected and got what it had to: exactly once, in order, byte
        for byte; and that Redis' logs have it so, too, since a replica would hide a double from its clients.
        A fence of one more event a partition first, so that what comes late is seen."""
        everyone = self.clients if clients is None else list(clients)
        await self.everything_arrived(everyone, seconds)
        await self.producer.publish_fence(sorted({client.user for client in everyone}))
        await self.everything_arrived(everyone, seconds)
        for client in everyone:
            client.check(self.oracle)
            assert client.is_connected, f"{client} was disconnected: {client.close_code} {client.close_reason}"
        for stream, places in self._logs.logs(self.prefix).items():
            check_log(stream, places)

    async def _caught_up(self, client: Client, seconds: float) -> None:
        def missing() -> str:
            event = self.oracle.first_missing(client.user, client.frames, client.since)
            ended = "" if client.is_connected else f", and it was disconnected with {client.close_code}"
            return f"{client} to get {event}; it has {len(client.frames)} frames{ended}"

        await eventually(
            lambda: self.oracle.first_missing(client.user, client.frames, client.since) is None,
            missing,
            seconds=seconds,
            poll_seconds=0.1,
        )

    # the end

    def logs(self) -> dict[str, str]:
        """What each process printed so far."""
        return {process.name: process.log() for process in self.processes.all}

    async def aclose(self) -> dict[str, str]:
        """End everything; gives the logs. A service that was left running must end with exit code 0."""
        codes: dict[str, int] = {}
        services = {service.name for service in (*self.relays, *self.gateways) if service.is_running}
        try:
            for client in self.clients:
                await client.close()
            for process in reversed(self.processes.all):  # services first, servers last
                if process.is_running:
                    codes[process.name] = await process.terminate()
            for proxy in self._proxies:
                await proxy.aclose()
            self.producer.close()
        finally:
            logs = self.logs()
            self.processes.close()
        bad = {name: code for name, code in codes.items() if name in services and code != 0}
        assert not bad, f"SIGTERM should end a service with exit code 0, got {bad}"
        return logs


def _status_of(refused: InvalidStatus | aiohttp.WSServerHandshakeError | WebSocketBadStatusException) -> int:
    if isinstance(refused, InvalidStatus):
        return refused.response.status_code
    return int(refused.status if isinstance(refused, aiohttp.WSServerHandshakeError) else refused.status_code)


def _is_put_off(client: Client) -> bool:
    """Whether it was told to come again, since the replica is unavailable."""
    if isinstance(client, EventSourceClient):
        return not client.stream.ids and any(one.get("code") == "unavailable" for one in client.refusals[-1:])
    return isinstance(client, V1Client) and client.close_reason.startswith("unavailable")


def _redis_url(proxy: Proxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}/0"
