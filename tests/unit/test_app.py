"""The HTTP routes of a replica."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI

from gateway.admission.admit import allowed_origin
from gateway.admission.policy import Policy
from gateway.admission.refusal import Refusal
from gateway.admission.request import Request
from gateway.app import Answers, Health, public_app
from gateway.cursor import START, Cursor, Position

EVERYBODY = Policy("none")


class Replica:
    """What the routes ask."""

    health = Health(status="healthy", service="notification", connections=42, consumer_running=True)
    reason: str | None = None
    position: Cursor | Refusal = Cursor(Position(b"a", 7), START)

    def answers(self) -> Answers:
        return Answers(
            health=lambda: self.health,
            why_not_ready=lambda: self.reason,
            allowed_origin=lambda request, peer_host: allowed_origin(request, peer_host, EVERYBODY),
            position=self.position_of,
        )

    async def position_of(self, request: Request, peer_host: str) -> Cursor | Refusal:
        return self.position


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


async def get(app: FastAPI, path: str) -> Answer:
    """GET from an app without a server between."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
             "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"", "headers": [],
             "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)}  # fmt: skip
    await app(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:]).decode())


@pytest.fixture
def replica() -> Replica:
    return Replica()


@pytest.fixture
def app(replica: Replica) -> FastAPI:
    return public_app(replica.answers())


async def test_health_is_as_the_platform_expects_it(app: FastAPI) -> None:
    response = await get(app, "/health")
    assert response.status == 200
    assert response.json == {
        "status": "healthy",
        "service": "notification",
        "connections": 42,
        "consumer_running": True,
    }


async def test_degraded_is_no_error(app: FastAPI, replica: Replica) -> None:
    replica.health = Health(status="degraded", service="n", connections=0, consumer_running=False)
    response = await get(app, "/health")
    assert (response.status, response.json["status"]) == (200, "degraded")


async def test_alive_is_whatever_answers(app: FastAPI, replica: Replica) -> None:
    replica.reason = "draining"
    response = await get(app, "/livez")
    assert (response.status, response.json) == (200, {"status": "alive"})


async def test_ready_is_200_and_not_ready_is_503_with_the_reason(app: FastAPI, replica: Replica) -> None:
    response = await get(app, "/readyz")
    assert (response.status, response.json) == (200, {"ready": True, "reason": None})
    replica.reason = "draining"
    response = await get(app, "/readyz")
    assert (response.status, response.json) == (503, {"ready": False, "reason": "draining"})


@pytest.mark.parametrize("path", ["/", "/metrics", "/ws/", "/nowhere", "/docs", "/docs/oauth2-redirect", "/redoc"])
async def test_what_is_not_public_is_not_found(app: FastAPI, path: str) -> None:
    assert (await get(app, path)).status == 404


async def test_the_routes_are_documented(app: FastAPI) -> None:
    paths = (await get(app, "/openapi.json")).json["paths"]
    assert set(paths) == {"/asyncapi.json", "/health", "/livez", "/position", "/readyz"}
    statuses = {path: set(operations["get"]["responses"]) for path, operations in paths.items()}
    assert statuses["/position"] == {"200", "400", "401", "403", "503"}  # and no 422: nothing of it is validated
    assert "503" in paths["/readyz"]["get"]["responses"]
