"""`python -m gateway admin`: what operators do, from a shell. Asks a replica's admin port over HTTP."""

import argparse
import asyncio
import ipaddress
import json
import os
import re
import socket
import ssl
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import aiohttp

from gateway.settings import OperatorSettings
from shared.errors import InvalidUserId
from shared.users import validate_user_id

ANSWER_SECONDS: Final = 35
"""A little longer than a replica gives an answer (shared/bounded_http.py)."""

MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
"""Above what 2,000 processes say of themselves (shared/statuses.py)."""

_DATA: Final = re.compile(rb"^data: .*\n\n", re.MULTILINE)

SUMMARY: Final = "look at the deployment, find and close a user's connections, revoke tokens, drain a replica"
DESCRIPTION: Final = """\
Asks a replica's admin port; any of them will do, but for `drain` without a name. Acts need the replica's
ADMIN_TOKEN in the environment or in .env here, too; it is never an argument, which others could see.
Exit codes: 0 done; 1 refused, or not done: the last line says why; 2 asked wrongly."""


class NotAsked(Exception):
    """It was asked wrongly. Its text says how to."""


class Failed(Exception):
    """It was refused, or not done. Its text says why, and what to do."""


class Call(NamedTuple):
    """A request to the admin port."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None


class Answer(NamedTuple):
    """What came back."""

    status: int
    text: bytes
    """JSON, if it came from a replica."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `admin` takes."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--url", help="the admin port, http://host:port; else what ADMIN_HOST and ADMIN_PORT say")
    common.add_argument("--json", action="store_true", help="print the answer as it came")
    acts = parser.add_subparsers(dest="act", required=True, metavar="ACT")
    acts.add_parser("status", parents=[common], help="all replicas, relays, and Redis")
    presence = acts.add_parser("presence", parents=[common], help="a user's connections, by replica")
    presence.add_argument("user")
    disconnect = acts.add_parser("disconnect", parents=[common], help="close a user's connections, or everybody's")
    disconnect.add_argument("user", nargs="?")
    disconnect.add_argument("--all", action="store_true", help="everybody's")
    disconnect.add_argument("--no-retry", action="store_true", help="for good: clients are told not to come back")
    revoke = acts.add_parser("revoke", parents=[common], help="refuse a user's tokens that were issued until now")
    revoke.add_argument("user")
    drain = acts.add_parser("drain", parents=[common], help="have a replica send its clients elsewhere, and end")
    drain.add_argument("replica", nargs="?", help="its name as status has it; else the one that is asked")


def run(options: argparse.Namespace, settings: OperatorSettings) -> int:
    """Do what was asked and print it. Gives the exit code."""
    try:
        origin = origin_of(options.url, settings)
        call = call_of(options)
        text = printed(options, origin, asyncio.run(_ask(origin, call, settings)))
    except NotAsked as error:
        sys.stderr.write(f"gateway: {error}\n")
        return 2
    except Failed as error:
        sys.stderr.write(f"gateway: {error}\n")
        return 1
    sys.stdout.write(text + "\n")
    return 0


def origin_of(url: str | None, settings: OperatorSettings) -> str:
    """Where the admin port is. Raises NotAsked."""
    if url is None:
        if settings.admin_port == 0:
            raise NotAsked("ADMIN_PORT=0 takes any port: say which with --url http://host:port")
        host = settings.admin_host
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return f"http://{host}:{settings.admin_port}"
        if address.is_unspecified:  # it listens everywhere, so also here
            address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
        host = f"[{address}]" if address.version == 6 else str(address)
        return f"http://{host}:{settings.admin_port}"
    try:
        split = urlsplit(url)
        is_one = split.scheme in ("http", "https") and split.hostname and split.port != 0 and split.path in ("", "/")
    except ValueError:
        is_one = False
    if not is_one or split.query or split.fragment or split.username is not None:
        raise NotAsked("--url takes http://host:port, or https")
    return f"{split.scheme}://{split.netloc}"


def call_of(options: argparse.Namespace) -> Call:
    """The request that does what was asked. Raises NotAsked."""
    if options.act == "status":
        return Call("GET", "/console/feed")
    if options.act == "drain":
        return Call("POST", "/admin/drain", {"replica": options.replica})
    if options.act == "disconnect":
        if (options.user is None) is not options.all:
            raise NotAsked("disconnect takes a user, or --all")
        whose = {"everyone": True} if options.all else {"user_id": _user_id(options.user)}
        return Call("POST", "/admin/disconnect", {**whose, "retry": not options.no_retry})
    return Call("POST", f"/admin/{options.act}", {"user_id": _user_id(options.user)})


def _user_id(text: str) -> str:
    try:
        return validate_user_id(text)
    except InvalidUserId as error:
        raise NotAsked(f"the user id is {error}") from None


# Over HTTP


async def _ask(origin: str, call: Call, settings: OperatorSettings) -> Answer:
    """The answer. Raises Failed when there is none."""
    headers = {"X-Notify-Admin": "1"}
    if settings.admin_token is not None:
        headers["Authorization"] = f"Bearer {settings.admin_token.get_secret_value()}"
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
            if call.body is not None and call.body.get("replica", "") is None:
                config = await _answer(session, origin, Call("GET", "/console/config"))
                call = call._replace(body={"replica": _name_in(origin, config)})
            return await _answer(session, origin, call)
    except aiohttp.ClientConnectorError as error:
        raise Failed(
            f"nobody answers at {origin} ({why(error.os_error)}): is a replica running there? ADMIN_HOST and "
            "ADMIN_PORT, or --url, say where"
        ) from None
    except TimeoutError:
        raise Failed(f"{origin} did not answer within {ANSWER_SECONDS} s; what became of it cannot be told") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise Failed(f"what answers at {origin} is not a replica's admin port ({error!r})") from None


