"""What orchestrators and load balancers ask both services: /livez and /readyz."""

from collections.abc import Callable
from typing import Literal

from fastapi import FastAPI, Response
from pydantic import BaseModel


class Liveness(BaseModel):
    """The event loop turns, or this would not be answered."""

    status: Literal["alive"] = "alive"


class Readiness(BaseModel):
    """Whether the service should be sent work (200), or why not (503)."""

    ready: bool
    reason: str | None = None


def add_probes(app: FastAPI, why_not_ready: Callable[[], str | None]) -> None:
    """Give `app` both routes. `why_not_ready` is asked each time, must not wait, and gives None when ready."""

    @app.get("/livez")
    async def livez() -> Liveness:
        return Liveness()

    @app.get("/readyz", responses={503: {"model": Readiness}})
    async def readyz(response: Response) -> Readiness:
        reason = why_not_ready()
        if reason is not None:
            response.status_code = 503
        return Readiness(ready=reason is None, reason=reason)
