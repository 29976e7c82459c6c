"""The HTTP routes of a replica, for load balancers, operators and Prometheus."""

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel


class Health(BaseModel):
    """What the platform expects of /health."""

    status: str
    """`healthy`; `degraded` when events do not flow at present."""
    service: str
    connections: int
    """Clients connected to this replica."""
    consumer_running: bool
    """The subscription is proven alive and the relay's beat arrives."""


class Liveness(BaseModel):
    """The event loop turns, or this would not be answered."""

    status: str = "alive"


class Readiness(BaseModel):
    """Whether a load balancer should send clients here, and if not, why."""

    ready: bool
    reason: str | None = None


@dataclass(frozen=True)
class Probes:
    """What the routes ask the replica."""

    health: Callable[[], Health]
    why_not_ready: Callable[[], str | None]


def public_app(probes: Probes) -> FastAPI:
    """The app behind the door: everything but /ws."""
    app = FastAPI(title="BLOASIS notification gateway", description="Real-time notifications. Events come over /ws.")

    @app.get("/health")
    async def health() -> Health:
        return probes.health()

    @app.get("/livez")
    async def livez() -> Liveness:
        return Liveness()

    @app.get("/readyz", responses={503: {"model": Readiness}})
    async def readyz(response: Response) -> Readiness:
        reason = probes.why_not_ready()
        if reason is not None:
            response.status_code = 503
        return Readiness(ready=reason is None, reason=reason)

    return app


def admin_app(registry: CollectorRegistry) -> FastAPI:
    """The app on the admin port."""
    app = FastAPI(title="BLOASIS notification gateway: operators", openapi_url=None)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app