async def _answer(session: aiohttp.ClientSession, origin: str, call: Call) -> Answer:
    # Not redirected: the token is for this address only.
    request = session.request(call.method, origin + call.path, json=call.body, allow_redirects=False)
    async with request as response:
        if response.content_type == "text/event-stream" and response.status == 200:
            return Answer(200, await _first_event(response))
        return Answer(response.status, await _read(response, None))


async def _first_event(response: aiohttp.ClientResponse) -> bytes:
    """The data of the console's feed's first event (gateway/operators/feed.py)."""
    return (await _read(response, _DATA)).partition(b"data: ")[2]


async def _read(response: aiohttp.ClientResponse, end: re.Pattern[bytes] | None) -> bytes:
    """An answer, to its end or to where `end` matches first. Raises ValueError for one that is too long."""
    text = bytearray()
    async for chunk in response.content.iter_any():
        text += chunk
        if end is not None and (found := end.search(text)):
            return bytes(text[: found.end()])
        if len(text) > MAX_ANSWER_BYTES:
            raise ValueError("too long")
    return bytes(text)


def why(error: OSError) -> str:
    """Why nobody could be asked. Names and TLS have numbers of their own, which the system calls something else."""
    if error.errno and not isinstance(error, socket.gaierror | ssl.SSLError):
        return os.strerror(error.errno)
    return error.strerror or str(error)


# For people


def printed(options: argparse.Namespace, origin: str, answer: Answer) -> str:
    """What is printed of an answer. Raises Failed for a refusal, and for what no replica says."""
    said = _said(origin, answer)
    try:
        lines = "\n".join(told(options, said))
        return json.dumps(said, ensure_ascii=False) if options.json else lines
    # All that comes of looking for something in JSON of another shape.
    except (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError):
        raise _no_replica(origin, answer) from None


def _name_in(origin: str, config: Answer) -> str:
    """The name of the replica that is asked. Raises Failed."""
    match _said(origin, config):
        case {"replica": str(name)}:
            return name
    raise _no_replica(origin, config)


def _said(origin: str, answer: Answer) -> Any:
    """The JSON of an answer. Raises Failed for a refusal, and for what no replica says."""
    try:
        said = json.loads(answer.text)
    except (ValueError, RecursionError):
        raise _no_replica(origin, answer) from None
    if answer.status == 200:
        return said
    match said:
        case {"error": str(error), "message": str(message)}:
            raise Failed(_refusal(answer.status, error, message))
    raise _no_replica(origin, answer)


def _no_replica(origin: str, answer: Answer) -> Failed:
    text = answer.text[:200].decode(errors="replace")
    return Failed(f"what answers at {origin} is not a replica's admin port (it answered {answer.status}, {text!r})")


def _refusal(status: int, error: str, message: str) -> str:
    if error == "unauthorized":
        return "refused: the replica's ADMIN_TOKEN is needed; set it in the environment or in .env"
    return f"{'not done' if status in (409, 503) else f'refused ({error})'}: {message}"


def told(options: argparse.Namespace, answer: Any) -> list[str]:
    """The answer as lines for people."""
    if options.act == "status":
        return _status(answer)
    if options.act == "presence":
        return _presence(options.user, answer["replicas"])
    return [answer["done"]]


def _presence(user: str, replicas: Mapping[str, Any]) -> list[str]:
    if not replicas:
        return [f"{user} has no connection"]
    width = max(map(len, replicas))
    lines = []
    for name, share in replicas.items():
        opened = ", ".join(_time(opened_ms) for opened_ms in share["opened_ms"])
        lines.append(f"{name:{width}}  {share['connections']:>4}  opened {opened}")
    return lines


def _status(fleet: Mapping[str, Any]) -> list[str]:
    redis = fleet["redis"]
    rows = [("redis", redis["address"], "up" if redis["up"] else "away", redis["error"] or f"{redis['ms']:g} ms")]
    for relay in fleet["relays"]:
        lag = sum(relay["lag"].values())
        figures = f"{relay['partitions']} partitions, {lag} records behind"
        rows.append(("relay", relay["name"], _state(relay), relay["reason"] or figures))
    for replica in fleet["replicas"]:
        figures = f"{replica['connections']} connections, port {replica['address']}"
        rows.append(("gateway", replica["name"], _state(replica), replica["reason"] or figures))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return ["  ".join((*(f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)), row[3])) for row in rows]


SILENT_MS: Final = 5_000
"""After so long without a word a process is said to be silent, as in the console."""


def _state(process: Mapping[str, Any]) -> str:
    silent_ms = process["seen_ms_ago"]
    return f"silent for {silent_ms / 1000:.0f} s" if silent_ms > SILENT_MS else str(process["state"])


def _time(unix_ms: int) -> str:
    return f"{datetime.fromtimestamp(unix_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
