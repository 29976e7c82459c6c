"""The HTTP routes of the admin port: metrics for Prometheus, the console for people, acts for operators."""

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from importlib.resources import files
from typing import Annotated, Final, Literal, TypeVar

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, StreamingResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from gateway.operators.acts import Acts, NotDone
from gateway.operators.feed import Feed
from gateway.operators.guard import Guard
from shared.errors import InvalidUserId, RedisError
from shared.exposition import Exposition
from shared.logging import get_logger
from shared.users import validate_user_id

_TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

_FRESH: Final = {"Cache-Control": "no-store"}

_LOCAL_SOCKETS: Final = "ws://127.0.0.1:* ws://localhost:*"
"""Where the demo's clients connect, which run in the page."""

_PAGES: Final = {one.name: one.read_bytes() for one in files("gateway").joinpath("console").iterdir() if one.is_file()}
"""The page's files: read once, and nothing else is ever served."""

_Answer = TypeVar("_Answer")

log = get_logger("gateway.operators")


@dataclass(frozen=True)
class ConsoleSettings:
    """What the page is told of where it is."""

    service: str
    replica: str
    """This one's name."""
    demo: str | None = None
    """The address of the demo's controls."""


class _Refused(HTTPException):
    """A refusal on the way out."""

    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__(status, message)
        self.error = error


def _user_id(value: str) -> str:
    try:
        return validate_user_id(value)
    except InvalidUserId as error:
        raise ValueError(f"the user id is {error}") from None


UserId = Annotated[str, AfterValidator(_user_id)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class OfUser(_Body):
    """An act that concerns one user."""

    user_id: UserId


class ToDisconnect(_Body):
    """Whose connections are to be closed: a user's, or everybody's."""

    user_id: UserId | None = None
    everyone: Literal[True] | None = None
    retry: bool = True
    """Whether the clients are told to come back."""


class ToDrain(_Body):
    """Which replica is to be drained."""

    replica: str = Field(min_length=1, max_length=128)


class Done(BaseModel):
    """What was done, a sentence."""

    done: str


class OfReplica(BaseModel):
    """A user's connections on one replica."""

    connections: int
    opened_ms: list[int]


class Presence(BaseModel):
    """A user's connections, by replica."""

    replicas: dict[str, OfReplica]


def admin_app(exposition: Exposition, console: ConsoleSettings, feed: Feed, guard: Guard, acts: Acts) -> FastAPI:
    """The app on the admin port."""
    app = FastAPI(title="BLOASIS notification gateway: operators", docs_url=None, redoc_url=None, openapi_url=None)
    headers = _page_headers(console)

    @app.exception_handler(RequestValidationError)
    async def bad_request(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return _refused(400, "bad_request", f"{where or 'the body'}: {first['msg'].removeprefix('Value error, ')}")

    @app.exception_handler(NotDone)
    async def not_done(_: Request, error: NotDone) -> JSONResponse:
        return _refused(409, "not_done", str(error))

    @app.exception_handler(RedisError)
    async def unavailable(_: Request, error: RedisError) -> JSONResponse:
        return _refused(503, "unavailable", f"Redis: {error}; whether it was done cannot be told, try again.")

    @app.exception_handler(_Refused)
    @app.exception_handler(HTTPStatus.BAD_REQUEST)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        what = error.error if isinstance(error, _Refused) else "bad_request"
        return _refused(error.status_code, what, error.detail)

    @app.get("/metrics")
    async def metrics() -> Response:
        return await exposition.response()

    @app.get("/console")
    async def to_console() -> Response:
        return RedirectResponse("/console/")

    @app.get("/console/config")
    async def config() -> Response:
        known = {"service": console.service, "replica": console.replica, "acts": guard.acts, "demo": console.demo}
        return JSONResponse({**known, "redrive": "python -m relay redrive --dry-run"}, headers=_FRESH)

    @app.get("/console/feed")
    async def stream() -> Response:
        if feed.is_full:
            return _refused(503, "unavailable", "Too many look at the console of this replica; take another's.")
        unbuffered = {**_FRESH, "X-Accel-Buffering": "no"}
        return StreamingResponse(feed.frames(), media_type="text/event-stream", headers=unbuffered)

    @app.get("/console/{name:path}")
    async def page(name: str) -> Response:
        name = name or "index.html"
        content = _PAGES.get(name)
        if content is None:
            return _refused(404, "not_found", "There is no such page.")
        media_type = _TYPES.get(name[name.rfind(".") :], "application/octet-stream")
        return Response(content, media_type=media_type, headers=headers)

    def may(request: Request) -> None:
        refusal = guard.refuse(dict(request.headers.raw))
        if refusal is not None:
            log.warning("an act was refused", act=request.url.path, peer=_peer(request), error=refusal.error)
            raise _Refused(refusal.status, refusal.error, refusal.message)

    async def logged(request: Request, doing: Awaitable[_Answer], **what: object) -> _Answer:
        """What `doing` gives. However it ends, the log says so: what was ordered may have been done nevertheless."""
        outcome = "unknown"
        try:
            answer = await doing
            outcome = "done"
            return answer
        except NotDone:
            outcome = "not done"
            raise
        finally:
            peer = _peer(request)
            log.warning("an operator acted", act=request.url.path, peer=peer, outcome=outcome, audit=True, **what)

    async def act(request: Request, doing: Awaitable[str], **what: object) -> Done:
        return Done(done=await logged(request, doing, **what))

    acting = [Depends(may)]

    @app.post("/admin/presence", dependencies=acting)
    async def presence(request: Request, body: OfUser) -> Presence:
        found = await logged(request, acts.presence(body.user_id), user=body.user_id)
        return Presence.model_validate({"replicas": found})

    @app.post("/admin/disconnect", dependencies=acting)
    async def disconnect(request: Request, body: ToDisconnect) -> Done:
        if (body.user_id is None) == (body.everyone is None):
            raise _Refused(400, "bad_request", "Name a user_id, or everyone: true.")
        if body.user_id is None:
            return await act(request, acts.disconnect_everyone(retry=body.retry), retry=body.retry)
        return await act(request, acts.disconnect(body.user_id, retry=body.retry), user=body.user_id, retry=body.retry)

    @app.post("/admin/revoke", dependencies=acting)
    async def revoke(request: Request, body: OfUser) -> Done:
        return await act(request, acts.revoke(body.user_id), user=body.user_id)

    @app.post("/admin/drain", dependencies=acting)
    async def drain(request: Request, body: ToDrain) -> Done:
        return await act(request, acts.drain(body.replica), replica=body.replica)

    return app


def _page_headers(console: ConsoleSettings) -> Mapping[str, str]:
    """Nothing but our own files, and connections nowhere but here and to the demo."""
    connect = "'self'" if console.demo is None else f"'self' {console.demo} {_LOCAL_SOCKETS}"
    policy = (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src {connect}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-cache",
    }


def _refused(status: int, error: str, message: str) -> JSONResponse:
    return JSONResponse({"error": error, "message": message}, status)


def _peer(request: Request) -> str:
    return request.client.host if request.client else ""
