"""A page in Chromium with the client of clients/typescript, and the server that it comes from."""

import asyncio
import json
import os
import re
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlencode

from aiohttp import web

from demo.ports import free_port
from demo.process import ROOT
from harness.clients import Client, finish
from harness.oracle import Oracle
from harness.v1 import parse_event, parse_streamed
from harness.waiting import PATIENCE, eventually

_PACKAGE = ROOT / "clients" / "typescript"
_PLAYWRIGHT = _PACKAGE / "node_modules" / "playwright-core" / "index.js"
_DIST = _PACKAGE / "dist"
_HERE = Path(__file__).parent
_OPEN_SECONDS = 60.0
_PLACE = re.compile(rb',"stream":"(global|user)","epoch":"[0-9a-z]+-?","seq":[0-9]+\}')


def _chromium() -> str | None:
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if name and (path := shutil.which(name))), None)


async def start_browser(script: str, url: str) -> asyncio.subprocess.Process:
    """A script of this folder for node, which opens a page in Chromium and speaks JSON lines."""
    return await asyncio.create_subprocess_exec(
        "node",
        str(_HERE / script),
        str(_PLAYWRIGHT),
        str(_chromium()),
        url,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )


class PageServer:
    """Serves the page, and tokens that `make_token` makes; `origin` is for ALLOWED_ORIGINS."""

    def __init__(self) -> None:
        self.port = free_port()
        self.make_token: Callable[[], str] = str
        self.tokens = 0
        """Given so far."""
        self._runner: web.AppRunner | None = None

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _give_token(self, _: web.Request) -> web.Response:
        self.tokens += 1
        return web.Response(text=self.make_token())

    @staticmethod
    async def _give_page(_: web.Request) -> web.Response:
        return web.Response(body=(_HERE / "page.html").read_bytes(), content_type="text/html")

    @staticmethod
    def _give_script(name: str) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def give(_: web.Request) -> web.Response:
            return web.Response(body=(_DIST / name).read_bytes(), content_type="text/javascript")

        return give

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/", self._give_page)
        app.router.add_get("/notify.js", self._give_script("index.js"))
        app.router.add_get("/sse.js", self._give_script("sse.js"))
        app.router.add_get("/token", self._give_token)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()


def _without_place(frame: bytes) -> bytes:
    """What came over an event stream, before the client said where it stands."""
    place = list(_PLACE.finditer(frame))[-1]
    assert place.end() == len(frame), frame
    return frame[: place.start()] + b"}"


class Page(Client):
    """A page of one user that connects to `port`. `frames` are the events that its handlers got, as plain
    frames; `states`, `gaps` and `errors` what its client told it; `controls` what the service told the client.
    Where WebSockets are `blocked` it has an event stream."""

    library = "page"

    def __init__(
        self,
        server: PageServer,
        port: int,
        user: str,
        replica: str,
        *,
        with_tokens: bool = False,
        blocked: bool = False,
    ) -> None:
        super().__init__(port, user, replica)
        query = {"url": f"ws://127.0.0.1:{port}/ws", **({"token": "1"} if with_tokens else {"user": user})}
        if blocked:
            query["blocked"] = "1"
        self._blocked = blocked
        self._page = f"{server.origin}/?{urlencode(query, quote_via=quote)}"
        self.states: list[str] = []
        self.gaps: list[Any] = []
        self.errors: list[str] = []
        self.controls: list[dict[str, Any]] = []
        self._pid: int | None = None
        self._done = 0

    @staticmethod
    def missing() -> str | None:
        """Why there can be none here, or None."""
        if shutil.which("node") is None:
            return "node is not installed"
        if _chromium() is None:
            return "there is no chromium (CHROMIUM=/path/to/it)"
        if not _PLAYWRIGHT.exists() or not _DIST.exists():
            return "the client is not built (make client)"
        return None

    async def open(self) -> None:
        self._process = await start_browser("browser.mjs", self._page)
        self._reader = asyncio.create_task(self._read())
        await eventually(
            lambda: (self._pid is not None and self.state == "open") or not self.is_connected,
            lambda: f"{self} to be open: {self.states} {self.errors}",
            seconds=_OPEN_SECONDS,
        )
        assert self.is_connected, f"{self}: {self.close_reason} {self.errors}"

    @property
    def state(self) -> str:
        return self.states[-1] if self.states else "idle"

    def told(self, control: str) -> list[dict[str, Any]]:
        """What the service told it of this kind."""
        return [one for one in self.controls if one["control"] == control]

    async def be_offline(self, offline: bool) -> None:
        """Take its browser's network away, or give it back. Returns when that is so."""
        assert self._process.stdin is not None
        done = self._done
        self._process.stdin.write(json.dumps({"offline": offline}).encode() + b"\n")
        await eventually(lambda: self._done > done, f"{self} to be offline: {offline}")

    def signal(self, number: signal.Signals) -> None:
        """To all processes of its browser: SIGSTOP, SIGCONT."""
        assert self._pid is not None
        os.killpg(self._pid, number)

    def check(self, oracle: Oracle, *, complete: bool = True) -> None:
        assert not self.gaps, f"{self}: {self.gaps}"
        super().check(oracle, complete=complete)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self._take(json.loads(line))
        self._ended(None, "node ended")

    def _take(self, happened: dict[str, Any]) -> None:
        match happened:
            case {"frame": text}:
                frame = text.encode()
                event = parse_streamed(_without_place(frame)) if self._blocked else parse_event(frame)
                self.frames.append(event.as_plain)
            case {"state": state, "reason": reason}:
                self.states.append(state)
                if state == "closed":
                    self._ended(4500, reason)
            case {"control": control}:
                self.controls.append(control)
            case {"gap": gap}:
                self.gaps.append(gap)
            case {"error": error}:
                self.errors.append(error)
            case {"pid": pid}:
                self._pid = pid
            case {"done": _}:
                self._done += 1
            case _:
                raise AssertionError(f"{self} said {happened}")

    async def close(self) -> None:
        if hasattr(self, "_reader"):
            assert self._process.stdin is not None
            self._process.stdin.close()  # it ends with its input, also when this process is killed
            await finish(self._reader)
            async with asyncio.timeout(10 * PATIENCE):
                await self._process.wait()
