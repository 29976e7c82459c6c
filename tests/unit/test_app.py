"""The HTTP routes of a replica."""

from collections.abc import AsyncIterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.app import Health, Probes, admin_app, public_app
from shared.metrics import GatewayCounts, GatewayMetrics


class Replica:
    """What the routes ask."""

    health = Health(status="healthy", service="notification", connections=42, consumer_running=True)
    reason: str | None = None

    def probes(self) -> Probes:
        return Probes(health=lambda: self.health, why_not_ready=lambda: self.reason)


@pytest.fixture
def replica() -> Replica:
    return Replica()


@pytest.fixture
async def client(replica: Replica) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(public_app(replica.probes()))
    async with httpx.AsyncClient(transport=transport, base_url="http://replica") as client:
        yield client


async def test_health_is_as_the_platform_expects_it(client: httpx.AsyncClient) -> None:
    response = await client.get("/health")
    assert response.status_code == 200
    assert response.json() == {
        "status": "healthy",
        "service": "notification",
        "connections": 42,
        "consumer_running": True,
    }


async def test_degraded_is_no_error(client: httpx.AsyncClient, replica: Replica) -> None:
    replica.health = Health(status="degraded", service="n", connections=0, consumer_running=False)
    response = await client.get("/health")
    assert (response.status_code, response.json()["status"]) == (200, "degraded")


async def test_alive_is_whatever_answers(client: httpx.AsyncClient, replica: Replica) -> None:
    replica.reason = "draining"
    response = await client.get("/livez")
    assert (response.status_code, response.json()) == (200, {"status": "alive"})


async def test_ready_is_200_and_not_ready_is_503_with_the_reason(client: httpx.AsyncClient, replica: Replica) -> None:
    response = await client.get("/readyz")
    assert (response.status_code, response.json()) == (200, {"ready": True, "reason": None})
    replica.reason = "draining"
    response = await client.get("/readyz")
    assert (response.status_code, response.json()) == (503, {"ready": False, "reason": "draining"})


@pytest.mark.parametrize("path", ["/", "/metrics", "/ws/", "/nowhere"])
async def test_what_is_not_public_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 404


async def test_the_routes_are_documented(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert set(paths) == {"/health", "/livez", "/readyz"}
    assert "503" in paths["/readyz"]["get"]["responses"]


def counts() -> GatewayCounts:
    return GatewayCounts(
        connections=3,
        handshakes={101: 5, 503: 2},
        deliveries={b"risk_alert": 7},
        closes={1012: 1},
        gaps={"filled": 4},
        buffered_bytes=99,
        streams=2,
        subscription_up=True,
    )


async def test_metrics_are_on_the_admin_app_and_prometheus_can_read_them() -> None:
    app = admin_app(GatewayMetrics(counts).registry)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://replica") as client:
        response = await client.get("/metrics")
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/plain")
        samples = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(response.text)
            for sample in family.samples
        }
        assert samples[("notify_gateway_deliveries_total", "risk_alert")] == 7
        assert (await client.get("/openapi.json")).status_code == 404
