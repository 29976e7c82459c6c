"""The embedded stack: Valkey, a Kafka-protocol broker, the real relay, real gateway replicas.

The `add_` functions make processes to be started, one by one, for tests that arrange their own;
`start_stack` starts the whole.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import aiohttp

from demo.broker import add_broker, bootstrap
from demo.ports import free_port
from demo.process import Process, Processes
from demo.valkey import add_valkey, redis_url

# What an embedded stack needs to be told; whatever else is in our environment stays in force.
_COMMON = {"AUTH_MODE": "none", "REDIS_CLUSTER": "false", "REDIS_PREFIX": "notify", "REDIS_USER_BUCKETS": "1"}
_HOST = "127.0.0.1"


def add_relay(
    processes: Processes,
    *,
    brokers: str,
    redis: str,
    name: str = "relay",
    port: int | None = None,
    env: Mapping[str, str] | None = None,
) -> Process:
    """`python -m relay`, to be started. `brokers` and `redis` are REDPANDA_BROKERS and REDIS_URL;
    `env` wins over what is set here. Ready when /readyz says so: it has joined its group."""
    port = port or free_port()
    full_env = {
        **_COMMON,
        "REDPANDA_BROKERS": brokers,
        "REDIS_URL": redis,
        "REDPANDA_GROUP_ID": "notification-relay",
        # The embedded broker answers a waiting fetch when its time is over, not when an event comes.
        "REDPANDA_FETCH_WAIT_MS": "5",
        "RELAY_HTTP_HOST": _HOST,
        "RELAY_HTTP_PORT": str(port),
        **(env or {}),
    }
    ready_url = f"http://{_HOST}:{port}/readyz"
    return processes.add_module(
        "relay", name=name, env=full_env, ports={"http": port}, ready=lambda: answers_ok(ready_url)
    )


def add_gateway(
    processes: Processes,
    *,
    redis: str,
    name: str = "gateway",
    port: int | None = None,
    admin_port: int | None = None,
    env: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> Process:
    """`python -m gateway`, to be started. `redis` is REDIS_URL; `env` wins over what is set here.
    Ready when /readyz says so; with TLS_CERT_FILE in `env`, `tls` is what it is asked with. Ports: `ws`
    (clients, health) and `admin` (metrics). It ends without a drain's delays; a test of draining sets
    its own."""
    port, admin_port = port or free_port(), admin_port or free_port()
    full_env = {
        **_COMMON,
        "REDIS_URL": redis,
        "WS_HOST": _HOST,
        "WS_PORT": str(port),
        "ADMIN_HOST": _HOST,
        "ADMIN_PORT": str(admin_port),
        "DRAIN_DELAY_SECONDS": "0",
        "DRAIN_SECONDS": "0",
        **(env or {}),
    }
    ready_url = f"{'https' if tls else 'http'}://{_HOST}:{port}/readyz"
    ports = {"ws": port, "admin": admin_port}
    return processes.add_module(
        "gateway", name=name, env=full_env, ports=ports, ready=lambda: answers_ok(ready_url, tls)
    )


def ws_url(gateway: Process, user_id: str = "") -> str:
    """Where a replica's clients connect: `ws://127.0.0.1:8000/ws?user_id=user-123`."""
    base = f"ws://{_HOST}:{gateway.port}"
    return f"{base}/ws?user_id={user_id}" if user_id else base


def http_url(process: Process, path: str, port: str = "") -> str:
    """An address of a relay or a replica: `http_url(gateway, "/metrics", "admin")`."""
    return f"http://{_HOST}:{process.ports[port] if port else process.port}{path}"


async def answers_ok(url: str, tls: ssl.SSLContext | None = None) -> bool:
    """Whether a GET of `url` gives 200. Never raises; false after 2 s. `tls` says what https trusts."""
    try:
        timeout = aiohttp.ClientTimeout(total=2)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url, ssl=tls or True) as response:
            return response.status == 200
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False


@dataclass(frozen=True)
class Stack:
    """The processes of a running stack. They belong to the Processes they were made with."""

    valkey: Process
    broker: Process
    relay: Process
    gateways: tuple[Process, ...]

    @property
    def brokers(self) -> str:
        return bootstrap(self.broker)

    @property
    def redis(self) -> str:
        return redis_url(self.valkey)


async def start_stack(
    processes: Processes,
    *,
    replicas: int = 2,
    ws_ports: tuple[int, ...] = (),
    admin_ports: tuple[int, ...] = (),
    relay_port: int | None = None,
    relay_env: Mapping[str, str] | None = None,
    gateway_env: Mapping[str, str] | None = None,
    before_redis: Callable[[int], Awaitable[int]] | None = None,
) -> Stack:
    """Start the servers, then relay and replicas, and return when all are ready (about 5 s, most of
    it the relay joining its group). The ports are preferences: one that is taken is replaced by a
    free one. `before_redis` is told Redis' port, and gives that which the services are to use. Raises
    ProcessDied or NotReady, with the last log lines."""
    valkey, broker = add_valkey(processes).start(), add_broker(processes).start()
    await asyncio.gather(valkey.wait_until_ready(), broker.wait_until_ready())
    redis, brokers = redis_url(valkey), bootstrap(broker)
    if before_redis is not None:
        redis = f"redis://{_HOST}:{await before_redis(valkey.port)}/0"
    relay = add_relay(processes, brokers=brokers, redis=redis, port=_prefer(relay_port), env=relay_env).start()
    gateways = tuple(
        add_gateway(
            processes,
            redis=redis,
            name=f"gateway-{number + 1}",
            port=_prefer(*ws_ports[number : number + 1]),
            admin_port=_prefer(*admin_ports[number : number + 1]),
            env=gateway_env,
        ).start()
        for number in range(replicas)
    )
    await asyncio.gather(*(process.wait_until_ready() for process in (relay, *gateways)))
    return Stack(valkey, broker, relay, gateways)


def _prefer(*ports: int | None) -> int:
    return free_port(*(port for port in ports if port))
