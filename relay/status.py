"""What the relay says of itself over HTTP (DESIGN section 4): health, readiness, metrics."""

from typing import Protocol

from fastapi import FastAPI
from fastapi.responses import Response

from shared.exposition import Exposition
from shared.probes import add_probes


class State(Protocol):
    """What is asked of the relay."""

    @property
    def not_ready_because(self) -> str | None: ...
    @property
    def is_running(self) -> bool: ...


def status_app(state: State, exposition: Exposition, service_name: str) -> FastAPI:
    """The relay's four routes. They read what is known already and never wait."""
    app = FastAPI(title=f"{service_name} relay", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health")
    async def health() -> dict[str, object]:
        running = state.is_running
        return {
            "status": "healthy" if running else "degraded",
            "service": service_name,
            "consumer_running": running,
        }

    add_probes(app, lambda: state.not_ready_because)

    @app.get("/metrics")
    async def metrics() -> Response:
        return await exposition.response()

    return app
