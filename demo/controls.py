"""What the console's page can do to the demo, over HTTP on loopback: see how it is, send events, break things.

A page of another site cannot: its requests lack a header that nobody allows it to send (Fetch section 4.1), and a
Host that is not this machine's is refused (DNS rebinding).
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Final, Literal
from uuid import UUID

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from demo.events import TOPIC_OF_TYPE, Stamp
from demo.process import Process
from demo.send import example
from demo.stack import Stack, http_url, ws_url
from demo.supervisor import Busy, Supervisor

HEADER: Final = "X-Notify-Demo"

_HOSTS: Final = ("127.0.0.1", "localhost")


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ToSend(_Body):
    """An event to be sent; `event_id` is how whoever sent it knows it again."""

    type: Literal["regime_change", "market_alert", "risk_alert", "order_executed"]
    user: str = Field("", max_length=128)
    event_id: UUID


class ToKill(_Body):
    """What becomes of the relay."""

    action: Literal["kill"]


class ToCut(_Body):
    """For how long Redis cannot be reached."""

    seconds: float = Field(5.0, ge=1, le=30)


class ToEnd(_Body):
    """What becomes of a replica."""

    name: str = Field(max_length=64)
    action: Literal["drain", "kill"]


class Nothing(_Body):
    """No more needs to be said."""


def controls_app(
    stack: Stack, supervisor: Supervisor, producer: AIOKafkaProducer, users: Sequence[str], origins: Sequence[str]
) -> FastAPI:
    """The routes. `origins` are those of the console's pages."""

    def is_for_us(host: Annotated[str, Header()] = "") -> None:
        if (host.rpartition(":")[0] or host).lower() not in _HOSTS:
            raise HTTPException(403, "This Host is not known; ask 127.0.0.1.")

    app = FastAPI(
        title="The demo's controls", dependencies=[Depends(is_for_us)], docs_url=None, redoc_url=None, openapi_url=None
    )
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=["GET", "POST"],
        allow_headers=["Content-Type", HEADER],
    )

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return _refusal(error.status_code, HTTPStatus(error.status_code).name.lower(), error.detail)

    @app.exception_handler(RequestValidationError)
    async def bad_request(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return _refusal(400, "bad_request", f"{'.'.join(map(str, first['loc'][1:])) or 'the body'}: {first['msg']}")

    @app.exception_handler(Busy)
    async def busy(_: Request, error: Busy) -> JSONResponse:
        return _refusal(409, "busy", f"{error}.")

    @app.exception_handler(KafkaError)
    async def not_sent(_: Request, error: KafkaError) -> JSONResponse:
        return _refusal(503, "unavailable", f"The broker did not take it: {error}.")

    def may(x_notify_demo: Annotated[str, Header()] = "") -> None:
        if x_notify_demo != "1":
            raise HTTPException(403, f"Send the header {HEADER}: 1.")

    controlling = [Depends(may)]

    @app.get("/state")
    async def state() -> dict[str, object]:
        slow = supervisor.slow
        return {
            "users": list(users),
            "replicas": [
                {
                    "name": gateway.name,
                    "ws": f"{ws_url(gateway)}/ws",
                    "admin": http_url(gateway, "", "admin"),
                    "running": gateway.is_running,
                    "starts_in_s": supervisor.starts_in_s(gateway),
                }
                for gateway in stack.gateways
            ],
            "relay": {"running": stack.relay.is_running, "starts_in_s": supervisor.starts_in_s(stack.relay)},
            "redis": {"cut_for_s": supervisor.redis_cut_for_s},
            "slow": slow and {"replica": slow.replica, "closed": slow.is_closed, "seconds": slow.seconds},
        }

    @app.post("/send", dependencies=controlling)
    async def send(body: ToSend) -> dict[str, str]:
        if TOPIC_OF_TYPE[body.type] in ("risk-events", "execution-events") and body.user not in users:
            raise HTTPException(400, f"user: takes one of {', '.join(users)}")
        event = example(body.type, body.user, Stamp(body.event_id, datetime.now(UTC)))
        sent = await producer.send_and_wait(event.topic, event.value, key=event.key)
        return {"id": f"{sent.topic}/{sent.partition}/{sent.offset}"}

    @app.post("/relay", dependencies=controlling)
    async def relay(_: ToKill) -> dict[str, str]:
        await supervisor.kill(stack.relay)
        return {"done": "the relay is killed"}

    @app.post("/redis", dependencies=controlling)
    async def redis(body: ToCut) -> dict[str, str]:
        supervisor.cut_redis(body.seconds)
        return {"done": f"Redis is cut off for {body.seconds:g} s"}

    @app.post("/replica", dependencies=controlling)
    async def replica(body: ToEnd) -> dict[str, str]:
        gateway = _named(stack.gateways, body.name)
        await (supervisor.drain if body.action == "drain" else supervisor.kill)(gateway)
        return {"done": f"{body.name}: {body.action}"}

    @app.post("/slow", dependencies=controlling)
    async def slow(_: Nothing) -> dict[str, str]:
        return {"done": f"a client of {await supervisor.start_slow_client()} reads nothing"}

    return app


def _named(gateways: Sequence[Process], name: str) -> Process:
    for gateway in gateways:
        if gateway.name == name:
            return gateway
    raise HTTPException(404, f"There is no {name}; there are {', '.join(one.name for one in gateways)}.")


def _refusal(status: int, error: str, message: str) -> JSONResponse:
    return JSONResponse({"error": error, "message": message}, status)
