"""The HTTP routes of a replica on its public port, for load balancers and clients."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
from fastapi import FastAPI, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from gateway.admission.handshake import cors_headers
from gateway.admission.refusal import Refusal
from gateway.admission.request import Request
from gateway.asyncapi import asyncapi
from gateway.cursor import Cursor
from shared.payloads import USER_ID_SCHEMA
from shared.probes import add_probes
from shared.version import VERSION

PREFLIGHT_SECONDS: Final = 600
"""For a browser to remember what it may send."""


class Health(BaseModel):
    """What the platform expects of /health."""

    status: Literal["healthy", "degraded"]
    """`healthy`; `degraded` when events do not flow at present."""
    service: str
    connections: int
    """Clients connected to this replica."""
    consumer_running: bool
    """The subscription is proven alive and the relay's beat arrives."""


class RefusalBody(BaseModel):
    """Why not, and what to do."""

    error: str
    message: str


class Position(BaseModel):
    """Where the streams of a user are now."""

    cursor: str
    """For `cursor=` of /ws and /events: what is published from now on comes after it."""


_REFUSED: Final[dict[int | str, dict[str, Any]]] = {status: {"model": RefusalBody} for status in (400, 401, 403, 503)}

_USER_ID: Final = {
    "name": "user_id",
    "in": "query",
    "description": "With AUTH_MODE=jwt it may be left out: it is the token's user.",
    "schema": dict(USER_ID_SCHEMA),
}


@dataclass(frozen=True)
class Answers:
    """What the routes ask the replica."""

    health: Callable[[], Health]
    why_not_ready: Callable[[], str | None]
    allowed_origin: Callable[[Request, str], bytes | None]
    """The Origin of a page that may read the answer, given the request and the peer's host."""
    position: Callable[[Request, str], Awaitable[Cursor | Refusal]]
    """Where the streams of the user who asks are, of the same."""


def public_app(answers: Answers) -> FastAPI:
    """The app behind the door: everything but /ws and /events."""
    app = FastAPI(
        title="BLOASIS notification gateway",
        version=VERSION,
        description="The HTTP routes. Events come over /ws and /events, which /asyncapi.json describes (AsyncAPI 3).",
        # FastAPI's pages load scripts from elsewhere, into an origin that may connect with the cookie.
        docs_url=None,
        redoc_url=None,
    )

    @app.get("/health")
    async def health() -> Health:
        return answers.health()

    add_probes(app, answers.why_not_ready)

    described = msgspec.json.encode(asyncapi())

    @app.get("/asyncapi.json", response_model=dict[str, Any])
    async def document() -> Response:
        return Response(described, media_type="application/json")

    @app.get("/position", responses=_REFUSED, openapi_extra={"parameters": [_USER_ID]})
    async def position(request: HttpRequest) -> Position:
        asked_as, peer = _as_request(request), _peer_host(request)
        origin = answers.allowed_origin(asked_as, peer)
        headers = {"Cache-Control": "no-store"} | dict(() if origin is None else cors_headers(origin))
        found = await answers.position(asked_as, peer)
        if isinstance(found, Refusal):
            return _refused(found, headers)  # type: ignore[return-value]
        return JSONResponse({"cursor": found.encode().decode()}, headers=headers)  # type: ignore[return-value]

    @app.options("/events", status_code=204, include_in_schema=False)
    @app.options("/position", status_code=204, include_in_schema=False)
    async def preflight(request: HttpRequest) -> Response:
        """What a browser asks before a page of another host may send a token (Fetch section 4.8)."""
        origin = answers.allowed_origin(_as_request(request), _peer_host(request))
        if origin is None:
            return Response(status_code=403)
        allowed = {
            "Access-Control-Allow-Methods": "GET",
            "Access-Control-Allow-Headers": "Authorization, Cache-Control, Last-Event-ID",
            "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
        }
        return Response(status_code=204, headers=allowed | dict(cors_headers(origin)))

    return app


def _peer_host(request: HttpRequest) -> str:
    return request.client.host if request.client else ""


def _as_request(request: HttpRequest) -> Request:
    headers: dict[bytes, bytes] = {}
    for name, value in request.headers.raw:
        headers[name] = b"%s, %s" % (headers[name], value) if name in headers else value
    return Request(request.method.encode(), request.url.path.encode(), request.scope["query_string"], True, headers)


def _refused(refusal: Refusal, headers: Mapping[str, str]) -> JSONResponse:
    body = RefusalBody(error=refusal.error, message=refusal.message)
    return JSONResponse(body.model_dump(), refusal.status, headers={**headers, **dict(refusal.headers)})
