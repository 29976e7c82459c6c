"""Plain clients of other people's making, behind one face: a user, the frames so far, how it ended."""

import asyncio
import base64
import contextlib
import json
import shutil
import ssl
import struct
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import websocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from harness.oracle import Oracle
from harness.waiting import PATIENCE

_OPEN_SECONDS = 15.0
_NODE_SCRIPT = Path(__file__).with_name("ws_client.mjs")
_NODE_MODULES = Path(__file__).resolve().parents[2] / ".cache" / "node" / "node_modules"


class Client(ABC):
    """A plain client of one user. `frames` are the text messages it got, in order, as bytes.

    `close_code` is None while it is connected; afterwards what the server's close frame said, or
    1006 when the connection just ended. `since` is how many events were published before it was
    connected: later ones must arrive.
    """

    library = "?"

    def __init__(self, port: int, user: str, replica: str) -> None:
        self.url = f"ws://127.0.0.1:{port}/ws?user_id={quote(user, safe='')}"
        self.user = user
        self.replica = replica
        self.frames: list[bytes] = []
        self.close_code: int | None = None
        self.close_reason = ""
        self.since = 0
        self.extensions = ""
        """As the server answered, once it is open."""
        self.tls: ssl.SSLContext | None = None

    def use_tls(self, trust: ssl.SSLContext) -> None:
        """Connect with TLS, to a server that `trust` trusts. Before `open`."""
        self.tls, self.url = trust, self.url.replace("ws://", "wss://")

    @abstractmethod
    async def open(self) -> None:
        """Connect; returns after the handshake was answered."""

    @abstractmethod
    async def close(self) -> None:
        """Leave. May be called twice, and when the server has ended it."""

    @property
    def is_connected(self) -> bool:
        return self.close_code is None

    def check(self, oracle: Oracle, *, complete: bool = True) -> None:
        """Prove that it got what it had to: see Oracle.check."""
        oracle.check(str(self), self.user, self.frames, since=self.since, complete=complete)

    def __str__(self) -> str:
        return f"{self.user}'s {self.library} on {self.replica}"

    def _ended(self, code: int | None, reason: str = "") -> None:
        if self.close_code is None:
            self.close_code, self.close_reason = code or 1006, reason


class AiohttpClient(Client):
    library = "aiohttp"
    window_bits = 0
    """To be compressed with; 0: not at all."""

    async def open(self) -> None:
        self._session = aiohttp.ClientSession()
        try:
            async with asyncio.timeout(_OPEN_SECONDS):
                self._socket = await self._session.ws_connect(
                    self.url, max_msg_size=0, ssl=self.tls or True, compress=self.window_bits
                )
        except BaseException:
            await self._session.close()
            raise
        self.extensions = self._socket._response.headers.get("Sec-WebSocket-Extensions", "")
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self._socket:
            assert message.type is aiohttp.WSMsgType.TEXT, f"{self} got {message!r}"
            self.frames.append(message.data.encode())
        self._ended(self._socket.close_code)

    async def close(self) -> None:
        try:
            if hasattr(self, "_reader"):
                await self._socket.close()
                await finish(self._reader)
        finally:  # also when whoever closes it is cancelled
            if hasattr(self, "_session"):
                await self._session.close()


class WebsocketsClient(Client):
    library = "websockets"

    async def open(self) -> None:
        self._socket: ClientConnection = await connect(
            self.url, open_timeout=_OPEN_SECONDS, close_timeout=2, max_size=None, proxy=None, ssl=self.tls
        )
        assert self._socket.response is not None
        self.extensions = self._socket.response.headers.get("Sec-WebSocket-Extensions", "")
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while True:
                message = await self._socket.recv(decode=False)
                self.frames.append(bytes(message))
        except ConnectionClosed as closed:
            received = closed.rcvd
            self._ended(received.code if received else None, received.reason if received else "")

    async def close(self) -> None:
        if hasattr(self, "_reader"):
            await self._socket.close()
            await finish(self._reader)


class ThreadClient(Client):
    """websocket-client, which blocks, in a thread of its own."""

    library = "websocket-client"

    async def open(self) -> None:
        self._socket = websocket.WebSocket(sslopt={"context": self.tls} if self.tls else {})
        await asyncio.to_thread(self._socket.connect, self.url, timeout=_OPEN_SECONDS)
        self._socket.settimeout(None)
        self._thread = threading.Thread(target=self._read, name=str(self), daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while True:
                opcode, data = self._socket.recv_data()  # answers pings by itself
                if opcode == websocket.ABNF.OPCODE_CLOSE:
                    code, reason = (struct.unpack("!H", data[:2])[0], data[2:].decode()) if data else (1005, "")
                    return self._ended(code, reason)
                assert opcode == websocket.ABNF.OPCODE_TEXT, f"{self} got opcode {opcode}"
                self.frames.append(data)
        except (OSError, websocket.WebSocketException, ValueError):
            self._ended(None)
        finally:
            self._socket.shutdown()  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        if hasattr(self, "_thread"):
            if self._thread.is_alive():
                with contextlib.suppress(OSError, websocket.WebSocketException):
                    self._socket.send_close()
            await asyncio.to_thread(self._thread.join, 5.0)
            if self._thread.is_alive():
                with contextlib.suppress(OSError):
                    self._socket.abort()  # type: ignore[no-untyped-call]
                await asyncio.to_thread(self._thread.join, 5.0)


class NodeClient(Client):
    """`ws` of npm, in a process of its own that prints a JSON line for each thing that happens."""

    library = "ws"

    @staticmethod
    def missing() -> str | None:
        """Why it cannot be used here, or None."""
        if shutil.which("node") is None:
            return "node is not installed"
        if not (_NODE_MODULES / "ws").is_dir():
            return "the npm package ws is not in .cache/node (scripts/ci/get-node puts it there)"
        return None

    async def open(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            "node",
            str(_NODE_SCRIPT),
            str(_NODE_MODULES / "ws" / "wrapper.mjs"),
            self.url,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
        self._opened = asyncio.Event()
        self._reader = asyncio.create_task(self._read())
        async with asyncio.timeout(_OPEN_SECONDS):
            await self._opened.wait()
        assert self.is_connected, f"{self} could not connect: {self.close_reason}"

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            happened: dict[str, Any] = json.loads(line)
            if "open" in happened:
                self.extensions = happened["open"]
                self._opened.set()
            elif "text" in happened:
                self.frames.append(base64.b64decode(happened["text"]))
            else:
                self._ended(happened.get("code"), happened.get("reason", ""))
        self._ended(None, "node ended")
        self._opened.set()

    async def close(self) -> None:
        if hasattr(self, "_reader"):
            assert self._process.stdin is not None
            self._process.stdin.close()  # it ends with its input, also when this process is killed
            await finish(self._reader)
            async with asyncio.timeout(5 * PATIENCE):
                await self._process.wait()


async def finish(task: asyncio.Task[None]) -> None:
    """Wait for a client's reader; cancel it when it does not end. Raises what it raised."""
    done, _ = await asyncio.wait([task], timeout=5)
    if not done:
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled():
        task.result()
