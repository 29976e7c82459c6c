"""A wrong setting stops the start with one line that names it."""

import asyncio

import pytest
from harness.stage import Stage
from harness.waiting import PATIENCE
from redis import Redis

from demo.process import Processes

WRONG = [
    ("relay", "REDIS_URL", "http://redis"),
    ("relay", "REDIS_USER_BUCKETS", "0"),
    ("relay", "RELAY_HTTP_PORT", "99999"),
    ("relay", "START_FROM", "yesterday"),
    ("relay", "MAX_EVENT_BYTES", "-1"),
    ("relay", "LOG_LEVEL", "LOUD"),
    ("relay", "REDPANDA_SECURITY", "tls"),
    ("relay", "REDPANDA_PASSWORD", "secret"),
    ("relay", "REDPANDA_CA_FILE", "/no/such/ca.pem"),
    ("gateway", "TLS_CERT_FILE", "/no/such/cert.pem"),
    ("gateway", "TLS_KEY_FILE", "/no/such/key.pem"),
    ("gateway", "WS_PORT", "http"),
    ("gateway", "AUTH_MODE", "maybe"),
    ("gateway", "SLOW_CLIENT_BYTES", "10"),
    ("gateway", "REDIS_PREFIX", "a{b}"),
    ("gateway", "REDIS_URL", "redis://:secret@host:notaport/0"),
    ("relay", "REDIS_URL", "rediss://:secret@host/0?ssl_ca_certs=/no/such/ca.pem"),
    ("gateway", "MAX_CONNECTIONS", "9999999999"),
]


async def test_a_wrong_setting_is_named_in_one_line() -> None:
    async with Processes() as processes:
        services = [
            processes.add_module(module, name=f"{module}-{variable}-{number}", env={variable: value}).start()
            for number, (module, variable, value) in enumerate(WRONG)
        ]
        codes = await asyncio.gather(*(service.wait(60 * PATIENCE) for service in services))
        for service, code, (_, variable, _) in zip(services, codes, WRONG, strict=True):
            assert code == 2, f"{service.name} ended with {code}"
            lines = service.log().strip().splitlines()
            assert len(lines) == 1, f"{service.name} said:\n{service.log()}"
            assert variable in lines[0], lines[0]
            assert "secret" not in lines[0]


async def test_the_relay_refuses_a_redis_that_forgets(stage: Stage) -> None:
    with Redis(port=stage.redis.port, socket_timeout=5) as redis:
        redis.config_set("maxmemory-policy", "allkeys-lru")
    relay = stage.add_relay().start()
    assert await relay.wait(30) != 0
    assert "maxmemory-policy" in relay.log()
    assert "noeviction" in relay.log()


@pytest.mark.parametrize("service", ["relay", "gateway"])
async def test_another_number_of_buckets_than_redis_was_laid_out_with_is_refused(stage: Stage, service: str) -> None:
    await stage.start_relay_and_replicas(1)
    other = {"REDIS_USER_BUCKETS": "2"}
    late = stage.add_relay("late", env=other) if service == "relay" else stage.add_gateway("late", env=other)
    assert await late.start().wait(30) != 0
    assert "REDIS_USER_BUCKETS" in late.log()
