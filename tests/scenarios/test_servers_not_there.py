"""Redis or Kafka is not there: at the start, and later."""

import functools

from harness.stage import Stage
from harness.waiting import eventually

from demo.process import Process


async def is_unready_with_a_reason(stage: Stage, service: Process) -> bool:
    """Whether /readyz says 503 and why."""
    status, body = await stage.get(service, "/readyz")
    return status == 503 and isinstance(body, dict) and any(isinstance(text, str) and text for text in body.values())


async def test_redis_comes_after_relay_and_gateway(stage: Stage) -> None:
    await stage.redis.terminate()
    relay, gateway = stage.add_relay().start(), stage.add_gateway().start()
    for service in (relay, gateway):
        await eventually(functools.partial(is_unready_with_a_reason, stage, service), f"{service.name} not ready")
        assert (await stage.get(service, "/livez"))[0] == 200
    assert await stage.status_of_a_handshake(gateway, "ann") == 503

    await stage.redis.restart()
    await relay.wait_until_ready()
    await gateway.wait_until_ready()
    await stage.crowd(stage.users, [gateway])
    await stage.producer.publish_mixed(stage.users, 40)
    await stage.exact()


async def test_kafka_comes_after_the_relay(stage: Stage) -> None:
    proxy = await stage.kafka_proxy()
    proxy.refuse()
    relay, gateway = stage.add_relay(kafka=proxy).start(), stage.add_gateway()
    await eventually(functools.partial(is_unready_with_a_reason, stage, relay), "the relay not ready")
    await stage.start(gateway)
    client = await stage.connect(stage.users[0], gateway)  # a silent relay keeps nobody out
    proxy.heal()
    await relay.wait_until_ready()
    client.since = len(stage.oracle.events)
    await stage.producer.publish_mixed(stage.users, 40)
    await stage.exact()


async def test_while_redis_is_away_clients_stay_and_new_ones_are_told_to_come_again(stage: Stage) -> None:
    _, (gateway,) = await stage.start_relay_and_replicas(1)
    await stage.crowd(stage.users, [gateway])
    await stage.producer.publish_mixed(stage.users, 40)
    await stage.everything_arrived()

    async def is_healthy() -> bool:
        healthy = {"status": "healthy", "service": "notification", "connections": 2, "consumer_running": True}
        return await stage.get(gateway, "/health") == (200, healthy)

    await eventually(is_healthy, "/health healthy")
    await stage.starts_are_committed()
    await stage.redis.kill()

    async def is_degraded() -> bool:
        status, health = await stage.get(gateway, "/health")
        assert status == 200
        return bool(health["status"] == "degraded" and health["consumer_running"] is False)

    async def is_refused() -> bool:
        return await stage.status_of_a_handshake(gateway, "cem") == 503

    await eventually(is_degraded, "/health degraded")
    await eventually(is_refused, "503 for a new client")
    assert (await stage.get(gateway, "/livez"))[0] == 200
    assert all(client.is_connected for client in stage.clients)
    await stage.producer.publish_mixed(stage.users, 40)

    await stage.redis.restart()
    await eventually(is_healthy, "/health healthy again")
    await stage.connect("cem", gateway)
    await stage.exact()


async def test_while_the_relay_is_away_new_clients_are_let_in_and_health_is_degraded(stage: Stage) -> None:
    relay, (gateway,) = await stage.start_relay_and_replicas(1)
    await relay.kill()

    async def is_degraded() -> bool:
        return bool((await stage.get(gateway, "/health"))[1]["status"] == "degraded")

    await eventually(is_degraded, "/health degraded")
    assert (await stage.get(gateway, "/readyz"))[0] == 200
    await stage.crowd(stage.users, [gateway])
    await stage.producer.publish_mixed(stage.users, 40)
    await relay.restart()
    await stage.exact()
